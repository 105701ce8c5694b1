#!/bin/sh
# stable-baselines3 2.9.2: after a callback has stopped training, the algorithm holds the observation of one step before.
#
# Expected: `learn(..., reset_num_timesteps=False)` goes on from the state in which the environment is.
# What happens: PPO and DQN return from a stopped rollout before they store the new observation. The environment has
# taken the step, so the next action is chosen for an observation that is one step old. If the step ended an episode,
# that observation belongs to the episode before.
# Source: stable_baselines3/common/on_policy_algorithm.py and off_policy_algorithm.py, `collect_rollouts`: the return
# after `callback.on_step()` stands before `self._last_obs` is set.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check \
    torch==2.13.0 stable-baselines3==2.9.2 gymnasium==1.4.0
venv/bin/python - <<'PY'
from importlib.metadata import version

import gymnasium as gym
import numpy as np
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback

print("stable-baselines3", version("stable-baselines3"), "gymnasium", version("gymnasium"))


class Counter(gym.Env):
    """Observe the number of steps that were taken."""

    observation_space = gym.spaces.Box(0, 1000, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action):
        self.steps += 1
        return self._observation(), 0.0, False, False, {}

    def _observation(self):
        return np.array([self.steps], np.float32)


class StopAfterFive(BaseCallback):
    def _on_step(self):
        return self.n_calls < 5


class FirstObservation(BaseCallback):
    """Keep the observation for which the first action of this call was chosen, and the environment's new state."""

    def _on_step(self):
        if self.n_calls == 1:
            self.chosen_for = int(np.ravel(self.model._last_obs)[0])
            self.state = self.training_env.get_attr("steps")[0]
        return True


for make in (
    lambda env: PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0),
    lambda env: DQN("MlpPolicy", env, learning_starts=100, buffer_size=100, device="cpu", seed=0),
):
    agent = make(Counter())
    agent.learn(100, callback=StopAfterFive())
    state = agent.get_env().get_attr("steps")[0]
    held = int(np.ravel(agent._last_obs)[0])
    first = FirstObservation()
    agent.learn(8, callback=first, reset_num_timesteps=False)
    print(
        f"{type(agent).__name__}: the environment has taken {state} steps, the agent holds observation {held}; the "
        f"next action was chosen for observation {first.chosen_for} and led to state {first.state}"
    )
    assert (state, held, first.chosen_for, first.state) == (5, 4, 4, 6), "the behaviour has changed"
PY
