"""Align SmolLM2-135M-Instruct with LoRA on short answers: is an opinion of a film positive or negative?

`python -m benchmarks.instruct --seeds 3` runs `rlhf train --env benchmarks.instruct:bench/FilmOpinion-v0 --model
smollm2 --train lora --chat` in a process of its own for every seed and reads the reports. The reward is a learned one:
the sign of "tiny-reward"'s score of the opinion says which word is right, and an answer of more than one word costs
half a point. The metric `right` goes by people's mean rating, which neither agent nor reward sees, on snippets of the
test split, and takes any answer that names the word first; one word for all makes it 0.5. Further arguments go to
`rlhf train`.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.learning import run
from rlhf_envs import Task, get_reward, register_task
from rlhf_envs.datasets import load_rows

ENV, QUESTION, MAX_WORDS = "bench/FilmOpinion-v0", "{}\nPositive or negative?", 14
SETTINGS = ["--model", "smollm2", "--train", "lora", "--chat", "--system-prompt", "Be brief.", "-n", "1280"]
SETTINGS += ["--n-envs", "32", "--learning-rate", "1e-3", "--kl-coef", "0.05", "-params", "n_steps:8"]
SETTINGS += ["-params", "batch_size:64", "-params", "n_epochs:1", "--test-episodes", "128", "--eval-freq", "0"]
METRICS = ("reward", "right", "answered", "kl", "eos_share", "length")
MAX_SECONDS, MIN_SEMS, MIN_EOS = 900, 3, 0.5


def answer(text: str) -> str:
    """Return "positive" or "negative", the one that the text names first; "" if it names neither."""
    return next(iter(re.findall("positive|negative", text.lower())), "")


def is_one_word(text: str) -> bool:
    """Return whether a text is nothing but "positive" or "negative", in any case and with a full stop or without."""
    return text.strip().rstrip(".").lower() in ("positive", "negative")


class FilmOpinion(Task):
    """Say whether a rated snippet of a film review is positive or negative.

    Mean ratings within 1 of 0 are left out, and so are snippets of more than `MAX_WORDS` words: long prompts take time.
    """

    name = "film-opinion"
    default_model = "smollm2"
    max_prompt_tokens = 64
    max_new_tokens = 6

    def rows(self, split: str, data: Any) -> list[dict[str, Any]]:
        """Return as many positive snippets as negative ones, each with its `text` and people's `opinion`."""
        rated = load_rows("rated_snippets", split, required=("text",))
        rated = [row for row in rated if len(row["text"].split()) <= MAX_WORDS]
        sides = [[row["text"] for row in rated if sign * row["mean"] > 1] for sign in (-1, 1)]
        pairs = zip(*sides, strict=False)  # the longer side loses its end
        both = [(text, word) for pair in pairs for text, word in zip(pair, ("negative", "positive"), strict=True)]
        return [{"prompt": QUESTION.format(text), "text": text, "opinion": word} for text, word in both]

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the reward: 1 for the word that "tiny-reward" says, and half a point off unless it is one word."""
        model = get_reward("tiny-reward")

        def agreement(completions: list[Any], text: list[str], **columns: Any) -> list[float]:
            scores = model.score(prompts=[""] * len(text), completions=text)
            words = ["positive" if score > 0 else "negative" for score in scores]
            texts = [done if isinstance(done, str) else done[-1]["content"] for done in completions]
            pairs = zip(texts, words, strict=True)
            return [float(answer(said) == word) - 0.5 * (not is_one_word(said)) for said, word in pairs]

        return agreement

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return whether the answer is people's opinion, and whether it is an answer."""
        said = [answer(text) for text in completions]
        right = [float(word == opinion) for word, opinion in zip(said, columns["opinion"], strict=True)]
        return {"right": right, "answered": [float(word != "") for word in said]}


register_task(ENV, "benchmarks.instruct:FilmOpinion")


def standard_error(values: list[float]) -> float:
    """Return the standard error of the mean over the seeds; nan of one seed."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="seeds side by side; as many as cores need --threads 1")
    parser.add_argument("--folder", help="keep the runs here; a temporary folder by default")
    args, further = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        with ThreadPoolExecutor(args.jobs) as pool:
            train = partial(run, args.algo, f"benchmarks.instruct:{ENV}", folder=folder, further=[*SETTINGS, *further])
            reports = list(pool.map(train, range(args.seeds)))
    means = [
        {when: {n: r[when]["estimates"][n]["mean"] for n in METRICS} for when in ("before", "after")} for r in reports
    ]
    print(f"{args.algo}, seeds 0 to {args.seeds - 1}, {reports[0]['n_timesteps']:,} tokens", *further, "\n")
    print("| seed | seconds | " + " | ".join(METRICS) + " |\n" + "|---" * (len(METRICS) + 2) + "|")
    for seed, (report, mean) in enumerate(zip(reports, means, strict=True)):
        cells = [f"{mean['before'][name]:.3f} -> {mean['after'][name]:.3f}" for name in METRICS]
        print(f"| {seed} | {report['seconds']:.0f} | " + " | ".join(cells) + " |")
    gains = [mean["after"]["right"] - mean["before"]["right"] for mean in means]
    gain, error = statistics.mean(gains), standard_error(gains)
    print(f"\nright: a gain of {gain:.3f} ± {error:.3f} (standard error of {len(gains)} seeds)")
    shares = [statistics.mean(m[when]["right"] / m[when]["answered"] for m in means) for when in ("before", "after")]
    print("right among the answers that name a word: {:.3f} -> {:.3f}".format(*shares))
    checks = {
        f"a gain of at least {MIN_SEMS} standard errors": gain >= MIN_SEMS * error,
        f"completions ended by EOS at least x {MIN_EOS}": all(
            m["after"]["eos_share"] >= MIN_EOS * m["before"]["eos_share"] for m in means
        ),
        f"every run within {MAX_SECONDS} s": all(report["seconds"] <= MAX_SECONDS for report in reports),
    }
    for name, met in checks.items():
        print(f"- {name}: {'yes' if met else 'NO'}")
    for seed, report in enumerate(reports):
        print(f"\nseed {seed}, the same prompts before and after:")
        for first, second in zip(report["before"]["samples"][:4], report["after"]["samples"][:4], strict=True):
            print(f"  - {first['prompt']!r}\n    {first['completion']!r}\n    {second['completion']!r}")
    if not all(checks.values()):
        sys.exit("a bar was not met, see above")


if __name__ == "__main__":
    main()
