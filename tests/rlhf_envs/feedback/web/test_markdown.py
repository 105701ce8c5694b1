"""Markdown becomes a tree in which nothing is lost and nothing acts, in a bounded time."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rlhf_envs.feedback.web.markdown import LONGEST, SECONDS, render_markdown
from rlhf_envs.feedback.web.nodes import leaves


def tree(text: str) -> list[Any]:
    nodes = render_markdown(text).nodes
    assert nodes is not None
    return nodes


def tags(nodes: list[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in nodes:
        if not isinstance(one, str):
            yield one[0], one[1]
            yield from tags(one[2:])


def test_blocks_and_marks() -> None:
    text = "Two **words**\nand `code`\n\n3. c\n4. d\n\n> q\n\n---\n\n~~s~~ _e_"
    assert tree(text) == [
        ["p", {}, "Two ", ["strong", {}, "words"], ["br", {}], "and ", ["code", {}, "code"]],
        [
            "ol",
            {"start": 3},
            ["li", {}, ["span", {"class": "md-tight"}, "c"]],
            ["li", {}, ["span", {"class": "md-tight"}, "d"]],
        ],
        ["blockquote", {}, ["p", {}, "q"]],
        ["hr", {}],
        ["p", {}, ["s", {}, "s"], " ", ["em", {}, "e"]],
    ]


def test_headings_make_an_outline_without_gaps() -> None:
    found = [node[1] for node in tree("## a\n#### b\n# c\n### d\n### e")]
    assert [heading["depth"] for heading in found] == [1, 2, 1, 2, 2]
    assert [heading["class"] for heading in found] == [
        "md-level-2",
        "md-level-4",
        "md-level-1",
        "md-level-3",
        "md-level-3",
    ]


def test_table_keeps_its_alignment() -> None:
    (table,) = tree("| a | b |\n|---|--:|\n| 1 | 2 |")
    assert [made for made in tags([table]) if made[0] in ("th", "td")] == [
        ("th", {"class": "md-left"}),
        ("th", {"class": "md-right"}),
        ("td", {"class": "md-left"}),
        ("td", {"class": "md-right"}),
    ]


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("a $x^2$ b", "inline"),
        (r"a \(x^2\) b", "inline"),
        ("a $$x^2$$ b", "block"),
        ("$$\nx^2\n$$", "block"),
        ("so:\n\\[\nx^2\n\\]\nthen", "block"),
    ],
)
def test_formulas_of_every_delimiter(text: str, display: str) -> None:
    found = dict(tags(tree(text)))
    assert found["math"] == {"display": display}
    assert "msup" in found
    assert render_markdown(text).why == ""


@pytest.mark.parametrize("text", ["it costs $5 and $6", "a_b and $HOME, $PATH", r"\$x\$"])
def test_money_and_variables_are_no_formulas(text: str) -> None:
    assert "math" not in dict(tags(tree(text)))


@pytest.mark.parametrize(
    "source",
    [
        r"\left(",
        r"\href{javascript:alert(1)}{x}",
        r"\class{evil}{x}",
        r"\style{color:red}{x}",
        "{" * 1900,
        "x" * 2001,
    ],
)
def test_formula_that_is_none_shows_its_source(source: str) -> None:
    (paragraph,) = tree(f"a ${source}$")
    assert paragraph[3][0] == "code"
    assert paragraph[3][1]["class"] == "md-formula"
    assert paragraph[3][2] == source


def test_code_has_colours_and_all_its_characters() -> None:
    code = 'def f(x):\n\treturn "a"  # b\x00\u202e\r.'
    (block,) = tree(f"```python title=1\n{code}\n```")
    language, pre = block[2:]
    assert language == ["span", {"class": "md-language"}, "python title=1"]
    assert "".join(leaves([pre])) == code
    assert {made[1]["class"] for made in tags([pre]) if made[0] == "span"} == {
        "code-keyword",
        "code-name",
        "code-string",
        "code-comment",
    }
    (unknown,) = tree("```nolanguage\nif x\n```")
    assert unknown[3] == ["pre", {}, ["code", {}, "if x"]]


def test_links_and_pictures_are_text_with_their_address() -> None:
    text = '[a](javascript:alert(1) "t") <https://b.c> ![d](https://evil/x.png) [e][f]\n\n[f]: https://g.h'
    nodes = tree(text)
    assert "".join(leaves(nodes)) == (
        'a javascript:alert(1) "t" https://b.c d https://evil/x.png [e][f][f]: https://g.h'
    )
    assert {tag for tag, _ in tags(nodes)} <= {"p", "span"}
    assert {name for _, attributes in tags(nodes) for name in attributes} == {"class"}


def test_html_is_text() -> None:
    text = "<script>alert(1)</script>\n\n<img src=x onerror=alert(1)> <!-- c -->"
    nodes = tree(text)
    assert "".join(leaves(nodes)) == text.replace("\n\n", "")
    assert {tag for tag, _ in tags(nodes)} == {"p"}


def test_characters_that_cannot_be_seen_are_kept() -> None:
    hidden = "\x00\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\u2028\u2029\u202e\u200b\ufeff\ud800"
    for text in (f"{hidden}a{hidden}", f"- {hidden}", f"`{hidden}`", f"# {hidden}", f"|{hidden}|\n|-|\n|{hidden}|"):
        nodes = tree(text)
        assert "".join(leaves(nodes)).count(hidden) == text.count(hidden), text
    assert "".join(leaves(tree("&#x202E;"))) == "\u202e"


def test_what_a_tree_lacks_is_noticed() -> None:
    assert render_markdown("| a |\n|---|\n| 1 | more |").why == "parts"
    assert render_markdown("> " * 30 + "deep").why == "parts"
    assert render_markdown("1. a &amp; `&lt;` &#65;\n2. **b** $x_1$ [c](d)\n\n|e|\n|-|\n|f|").why == ""


def test_texts_that_are_not_rendered_say_why() -> None:
    assert render_markdown("a" * (LONGEST + 1)) == (None, "long")
    assert render_markdown("a\ufdd0") == (None, "characters")
    assert render_markdown("_a" * 3000, 1e-9) == (None, "slow")
    assert render_markdown("_a" * 3000).nodes is not None  # a hurry is not remembered


N = 20_000
REPEATED = [
    "*a **a ", "[", "<", ">", "- ", "![a](", "[a](", "*", "_a", "\\(", "\\[", "$a", "$$a ", "&", '<a href="', "~~a",
    "<http:", "`", "a\n=\n", "> - ", "\t", "1. ", "#", "\\", "|", "\n",
]  # fmt: skip


@pytest.fixture
def no_garbage() -> Iterator[None]:
    """Keep the garbage collector still: in a process that has run many tests, one pass takes half a second."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("piece", REPEATED)
