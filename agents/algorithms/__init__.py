"""One file an algorithm; `agents.registry` finds them by name and imports them when they are used."""
