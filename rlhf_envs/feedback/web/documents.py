"""Turn the guidelines and the consent, which are Markdown, into the trees from which the page is built.

A node is a text, or a list `[tag, attributes, *children]`; `static/documents.js` builds elements from it by an
allow-list. HTML in the Markdown is text. Links and pictures are text with their address beside it: nothing is loaded.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

__all__ = ["nodes_of"]

_TAGS = {
    "paragraph": "p",
    "bullet_list": "ul",
    "ordered_list": "ol",
    "list_item": "li",
    "blockquote": "blockquote",
    "strong": "strong",
    "em": "em",
    "s": "s",
    "table": "table",
    "thead": "thead",
    "tbody": "tbody",
    "tr": "tr",
    "th": "th",
    "td": "td",
}


@lru_cache(maxsize=64)
def nodes_of(text: str) -> list[Any]:
    """Return a text in Markdown as nodes."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return _children(SyntaxTreeNode(parser.parse(text)))


def _children(parent: SyntaxTreeNode) -> list[Any]:
    return [node for child in parent.children for node in _nodes(child)]


def _nodes(token: SyntaxTreeNode) -> list[Any]:
    if token.type in _TAGS:
        return [[_TAGS[token.type], {}, *_children(token)]]
    if token.type == "inline":
        return _children(token)
    if token.type == "heading":
        return [["h", {"depth": int(token.tag[1])}, *_children(token)]]
    if token.type in ("fence", "code_block"):
        return [["pre", {}, ["code", {}, token.content]]]
    if token.type == "code_inline":
        return [["code", {}, token.content]]
    if token.type in ("softbreak", "hardbreak"):
        return [["br", {}]] if token.type == "hardbreak" else ["\n"]
    if token.type == "hr":
        return [["hr", {}]]
    if token.type == "link":
        address = str(token.attrs.get("href", ""))
        shown = _children(token)
        return shown if shown == [address] else [*shown, ["span", {"class": "address"}, f" ({address})"]]
    if token.type == "image":
        return [token.content, ["span", {"class": "address"}, f" ({token.attrs.get('src', '')})"]]
    return [token.content] if token.content else _children(token)
