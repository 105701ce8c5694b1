"""A verifiers evaluation of a served environment gives the rewards of the Gymnasium environment for the same texts.

verifiers does not install beside openenv. These tests find its program `vf-eval` on the PATH, or where the variable
VF_EVAL says, in a virtual environment of its own.
"""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.rlhf_envs.interop.openenv.serving import served

pytest.importorskip("openenv", reason="needs the extra openenv")

from rlhf_envs.interop.openenv.server import create_app
from tests.rlhf_envs.interop.openenv.servers import piles_app

VF_EVAL = os.environ.get("VF_EVAL") or shutil.which("vf-eval")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.skipif(VF_EVAL is None, reason="needs vf-eval of verifiers 0.4: put it on the PATH, or into VF_EVAL"),
]
CHECK: dict[str, Any] = runpy.run_path(
    str(Path(__file__).parents[4] / "examples" / "verifiers" / "check.py"), run_name="check"
)


def evaluate(url: str, folder: Path, rows: int, *flags: str) -> list[dict[str, Any]]:
    assert VF_EVAL is not None
    found: list[dict[str, Any]] = CHECK["evaluate"](Path(VF_EVAL), url, rows, folder, *flags)
    return found


@pytest.mark.parametrize(("env_id", "rows"), [("rlhf/Sentiment-v0", 6), ("rlhf/Dialogue-v0", 3)])
def test_an_evaluation_gives_the_rewards_of_the_gymnasium_environment(tmp_path: Path, env_id: str, rows: int) -> None:
    with served(create_app(env_id)) as server:
        traces = evaluate(server.url, tmp_path, rows)
    found = CHECK["compare"](env_id, traces)
    assert [row.index for row in found] == [*range(rows)]
    assert [row.verifiers for row in found] == pytest.approx([row.gymnasium for row in found], abs=1e-5)
    assert len({round(row.verifiers, 3) for row in found}) > 1  # not all alike
    for row, trace in zip(found, traces, strict=True):
        assert trace["metrics"]["turns"] == len(row.turns) and trace["metrics"]["unfinished"] == 0
        messages = [{"content": node["message"].get("content", "")} for node in trace["nodes"]]
        said = [CHECK["answer"](messages[:at]) for at, node in enumerate(trace["nodes"]) if node["sampled"]]
        assert row.turns == said  # not a space is lost on the way


def test_an_episode_that_verifiers_ends_says_that_it_is_not_finished(tmp_path: Path) -> None:
    with served(create_app("rlhf/Tutor-v0")) as server:
        (trace,) = evaluate(server.url, tmp_path, 1, "--env.player.max-turns", "1")
    assert trace["metrics"]["unfinished"] == 1 and trace["metrics"]["turns"] == 1


def test_a_server_that_lists_no_tasks_is_refused_by_name(tmp_path: Path) -> None:
    with served(piles_app()) as server, pytest.raises(SystemExit, match="rlhf serve-env` running there"):
        evaluate(server.url, tmp_path, 1)
