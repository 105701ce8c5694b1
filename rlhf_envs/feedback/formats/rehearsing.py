"""Stand in for a store in an import that is only tried: it reads the store, and writes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from ..kinds import check_item
from ..pictures import Picture
from ..records import Adjudication, Annotator, Item, Judgement, NewItem, Suggestion
from ..settings import Settings
from .importing import Import, import_file

if TYPE_CHECKING:
    from ..store.store import FeedbackStore

__all__ = ["Trial", "try_import"]


class Trial(NamedTuple):
    """Hold what an import would do: its report, the items that it would add, and who would be a new annotator."""

    report: Import
    items: list[NewItem]
    people: list[str]


def try_import(store: FeedbackStore, path: str | Path, format: str = "auto", **options: Any) -> Trial:
    """Read a file as `import_file` would, and change nothing. The quarantine file is written.

    Raises:
        ValueError, FileNotFoundError, StoreError: as `import_file` does.
    """
    stand_in = _Rehearsal(store)
    report = import_file(cast("FeedbackStore", stand_in), path, format, **options)
    return Trial(report, stand_in.added, stand_in.people)


class _Rehearsal:
    """Answer as the store does, and remember what it is told to write."""

    is_rehearsal = True

    def __init__(self, store: FeedbackStore) -> None:
        self.url = store.url
        self.settings: Settings = store.settings
        self.added: list[NewItem] = []
        self.people: list[str] = []
        self._store = store
        self._versions = store.versions()

    def annotators(self) -> list[Annotator]:
        return self._store.annotators()

    def items(self) -> list[Item]:
        return self._store.items()

    def judgements(self, **which: Any) -> list[Judgement]:
        return self._store.judgements(**which)

    def adjudications(self) -> dict[int, Adjudication]:
        return self._store.adjudications()

    def suggestions(self) -> list[Suggestion]:
        return self._store.suggestions()

    def add_annotator(self, name: str, role: str = "annotator") -> None:
        self._store.check_name(name)
        self.people.append(name)

    def add_items(self, new: Sequence[NewItem]) -> list[int]:
        for index, item in enumerate(new):
            try:
                check_item(item, self.settings)
            except ValueError as error:
                raise ValueError(f"items[{index}]: {error}") from error
        self.added += new
        return [-number for number in range(len(self.added) - len(new) + 1, len(self.added) + 1)]

    def update_settings(self, **changes: Any) -> Settings:
        self.settings = replace(self.settings, **changes)
        self._versions = {**self._versions, max(self._versions): self.settings}  # only a store without items is changed
        return self.settings

    def versions(self) -> dict[int, Settings]:
        return self._versions

    def take_versions(self, versions: Mapping[int, Settings]) -> None:
        self._versions = dict(versions)

    def add_pictures(self, pictures: Iterable[Picture]) -> list[dict[str, Any]]:
        return [picture.meta for picture in pictures]
