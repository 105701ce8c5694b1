"""Take over the settings of the store from which a file of items comes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..settings import MOVING_SETTINGS, Settings
from ..settings_file import read_setting
from .entries import Entry

if TYPE_CHECKING:
    from ..store.store import FeedbackStore

__all__ = ["FileSettings"]


class FileSettings:
    """Handle the settings of the store from which a file of items comes."""

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self.changed: tuple[str, ...] = ()
        self.versions: dict[int, Settings] = {}  # of the file's store, after the last settings in the file
        self._taken = False
        self._refusal: str | None = None  # why ratings are not taken, after the last settings in the file

    def take(self, given: Any, is_new: bool) -> Settings:
        """Give the file's settings to the store, once and only if it `is_new`. Return the settings for reading rows.

        Files of items can be joined into one. Then each part has settings, which apply from there on.
        """
        before = self.store.settings
        if given is None:  # tables have the column in every row
            return before
        self._refusal = "the scale of the file's ratings is not known: its 'store_settings' cannot be read"
        if not isinstance(given, dict) or not set(given) <= {*MOVING_SETTINGS, "versions"}:
            raise ValueError(f"'store_settings' must be an object of {', '.join(MOVING_SETTINGS)}")
        try:
            settings = {name: read_setting(name, value) for name, value in given.items() if name != "versions"}
            wanted = replace(before, **settings)
            self.versions = _versions_of(given.get("versions"), wanted)
        except (TypeError, ValueError) as error:
            raise ValueError(f"'store_settings': {error}") from None
        if is_new and not self._taken:
            changes = {name: value for name, value in settings.items() if value != getattr(before, name)}
            self.changed = tuple(changes)
            updated = self.store.update_settings(**changes)
            self.store.take_versions(self.versions)
            self._taken, self._refusal = True, None
            return updated
        self._refusal = None
        if wanted.scale != before.scale:
            (low, high), (our_low, our_high) = wanted.scale, before.scale
            self._refusal = (
                f"the file's ratings are on the scale {low} to {high}, the store's on {our_low} to {our_high}: import "
                "the file into a store of its own"
            )
        return before

    def check(self, entry: Entry) -> None:
        """Raise a ValueError if the entry has ratings that would change their meaning on the store's scale."""
        has_ratings = entry.judgements or entry.final or entry.suggestions or entry.item.gold is not None
        if self._refusal and entry.item.kind == "rating" and has_ratings:
            raise ValueError(self._refusal)


def _versions_of(given: Any, settings: Settings) -> dict[int, Settings]:
    """Return the versions in a file's settings. A file without them has one, of its settings.

    Raises:
        ValueError: they cannot be read. The message says which.
    """
    if given is None:
        return {1: settings}
    if not isinstance(given, dict) or not all(
        number.isdecimal() and isinstance(given[number], dict) for number in given
    ):
        raise ValueError("'versions' must map numbers to what was asked")
    return {
        int(number): replace(settings, **{name: read_setting(name, value) for name, value in asked.items()})
        for number, asked in sorted(given.items(), key=lambda pair: int(pair[0]))
    }
