"""schemathesis against the gateway's OpenAPI schema: no 5xx, and nothing answered that is not documented."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")
pytest.importorskip("schemathesis", reason="schemathesis is missing: pip install schemathesis")
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from benchmarks.fake_engine import FakeEngine

from .running import Served, serve

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]


@pytest.mark.filterwarnings("ignore:Unclosed .MemoryObject:ResourceWarning")  # of the test client of schemathesis 4.25
@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_the_gateway_keeps_to_its_schema(mode: schemathesis.GenerationMode, tmp_path: Path) -> None:
    with serve(tmp_path, FakeEngine(), per_minute=10**6) as served:
        statuses = call_all(served, mode)
    assert len(statuses) >= 6 and statuses["POST /v1/completions"] & ({200} if mode.value == "positive" else {400})


def call_all(served: Served, mode: schemathesis.GenerationMode) -> dict[str, set[int]]:
    """Call everything that the schema has; the statuses that were answered."""
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    _, admin = served.keys.add("admin", ["admin"])
    headers, called = {"Authorization": f"Bearer {admin}"}, dict[str, set[int]]()
    for operation in (result.ok() for result in schema.get_all_operations()):
        called[operation.label] = set()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=20 if "completions" in operation.label else 4,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def calls(case: schemathesis.Case) -> None:
            if case.operation.label.endswith("completions") and isinstance(case.body, dict) and "model" in case.body:
                case.body["model"] = "mine" if isinstance(case.body["model"], str) else case.body["model"]
            response = case.call(headers=headers, timeout=60)
            case.validate_response(response, checks=CHECKS)
            called[case.operation.label].add(response.status_code)

        try:
            calls()
        except Unsatisfiable:  # nothing about this call can be wrong: it takes no argument
            assert mode is schemathesis.GenerationMode.NEGATIVE
    gc.collect()  # what the test client left open is warned of here, not in another test
    return called
