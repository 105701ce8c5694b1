"""Define the trees in which the server sends rendered texts, and the tags and attributes that they may have.

A node is a text, or a list `[tag, attributes, *children]`. The browser builds the page from it, element by element, by
an allow-list of its own (static/nodes.js), so that no text by a model is ever parsed as HTML.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["CODE", "Node", "Nodes", "leaves", "node", "with_leaves"]

Node = Any  # str | list: mypy has no recursive type that json takes
Nodes = list[Node]

# The classes of code. Pygments has 80, which nobody tells apart.
CODE = tuple(f"code-{kind}" for kind in ("keyword", "string", "comment", "number", "name", "builtin", "operator"))


def node(tag: str, children: Iterable[Node] = (), **attributes: str | int) -> Node:
    """Return an element. An attribute called `class_` is "class"."""
    return [tag, {name.rstrip("_"): value for name, value in attributes.items()}, *children]


def leaves(nodes: Nodes) -> Iterator[str]:
    """Yield the texts of a tree in order, without those in formulas, whose letters are drawn and not read."""
    for one in nodes:
        if isinstance(one, str):
            yield one
        elif one[0] != "math":
            yield from leaves(one[2:])


def with_leaves(nodes: Nodes, new: Iterator[Nodes]) -> Nodes:
    """Return a tree in which each of its `leaves` is replaced by the next nodes of `new`."""
    made: Nodes = []
    for one in nodes:
        if isinstance(one, str):
            made += next(new)
        elif one[0] == "math":
            made.append(one)
        else:
            made.append([one[0], one[1], *with_leaves(one[2:], new)])
    return made
