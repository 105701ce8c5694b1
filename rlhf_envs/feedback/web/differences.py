"""Mark the words in which two completions differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .nodes import Nodes, leaves, node, with_leaves
from .showing import Turn, View

__all__ = ["mark_differences"]

SECONDS = 0.5  # after which the comparison goes on coarsely
LONGEST = 200_000  # characters of two completions. Longer ones have no marks.

# A word, or a character of a script that has no spaces between words, or white space, or any other character.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|\s+|.", re.DOTALL)


def mark_differences(view: View, completions: Sequence[str]) -> None:
    """Mark in the nodes of two completions what only one of them says. Texts without nodes get some.

    All words of the two completions are compared, wherever turns and elements begin and end.
    Formulas are not compared.

    Args:
        view: has two completions, or is left as it is.
        completions: their texts, in the order of the view.
    """
    if len(view.completions) != 2:
        return
    pairs = zip(view.completions, completions, strict=True)
    trees = [[_nodes(turn, text) for turn in turns] for turns, text in pairs]
    texts = [[text for nodes in tree for text in leaves(nodes)] for tree in trees]
    if sum(len(text) for side in texts for text in side) > LONGEST:
        return
    words = [[_WORD.findall(text) for text in side] for side in texts]
    differing = _compare(*([word for text in side for word in text] for side in words))
    for turns, tree, side, differs in zip(view.completions, trees, words, differing, strict=True):
        flags = iter(differs)
        marked = (_marked(text, flags) for text in side)
        for turn, nodes in zip(turns, tree, strict=True):
            turn.nodes = with_leaves(nodes, marked)


def _nodes(turn: Turn, own: str) -> Nodes:
    if turn.nodes is not None:
        return turn.nodes
    return [own if turn.text is None else turn.text]


def _marked(words: list[str], differs: Iterator[bool]) -> Nodes:
    """Return a text as nodes, with a `mark` around each run of words that differ."""
    made: Nodes = []
    run: list[str] = []
    last = False
    for word in words:
        this = next(differs)
        if this != last and run:
            made.append(_piece(run, last))
            run = []
        run.append(word)
        last = this
    return [*made, _piece(run, last)] if run else made


def _piece(run: list[str], differs: bool) -> str | list[object]:
    text = "".join(run)
    return node("mark", [text], class_="differs") if differs and text.strip() else text


def _compare(first: list[str], second: list[str]) -> tuple[list[bool], list[bool]]:
    """Return for each word of two texts whether it is in the other text's place, too.

    Each word is one character to the library, which compares texts, by a number that stands for it.
    """
    from diff_match_patch import diff_match_patch

    numbers: dict[str, int] = {}
    # Numbers that are surrogates are no characters.
    coded = [
        "".join(chr(n if (n := numbers.setdefault(word, len(numbers) + 1)) < 0xD800 else n + 0x800) for word in side)
        for side in (first, second)
    ]
    library = diff_match_patch()
    library.Diff_Timeout = SECONDS
    changes = library.diff_main(*coded, False)
    library.diff_cleanupSemantic(changes)
    differs: tuple[list[bool], list[bool]] = ([], [])
    for kind, text in changes:
        for side, only in zip(differs, (-1, 1), strict=True):
            if kind in (0, only):
                side += [kind != 0] * len(text)
    return differs
