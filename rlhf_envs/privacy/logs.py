"""Mask private data in what a program logs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from .masker import Masker

__all__ = ["MaskLogs", "masked_logs"]

_ACCESS = "uvicorn.access"  # its formatter reads the arguments one by one


class MaskLogs(logging.Filter):
    """Mask the message and the traceback of every record that passes. Add it to a handler.

    Args:
        masker: masks; one of all kinds by default.
    """

    def __init__(self, masker: Masker | None = None) -> None:
        super().__init__()
        self._masker = masker or Masker()

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record, and let it pass."""
        if record.name == _ACCESS:
            record.args = tuple(map(self._argument, record.args)) if isinstance(record.args, tuple) else record.args
        else:
            try:
                message = record.getMessage()
            except (TypeError, ValueError):  # arguments that do not suit: logging says so when it writes the record
                message = f"{record.msg} {record.args}"
            record.msg, record.args = self._masker.mask(message), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._masker.mask(record.exc_text)
        if record.stack_info:
            record.stack_info = self._masker.mask(record.stack_info)
        return True

    def _argument(self, value: Any) -> Any:
        return self._masker.mask(value) if isinstance(value, str) else value


@contextlib.contextmanager
def masked_logs(masker: Masker | None = None) -> Iterator[None]:
    """Mask every record that any logger of this process makes while the context is open, whatever handles it."""
    masks, before = MaskLogs(masker), logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = before(*args, **kwargs)
        masks.filter(record)
        return record

    logging.setLogRecordFactory(make)
    try:
        yield
    finally:
        logging.setLogRecordFactory(before)
