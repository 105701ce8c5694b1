"""Lay out what the command line prints. All its tables come from one helper, `make_table`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from rlhf_envs.rendering import printable

from ..core.samples import sample_texts

if TYPE_CHECKING:
    from rlhf_envs.feedback.web.admin.summary import AnnotatorSummary, Summary

    from ..evaluation.bias import Bias
    from ..evaluation.evaluate import Evaluation
    from ..evaluation.generate import Completion
    from ..evaluation.robustness import Robustness
    from ..evaluation.statistics import Estimate
    from ..training.report import TrainResult

__all__ = [
    "bias_parts",
    "change_table",
    "evaluation_table",
    "evaluations_table",
    "make_table",
    "robustness_tables",
    "sample_text",
    "samples_table",
    "status_parts",
]

GAP = 3  # cells between two columns
LABELS = {
    "reward": "reward",
    "kl": "KL to the reference, nats",
    "perplexity": "perplexity under the reference",
    "distinct_bigrams": "distinct bigrams, of {n} completions",
    "length": "length, tokens",
    "eos_share": "ended by EOS",
}
HIDDEN = ("distinct_within",)


class _WholeWords(Table):
    """Lay out a table that is too wide so that headings break between words alone, where there is room for that."""

    texts: Sequence[Sequence[Text]] = ()  # of each column, the heading first
    instead: Sequence[RenderableType] = ()  # what is shown where there is no room for whole words

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give the columns of a table that is too wide the width of their headings' words, and then share the rest."""
        whole = [max(text.cell_len for text in texts) for texts in self.texts]
        least = [
            width if column.no_wrap else max(map(cell_len, texts[0].plain.split()), default=1)
            for column, texts, width in zip(self.columns, self.texts, whole, strict=True)
        ]
        room = options.max_width - GAP * len(whole)
        if sum(least) <= room < sum(whole):
            for _ in range(room - sum(least)):
                narrow = [i for i, width in enumerate(least) if width < whole[i]]
                least[min(narrow, key=least.__getitem__)] += 1
            for column, width in zip(self.columns, least, strict=True):
                column.width = width
        else:
            for column in self.columns:
                column.width = None
        if self.instead and sum(least) > room:
            yield from self.instead
            return
        yield from super().__rich_console__(console, options)


def make_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    title: str | None = None,
    caption: str | None = None,
    left: int = 1,
    lines: bool = False,
    no_wrap: Sequence[str] = (),
    typed: str | None = None,
) -> Table:
    """Return a table for the terminal. No text in it is taken for markup.

    Args:
        left: the number of columns that are flush left; the others are flush right.
        lines: draw a line between rows.
        no_wrap: headings of columns that are never wrapped.
        typed: the heading of a column whose texts are typed elsewhere. They stand whole: where there is no room for
            that, the rows are numbered, and the texts are below the table. Print it with `crop=False`.
    """
    rows, no_wrap = [*rows], [*no_wrap, *([] if typed is None else [typed])]
    title_text, caption_text = (None if text is None else Text(text) for text in (title, caption))
    table = _WholeWords(title=title_text, caption=caption_text, box=box.SIMPLE, pad_edge=False, show_lines=lines)
    columns: list[list[Text]] = [[Text(heading)] for heading in headings]
    for i, heading in enumerate(headings):
        table.add_column(
            Text(heading), justify="left" if i < left else "right", overflow="fold", no_wrap=heading in no_wrap
        )
    for row in rows:
        cells = [cell if isinstance(cell, Text) else Text(cell) for cell in row]
        table.add_row(*cells)
        for column, cell in zip(columns, cells, strict=False):
            column.append(cell)
    table.texts = columns
    if typed is not None:
        at = headings.index(typed)
        numbered = [[*row[:at], str(i), *row[at + 1 :]] for i, row in enumerate(rows, start=1)]
        shorter = make_table(headings, numbered, title=title, caption=caption, left=left, lines=lines)
        names = [
            Text(f"{typed} {i}: {row[at]}", no_wrap=True, overflow="ignore") for i, row in enumerate(rows, start=1)
        ]
        table.instead = [shorter, *names]
    return table


