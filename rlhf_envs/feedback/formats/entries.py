"""Hold what a row of a file says, and how rows are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..answers import check_answers
from ..pictures import Picture
from ..records import Item, NewItem
from ..settings import Settings
from ..store.restoring import PastFinal, PastJudgement, PastSuggestion
from ..store.versions import same_questions

__all__ = ["Entry", "Reading"]


@dataclass(frozen=True)
class Entry:
    """Hold what a row says.

    Attributes:
        item: the question.
        judgements: the judgements that were given on it.
        created: when the item was made. None if the row does not say.
        id: the item's id in the store from which it comes. None if the row does not say.
        pictures: the item's pictures, whose entries its meta has.
        withdrawn: the item is not asked, however many judgements it has.
        final: its final answer.
        suggestions: what programs suggest for it, at most one by each source and version.
    """

    item: NewItem
    judgements: tuple[PastJudgement, ...] = ()
    created: datetime | None = None
    id: Any = None
    pictures: tuple[Picture, ...] = ()
    withdrawn: bool = False
    final: PastFinal | None = None
    suggestions: tuple[PastSuggestion, ...] = ()


@dataclass(frozen=True)
class Reading:
    """Hold how rows are read: the store's settings, and what applies if a row does not say.

    Attributes:
        settings: the store's settings, with the scale and the harms.
        kind: the kind of feedback. None tells it by the number of completions.
        question: the question of Argilla's records that is read. None takes the only one.
        annotator: who gave the judgements.
        source: where the completions come from.
        overlap: how many judgements an item needs.
        folder: where rows may name files of pictures, and below. None allows none.
        gold: the rows are gold questions, whose answer may stand beside the texts.
        versions: the versions of what the file's store asked, by their numbers. Without them judgements belong to
            `settings`.
        ours: the versions of what this store asked, by their numbers.
        potato: the store's items that Potato may be asked about, by their ids in its files.
    """

    settings: Settings
    kind: str | None = None
    question: str | None = None
    annotator: str = "import"
    source: str = ""
    overlap: int = 1
    folder: Path | None = None
    gold: bool = False
    versions: Mapping[int, Settings] = field(default_factory=dict)
    ours: Mapping[int, Settings] = field(default_factory=dict)
    potato: Mapping[str, Item] = field(default_factory=dict)

    def settings_of(self, judgement: PastJudgement | PastFinal) -> Settings:
        """Return the settings under which a judgement or a final answer was given."""
        if not self.versions or judgement.version is None:
            return self.settings
        if judgement.version not in self.versions:
            known = ", ".join(map(str, self.versions))
            raise ValueError(f"a judgement has the version {judgement.version}, which is not in the file ({known})")
        return self.versions[judgement.version]

    def answers_of(self, item: NewItem, judgement: PastJudgement | PastFinal) -> tuple[dict[str, Any], int | None]:
        """Return the checked answers to the questions of a judgement or final answer, and our version of them.

        Raises:
            ValueError: an answer is none of its question, or this store did not ask these questions.
        """
        asked = self.settings_of(judgement)
        if not judgement.answers:  # the project's questions were not asked, or it is a skip
            return {}, next((key for key, ours in [*self.ours.items()][::-1] if same_questions(ours, asked)), None)
        answers = check_answers(item, judgement.value, judgement.answers, asked.questions)
        for key, ours in [*self.ours.items()][::-1]:
            if all(question in ours.questions for question in asked.questions if question.name in answers):
                return answers, key
        raise ValueError(
            f"answers to {', '.join(answers)}: this store does not ask these questions as the file's did: import the "
            "file into a store of its own"
        )
