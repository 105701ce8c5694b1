"""Completions of tasks with replies have the sum of all rewards, and simulators that depend on the seed alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.logger import configure

import agents
from agents.core.vec_env import make_vec_env
from rlhf_envs import Reply, TextGenerationVectorEnv
from rlhf_envs.tasks import WordTask


class Talk(WordTask):
    """Pay 1 for every turn, and say b or c by chance."""

    name, words, prompts = "talk", ("a", "b", "c"), ("a", "b")
    max_prompt_tokens, max_new_tokens, max_turns = 1, 12, 3

    def replies(self, dialogs):
        return [Reply(str(dialog.rng.choice(["b", "c"])), reward=1.0) for dialog in dialogs]


def test_a_completion_has_the_sum_of_its_turns_and_depends_on_the_seed_alone():
    env = make_vec_env(lambda num_envs: TextGenerationVectorEnv(num_envs, Talk()), 2, seed=0)
    agent = agents.make("ppo", env, seed=0, device="cpu")
    found = agents.generate(agent, env, indices=[0, 1] * 8, seed=3)
    ended = [done for done in found if done.finish_reason == "turns"]
    assert ended
    assert all(done.reward == done.metrics["turns"] == 3 for done in ended)
    assert {done.finish_reason for done in found} == {"turns", "length"}
    again = agents.generate(agent, env, indices=[0, 1] * 8, seed=3)
    assert [done.completion for done in found] == [done.completion for done in again]
    assert [done.completion for done in found[:4]] == [
        done.completion for done in agents.generate(agent, env, indices=[0, 1] * 2, seed=3)
    ], "whatever the other rows do"


class Counted(Talk):
    """Count the dialogs that are asked for a reply. The masks allow nothing but EOS after every two tokens."""

    max_new_tokens, max_turns = 200, 2
    asked = 0

    def replies(self, dialogs):
        self.asked += len(dialogs)
        return super().replies(dialogs)

    def action_masks(self, input_ids, lengths, prompt_lengths, steps):
        allowed = np.ones((len(steps), 5), bool)
        allowed[steps % 3 == 2, 2:] = False
        return allowed


def test_under_masks_nobody_is_asked_to_reply_to_a_row_that_is_finished():
    task = Counted()
    env = make_vec_env(lambda num_envs: TextGenerationVectorEnv(num_envs, task), 2, seed=0)
    found = agents.generate(agents.make("maskable_ppo", env, seed=0, device="cpu"), env, indices=[0, 1] * 8, seed=3)
    assert {done.finish_reason for done in found} == {"turns"}
    assert len({len(done.columns) for done in found}) > 1, "some rows end before others"
    assert task.asked == 2 * len(found)


def test_an_episode_whose_last_turn_ends_by_eos_counts_as_ended_by_eos():
    env = make_vec_env(lambda num_envs: TextGenerationVectorEnv(num_envs, Talk()), 8, seed=0)
    agent = agents.make("ppo", env, n_steps=32, seed=0, device="cpu")
    found = agents.evaluate(agent, env.env, n_episodes=16, reference=None)
    assert found.eos.tolist() == [done.finish_reason == "turns" for done in found.completions]
    assert found.eos.any()
    infos: list[dict[str, Any]] = []
    agent.set_logger(configure(None, []))
    agent.learn(8 * 32, lambda seen, _: infos.extend(seen["infos"]) or True, log_interval=None)
    shares = [info["finish_reason"] == "turns" for info in infos if info]
    assert agent.logger.name_to_value["rlhf/eos_share"] == pytest.approx(np.mean(shares))
    assert np.mean(shares) > 0
