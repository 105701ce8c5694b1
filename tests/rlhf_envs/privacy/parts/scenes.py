"""Hold the sentences of one setting, for `held_out.py`."""

from __future__ import annotations

from typing import NamedTuple


class Scene(NamedTuple):
    """Sentences that go together.

    Attributes:
        frames: Whole messages, with the sentences at `{body}`.
        opening: How messages begin; nothing to replace.
        private: Sentences with private data, `{kind}` or `{kind:form}`.
        public: Sentences without, where `{no:form}` looks like private data or near it.
    """

    frames: tuple[str, ...]
    opening: tuple[str, ...]
    private: tuple[str, ...]
    public: tuple[str, ...]
