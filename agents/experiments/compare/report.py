"""The report of a comparison, as blocks that are written as Markdown and as one self-contained page of HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.files import replace_file
from rlhf_envs.rendering import as_markdown, printable

from ...evaluation.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["blocks", "headline", "summary_table", "to_html", "to_markdown", "write_report"]

PLOTS = "plots"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-size: 0.9rem; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td:first-child { white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.notes { background: #fff6e0; border-left: 4px solid #e69f00; padding: 0.4rem 1rem 0.4rem 2rem; }
figure { margin: 1rem 0; } svg { max-width: 100%; height: auto; } figcaption { color: #555; font-size: 0.85rem; }
"""


@dataclass(frozen=True)
class Block:
    """A piece of the report: `kind` is "h1", "h2", "p", "notes", "table" (the first row is its head) or "plot"."""

    kind: str
    content: Any
    caption: str = ""


def write_report(folder: Path, report: Mapping[str, Any], plots: Mapping[str, Figure]) -> None:
    """Write `report.md` with its pictures beside it, and `report.html`, which is one file."""
    from .plots import to_png, to_svg

    written = blocks(report, tuple(plots))
    (folder / PLOTS).mkdir(exist_ok=True)
    for name, figure in plots.items():
        replace_file(folder / PLOTS / f"{name}.png", to_png(figure))
    replace_file(folder / "report.md", to_markdown(written).encode("utf-8"))
    page = to_html(written, {name: to_svg(figure) for name, figure in plots.items()})
    replace_file(folder / "report.html", page.encode("utf-8"))


def headline(report: Mapping[str, Any]) -> str:
    """The comparison in a sentence."""
    arms = len(report["arms"])
    seeds = "one seed" if report["seeds"] == 1 else f"{report['seeds']} seeds"
    return f"{arms} {'arm' if arms == 1 else 'arms'}, {seeds}, {report['tokens']:,} tokens a run, on {report['env']}"


def blocks(report: Mapping[str, Any], plots: Sequence[str]) -> list[Block]:
    """All of the report, in its order."""
    found = [Block("h1", f"Comparison on {report['env']}"), Block("p", f"{headline(report)}.")]
    if report["notes"]:
        found.append(Block("notes", report["notes"]))
    if report["failed"]:
        rows = [["run", "error"], *([entry["run"], entry["error"]] for entry in report["failed"])]
        found += [Block("h2", "Failed runs"), Block("table", rows)]
    if report["unfinished"]:
        found += [Block("h2", "Runs that are not finished"), Block("p", ", ".join(report["unfinished"]))]
    if any(row["figures"] for row in report["arms"]):
        found += _results(report, plots)
    return [*found, *_equal(report)]


def _results(report: Mapping[str, Any], plots: Sequence[str]) -> list[Block]:
    metric, one = report["metric"], report["seeds"] == 1
    over = "the one run" if one else "the interquartile mean over seeds with its 95% bootstrap interval"
    found = [Block("h2", f"At the end: {metric}"), Block("table", summary_table(report))]
    found.append(
        Block(
            "p",
            f"Each figure is {over}, on held-out prompts that no run trains on. Gained is the {metric} at the end less "
            "that before training: the mean over seeds ± its standard error. Seconds are of training alone.",
        )
    )
    if "final" in plots:
        found.append(Block("plot", "final", f"{metric} at the end, by algorithm"))
    if report["improvement"]:
        found += [Block("h2", "Probability of improvement"), Block("table", _improvement_table(report))]
        found.append(Block("p", "How likely a run of the first ends better than a run of the second; ties count half."))
    found.append(Block("h2", "Sample efficiency"))
    if "efficiency" in plots:
        found.append(Block("plot", "efficiency", f"{metric} against tokens trained for"))
    found += [Block("p", f"To reach a {metric} of {report['threshold']:.3f}:"), Block("table", _reach_table(report))]
    found.append(Block("p", "Medians of the runs that reached it, at the grain of the evaluations."))
    if "frontier" in plots:
        found += [
            Block("h2", f"{metric} against KL"),
            Block("plot", "frontier", f"{metric} against KL to the reference"),
        ]
        found.append(Block("table", _frontier_table(report)))
        found.append(Block("p", "On the frontier: nothing else has as much for as little KL."))
    return [*found, Block("h2", "What they write"), Block("table", _samples_table(report))]


def summary_table(report: Mapping[str, Any], figures: Sequence[str] | None = None) -> list[list[str]]:
    """A row an arm, the best first; with its head. Of its figures the metric and those named, by default all."""
    found = dict.fromkeys(name for row in report["arms"] for name in row["figures"])
    others = [name for name in found if name not in (report["metric"], "distinct_within")]
    names = [report["metric"], *(name for name in others if figures is None or name in figures)]
    rows = [["algorithm", "runs", names[0], "gained", *names[1:], "tokens", "seconds"]]
    for row in report["arms"]:
        runs = f"{row['finished']} of {row['runs']}" + (f", {row['failed']} failed" if row["failed"] else "")
        if not row["figures"]:
            rows.append([row["name"], runs, "", *("" for _ in names), "", ""])
            continue
        cells = [str(Estimate.from_runs(row["figures"][name])) if name in row["figures"] else "" for name in names]
        gain = f"{row['gain']['mean']:+.3f}"
        if row["gain"]["standard_error"] is not None:
            gain += f" ± {row['gain']['standard_error']:.3f}"
        spent = f"{row['tokens']['value']:,.0f}", f"{row['seconds']['value']:,.1f}"
        rows.append([row["name"], runs, cells[0], gain, *cells[1:], *spent])
    return rows


