"""Let a server that speaks the OpenAI completions protocol draw the completions that an agent trains on."""
