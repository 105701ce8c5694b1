r"""Parse Markdown into trees of nodes (see `nodes`): text by models and people, of whom nobody is trusted.

The language is CommonMark with GitHub's tables and ~~strikethrough~~, and formulas between $ $, $$ $$, \( \) and \[ \].
A line break breaks the line, as in chats. Departures, so that nothing is hidden and nothing is loaded: HTML is text;
links and pictures are text with their address beside it; definitions of references are text.
"""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.token import Token

from .formulas import formula
from .highlighting import highlight
from .nodes import Node, Nodes, leaves, node

__all__ = ["LONGEST", "Rendered", "render_markdown"]

LONGEST = 100_000  # characters. A longer text is shown as it is.
SECONDS = 0.5  # of computing. A text that takes longer is shown as it is.
_LONGEST_KEPT = 20_000  # characters of a text whose tree is kept
_DEEPEST = 20  # levels of nesting; deeper ones are text

# What Python takes for white space and the page marks as invisible: the parser would strip it at the ends of
# paragraphs, and replace NUL. In between these characters are others, which mean nothing and which no text has.
_MARKED = "\0\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\u2028\u2029"
_STAND_INS = "".join(chr(0xFDD0 + i) for i in range(len(_MARKED)))
_HIDE = str.maketrans(_MARKED, _STAND_INS)
_SHOW = str.maketrans(_STAND_INS, _MARKED)


class Rendered(NamedTuple):
    """Hold a rendered text.

    Attributes:
        nodes: the tree; None if the text is shown as it is.
        why: why it is: "long", "slow", "characters". Or "parts" if the tree lacks letters or digits of the text, such
            as cells beyond a table's columns. Else "".
    """

    nodes: Nodes | None
    why: str = ""


class _TooSlow(Exception):
    pass


class _Clock:
    """Raise `_TooSlow` once a text has taken so many seconds of computing."""

    def __init__(self, seconds: float) -> None:
        self.end = time.thread_time() + seconds
        self.calls = 0

    def check(self) -> None:
        self.calls += 1
        if self.calls % 16 == 0 and time.thread_time() > self.end:
            raise _TooSlow


def render_markdown(text: str, seconds: float = SECONDS) -> Rendered:
    """Return a text as a tree of nodes, or why it is shown as it is. Texts seen lately are kept.

    Args:
        text: Markdown.
        seconds: of computing, at most.
    """
    if len(text) > LONGEST:
        return Rendered(None, "long")
    if any("\ufdd0" <= character <= "\ufdef" for character in text):
        return Rendered(None, "characters")
    try:
        return (_render_kept if len(text) <= _LONGEST_KEPT else _render)(text, _Seconds(seconds))
    except _TooSlow:
        return Rendered(None, "slow")


