#!/bin/sh
# gymnasium 1.4.0: resetting some rows of a vector environment sets the episode statistics of all rows to 0.
#
# Expected: `vector.RecordEpisodeStatistics` has code for `options={"reset_mask": ...}`: it sets the counts of those rows to 0.
# What happens: `SyncVectorEnv.reset` takes the mask out of the caller's dict before the wrapper looks for it. The wrapper
# then sees a full reset: episodes still running lose their reward and length so far. `AsyncVectorEnv` does the same.
# A dict used twice has no mask the second time, and resets every environment.
# Source: gymnasium/vector/sync_vector_env.py, reset; wrappers/vector/common.py, RecordEpisodeStatistics.reset.
# An open pull request, Farama-Foundation/Gymnasium#1696, keeps the mask.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check gymnasium==1.4.0 numpy==2.4.6
venv/bin/python - <<'PY'
from importlib.metadata import version

import gymnasium
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

print(*(f"{name} {version(name)}" for name in ("gymnasium", "numpy")))


class Count(gymnasium.Env):
    """An episode of `length` steps with a reward of 1 each; the observation is the number of steps."""

    observation_space = gymnasium.spaces.Box(0, 100, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length):
        self.length = length

    def _observation(self):
        return np.array([self.steps], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), 1.0, self.steps == self.length, False, {}


def lengths(kind):
    """Run rows of 2 and of 5 steps until the long one ends, and return the recorded lengths of both rows' episodes."""
    envs = RecordEpisodeStatistics(kind([lambda: Count(2), lambda: Count(5)], autoreset_mode=AutoresetMode.DISABLED))
    envs.reset()
    recorded = [[], []]
    while not recorded[1]:
        _, _, ended, _, infos = envs.step(np.zeros(2, dtype=int))
        for row in np.flatnonzero(ended):
            recorded[row].append(int(infos["episode"]["l"][row]))
        if ended.any():
            envs.reset(options={"reset_mask": ended})
    envs.close()
    print(f"{kind.__name__}: recorded lengths, row of 2 steps {recorded[0]}, row of 5 steps {recorded[1]}")
    return recorded


assert lengths(SyncVectorEnv) == [[2, 2], [1]], "the behaviour has changed"
assert lengths(AsyncVectorEnv) == [[2, 2], [1]], "the behaviour has changed"

envs = SyncVectorEnv([lambda: Count(9), lambda: Count(9)], autoreset_mode=AutoresetMode.DISABLED)
envs.reset()
envs.step(np.zeros(2, dtype=int))
options = {"reset_mask": np.array([True, False])}
steps = [envs.reset(options=options)[0].ravel().tolist() for _ in range(2)]
print(f"the same dict twice: steps so far {steps[0]}, then {steps[1]}; left in the dict: {options}")
assert (steps, options) == ([[0, 1], [0, 0]], {}), "the behaviour has changed"
PY
