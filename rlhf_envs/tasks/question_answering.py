"""Define question answering: answer from a story, or say that one does not know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rlhf_envs.datasets import check_split
from rlhf_envs.datasets.messages import Prompt, said
from rlhf_envs.tasks.answers import calibration_error, exact_match, is_abstention, share_found, token_f1
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.stories import make_stories

__all__ = ["AnswerReward", "QuestionAnswering"]

SIZES = {"train": 4000, "validation": 400, "test": 600}
EVENTS = (2, 4)  # of a story


class AnswerReward:
    """Score an answer with its token F1, as SQuAD has it; an answer without a right word costs `wrong_cost`.

    An abstention costs nothing, and scores 1 where it is right.
    """

    def __init__(self, wrong_cost: float) -> None:
        self.wrong_cost = wrong_cost

    def __call__(self, completions: Sequence[Prompt], answer: Sequence[Any], **columns: Any) -> list[float]:
        """Return one score per completion."""
        return [self._score(said(text), right_answers(right)) for text, right in zip(completions, answer, strict=True)]

    def _score(self, text: str, answers: Sequence[str]) -> float:
        score = token_f1(text, answers)
        return -self.wrong_cost if score == 0 and not is_abstention(text) else score


class QuestionAnswering(Task):
    """Answer a question about a short story in a word, or say "I don't know".

    ## Description
    The stories are generated, in the manner of bAbI: two to four sentences about people who go to places, take things
    and give them away, such as "John went to the garden. John took the book. Where is the book?" One question in five
    is about somebody or something that the story does not have, and "I don't know" is its answer. The people of the
    test split (600 questions) and of the validation split (400) are in no training story (4,000).
    `rlhf sft rlhf/QuestionAnswering-v0 start --learning-rate 1e-3` teaches a model the form, `rlhf train --env
    rlhf/QuestionAnswering-v0 --algo rloo --model start` the rest.

    ## Observation space
    `input_ids` and `attention_mask`, (104,) each: a prompt of up to 96 tokens and up to 8 new ones. A longer prompt
    loses its beginning.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    The F1 score of the answer's words, with SQuAD's normalisation: no case, punctuation or articles. An answer without
    a right word costs `wrong_cost`, 0.5. To abstain scores 0, or 1 if there is no answer; so it pays to abstain if an
    answer is right with a probability below 1/3. Metrics are `exact_match`, `abstained`, and of evaluations
    `answered_accuracy` (exact answers among those that are no abstentions) and, of these too, `calibration_error` and
    `brier`, which compare the probability of the answer with whether it is right.

    ## Episode end
    EOS, or 8 new tokens.

    ## Arguments
    - `wrong_cost`: what a wrong answer costs, 0.5 by default; 0 makes a guess free.

    `data` takes questions of your own, with the columns `prompt` (the question, with its text if it has one) and
    `answer`: a text, or a list of texts that are right. A row whose `answer` is "I don't know" has none.
    `python -m scripts.datasets.trivia` writes such a file of trivia, from a package whose texts we may not ship.

    An answer of several parts has them in a column `parts`, a list of texts; then the metrics `parts_found` (the share
    of them that the answer has, as whole words) and `all_parts` are measured too. `python -m scripts.datasets.fanoutqa
    WHEEL fanoutqa.jsonl` writes such a file, FanOutQA's 310 questions about many things each, with the steps into which
    people took them apart; they need `max_new_tokens=128`, and knowledge far beyond that of small models. It takes the
    other arguments of `TextGenerationEnv`.

    ## Version history
    v0: the first version.

    Raises:
        ValueError: `wrong_cost` is below 0, a row has no `answer`, or `parts` that are no list of texts, or some rows
            have parts and others have none.
    """

    name = "question-answering"
    start = "--learning-rate 1e-3"
    template = "Read: {question}\nAnswer:"
    max_prompt_tokens = 96
    max_new_tokens = 8

    def __init__(self, wrong_cost: float = 0.5) -> None:
        if isinstance(wrong_cost, bool) or not isinstance(wrong_cost, int | float) or not 0 <= wrong_cost < np.inf:
            raise ValueError(f"wrong_cost={wrong_cost!r}: give a number of at least 0")
        self.wrong_cost = float(wrong_cost)

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the stories of a split, or the rows of `data`."""
        if data is not None:
            check_parts(data, self.name)
            return [self._fill(row, number) for number, row in enumerate(data)]
        split = check_split(split, self.name)
        found = make_stories(split, SIZES[split], *EVENTS)
        rows = [
            {"question": f"{row['story']} {row['question']}", "answer": row["answer"], "kind": row["kind"]}
            for row in found
        ]
        return [self._fill(row, number) for number, row in enumerate(rows)]

    def _fill(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return a row with its prompt and its reference."""
        answers = right_answers(row.get("answer"))
        if not answers or not all(isinstance(one, str) and one.strip() for one in answers):
            raise ValueError(
                f"task {self.name!r}: row {number} has the answer {row.get('answer')!r}, in its columns "
                f"{', '.join(map(repr, row))}: give a text, a list of texts, or \"I don't know\"; columns={{'answer': "
                "'solution'} (--column answer:solution) renames one"
            )
        question = row.get("question", row.get("prompt"))
        if not isinstance(question, str):
            raise ValueError(f"task {self.name!r}: row {number} has the prompt {question!r}: give a text")
        prompt = self.template.format(question=question)
        return {**row, "prompt": prompt, "question": question, "reference": f" {answers[0]}"}

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the token F1, less the cost of a wrong answer."""
        return AnswerReward(self.wrong_cost)

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `exact_match` and `abstained`; where the rows have parts, `parts_found` and `all_parts` too."""
        found: dict[str, Sequence[float]] = {
            "exact_match": self._right(completions, columns),
            "abstained": [float(is_abstention(text)) for text in completions],
        }
        if "parts" in columns:
            shares = [share_found(*pair) for pair in zip(completions, columns["parts"], strict=True)]
            found |= {"parts_found": shares, "all_parts": [float(share == 1) for share in shares]}
        return found

    def _right(self, completions: Sequence[str], columns: Mapping[str, list[Any]]) -> list[float]:
        pairs = zip(completions, columns["answer"], strict=True)
        return [exact_match(text, right_answers(right)) for text, right in pairs]

    def corpus_metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, float]:
        """Return `answered_accuracy`, `calibration_error` and `brier` of the answers, NaN if all abstain."""
        answered = np.array([not is_abstention(text) for text in completions])
        right = np.array(self._right(completions, columns))[answered]
        probabilities = np.exp(np.asarray(columns["log_probs"], dtype=float))[answered]
        if not len(right):
            return dict.fromkeys(("answered_accuracy", "calibration_error", "brier"), float("nan"))
        return {
            "answered_accuracy": float(right.mean()),
            "calibration_error": calibration_error(probabilities, right),
            "brier": float(((probabilities - right) ** 2).mean()),
        }


def check_parts(rows: Sequence[Mapping[str, Any]], task: str) -> None:
    """Raise ValueError, which names the row, if it has parts of an answer that are no texts, or lacks them alone."""
    having = [number for number, row in enumerate(rows) if "parts" in row]
    for number in having:
        parts = rows[number]["parts"]
        texts = isinstance(parts, list | tuple) and all(isinstance(one, str) and one.strip() for one in parts)
        if not texts or not parts:
            raise ValueError(
                f"task {task!r}: row {number} has the parts {str(parts)[:60]!r}: give a list of texts that a whole "
                "answer has, or leave the column out"
            )
    if having and len(having) < len(rows):
        missing = min({*range(len(rows))} - {*having})
        raise ValueError(f"task {task!r}: row {missing} has no 'parts', and other rows have: give them to all or none")


def right_answers(answer: Any) -> list[Any]:
    """Return the right answers of a row, which has one or a list of them."""
    return [answer] if isinstance(answer, str) else list(answer) if isinstance(answer, list | tuple) else []
