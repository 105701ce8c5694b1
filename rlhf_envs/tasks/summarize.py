"""Define the summarising task: read a description, and sum it up in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_envs.overlap import content_words, overlap_words, rouge_l
from rlhf_envs.rewards.consistency import load_consistency
from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.rewards.shaping import LengthPenalty
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.references import check_references
from rlhf_envs.words import split_words

__all__ = ["Summarize"]

LONGEST = 12  # words: longer than 99% of the synopses in the data


class Summarize(Task):
    """Read the description of a software package, and sum it up in one line.

    ## Description
    The prompts are the first paragraphs of 3,600 descriptions of Debian packages (2,700 train, 300 validation, 600
    test), of 14 to 40 words. The agent writes a synopsis, as the package's maintainer did in 3 to 12 words. `rlhf sft
    rlhf/Summarize-v0 start --learning-rate 1e-3` teaches a model the form, `rlhf train --env
    rlhf/Summarize-v0 --algo rloo --model start` the rest.

    ## Observation space
    `input_ids` and `attention_mask`, (136,) each: a prompt of up to 112 tokens and up to 24 new ones. A longer
    description loses its beginning.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    The score of "summary-reward", less 0.2 for each word beyond 12. "summary-reward" is learned from synopses of other
    packages: it tells a maintainer's synopsis of a description from other packages' synopses, from copied parts of the
    description and from garbled words. The training split's synopses score about 0, and nothing scores more than 2. It
    reads English alone: give another reward for other languages.

    Evaluations report beside it `rouge_l` against the reference, `coverage` (the share of the reference's content words
    that the summary has), `support` (the share of the summary's content words that the description has),
    `length_ratio` in words, and `consistency`: how probably the summary says nothing that the description does not, by
    the model "summary-consistency", which learned from other descriptions than "summary-reward" and which agents do not
    train against. It tells foreign words, names, numbers and negations; a word in the place of another one of the
    description, or what is exchanged ("A for B", "B for A"), hardly. It is NaN for texts in other languages
    and of more than 60 words, which it does not know.

    ## Episode end
    EOS, or 24 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/Summarize-v0")` needs none. `data` takes texts of your own, with the columns `prompt` (the
    text) and `reference` (a summary of it), such as `columns={"prompt": "article", "reference": "highlights"}`. With a
    column `aspect`, such as "challenge", that word stands in the place of "Summary" behind the text. `python -m
    scripts.datasets.aclsum WHEEL aclsum.jsonl` writes such a file: abstracts of papers, each summed up by experts as
    challenge, approach and outcome. It takes the other arguments of `TextGenerationEnv`, such as `model`, `split` and
    `reward`.

    ## Version history
    v0: the first version.
    """

    name = "summarize"
    default_reward = "summary-reward"
    default_data = "descriptions"
    start = "--learning-rate 1e-3"
    template = "{text}\n{aspect}:"
    max_prompt_tokens = 112
    max_new_tokens = 24

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows. Rows of `data` need a `prompt`, which is the text, and a `reference`.

        Raises:
            ValueError: a row has no reference, or an empty one, or a prompt of messages.
        """
        check_references(rows := super().rows(split, data), self.name, "summary")
        return [self.fill(row) for row in rows]

    def fill(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the template around its text, and a space before its reference."""
        text, aspect = str(row.get("text", row["prompt"])), str(row.get("aspect") or "summary")
        prompt = self.template.format(text=text, aspect=aspect.capitalize())
        return {**row, "prompt": prompt, "text": text, "reference": f" {row['reference'].strip()}"}

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the learned reward, less what words beyond the longest synopses cost."""
        return get_reward(self.default_reward) + 0.2 * LengthPenalty(longest=LONGEST)

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `rouge_l`, `coverage`, `support`, `length_ratio` and `consistency` of each summary."""
        references, texts = columns["reference"], columns["text"]
        pairs = list(zip(completions, references, texts, strict=True))
        return {
            "rouge_l": [rouge_l(reference, given) for given, reference, _ in pairs],
            "coverage": [share_of(reference, given) for given, reference, _ in pairs],
            "support": [share_of(given, text) for given, _, text in pairs],
            "length_ratio": [len(split_words(given)) / len(split_words(reference)) for given, reference, _ in pairs],
            "consistency": load_consistency().probability(texts, completions).tolist(),
        }


def share_of(wanted: str, text: str) -> float:
    """Return the share of the different content words of `wanted` that `text` has; 0 if there are none."""
    words = {*content_words(wanted)}
    return len(words & {*overlap_words(text)}) / len(words) if words else 0.0
