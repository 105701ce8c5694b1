"""Write the report of self-training: the metrics of its rounds in TensorBoard, `report.json` and `report.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from rlhf_envs.datasets.messages import kept_prompt
from rlhf_envs.files import replace_file, replace_json
from rlhf_envs.rendering import markdown_table

from ...core.samples import sample_markdown
from .steps import ANSWERS, ROUND, START_STEPS, Metrics, SelfTraining

__all__ = ["round_cells", "round_metrics", "summary", "write_report"]

COLLAPSE = 0.5  # of the start's distinct bigrams
REPORT = """\
# Self-training on {env}, {n_rounds} rounds, seed {seed}

Each round: {n} answers to each of up to {n_prompts} training prompts, keep {keep}, fine-tune the {train_from}.

{table}

- **reward**, which chose the answers, and the judges, which did not: {prompts}, mean ± standard error.
- **KL** to the start, nats per answer; **distinct-n**: different word n-grams of the answers over all of them.
- **learned**: the answers learned; **duplicates**: answers drawn again to the same prompt, left out.

{warnings}

## The same {prompts} before and after

{samples}

The last model is `model`, that of round k `round_k/learn/model`, and what it learned `round_k/draw/{answers}`.
"""


def round_metrics(run: SelfTraining, number: int) -> Metrics:
    """Return the metrics of all steps of a round."""
    of = {step: run.read(number, step) for step in (ROUND if number else START_STEPS)}
    seconds = {step: metrics.pop("seconds") for step, metrics in of.items()}
    names = ("estimates", "samples", "prompts", "distinct_1", "distinct_2", "distinct_3")
    measured = {name: of["evaluate"][name] for name in names}
    drawn = {("prompts_drawn" if name == "prompts" else name): value for name, value in of.get("draw", {}).items()}
    return {"round": number, "seconds": seconds, **drawn, **of.get("learn", {}), **measured}


def warnings(first: Metrics, now: Metrics) -> Iterator[str]:
    """Yield what looks wrong about a round, beside the start."""
    before, after = first["distinct_2"], now["distinct_2"]
    if after < COLLAPSE * before:
        yield (
            f"round {now['round']}: distinct-2 fell from {before:.2f} to {after:.2f}: the answers collapse; take fewer "
            "rounds or epochs, a lower learning rate, or --train-from start"
        )
    if now.get("without_choice", 0) > now.get("prompts_drawn", 0) / 2:
        yield (
            f"round {now['round']}: {now['without_choice']} of {now['prompts_drawn']} prompts had answers of one score "
            "alone, among which nothing is best: take a higher temperature or n, or --min-score"
        )


def summary(run: SelfTraining, number: int) -> list[str]:
    """Return a line on a round, and its warnings."""
    metrics = round_metrics(run, number)
    estimates = metrics["estimates"]
    shown = [f"{name} {estimates[name]['mean']:.3f}" for name in ("reward", *run.judges)]
    shown += [f"KL {_kl(metrics):.3f}", f"distinct-2 {metrics['distinct_2']:.2f}"]
    if number:
        shown.append(f"{metrics['kept']} of {metrics['drawn']} answers learned, {metrics['duplicates']} duplicates")
    return [f"round {number}: {', '.join(shown)}", *warnings(round_metrics(run, 0), metrics)]


def write_report(run: SelfTraining) -> dict[str, Any]:
    """Write `report.json`, `report.md` and TensorBoard's events into the run's folder. Return the first's content."""
    config = run.config
    rounds = [round_metrics(run, number) for number in range(config.rounds + 1)]
    report = {
        "env": config.env_id,
        "seed": config.seed,
        "judges": list(run.judges),
        "model": run.start,
        "prompts": rounds[0]["prompts"],
        "warnings": [line for metrics in rounds for line in warnings(rounds[0], metrics)],
        "rounds": rounds,
    }
    replace_json(run.folder / "report.json", report)
    replace_file(run.folder / "report.md", _markdown(run, report).encode())
    with SummaryWriter(log_dir=str(run.folder)) as writer:
        for metrics in rounds:
            numbers = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
            numbers |= {name: estimate["mean"] for name, estimate in metrics["estimates"].items()}
            for name, value in numbers.items():
                writer.add_scalar(f"self_train/{name}", value, metrics["round"])
    return report


def round_cells(report: Mapping[str, Any], grams: Sequence[int] = (1, 2, 3)) -> tuple[list[str], list[list[str]]]:
    """Return the headings and the rows of the table of rounds, with distinct-n for `grams`."""
    scores = ["reward", *report["judges"]]
    heads = ["round", "learned", "duplicates", *scores, "KL", *(f"distinct-{n}" for n in grams)]
    rows = []
    for metrics in report["rounds"]:
        found = [metrics["estimates"][name] for name in scores]
        rows.append(
            [
                str(metrics["round"]),
                str(metrics.get("kept", "–")),
                str(metrics.get("duplicates", "–")),
                *(f"{estimate['mean']:.3f} ± {estimate['sem']:.3f}" for estimate in found),
                f"{_kl(metrics):.2f}",
                *(f"{metrics[f'distinct_{n}']:.2f}" for n in grams),
            ]
        )
    return heads, rows


def _kl(metrics: Metrics) -> float:
    """Return the KL to the start, without a minus before a zero."""
    return float(round(metrics["estimates"]["kl"]["mean"], 3)) + 0.0


def _markdown(run: SelfTraining, report: Mapping[str, Any]) -> str:
    config, rounds = run.config, report["rounds"]
    heads, rows = round_cells(report)
    keep = {"best": "the best", "all": "all"}.get(config.keep, f"the best {config.keep} of them")
    keep += "" if config.min_score is None else f" with a score of at least {config.min_score:g}"
    pairs = zip(rounds[0]["samples"], rounds[-1]["samples"], strict=True)
    return REPORT.format(
        env=report["env"],
        seed=report["seed"],
        n_rounds=len(rounds) - 1,
        n=config.n,
        n_prompts=config.prompts,
        keep=keep,
        train_from="model of the round before" if config.train_from == "last" else "start anew",
        table=markdown_table(heads, rows, ["---:"] * len(heads)),
        prompts=report["prompts"],
        warnings="\n".join(f"- {line}" for line in report["warnings"]) or "No warnings.",
        samples="\n\n".join(f"{_line('before', one)}\n{_line('after', two)}" for one, two in list(pairs)[:8]),
        answers=ANSWERS,
    )


def _line(when: str, sample: Mapping[str, Any]) -> str:
    return f"- {when}: {sample_markdown(kept_prompt(sample['prompt'], sample), sample['completion'])}"
