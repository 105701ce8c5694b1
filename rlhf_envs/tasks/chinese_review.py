"""Define the Chinese reviews: tell whether a review is favourable, or continue its opening so that it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlhf_envs.datasets.messages import as_messages, shown
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.labels import LabelTask
from rlhf_envs.words import LETTERS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["ChineseReview"]

MODES = ("classify", "continue")
CHINESE = re.compile(f"[{LETTERS}]")
LOST = "\ufffd"  # what stands for bytes that are no character


class ChineseReview(LabelTask):
    """Read a Chinese review and say whether it is favourable, or continue its opening so that it is.

    ## Description
    The reviews are 5,882 Chinese texts of 10 to 60 characters about hotels and electronics (3,982 train, 643
    validation, 1,257 test). With `mode="classify"`, the default, the prompt is a review, and the agent answers 好评
    (favourable) or 差评 (unfavourable). With `mode="continue"` the prompt is an opening of 4 to 8 characters, and the
    agent writes on (3,729 openings train, 611 validation, 1,215 test).

    "tiny" has learned no Chinese: a character is three of its tokens, and what it writes is broken characters. `rlhf
    pretrain chinese-reviews zh --n-embd 160 --block-size 200 --batch-size 5 --steps 1500` makes a model of 1.5M
    parameters from the training split, in about four minutes. It puts words together as these reviews do, and few
    sentences that make sense. `rlhf sft rlhf/ChineseReview-v0 start --model zh --learning-rate 1e-3` teaches it the
    form of the answers (with `--env-kwargs mode:continue` how the openings went on), and `rlhf train --env
    rlhf/ChineseReview-v0 --model start` the rest.

    ## Observation space
    `input_ids` and `attention_mask`, (192,) each: a prompt of up to 184 tokens and up to 8 new ones. A longer review
    loses its beginning. With `mode="continue"` (80,) each: up to 40 and 40.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    With `mode="classify"` +w for the right answer and -w for any other, where w weighs the classes equally: 1.04 for
    好评, 0.96 for 差评. Evaluations report `macro_f1`, `balanced_accuracy`, `brier` (calibration), `accuracy` and
    `answered` beside it. A paragraph has the label of its whole review, which it need not carry: no model is right
    about all of them.

    With `mode="continue"` the score of "chinese-reward" for opening and continuation, with mean 0 and standard
    deviation 1 over real reviews: logistic regression on n-grams of characters. The judge "chinese-judge", trigram
    models of characters learned from other reviews and from those of books, scores the same texts for reports; agents
    never train against it. Evaluations report beside it `chinese` (the share of the letters and digits that are Chinese
    characters), `whole` (whether there are no broken characters) and `distinct` (the share of pairs of neighbouring
    characters that are different).

    ## Episode end
    EOS, or 8 new tokens; with `mode="continue"` 40.

    ## Arguments
    `gymnasium.make("rlhf/ChineseReview-v0")` needs none. `mode`, see above. `data` takes reviews of your own, with the
    columns `prompt` and `label`, "好评" or "差评"; with `mode="continue"` a `prompt` is an opening, and `label` is not
    needed. Files are UTF-8. It takes the other arguments of `TextGenerationEnv`, such as `model`, `split` and `reward`.

    ## Version history
    v0: the first version.

    Args:
        mode: "classify" or "continue".

    Raises:
        ValueError: there is no such mode.
    """

    name = "chinese-review"
    default_data = "chinese_reviews"
    pretraining = "chinese-reviews zh --n-embd 160 --block-size 200 --batch-size 5 --steps 1500"
    start = "--learning-rate 1e-3"
    labels = ("好评", "差评")
    template = "{text}\n评价："
    max_prompt_tokens = 184
    max_new_tokens = 8

    def __init__(self, mode: str = "classify") -> None:
        if mode not in MODES:
            raise ValueError(f"mode={mode!r}: there are {' and '.join(map(repr, MODES))}")
        self.mode = mode
        if mode == "continue":
            self.default_reward, self.judges = "chinese-reward", ("chinese-judge",)
            self.max_prompt_tokens = self.max_new_tokens = 40

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows. Rows of `data` need a `prompt` and, to classify, a `label`.

        Raises:
            ValueError: a prompt has a character that was lost when its file was decoded, no prompt has any Chinese
                character, or a label is missing or unknown.
        """
        if data is not None:
            self.check_characters(data)
        if self.mode == "classify":
            found = super().rows(split, data)
        else:
            found = [cut(row) for row in Task.rows(self, split, data) if row.get("opening") != 0]
        return [{name: value for name, value in row.items() if name != "opening"} for row in found]

    def check_characters(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Raise a ValueError if prompts were decoded from another encoding than the one they are in."""
        texts = [shown(as_messages(row["prompt"], "prompt")) for row in rows]
        for number, text in enumerate(texts):
            if LOST in text:
                raise ValueError(
                    f"task {self.name!r}: the prompt of row {number} has a lost character, U+FFFD: {text[:40]!r}; "
                    "convert the original file to UTF-8 (Chinese files are often GB18030)"
                )
        if not any(map(CHINESE.search, texts)):
            raise ValueError(
                f"task {self.name!r}: none of the {len(texts)} prompts has a Chinese character, such as "
                f"{texts[0][:40]!r}: take another column, or convert the file to UTF-8 (Chinese files are often "
                "GB18030)"
            )

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the reward of the mode."""
        if self.mode == "classify":
            return super().reward(max_new_tokens)
        return Task.reward(self, max_new_tokens)

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return the tokenizer. To classify, remember how it writes the labels."""
        return super().tokenizer(model) if self.mode == "classify" else Task.tokenizer(self, model)

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `accuracy` and `answered`; of continuations `chinese`, `whole` and `distinct`."""
        if self.mode == "classify":
            return super().metrics(prompts, completions, columns)
        return {
            "chinese": [share_of_chinese(completion) for completion in completions],
            "whole": [float(LOST not in completion) for completion in completions],
            "distinct": [share_of_different_pairs(completion) for completion in completions],
        }

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return those of `LabelTask`; none of continuations."""
        return super().corpus_metrics(prompts, completions, columns) if self.mode == "classify" else {}


def cut(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of the sample with its opening as the prompt and the rest as the reference; others as they are."""
    if "opening" not in row:
        return dict(row)
    text, end = row["prompt"], row["opening"]
    return {**row, "prompt": text[:end], "reference": text[end:]}


def share_of_chinese(text: str) -> float:
    """Return the share of letters, digits and broken characters that are Chinese characters; 0 if there are none."""
    n = sum(character.isalnum() or character == LOST for character in text)
    return len(CHINESE.findall(text)) / n if n else 0.0


def share_of_different_pairs(text: str) -> float:
    """Return the share of the pairs of neighbouring characters that are different; NaN if there are none."""
    pairs = [text[i : i + 2] for i in range(len(text) - 1)]
    return len({*pairs}) / len(pairs) if pairs else float("nan")
