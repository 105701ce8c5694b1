"""Write an experiment's report in Markdown as one page of HTML, and its plots as PNG, SVG and PDF."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from matplotlib.figure import Figure

from rlhf_envs.files import replace_file
from rlhf_envs.rendering import as_markdown, markdown_table

__all__ = [
    "PLOTS",
    "cell",
    "opening",
    "plain",
    "reproduce",
    "table",
    "to_html",
    "to_pdf",
    "to_png",
    "to_svg",
    "write_page",
]

PLOTS = "plots"  # the folder of the pictures
PAGE = """\
<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.15rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }}
table:focus-visible {{ outline: 2px solid #0072b2; }}
@media print {{ table {{ display: table; }} h2 {{ break-after: avoid; }} }}
th, td {{ padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }}
td:first-child {{ white-space: nowrap; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
blockquote {{ background: #fff6e0; border-left: 4px solid #e69f00; padding: 0.1rem 1rem; margin: 0; }}
figure {{ margin: 1rem 0; }} svg {{ max-width: 100%; height: auto; }}
</style></head>
<body>
{body}</body></html>
"""


def write_page(folder: Path, markdown: str, plots: Mapping[str, Figure]) -> None:
    """Write `report.md` with its pictures in `plots/` (PNG, SVG, PDF), and `report.html`."""
    (folder / PLOTS).mkdir(exist_ok=True)
    svgs = {name: to_svg(figure) for name, figure in plots.items()}
    for name, figure in plots.items():
        for kind, content in (("png", to_png(figure)), ("svg", svgs[name].encode("utf-8")), ("pdf", to_pdf(figure))):
            replace_file(folder / PLOTS / f"{name}.{kind}", content)
    replace_file(folder / "report.md", markdown.encode("utf-8"))
    page = to_html(markdown, {name: svg[svg.index("<svg") :] for name, svg in svgs.items()})
    replace_file(folder / "report.html", page.encode("utf-8"))


def plain(text: str) -> str:
    """Escape the characters of markup that names in our own sentences may have."""
    return text.replace("\\", "\\\\").replace("_", "\\_").replace("*", "\\*").replace("<", "&lt;").replace("|", "\\|")


def table(head: Sequence[str], rows: Any) -> str:
    """Return a table in Markdown from plain text."""
    return markdown_table([cell(text) for text in head], ([cell(text) for text in row] for row in rows))


def opening(title: str, headline: str, notes: Sequence[str], failed: Mapping[str, str]) -> list[str]:
    """Return what a report begins with: its title, its headline, the notes on it, and the runs that failed."""
    parts = [f"# {plain(title)}", plain(f"{headline}.")]
    if notes:
        parts.append("\n".join(f"> - {plain(note)}" for note in notes))
    return [*parts, "## Failed runs", table(["run", "error"], failed.items())] if failed else parts


def reproduce(made: Mapping[str, Any], command: str, about: Sequence[str]) -> list[str]:
    """Return the section on what made a report; none if nobody knows.

    Args:
        made: see `agents.saving.provenance.provenance`.
        command: does the experiment again.
        about: what is the experiment's own, such as its seeds: name and value.
    """
    if not made:
        return []
    rows = [
        ["command", made["command"]],
        ["again", f"{command} --config config.json -f ANOTHER_FOLDER, with the config.json of this folder"],
        about,
        ["versions", ", ".join(f"{package} {version}" for package, version in made["versions"].items())],
        ["commit", made["commit"] or "not known: rlhf-envs did not run from its git repository"],
        ["machine", made["machine"]],
    ]
    return ["## Reproduce", table(["what", ""], rows)]


def cell(text: str) -> str:
    """Escape a cell, unless it is one word or a number with its interval, which are easier to read as they are."""
    word = re.sub(r"[-+,.–▲▼\[\] ]", "", text)
    return text if word.isalnum() and word.isascii() else as_markdown(text)


def to_html(markdown: str, svgs: Mapping[str, str]) -> str:
    """Return a report in Markdown as a page that needs nothing else: `svgs` has the plots, each an SVG element."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def figure(renderer: RendererHTML, tokens: Sequence[Any], index: int, options: Any, env: Any) -> str:
        image = tokens[index]
        label = html.escape(image.content)
        return f'<figure role="img" aria-label="{label}">{svgs[Path(image.attrs["src"]).stem]}</figure>'

    parser.add_render_rule("image", figure)
    tokens = parser.parse(markdown)
    for opened, inside in pairwise(tokens):
        if opened.type == "table_open":
            opened.attrSet("tabindex", "0")  # a wide table scrolls, also by keys
        if opened.type == "td_open" and re.match(r"\\?[-+]?\d", inside.content):
            opened.attrSet("class", "number")
    body = parser.renderer.render(tokens, parser.options, {})
    body = body.replace("<p><figure ", "<figure ").replace("</figure></p>", "</figure>")
    title = html.escape("".join(part.content for part in tokens[1].children or ()))
    return PAGE.format(title=title, body=body)


def to_png(figure: Figure) -> bytes:
    """Return the figure as a PNG picture."""
    return _save(figure, "png", dpi=160)


def to_pdf(figure: Figure) -> bytes:
    """Return the figure as a PDF page, for a paper."""
    return _save(figure, "pdf", metadata={"CreationDate": None})


def to_svg(figure: Figure) -> str:
    """Return the figure as an SVG document."""
    return _save(figure, "svg", metadata={"Date": None}).decode("utf-8")


def _save(figure: Figure, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format=kind, **options)
    return file.getvalue()
