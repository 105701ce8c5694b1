"""Define the task of reasoning-gym's generated questions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from rlhf_envs.curriculum import Curriculum, curriculum_of
from rlhf_envs.datasets import check_split, load_rows
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.reasoning.items import check_dataset, draw_rows, top_level
from rlhf_envs.tasks.reasoning.scoring import UNSOUND, PackageScore, StrictScore, strict_score
from rlhf_envs.tasks.references import check_prompts

__all__ = ["BUNDLED_LEVELS", "DEFAULT", "ReasoningGym"]

logger = logging.getLogger(__name__)

DEFAULT = "family_relationships"
TOP = 8  # the highest level of the default dataset
BUNDLED_LEVELS = 5  # of it, 0 to 4; the package has the others
SIZE = 600  # training questions of a level
HELD_OUT = 4  # a training question for each quarter of a held-out one
CURRICULUM = 4  # levels from `difficulty` on
NAN = float("nan")


class ReasoningGym(Task):
    """Answer generated questions with one exact answer: 105 datasets of reasoning-gym, with levels of difficulty.

    ## Description
    `gymnasium.make("rlhf/ReasoningGym-v0", dataset="chain_sum", difficulty=1)`. The package reasoning-gym generates the
    questions of each `dataset` and their answers: pip install "rlhf-envs[reasoning]". The default dataset,
    `family_relationships`, is bundled and needs no package. It asks how two people of a family are related. Its
    questions about in-laws are left out, because reasoning-gym 0.1.25 has their answers the wrong way round.
    `rlhf sft rlhf/ReasoningGym-v0 start` teaches a model the form of the answers.

    Splits have seeds of their own, and share no question: a hash of the question says to which split it belongs. The
    held-out splits have `size / 4` questions of the training levels, and as many of the level after them.

    ## Observation space
    `input_ids` and `attention_mask`, (136,) each: a prompt of up to 128 tokens and up to 8 new ones. For other datasets
    they are 192 and 32 by default: give `max_prompt_tokens` and `max_new_tokens`. A longer prompt loses its beginning,
    and a warning says how many do.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    1 for the exact answer, 0 for anything else (`scorer="strict"`). Case, spaces, quotes and a final full stop do not
    count, and "3.0" is "3". With `scorer="package"` it is the score of the package's verifier, 0 to 1: for datasets
    with several right answers, or without a stated one. Beside them stand the metrics `accuracy` (exact answers at the
    training levels), `next_accuracy` (at the level after these), and `package_score`, if the package is installed. What
    is known of the verifiers stands in the guide "Reasoning".

    ## Episode end
    EOS, or the last new token.

    ## Arguments
    - `dataset`: a name of the package's.
    - `difficulty`: the level in the package's curriculum, from 0; None takes its default configuration.
    - `config`: further settings of the dataset, such as `{"min_value": 10}`.
    - `scorer`: "strict" or "package".
    - `curriculum`: True begins at `difficulty` and opens the next three levels as the agent succeeds, see
      `rlhf_envs.curriculum.Curriculum`. What is open is saved with the environment.
    - `size`: training questions of a level, 600 by default.

    It takes the other arguments of `TextGenerationEnv`. `data` are questions of your own, with `prompt` and
    `answer`, and for a curriculum `level`.

    ## Version history
    v0: the first version.

    Raises:
        ModuleNotFoundError: the package is missing.
        ValueError: an argument is wrong, or the dataset has no stated answers and `scorer` is "strict".
    """

    name = "reasoning-gym"
    start = ""
    template = "{question}\nAnswer:"
    max_prompt_tokens = 128
    max_new_tokens = 8

    def __init__(
        self,
        dataset: str = DEFAULT,
        difficulty: int | None = 0,
        config: Mapping[str, Any] | None = None,
        scorer: str = "strict",
        curriculum: bool = False,
        size: int = SIZE,
    ) -> None:
        if scorer not in ("strict", "package"):
            raise ValueError(f"scorer={scorer!r}: take 'strict' or 'package'")
        if isinstance(size, bool) or not isinstance(size, int) or size < HELD_OUT:
            raise ValueError(f"size={size!r}: give a whole number of training questions, at least {HELD_OUT}")
        self.config = dict(config or {})
        if taken := {"seed", "size"} & self.config.keys():
            raise ValueError(f"config has {taken.pop()!r}, which the split decides: give size=... to the environment")
        self.dataset, self.difficulty, self.scorer, self.size = dataset, difficulty, scorer, size
        self.curriculum = curriculum
        if difficulty is None and curriculum:
            raise ValueError("curriculum=True needs a difficulty to begin with, such as 0; it is None")
        top = self._top()
        self.levels: list[int | None] = [None]
        self.next_level: int | None = None
        if difficulty is None:
            return
        if isinstance(difficulty, bool) or not isinstance(difficulty, int) or not 0 <= difficulty <= top:
            raise ValueError(f"difficulty={difficulty!r}: the levels of {dataset!r} are 0 to {top}, or None for none")
        last = min(difficulty + CURRICULUM - 1, top) if curriculum else difficulty
        self.levels = [*range(difficulty, last + 1)]
        self.next_level = last + 1 if last < top else None

    @property
    def is_bundled(self) -> bool:
        """Return whether the questions are the bundled ones."""
        return self.dataset == DEFAULT and not self.config and self.size == SIZE and self.difficulty is not None

    def _top(self) -> int:
        """Return the highest level, after checking the dataset, and that the scorer suits it."""
        if self.is_bundled:
            return TOP
        check_dataset(self.dataset)
        if self.dataset != DEFAULT:
            self.max_prompt_tokens, self.max_new_tokens = 192, 32
        if self.scorer == "package" and self.dataset in UNSOUND:
            logger.warning("the verifier of %r %s: scorer='strict' does not", self.dataset, UNSOUND[self.dataset])
        return top_level(self.dataset)

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the questions of the levels of a split, or those of `data`, which need an `answer`."""
        if data is not None:
            check_prompts(data, self.name, "question")
            return [self._fill(dict(row), number) for number, row in enumerate(data)]
        split = check_split(split, self.name)
        beyond = [self.next_level] if split != "train" and self.next_level is not None else []
        n = self.size if split == "train" else self.size // HELD_OUT
        found = [row for level in [*self.levels, *beyond] for row in self._draw(level, split, n)]
        return [self._fill(row, number) for number, row in enumerate(found)]

    def _draw(self, level: int | None, split: str, n: int) -> list[dict[str, Any]]:
        if self.is_bundled and level is not None and level < BUNDLED_LEVELS:
            return [row for row in load_rows("reasoning", split) if row["level"] == level]
        return draw_rows(self.dataset, level, self.config, split, n)

    def _fill(self, row: dict[str, Any], number: int) -> dict[str, Any]:
        """Return a row with its prompt and its reference."""
        question = row.get("question", row.get("prompt"))
        answer = row.get("answer")
        if self.scorer == "strict" and answer is None:
            there = ", ".join(map(repr, row))
            raise ValueError(
                f"dataset={self.dataset!r} has questions without a stated answer: give scorer='package'"
                if "item" in row
                else f"task {self.name!r}: row {number} has no column 'answer': it has {there}; rename one, "
                "columns={'answer': 'solution'} (--column answer:solution)"
            )
        if self.scorer == "package" and "item" not in row:
            raise ValueError(f"task {self.name!r}: row {number} is not of reasoning-gym: give scorer='strict'")
        reference = None if answer is None else f" {answer}"
        level = row.get("level")
        own = {"question": question, "answer": None if answer is None else str(answer), "reference": reference}
        return {**row, "prompt": self.template.format(question=question), **own, "level": level}

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the scorer."""
        return StrictScore() if self.scorer == "strict" else PackageScore(self.config)

    def task_weights(self, rows: Sequence[Mapping[str, Any]], split: str) -> Curriculum | None:
        """Return what draws the levels of a curriculum in training; held-out questions are drawn evenly.

        Raises:
            ValueError: questions of one's own have no column `level`.
        """
        return curriculum_of(rows, split, self.name) if self.curriculum else None

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `accuracy`, `next_accuracy` (NaN where a question is of the other) and perhaps `package_score`."""
        right = [
            NAN if wanted is None else strict_score(text, wanted)
            for text, wanted in zip(completions, columns["answer"], strict=True)
        ]
        beyond = [self.next_level is not None and level == self.next_level for level in columns["level"]]
        pairs = [*zip(right, beyond, strict=True)]
        found: dict[str, Sequence[float]] = {"accuracy": [NAN if later else one for one, later in pairs]}
        if self.next_level is not None:
            found["next_accuracy"] = [one if later else NAN for one, later in pairs]
        if "item" in columns and find_spec("reasoning_gym") is not None:
            score, names = PackageScore(self.config), ("dataset", "level", "item")
            found["package_score"] = score(completions, *(columns[name] for name in names))
        return found
