"""Render the guidelines, the consent and the explanations of the training, which are Markdown, for the page."""

from __future__ import annotations

from .markdown import render_markdown
from .nodes import Nodes

__all__ = ["nodes_of"]


def nodes_of(text: str) -> Nodes:
    """Return a text as the nodes from which the page is built. One that cannot be rendered whole is shown as it is."""
    rendered = render_markdown(text)
    return [text] if rendered.nodes is None or rendered.why else rendered.nodes