def test_hostile_text_takes_a_bounded_time(piece: str) -> None:
    start = time.thread_time()
    render_markdown(piece * (N // len(piece)), 0.1)
    assert time.thread_time() - start < SECONDS


HOSTILE_CODE = {
    "python": '"\\', "js": "/", "ts": "`${", "html": "<", "perl": "s{", "ruby": "%q(", "bash": "$(", "java": "a<",
    "cs": "a<", "cpp": "template<", "rust": 'r#"', "scala": '"""', "lua": "[=", "sql": "'", "julia": '"$(',
    "haskell": "{-", "php": '"$', "toml": "a.", "swift": "/*", "kotlin": "<", "go": "/*", "tex": "$", "diff": "+",
}  # fmt: skip


@pytest.mark.usefixtures("no_garbage")
@pytest.mark.parametrize("language", HOSTILE_CODE)
def test_hostile_code_takes_a_bounded_time(language: str) -> None:
    piece = HOSTILE_CODE[language]
    start = time.thread_time()
    render_markdown(f"```{language}\n{piece * (N // len(piece) - 5)}\n```", 0.1)
    assert time.thread_time() - start < SECONDS


@pytest.mark.parametrize("before", ["1. a", "- a", "> a", "a", "| a |\n|---|\n| b |"])
@pytest.mark.parametrize("formula", ["$$ x $$", "$$\nx\n$$", "\\[ x \\]"])
def test_a_formula_after_a_list_or_a_quotation_is_shown_once(before: str, formula: str) -> None:
    for text in (f"{before}\n\n{formula}", f"{before}\n{formula}\n"):
        assert str(render_markdown(text).nodes).count("['math', ") == 1, text
