"""schemathesis against the app's OpenAPI schema: no 5xx, and nothing answered that is not documented."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is missing: pip install schemathesis")
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.records import Explained
from rlhf_envs.feedback.web import create_app
from rlhf_envs.feedback.web.auth import COOKIE

JUDGE = "POST /api/tasks/{task_id}/judgement"
EXPLAIN = "POST /api/tasks/{task_id}/explanation"
JUDGEMENTS = 60  # calls of it: most of the work is in there
ANSWERS: dict[str, dict[str, Any]] = {
    "pairwise": {"choice": 1, "strength": 2},
    "ranking": {"order": [2, 0, 1]},
    "rating": {"rating": 3},
    "thumbs": {"up": True},
    "correction": {"text": "better"},
    "flags": {"harms": ["hate"]},
}
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
        new = [NewItem(kind, "p", tuple("abc"[:n]), overlap=3) for kind, n in KINDS.items()]
        ids = store.add_items(new * (JUDGEMENTS // 2))  # enough for every call that is taken, in both modes
        kinds = list(KINDS.values()) * (JUDGEMENTS // 2)
        store.explain(
            {i: Explained((0.5,) * n, (((0, 1, -0.25),),) * n) for i, n in zip(ids, kinds, strict=True)}, source="r"
        )
        store.update_settings(explanations="before")
        store.add_annotator("ada", "admin")
        yield create_app(store, secret=b"s" * 32)


@pytest.mark.filterwarnings("ignore:The anyio.abc.BlockingPortal alias:DeprecationWarning")  # of an older starlette
@pytest.mark.filterwarnings("ignore:Unclosed .MemoryObject:ResourceWarning")  # of the test client of schemathesis 4.25
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_api_keeps_to_its_schema(
    app: Any, mode: schemathesis.GenerationMode, signed: Callable[..., tuple[str, str]]
) -> None:
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app)
    store = app.state.store
    explained = Counter[int]()
    called, judged = [], Counter[int]()  # judged: how often each status answered a judgement

    def lend(case: schemathesis.Case) -> None:
        """Let a case ask about a task that is lent; every other answer is one of its kind, the rest of it as drawn."""
        store.update_settings(paused=False)  # the calls of the other mode may have paused it
        task = store.claim("ada")
        assert task is not None
        case.path_parameters["task_id"] = task.id
        if judged.total() % 2 and isinstance(case.body, dict) and "value" in case.body:
            case.body["value"] = ANSWERS[task.item.kind]

    for operation in (result.ok() for result in schema.get_all_operations()):

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=JUDGEMENTS if operation.label == JUDGE else 10,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def calls(case: schemathesis.Case) -> None:
            if case.operation.label in (JUDGE, EXPLAIN):
                lend(case)
            cookie, csrf = signed(store, "ada", b"s" * 32)
            headers = {"X-CSRF-Token": csrf}
            response = case.call(headers=headers, cookies={COOKIE: cookie}, timeout=120)  # for a busy machine
            case.validate_response(response, checks=CHECKS)
            if case.operation.label == JUDGE:
                judged[response.status_code] += 1
            if case.operation.label == EXPLAIN:
                explained[response.status_code] += 1

        try:
            calls()
        except Unsatisfiable:  # nothing about this call can be wrong: it takes no argument
            assert mode is schemathesis.GenerationMode.NEGATIVE
        called.append(operation.label)
    gc.collect()  # what the test client left open is warned of here, not in another test
    assert len(called) >= 14
    assert judged[422] >= 5, judged  # answers that are none of their kind
    if mode is schemathesis.GenerationMode.POSITIVE:
        assert judged[200] >= 15, judged  # it got as far as the disk
        assert explained[200] >= 1, explained