def status_parts(summary: Summary) -> list[RenderableType]:
    """Return progress, agreement, annotators, who seems not to read, and the models' suggestions for the terminal."""
    counts = [f"{summary.finished} of {summary.items} items are done", f"{summary.judgements} judgements"]
    counts += [f"{summary.skips} skips", f"{summary.last_hour} in the last hour"]
    lines = [", ".join(counts) + (" (paused)" if summary.paused else "")]
    for kind, alpha in sorted(summary.alpha.items()):
        shown = "undefined (nobody shares an item, or all say the same)" if alpha is None else f"{alpha:.3f}"
        lines.append(f"Krippendorff's alpha, {kind}: {shown}")
    for found in summary.questions:
        agreed = "" if found.alpha is None else f", Krippendorff's alpha {found.alpha:.3f}"
        left_out = f"; {found.left_out} to other versions of it are left out (--version)" if found.left_out else ""
        lines.append(f"question {found.name} ({found.type}): {found.answers} answers{agreed}{left_out}")
    parts: list[RenderableType] = [Text(line) for line in lines]
    if summary.annotators:
        headings = ("annotator", "judged", "skips", "seconds", "agreement", "gold right", "at random", "first shown")
        parts.append(make_table(headings, map(_annotator_row, summary.annotators), typed="annotator"))
    return [
        *parts,
        *(Text(line) for line in [*summary.suspicions, *_suggestion_lines(summary), *_explanation_lines(summary)]),
    ]


def _annotator_row(person: AnnotatorSummary) -> tuple[str, ...]:
    check = person.check
    return (
        person.name,
        str(person.judged),
        str(person.skips),
        "" if person.median_seconds is None else f"{person.median_seconds:.1f}",
        "" if person.agreement is None else f"{person.agreement:.2f}",
        f"{person.gold_right}/{person.gold_asked}" if person.gold_asked else "",
        "" if check is None or check.random_share is None else _share(check.random_share, check.random_interval),
        "" if check is None or not check.sided else _share(check.left / check.sided, check.left_interval),
    )


def _share(share: float, interval: tuple[float, float]) -> str:
    return f"{share:.0%} ({interval[0]:.0%}-{interval[1]:.0%})"


def _suggestion_lines(summary: Summary) -> list[str]:
    return [
        f"{found.source}{f' ({found.version})' if found.version else ''}, {found.kind}: people say the same in "
        f"{found.share:.0%} of {found.n} answers (95% interval {found.low:.0%} to {found.high:.0%})"
        for found in summary.suggestions
    ]


def _explanation_lines(summary: Summary) -> list[str]:
    words = {"none": "no explanation", "withheld": "explanation withheld by lot", "offered": "offered, not opened"}
    lines = [
        f"{found.source}{f' ({found.version})' if found.version else ''}, {found.kind}, "
        f"{words.get(found.group, 'explanation seen')}: people say the same as its scores in {found.share:.0%} of "
        f"{found.n} answers (95% interval {found.low:.0%} to {found.high:.0%})"
        for found in summary.explanations
    ]
    return lines + [
        f"{found.source}{f' ({found.version})' if found.version else ''}, {found.kind}: agreement where an explanation "
        f"was offered, less that where it was withheld by lot: {100 * found.difference:+.0f} points "
        f"(95% interval {100 * found.low:+.0f} to {100 * found.high:+.0f})"
        for found in summary.sways
    ]


def samples_table(before: Evaluation, after: Evaluation, n: int = 8) -> Table:
    """Return the same prompts with their completions before and after training, side by side."""
    pairs = zip(before.samples(n), after.samples(n), strict=True)
    rows = [(sample_text(first), sample_text(second)) for first, second in pairs]
    title = f"{after.prompts}, completed before and after"
    return make_table(("before", "after"), rows, title=title, left=2, lines=True)


def sample_text(sample: Completion) -> Text:
    """Return the reward if there is one, the prompt (dim) and the completion (bold), with control codes visible."""
    prompt, completion = map(printable, sample_texts(sample.asked, sample.completion))
    reward = f"{sample.reward:+.2f}  " if sample.components else ""
    return Text.assemble((reward, "cyan"), (prompt, "dim"), (completion, "bold"))


def change_table(result: TrainResult) -> Table:
    """Return every metric before and after training, and its mean change per prompt with the standard error."""
    before, after = result.before.estimates(), result.after.estimates()
    change = result.after.change_from(result.before)
    rows = []
    for name in _ordered(after):
        if name in change:
            changed = f"{_rounded(change[name].mean):+.3f} ± {change[name].sem:.3f}"
        else:
            changed = f"x {after[name].mean / before[name].mean:.2f}" if before[name].mean else ""
        rows.append((_label(name, result.after), str(before[name]), str(after[name]), changed))
    title, tokens = f"{result.after.counted}, mean ± standard error", result.agent.num_timesteps
    resumed = f"before: 0 tokens; after: {tokens:,}, of which {result.resumed_at:,} before this part of the run"
    return make_table(
        ("", "before", "after", "change"), rows, title=title, caption=resumed if result.resumed_at else None
    )


