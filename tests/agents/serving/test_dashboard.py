"""The dashboard asks for metrics that the gateway has."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="the gateway needs the extra serve")

from agents.serving.telemetry import Telemetry

EXAMPLE = Path(__file__).parents[3] / "examples" / "serving"


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    families = [family for family in Telemetry().registry.collect()]
    names = {family.name + {"counter": "_total", "histogram": "_bucket"}.get(family.type, "") for family in families}
    panels = json.loads((EXAMPLE / "grafana.json").read_text())["panels"]
    asked = {
        name for panel in panels for target in panel["targets"] for name in re.findall(r"rlhf_\w+", target["expr"])
    }
    assert asked == names
    labels = {
        label for panel in panels for t in panel["targets"] for label in re.findall(r"{{(\w+)}}", t["legendFormat"])
    }
    assert labels == {"status", "route", "code", "kind", "feature", "scorer", "topic", "part", "result"}