def _improvement_table(report: Mapping[str, Any]) -> list[list[str]]:
    rows = [["better", "than", "probability"]]
    for entry in report["improvement"]:
        rows.append([entry["better"], entry["than"], str(Estimate.from_runs(entry))])
    return rows


def _reach_table(report: Mapping[str, Any]) -> list[list[str]]:
    rows = [["algorithm", "reached", "tokens", "seconds"]]
    for row in report["arms"]:
        found = row["reached"]
        tokens, seconds = (
            ("never", "") if found["tokens"] is None else (f"{found['tokens']:,.0f}", f"{found['seconds']:.1f}")
        )
        rows.append([row["name"], f"{found['reached']} of {found['n']}", tokens, seconds])
    return rows


def _frontier_table(report: Mapping[str, Any]) -> list[list[str]]:
    rows = [["algorithm", "KL coefficient", "KL, nats", report["metric"], "on the frontier"]]
    with_kl = [row for row in report["arms"] if "kl" in row["figures"]]
    for row in sorted(with_kl, key=lambda row: (row["label"], row["kl_coef"] or 0.0)):
        coefficient = row["kl_coef"] if row["kl_coef"] is not None else row["settings"].get("kl_coef")
        kl, value = (str(Estimate.from_runs(row["figures"][name])) for name in ("kl", report["metric"]))
        rows.append([row["label"], f"{coefficient:g}" if coefficient is not None else "", kl, value,
                     "yes" if row["on_frontier"] else ""])  # fmt: skip
    return rows


def _samples_table(report: Mapping[str, Any]) -> list[list[str]]:
    rows = [["run", "tokens", "reward", "prompt", "completion"]]
    for s in report["samples"]:
        rows.append([s["run"], f"{s['step']:,}", f"{s['reward']:.2f}", s["prompt"], s["completion"].strip()])
    return rows


def _equal(report: Mapping[str, Any]) -> list[Block]:
    """What was equal, and what was each algorithm's own."""
    config = report["config"]
    model = config["model"] or "the environment's own"
    prompts = f"the same {config['test_episodes']} prompts ({config['test_split']} split) with the same random numbers"
    equal = [
        f"Every run has {report['tokens']:,} tokens, the same environment ({report['env']}) and its training prompts, "
        f"the same start and reference (model: {model}), the same decoding where no note says otherwise, and is "
        f"evaluated on {prompts}, before training and {config['evaluations']} times from there on at equal steps, each "
        "at the first end of an update at or after its step. Run k of every algorithm has the seed k.",
        "Algorithms differ in the hyperparameters below, which are those of rlhf train unless the comparison says "
        "otherwise. A ranking is one of these settings, on this environment.",
    ]
    rows = [["algorithm", "settings"]]
    for row in report["arms"]:
        if "settings" in row:
            flat = {k: v for k, v in row["settings"].items() if k != "hyperparams"} | row["settings"]["hyperparams"]
            rows.append([row["name"], ", ".join(f"{name}={value}" for name, value in flat.items())])
    found = [Block("h2", "What was equal, and what was not"), *(Block("p", text) for text in equal)]
    return [*found, Block("table", rows)] if len(rows) > 1 else found


def to_markdown(written: Sequence[Block]) -> str:
    """The report as Markdown, with pictures in `plots/`; what models and errors say is escaped."""
    lines: list[str] = []
    for block in written:
        if block.kind in ("h1", "h2"):
            lines.append(f"{'#' * int(block.kind[1])} {_plain(block.content)}")
        elif block.kind == "p":
            lines.append(_plain(block.content))
        elif block.kind == "notes":
            lines.append("\n".join(f"> - {_plain(note)}" for note in block.content))
        elif block.kind == "plot":
            lines.append(f"![{block.caption}]({PLOTS}/{block.content}.png)")
        else:
            head, *rows = ([_cell(cell) for cell in row] for row in block.content)
            table = [head, ["---"] * len(head), *rows]
            lines.append("\n".join(f"| {' | '.join(row)} |" for row in table))
    return "\n\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Our own sentences: names in them may have characters of markup."""
    return text.replace("\\", "\\\\").replace("_", "\\_").replace("*", "\\*").replace("<", "&lt;").replace("|", "\\|")


def _cell(text: str) -> str:
    numeric = text.replace(",", "").replace(".", "").replace("-", "").replace("[", "").replace("]", "").replace(" ", "")
    return text if numeric.isalnum() and text.isascii() else as_markdown(text)


def to_html(written: Sequence[Block], svgs: Mapping[str, str]) -> str:
    """The report as a page that needs nothing else: no script, no address, the plots inside."""
    parts = []
    for block in written:
        if block.kind in ("h1", "h2", "p"):
            parts.append(f"<{block.kind}>{_escape(block.content)}</{block.kind}>")
        elif block.kind == "notes":
            items = "".join(f"<li>{_escape(note)}</li>" for note in block.content)
            parts.append(f'<ul class="notes">{items}</ul>')
        elif block.kind == "plot":
            caption = _escape(block.caption)
            parts.append(f"<figure>{svgs[block.content]}<figcaption>{caption}</figcaption></figure>")
        else:
            parts.append(_html_table(block.content))
    title = _escape(written[0].content)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _html_table(content: Sequence[Sequence[str]]) -> str:
    head, *rows = content
    lines = ["<tr>" + "".join(f"<th>{_escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = (f'<td class="number">{_escape(c)}</td>' if _is_number(c) else f"<td>{_escape(c)}</td>" for c in row)
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _is_number(text: str) -> bool:
    return text[:1].isdecimal() or (text[:1] in ("-", "+") and text[1:2].isdecimal())


def _escape(text: str) -> str:
    return html.escape(printable(text))
