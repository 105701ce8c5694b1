"""Turn formulas in LaTeX into MathML, which browsers draw by themselves."""

from __future__ import annotations

import html
import re
from functools import lru_cache
from xml.etree.ElementTree import Element

from .nodes import Node, node

__all__ = ["formula"]

LONGEST = 2000  # characters of a formula. A longer one shows its source.
_DEEPEST = 40


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TAGS = _words(
    "math mrow mi mn mo mtext mspace ms mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts "
    "mprescripts none mtable mtr mlabeledtr mtd mstyle mpadded mphantom menclose"
)
# None of them holds an address, a script or a style.
_ATTRIBUTES = _words(
    "display displaystyle scriptlevel mathvariant mathsize stretchy fence separator form lspace rspace accent "
    "accentunder movablelimits largeop symmetric minsize maxsize linethickness width height depth voffset columnalign "
    "rowalign columnspacing rowspacing columnlines rowlines notation"
)
_VALUE = re.compile(r"[\w .%+-]{1,60}")


def formula(source: str, block: bool) -> Node:
    """Return a formula as MathML. One that cannot be read, or has what is not allowed, is its source, marked as such.

    Args:
        source: LaTeX without its delimiters.
        block: whether the formula stands alone.
    """
    made = _convert(source, block) if len(source) <= LONGEST else None
    if made is None:
        return node("code", [source], class_="md-formula")
    return made


@lru_cache(maxsize=2048)
def _convert(source: str, block: bool) -> Node | None:
    from latex2mathml.converter import convert_to_element

    try:
        element = convert_to_element(source, display="block" if block else "inline")
        return _as_node(element, 0)
    except Exception:  # the library raises many kinds, and IndexError, KeyError and RecursionError where it is wrong
        return None


def _as_node(element: Element, depth: int) -> Node:
    """Return an element of the library as a node. Raise a ValueError if anything in it is not allowed."""
    attributes = {name: value for name, value in element.attrib.items() if name != "xmlns"}
    allowed = all(name in _ATTRIBUTES and _VALUE.fullmatch(value) for name, value in attributes.items())
    if element.tag not in _TAGS or not allowed or depth > _DEEPEST:
        raise ValueError(f"{element.tag} {attributes} is not allowed in a formula")
    children = [html.unescape(element.text)] if element.text else []  # the library writes "&#x000B2;" for characters
    return [element.tag, attributes, *children, *(_as_node(child, depth + 1) for child in element)]
