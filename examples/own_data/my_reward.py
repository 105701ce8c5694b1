def wanted(prompts, completions, word, **columns):
    """Return 1 for a completion that has the row's word, else 0, less a little for its length: a float each."""
    found = [float(w in text.split()) for w, text in zip(word, completions, strict=True)]
    return [score - len(text.split()) / 100 for score, text in zip(found, completions, strict=True)]
