from __future__ import annotations

import re

import pytest

from benchmarks.ranks import main


@pytest.mark.slow
def test_two_ranks_are_timed_beside_one(capfd: pytest.CaptureFixture[str]) -> None:
    main(["--model", "tiny", "--n-envs", "8", "--new-tokens", "8", "--rollouts", "1", "--repeats", "1"])
    output = capfd.readouterr().out
    one, two = re.findall(r"^(\d) ranks: [\d.]+ tokens/s, (\d+) tokens in .*", output, re.MULTILINE)
    assert (one, two) == (("1", "64"), ("2", "64"))
    waited, transferred = map(float, re.findall(r"waited ([\d.]+)%, transferred ([\d.]+)%", output)[0])
    assert waited > 0
    assert 0 < transferred < 100 - waited