class _Seconds(float):
    """Be equal to every other, since a text that is rendered in time is the same in any time."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Seconds)

    def __hash__(self) -> int:
        return 0


def _render(text: str, seconds: float) -> Rendered:
    clock = _Clock(seconds)
    try:
        tokens = _parser(clock).parse(text.replace("\r\n", "\n").translate(_HIDE))
        walk = _Walk(clock.check)
        nodes = walk.blocks(tokens)
    except RecursionError:
        return Rendered(None, "characters")
    return Rendered(nodes, "" if _has_all(text, [*leaves(nodes), *walk.drawn]) else "parts")


_render_kept = lru_cache(maxsize=256)(_render)


def _parser(clock: _Clock) -> MarkdownIt:
    """Return a parser that calls the clock at every block and every piece of a line."""
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.texmath import texmath_plugin

    def tick(*_: Any) -> bool:
        clock.check()
        return False

    parser = MarkdownIt("commonmark", {"html": False, "maxNesting": _DEEPEST}).enable(["table", "strikethrough"])
    parser.disable(["reference", "html_block", "html_inline", "normalize"])
    parser.use(dollarmath_plugin, allow_labels=False, allow_space=False, allow_digits=False, double_inline=True)
    parser.use(texmath_plugin, delimiters="brackets")
    parser.validateLink = lambda url: True  # type: ignore[method-assign]  # inert, and shown with its address
    parser.normalizeLink = lambda url: url  # type: ignore[method-assign]
    parser.normalizeLinkText = lambda link: link  # type: ignore[method-assign]
    for rule in parser.block.ruler.__rules__:
        if rule.name.startswith("math_block"):  # the plugins let a formula on its own lines begin no paragraph's middle
            rule.alt = ["paragraph", "reference", "blockquote", "list"]
            rule.fn = _silenced(rule.fn)
    parser.block.ruler.before("table", "clock", tick, {"alt": ["paragraph", "blockquote", "list"]})
    parser.inline.ruler.before("text", "clock", tick)
    return parser


def _silenced(rule: Callable[..., bool]) -> Callable[..., bool]:
    """Return a rule that leaves nothing behind when it is only asked whether it would end a list or a quotation.

    The rule of dollarmath (mdit-py-plugins 0.7.0) adds its formula even then, so that it would be shown twice.
    """

    def silenced(state: StateBlock, start: int, end: int, silent: bool) -> bool:
        line, n_tokens = state.line, len(state.tokens)
        found = rule(state, start, end, silent)
        if silent:
            state.line = line
            del state.tokens[n_tokens:]
        return found

    return silenced


class _Walk:
    """Turn the parser's tokens into nodes."""

    def __init__(self, check: Callable[[], None]) -> None:
        self.check = check
        self.levels: list[int] = []  # of the headings that the next one stands under
        self.drawn: list[str] = []  # what the page draws without its letters: formulas, the numbers of lists

    def blocks(self, tokens: Sequence[Token]) -> Nodes:
        """Return the nodes of tokens that open and close elements."""
        root: Nodes = []
        stack: list[Nodes] = [root]
        for token in tokens:
            self.check()
            if token.nesting == 1:
                opened = self._open(token)
                stack[-1].append(opened)
                stack.append(opened)
            elif token.nesting == -1:
                _close(token, stack.pop())
            else:
                stack[-1] += self._leaf(token)
        return root

    def _open(self, token: Token) -> Node:
        if token.type == "heading_open":
            level = int(token.tag[1])
            while self.levels and self.levels[-1] >= level:
                self.levels.pop()
            self.levels.append(level)  # an outline without gaps, whatever levels the text has
            return node("h", depth=len(self.levels), class_=f"md-level-{level}")
        if token.type == "paragraph_open" and token.hidden:
            return node("span", class_="md-tight")
        if token.type == "ordered_list_open":
            return node("ol", start=int(token.attrGet("start") or 1))
        if token.type in ("th_open", "td_open"):
            style = str(token.attrGet("style") or "")
            return node(token.tag, class_=f"md-{style.removeprefix('text-align:') or 'left'}")
        if token.type == "link_open":
            link = node("span", class_="md-link")
            link[1]["address"] = f"{token.attrGet('href') or ''}{_title(token)}"
            return link
        if token.type == "list_item_open":
            self.drawn.append(token.info)
        return node(token.tag)

    def _leaf(self, token: Token) -> Nodes:
        match token.type:
            case "inline":
                return self.blocks(token.children or [])
            case "text" | "text_special" | "html_inline" | "html_block":
                return [_shown(token.content)] if token.content else []
            case "softbreak" | "hardbreak":
                return [node("br")]
            case "hr":
                return [node("hr")]
            case "code_inline":
                return [node("code", [_shown(token.content)])]
            case "code_block" | "fence":
                return [self._code(token)]
            case "math_inline" | "math_inline_double" | "math_block" | "math_block_eqno":
                return self._formula(token)
            case "image":
                alt = "".join(leaves(self.blocks(token.children or [])))
                address = _shown(f"{token.attrGet('src') or ''}{_title(token)}")
                return [node("span", [alt, " ", node("span", [address], class_="md-address")], class_="md-picture")]
        raise AssertionError(f"the parser gave a token of type {token.type}")

    def _code(self, token: Token) -> Node:
        info, code = token.info.strip(), token.content.removesuffix("\n")
        colours = highlight(code, info.split(" ", 1)[0], self.check) if info else [code]
        inside = node("pre", [node("code", [_shown(one) for one in colours])])
        return node(
            "div", [node("span", [_shown(info)], class_="md-language"), inside] if info else [inside], class_="md-code"
        )

    def _formula(self, token: Token) -> Nodes:
        block = token.type != "math_inline"
        source = _shown(token.content).strip()
        self.drawn.append(source)
        made = formula(source, block)
        number = [f" ({_shown(token.info)})"] if token.type == "math_block_eqno" else []
        return [node("div", [made, *number], class_="md-formulas")] if block else [made]


def _title(token: Token) -> str:
    title = token.attrGet("title")
    return f' "{title}"' if title else ""


def _close(token: Token, opened: Node) -> None:
    """Show the address of a link beside its text, unless they are the same."""
    if token.type != "link_close":
        return
    address = _shown(str(opened[1].pop("address")))
    if address.removeprefix("mailto:") != "".join(leaves(opened[2:])):
        opened += [" ", node("span", [address], class_="md-address")]


def _shown(one: Node) -> Node:
    """Return a text, or a span of texts, with the characters that it had before the parser saw it."""
    if isinstance(one, str):
        return one.translate(_SHOW)
    return [one[0], one[1], *(_shown(child) for child in one[2:])]


def _has_all(text: str, shown: Sequence[str]) -> bool:
    """Return whether what is shown has every letter and digit of a text."""
    wanted = Counter(filter(str.isalnum, html.unescape(text)))
    wanted.subtract(filter(str.isalnum, "".join(shown)))
    return all(n <= 0 for n in wanted.values())
