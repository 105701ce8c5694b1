"""The guide on OpenEnv, followed to the letter but for the port."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from tests.rlhf_envs.interop.openenv.serving import served

pytest.importorskip("openenv", reason="needs the extra openenv")

from rlhf_envs.interop.openenv.server import create_app

GUIDE = Path(__file__).parents[4] / "docs" / "guides" / "interop" / "openenv.md"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_python_of_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(blocks) == 3
    with served(create_app("rlhf/Sentiment-v0")) as server:
        for block in blocks:
            exec(compile(block.replace("http://127.0.0.1:8000", server.url), "guide", "exec"), {})
    first, second, _ = capsys.readouterr().out.splitlines()[:3]
    assert first.endswith("eos") and "True" in first
    assert "The episode has ended." in second


def test_the_image_copies_what_is_there_and_is_not_ignored() -> None:
    folder = GUIDE.parents[3]
    lines = (folder / "examples" / "openenv" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    kept = (folder / "examples" / "openenv" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    allowed = [line[1:] for line in kept.splitlines() if line.startswith("!")]
    assert len(copied) == 8 and all((folder / source).exists() for source in copied)
    assert all(any(Path(source).is_relative_to(one) for one in allowed) for source in copied)


def test_the_example_is_a_package_without_a_fault_and_tells_the_truth() -> None:
    """Its manifest passes OpenEnv's own validation, and its numbers of tasks are those of the server."""
    from openenv.validation import Level, Verdict, run_validation

    folder = GUIDE.parents[3] / "examples" / "openenv"
    report = run_validation(folder, max_level=Level.STATIC, skip_build=True)
    assert report.verdict is Verdict.PASS, report
    stated = yaml.safe_load((folder / "openenv.yaml").read_text(encoding="utf-8"))["validation"]
    place = runpy.run_path(str(folder / "server" / "app.py"))["app"].state.place
    counts = {split: len(place.batch(split).rows) for split in place.splits()}
    assert counts == stated["capabilities"]["declared_task_count"]
