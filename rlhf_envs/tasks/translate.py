"""Define the translation task: read a text of a user interface in English or Chinese, and write it in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_envs.datasets.splits import hash_share
from rlhf_envs.models import resolve
from rlhf_envs.rewards.chrf import bleu, fold
from rlhf_envs.tasks.back_translation import load_back_translator
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.references import check_references

__all__ = ["Translate"]

ENGLISH, CHINESE = "English", "Chinese"
DEMONSTRATED = 0.75  # of the training messages, at random; the others are the prompts of agents
BACK_TOKENS = 48  # of a text that is translated back


class Translate(Task):
    """Read a text of a user interface in English or Chinese, and translate it into the other language.

    ## Description
    The messages are 3,140 of JupyterLab, Django, Wagtail and django-allauth, each in both directions (534 rows
    validation, 942 test; the two directions of a message share their split). Of the 4,804 training rows three quarters
    are demonstrations, and the other 1,218 are the prompts of agents: a start remembers what was demonstrated to it,
    and a reward for that teaches nothing.

    "tiny" has learned no Chinese. `rlhf pretrain interface-texts en-zh --vocab-size 1536 --n-embd 160 --block-size 128
    --batch-size 8 --steps 400` makes a model of 1.2M parameters from the training messages, each language by itself,
    whose tokens are words and pieces of them. `rlhf sft rlhf/Translate-v0 start --model en-zh --epochs 20
    --learning-rate 1e-3` teaches it to translate, in about four minutes, and `rlhf train --env rlhf/Translate-v0 --algo
    rloo --lr-schedule linear --model start` goes on from there. Short messages of known words come out right, others
    are garbled. The scores need sacrebleu: `pip install 'rlhf-envs[translate]'`.

    ## Observation space
    `input_ids` and `attention_mask`, (112,) each: a prompt of up to 64 tokens and up to 48 new ones. A longer message
    loses its beginning.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny". Its tokens are bytes and pieces of
    words, so that it can write any text: a Chinese character is three tokens.

    ## Reward
    chrF against the reference, from 0 to 1. Evaluations report beside it `bleu` (0 to 100, of all episodes together,
    with sacrebleu's Chinese tokenizer), `exact` and `length_ratio` in characters. Case and full-width forms do not
    count.

    With a back-translator, a model that is no part of the reward, they report how much of the source comes back too.
    `back_translation` is the mean chrF against the source of the agent's translations, translated back with the most
    probable tokens; a copy of the source, or nothing, counts 0. `back_translated_reference` is the same for the
    references: what this back-translator makes of right translations, so the first says little where the second is low.
    Read both beside `bleu`: a back-translator that knows the agent's mistakes may undo them.

    ## Episode end
    EOS, or 48 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/Translate-v0")` needs none.

    - `back_translator`: the name, folder or hub id of a causal model that translates in this task's form, both ways. It
      is read when the first evaluation asks for it. `rlhf pretrain interface-texts en-zh-2 --seed 1 --vocab-size 1536
      --n-embd 160 --block-size 128 --batch-size 8 --steps 400` and `rlhf sft rlhf/Translate-v0 back --model en-zh-2
      --seed 1 --epochs 20 --learning-rate 1e-3` make one, `--env-kwargs back_translator:back` names it. On the test
      messages it has BLEU 20.2 and chrF 0.33.

    `data` takes texts of your own, with the columns `prompt` and `reference` (the translation), and perhaps `source`
    and `target`, the names of the languages, by default English and Chinese. `python -m scripts.datasets.debian.manuals
    manuals.jsonl *.deb` writes such a file, of Debian's manuals. It takes the other arguments of `TextGenerationEnv`,
    such as `model`, `split` and `reward`.

    ## Version history
    v0: the first version.

    Raises:
        ValueError: there is no such back-translator.
    """

    name = "translate"
    default_reward = "chrf"
    default_data = "interface_texts"
    pretraining = "interface-texts en-zh --vocab-size 1536 --n-embd 160 --block-size 128 --batch-size 8 --steps 400"
    start = "--epochs 20 --learning-rate 1e-3"
    max_prompt_tokens = 64
    max_new_tokens = 48

    def __init__(self, back_translator: str | None = None) -> None:
        if back_translator is not None:
            try:
                resolve(back_translator)  # whether there may be such a model; it is loaded when it is needed
            except (TypeError, ValueError) as error:
                raise ValueError(f"back_translator={back_translator!r} is none: {error}") from error
        self.back_translator = back_translator

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows. Rows of `data` need a `prompt`, which is the text, and a `reference`.

        Raises:
            ValueError: a row has no reference, or an empty one, or a prompt of messages.
        """
        given = super().rows(split, data)
        if data is None and split == "train":
            given = [row for row in given if not is_demonstrated(row)]
        check_references(given, self.name, "translation")
        return [self.fill(row) for row in given]

    def demonstrations(self, split: str) -> list[dict[str, Any]]:
        """Return the translations of a split: of "train", the three quarters that are no prompts of agents."""
        rows = super().rows(split, None)
        filled = [self.fill(row) for row in rows if split != "train" or is_demonstrated(row)]
        return [{"prompt": row["prompt"], "completion": row["reference"]} for row in filled]

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


def is_demonstrated(row: Mapping[str, Any]) -> bool:
    """Return whether a message of the training split is demonstrated, by a hash of its English."""
    english = row["prompt"] if row["source"] == ENGLISH else row["reference"]
    return hash_share(english.strip()) < DEMONSTRATED


def write_prompt(text: str, source: str, target: str) -> str:
    """Return the prompt that asks for the translation of a text."""
    return f"{source}: {text}\n{target}:"
