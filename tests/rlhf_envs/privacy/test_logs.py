"""Private data is masked in what is logged, whoever logs it and whatever handles it."""

from __future__ import annotations

import io
import logging

import pytest

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

from rlhf_envs.privacy import MaskLogs, masked_logs

MAIL = "anna@example.com"


@pytest.fixture
def written() -> tuple[logging.Logger, io.StringIO, logging.Handler]:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.Logger("a.logger")
    logger.addHandler(handler)
    return logger, stream, handler


def test_messages_arguments_and_tracebacks_are_masked(
    written: tuple[logging.Logger, io.StringIO, logging.Handler],
) -> None:
    logger, stream, handler = written
    handler.addFilter(MaskLogs())
    logger.warning("from %s at %d", MAIL, 3)
    logger.warning("a part: %s%s", "anna@", "example.com")
    try:
        raise ValueError(f"no row for {MAIL}")
    except ValueError:
        logger.exception("failed")
    logger.warning("%d", "wrong", stack_info=False)
    lines = stream.getvalue()
    assert lines.startswith("from [EMAIL] at 3\na part: [EMAIL]\nfailed\n")
    assert "ValueError: no row for [EMAIL]" in lines and "anna" not in lines.replace("logger.warning", "")


def test_records_of_every_logger_are_masked_while_the_context_is_open(
    written: tuple[logging.Logger, io.StringIO, logging.Handler],
) -> None:
    logger, stream, _ = written
    with masked_logs():
        logger.warning("from %s", MAIL)
    logger.warning("bye")
    assert stream.getvalue() == "from [EMAIL]\nbye\n"


def test_uvicorns_lines_of_requests_keep_their_form() -> None:
    formatter = pytest.importorskip("uvicorn.logging").AccessFormatter(
        '%(client_addr)s "%(request_line)s" %(status_code)s', use_colors=False
    )
    args = ("203.0.113.7:5000", "GET", f"/x?mail={MAIL}", "1.1", 200)
    with masked_logs():
        record = logging.getLogRecordFactory()("uvicorn.access", 20, "f", 1, '%s - "%s %s HTTP/%s" %d', args, None)
    assert formatter.format(record) == '[IP]:5000 "GET /x?mail=[EMAIL] HTTP/1.1" 200 OK'
