"""schemathesis against the app's OpenAPI schema: no 5xx, and nothing answered that is not documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is missing: pip install schemathesis")
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE, Session

KINDS = {"pairwise": 2, "ranking": 3, "rating": 1, "thumbs": 1, "correction": 1, "flags": 1}
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with FeedbackStore(tmp_path_factory.mktemp("schema") / "feedback.db") as store:
        store.add_items([NewItem(kind, "p", tuple("abc"[:n]), overlap=3) for kind, n in KINDS.items()])
        store.add_annotator("ada", "admin")
        yield create_app(store, secret=b"s" * 32)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_api_keeps_to_its_schema(app: Any, mode: schemathesis.GenerationMode) -> None:
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    sessions = app.state.sessions
    called = []
    for operation in (result.ok() for result in schema.get_all_operations()):

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
        )
        def calls(case: schemathesis.Case) -> None:
            session = Session.fresh("ada")
            signed_in = {COOKIE: sessions.sign(session)}
            response = case.call(headers={"X-CSRF-Token": sessions.csrf_token(session)}, cookies=signed_in)
            case.validate_response(response, checks=CHECKS)

        try:
            calls()
        except Unsatisfiable:  # nothing about this call can be wrong: it takes no argument
            assert mode is schemathesis.GenerationMode.NEGATIVE
        called.append(operation.label)
    assert len(called) >= 14
