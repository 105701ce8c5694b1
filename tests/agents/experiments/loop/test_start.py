"""A loop that is killed while it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.experiments.loop import loop
from agents.experiments.loop.config import LoopConfig
from tests.agents.experiments.loop.runs import config


class Killed(BaseException):
    """Stand for a kill -9."""


@pytest.mark.parametrize("name", ["name_run", "write_settings"])
def test_a_loop_killed_while_it_starts_can_be_resumed_or_begun_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(loop, name, kill)
        with pytest.raises(Killed):
            loop.run_loop(config(tmp_path))
    folder = tmp_path / "loop" / "run"
    assert folder.is_dir()
    if (folder / "config.json").is_file():
        assert LoopConfig.of_folder(folder).rounds == 2
    again, lock = config(tmp_path).claim()
    lock.release()
    assert again == folder
