"""Score whether a completion has the word that its row asks for."""


def wanted(prompts, completions, word, **columns):
    """Return 1 for a completion that has its row's word, else 0."""
    return [float(w in text.split()) for w, text in zip(word, completions, strict=True)]
