"""Show a prompt with its completion: a text as it is, a conversation with a line per turn."""

from __future__ import annotations

from rlhf_envs.datasets.messages import Prompt, as_answer, said, turn_lines
from rlhf_envs.rendering import as_markdown

__all__ = ["sample_markdown", "sample_texts"]

LINE_BREAK = "  \n  "  # of Markdown, within an entry of a list


def sample_texts(prompt: Prompt, completion: Prompt) -> tuple[str, str]:
    """Return a prompt and its completion as two texts to print one after the other.

    Strings stay as they are. Of a conversation every turn has a line, such as "User: Hello", the answer the last one.
    """
    if isinstance(prompt, str):
        return prompt, said(completion)
    return "".join(f"{line}\n" for line in turn_lines(prompt)), _answer_line(completion)


def sample_markdown(prompt: Prompt, completion: Prompt) -> str:
    """Return a prompt and, in bold, its completion as an entry of a list in Markdown. What models wrote is escaped."""
    if isinstance(prompt, str):
        lines, answer, between = [prompt], said(completion).strip(), " "
    else:
        lines, answer, between = turn_lines(prompt), _answer_line(completion), LINE_BREAK
    bold = [f"**{as_markdown(answer)}**"] if answer else []
    return between.join([*map(as_markdown, lines), *bold])


def _answer_line(completion: Prompt) -> str:
    return turn_lines(as_answer(said(completion).strip()))[0].rstrip()
