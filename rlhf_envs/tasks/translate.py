"""Define the translation task: read a text of a user interface in English or Chinese, and write it in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_envs.models import resolve
from rlhf_envs.rewards.chrf import bleu, fold
from rlhf_envs.tasks.back_translation import load_back_translator
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.references import check_references

__all__ = ["Translate"]

ENGLISH, CHINESE = "English", "Chinese"
BACK_TOKENS = 48  # of a text that is translated back


class Translate(Task):
    """Read a text of a user interface in English or Chinese, and translate it into the other language.

    ## Description
    The prompts are 3,140 messages of JupyterLab, Django, Wagtail and django-allauth, each in both directions (4,804
    rows train, 534 validation, 942 test; the two directions of a message share their split). `rlhf sft
    rlhf/Translate-v0 start --epochs 4 --learning-rate 1e-3` teaches a model the messages, `rlhf train --env
    rlhf/Translate-v0 --algo rloo --model start` the rest. The scores need sacrebleu: `pip install
    'rlhf-envs[translate]'`.

    ## Observation space
    `input_ids` and `attention_mask`, (112,) each: a prompt of up to 64 tokens and up to 48 new ones. A longer message
    loses its beginning.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny". It has learned no Chinese, but its
    tokens are bytes and pieces of words, so that it can write any text: a Chinese character is three tokens.

    ## Reward
    chrF against the reference, from 0 to 1. Evaluations report beside it `bleu` (0 to 100, of all episodes together,
    with sacrebleu's Chinese tokenizer), `exact` and `length_ratio` in characters. Case and full-width forms do not
    count.

    ## Episode end
    EOS, or 48 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/Translate-v0")` needs none. `data` takes texts of your own, with the columns `prompt` and
    `reference` (the translation), and perhaps `source` and `target`, the names of the languages, by default English and
    Chinese. It takes the other arguments of `TextGenerationEnv`, such as `model`, `split` and `reward`.

    ## Version history
    v0: the first version.
    """

    name = "translate"
    default_reward = "chrf"
    default_data = "interface_texts"
    start = "--epochs 4 --learning-rate 1e-3"
    max_prompt_tokens = 64
    max_new_tokens = 48

    def __init__(self, back_translator: str | None = None) -> None:
        if back_translator is not None:
            resolve(back_translator)  # raises, unless there may be such a model; it is loaded when it is needed
        self.back_translator = back_translator

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows. Rows of `data` need a `prompt`, which is the text, and a `reference`.

        Raises:
            ValueError: a row has no reference, or an empty one, or a prompt of messages.
        """
        check_references(rows := super().rows(split, data), self.name, "translation")
        return [self.fill(row) for row in rows]

    def fill(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return a row with the template around its text, and a space before its reference."""
        text, source, target = row.get("text", row["prompt"]), row.get("source", ENGLISH), row.get("target", CHINESE)
        prompt = write_prompt(text, source, target)
        reference = f" {row['reference'].strip()}"
        return {**row, "prompt": prompt, "text": text, "reference": reference, "source": source, "target": target}

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `exact`, the share that are the reference, and `length_ratio` in characters."""
        pairs = [(fold(given), fold(wanted)) for given, wanted in zip(completions, columns["reference"], strict=True)]
        return {
            "exact": [float(given == wanted) for given, wanted in pairs],
            "length_ratio": [len(given) / len(wanted) for given, wanted in pairs],
        }

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return `bleu`, and with a back-translator `back_translation` and `back_translated_reference`."""
        found = {"bleu": bleu(completions, columns["reference"])}
        if self.back_translator is None:
            return found
        translator = load_back_translator(self.back_translator, write_prompt, BACK_TOKENS)
        languages = [*zip(columns["source"], columns["target"], strict=True)]
        both = {"back_translation": completions, "back_translated_reference": columns["reference"]}
        shares = {
            name: translator.share_that_returns(columns["text"], given, languages) for name, given in both.items()
        }
        return found | {name: sum(share) / len(share) for name, share in shares.items()}


def write_prompt(text: str, source: str, target: str) -> str:
    """Return the prompt that asks for the translation of a text."""
    return f"{source}: {text}\n{target}:"