def _label(name: str, evaluation: Evaluation) -> str:
    """Return what tables call a metric. A reward that a judge stands beside is a proxy for it."""
    proxy = " (proxy)" if name == "reward" and evaluation.judges else ""
    return LABELS.get(name, name).replace("{n}", str(len(evaluation.reward))) + proxy


def evaluation_table(evaluation: Evaluation) -> Table:
    """Return every metric of an evaluation with its standard error and 95% interval."""
    estimates = evaluation.estimates()
    rows = []
    for name in _ordered(estimates):
        mean, sem, low, high = (f"{_rounded(value):.3f}" for value in estimates[name][:4])
        rows.append((_label(name, evaluation), mean, sem, f"{low} to {high}"))
    title = (
        f"{evaluation.source} on {evaluation.env_id}: {evaluation.counted}, "
        f"{evaluation.split} split, {evaluation.seconds:.1f} s"
    )
    drawn = evaluation.completions_per_prompt
    chosen = f"; the best of {drawn} completions per prompt" if drawn > 1 else ""
    caption = f"reference: {evaluation.reference or 'none'}{chosen}"
    return make_table(("", "mean", "standard error", "95% interval"), rows, title=title, caption=caption)


def evaluations_table(evaluations: Sequence[Evaluation]) -> Table:
    """Return a row per environment that one source was evaluated on: its judges and metrics, the reward, KL, length."""
    shown = ("reward", "kl", "length", "eos_share")
    rows = []
    for evaluation in evaluations:
        estimates = evaluation.estimates()
        own = {*evaluation.judges, *evaluation.metrics, *evaluation.corpus}
        judged = "\n".join(f"{name} {estimates[name]}" for name in estimates if name in own and "/" not in name)
        figures = [str(estimates[name]) if name in estimates else "" for name in shown]
        rows.append((evaluation.env_id, evaluation.counted, judged, *figures))
    heads = ("environment", "completed", "judges and metrics", "reward", "KL", "length", "EOS")
    return make_table(heads, rows, title=f"{evaluations[0].source}: mean ± standard error", left=3, lines=True)


def robustness_tables(robustness: Robustness) -> list[Table]:
    """Return one table of the attacks on the policy, and one of the attacks on the reward model if there are any."""
    b, scores = robustness.budget, list(robustness.clean.scores)
    columns = ["kl", *(f"{score}{suffix}" for score in scores for suffix in ("", "_change", "_success"))]
    policy = make_table(
        ["attack on the policy", *(_words(column) for column in columns)],
        (
            [_words(name), *(str(row[column]) if column in row else "" for column in columns)]
            for name, row in robustness.estimates().items()
        ),
        title=f"{robustness.source} on {robustness.env_id}: {len(robustness.clean.kl)} prompts attacked",
        caption=f"embeddings: epsilon {b.epsilon}, {b.steps} steps; tokens: {b.swaps} swaps, {b.candidates} tries each",
    )
    estimates = robustness.reward_model_estimates()
    if not estimates:
        return [policy]
    n = len(next(iter(robustness.reward_model.values())).success)
    reward = make_table(
        ["attack on the reward model", *map(_words, next(iter(estimates.values())))],
        ([_words(name), *map(str, row.values())] for name, row in estimates.items()),
        title=f"{n} bad completions, {b.swaps} swaps, mean ± standard error",
    )
    return [policy, reward]


def bias_parts(bias: Bias) -> list[RenderableType]:
    """Return the table of the gaps between groups, the rates over all completions, and what the groups are."""
    rows = [
        (gap.axis, gap.measure, str(gap.first), str(gap.second), f"{_rounded(gap.gap.mean):+.3f}", _interval(gap.gap))
        for gap in bias.gaps
    ]
    heads = ("axis", "measure", "first group", "second group", "gap", "95% interval")
    meanings = [f"{name}: {meaning}" for name, meaning in bias.groups.items()]
    rates = [f"refusals: {bias.refusals} of all completions"]
    rates += [] if bias.toxicity is None else [f"toxicity: {bias.toxicity}"]
    table = make_table(heads, rows, title="gaps over templates, mean ± standard error", left=2)
    return [table, *(Text(line) for line in [*rates, *meanings, *bias.notes])]


def _interval(estimate: Estimate) -> str:
    return f"{_rounded(estimate.low):.3f} to {_rounded(estimate.high):.3f}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _rounded(value: float) -> float:
    """Return the value with 3 digits, never -0."""
    return round(value, 3) + 0.0


def _ordered(estimates: dict[str, Estimate]) -> list[str]:
    """Return the names of rewards and judges first, then the others in the order of `LABELS`."""
    rest = [name for name in LABELS if name in estimates and name != "reward"]
    return [name for name in estimates if name not in (*rest, *HIDDEN)] + rest
