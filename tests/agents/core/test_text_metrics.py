"""What TensorBoard gets: one set of tags, whatever the algorithm."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents
from agents import SequenceRolloutBuffer, TextMetrics, TokenPolicy
from agents.core.text_metrics import distinct_bigrams

ID = "rlhf/IncreasingNumbers-v0"
TAGS = {
    f"rlhf/{name}"
    for name in (
        "reward",
        "reward_increasing-numbers",
        "kl",
        "kl_k3",
        "kl_coef",
        "entropy",
        "length",
        "eos_share",
        "distinct_bigrams",
        "tokens_per_second",
        "judge",
    )
}


def half(prompts, completions, **columns):
    return [0.5] * len(completions)


def run(algo, folder, **kwargs):
    agent = agents.make(algo, ID, n_envs=8, seed=0, tensorboard_log=str(folder), device="cpu", **kwargs)
    agent.learn(8 * 20 * 2, callback=TextMetrics(judges={"judge": half}))
    events = EventAccumulator(agent.logger.dir, size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return agent, events


@pytest.mark.parametrize("algo", ["ppo", "a2c"])
def test_every_algorithm_logs_the_same_tags(algo, tmp_path):
    _, events = run(algo, tmp_path, n_steps=20)
    assert set(events.Tags()["scalars"]) >= TAGS
    assert len(events.Scalars("rlhf/reward")) == 2
    assert [e.value for e in events.Scalars("rlhf/judge")] == [0.5, 0.5]
    assert any(tag.startswith("rlhf/samples") for tag in events.Tags()["tensors"])
    assert "_hparams_/session_start_info" in events.summary_metadata


def test_the_figures_are_those_of_the_episodes_that_ended(tmp_path):
    agent = agents.make("ppo", ID, n_envs=8, seed=0, n_steps=20, tensorboard_log=str(tmp_path), device="cpu")
    seen = []
    step = agent.env.step_wait

    def spy():
        result = step()
        seen.extend(info for info in result[3] if "completion" in info)
        return result

    agent.env.step_wait = spy
    agent.learn(160)
    logged = EventAccumulator(agent.logger.dir)
    logged.Reload()
    expected = {
        "reward": np.mean([info["reward_components"]["increasing-numbers"] for info in seen]),
        "length": np.mean([info["episode"]["l"] for info in seen]),
        "eos_share": np.mean([info["finish_reason"] == "eos" for info in seen]),
    }
    for name, value in expected.items():
        assert logged.Scalars(f"rlhf/{name}")[0].value == pytest.approx(value, rel=1e-5)
    assert logged.Scalars("rlhf/kl")[0].value == pytest.approx(agent.rollout_buffer.stats["kl"], abs=1e-6)


def test_stock_ppo_logs_them_through_the_callback(tmp_path):
    env = agents.make_vec_env(ID, 4, seed=0)
    agent = PPO(
        TokenPolicy,
        env,
        n_steps=20,
        batch_size=40,
        rollout_buffer_class=SequenceRolloutBuffer,
        tensorboard_log=str(tmp_path),
        device="cpu",
    )
    agent.learn(80, callback=TextMetrics())
    events = EventAccumulator(agent.logger.dir)
    events.Reload()
    assert set(events.Tags()["scalars"]) >= TAGS - {"rlhf/judge"}


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer:DeprecationWarning")  # in TensorBoard's own dependency
def test_hostile_samples_are_neutralised():
    """What TensorBoard itself makes of them holds no link, image or tag of the text's own."""
    from tensorboard.plugin_util import markdown_to_safe_html

    from rlhf_envs.rendering import as_markdown

    hostile = (
        "<script>alert(1)</script> ![p](http://evil.example/p.png) [a](http://evil.example) `x` **b** \u202e\x1b[31m"
    )
    html = markdown_to_safe_html(f"- **{as_markdown(hostile)}**")
    assert not any(tag in html for tag in ("<img", "<a ", "<script", "<code", "\u202e", "\x1b"))
    assert html.count("<strong>") == 1


def test_without_monitor_the_figures_are_there_all_the_same(tmp_path):
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = DummyVecEnv([lambda: gym.make(ID)] * 4)
    agent = agents.make("a2c", env, n_steps=20, tensorboard_log=str(tmp_path), device="cpu")
    agent.learn(80)
    events = EventAccumulator(agent.logger.dir)
    events.Reload()
    assert 0 <= events.Scalars("rlhf/reward")[0].value <= 1
    assert 1 <= events.Scalars("rlhf/length")[0].value <= 10


def test_a_judge_gets_the_columns_and_is_checked():
    def wants_a_label(prompts, completions, label, **columns):
        assert len(label) == len(prompts)
        return [float("nan")] * len(prompts)

    env = agents.make_vec_env("rlhf/Sentiment-v0", 4, reward="gold", max_new_tokens=2)
    agent = agents.make("a2c", env, device="cpu")
    with pytest.raises(ValueError, match="wants_a_label"):
        agent.learn(16, callback=TextMetrics(judges={"judge": wants_a_label}))


def test_a_judge_is_given_the_tokens_of_completions_as_rewards_are(tmp_path):
    def count(prompts, completions, completion_ids, **columns):
        return [float(len(ids)) for ids in completion_ids]

    agent = agents.make("a2c", ID, n_envs=4, n_steps=20, seed=0, tensorboard_log=str(tmp_path), device="cpu")
    agent.learn(80, callback=TextMetrics(judges={"judge": count}))
    events = EventAccumulator(agent.logger.dir)
    events.Reload()
    assert events.Scalars("rlhf/judge")[0].value == pytest.approx(events.Scalars("rlhf/length")[0].value)


def test_a_users_callback_is_initialised_once():
    class Count(BaseCallback):
        count = 0

        def _init_callback(self):
            self.count += 1

        def _on_step(self):
            return True

    callback = Count()
    agents.make("a2c", ID, n_envs=2, device="cpu").learn(20, callback=callback)
    assert callback.count == 1


def test_distinct_bigrams():
    assert distinct_bigrams(["a b a b"]) == pytest.approx(2 / 3)  # ab, ba, ab
    assert distinct_bigrams(["a b", "a b"]) == 0.5
    assert distinct_bigrams(["a", ""]) == 0.0


def test_diversity_does_not_depend_on_how_many_episodes_a_rollout_ends():
    from agents.core.text_metrics import _distinct_per_group

    texts = [f"a b c{i % 40} d" for i in range(320)]
    few, many = _distinct_per_group(texts[:32]), _distinct_per_group(texts)
    assert few == pytest.approx(many, abs=0.05)
    assert distinct_bigrams(texts) < 0.5 * few
    assert _distinct_per_group(texts[:7]) == distinct_bigrams(texts[:7])


def test_the_tasks_own_judges_score_without_being_asked(tmp_path):
    env = agents.make_vec_env("rlhf/Sentiment-v0", 4, reward="gold", max_new_tokens=3)
    agent = agents.make("a2c", env, tensorboard_log=str(tmp_path), device="cpu")
    agent.learn(24)
    events = EventAccumulator(agent.logger.dir)
    events.Reload()
    assert events.Scalars("rlhf/gold")[0].value == pytest.approx(events.Scalars("rlhf/reward")[0].value, abs=1e-5)


def test_distinct_bigrams_of_a_script_without_spaces():
    assert distinct_bigrams(["很好看很好看"]) == 3 / 5
    assert distinct_bigrams(["很好看", "这部片"]) == 1
