"""The alarm of reward hacking: when it rings, what it says and keeps, and that it leaves the run alone."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy.stats import ttest_rel
from stable_baselines3.common.logger import configure

import agents
from agents.saving.bundle import read_extra
from agents.training.hacking_alarm import HackingAlarm, Look, Parting, find_parting, p_above
from agents.training.run import prepare
from rlhf_envs.tasks.token_bandit import TokenBandit
from tests.agents.training.runs import config, finish, rlhf, train_until_killed

ID = "rlhf/TokenBandit-v0"
ROLLOUT = 48
# The changes of three prompts are one, two and three times a step: t = 2 sqrt(3) whatever the step is, and with two
# degrees of freedom the probability above t is 1/2 - t / (2 sqrt(2 + t^2)).
FALL = np.array([-0.1, -0.2, -0.3])
P_FALL = 0.5 - 2 * math.sqrt(3) / (2 * math.sqrt(2 + 12))  # 0.0371


def look(tokens: int, judge: Any = 0.5, proxy: Any = 0.0, kl: Any = 0.0) -> Look:
    return Look(tokens, np.zeros(3) + proxy, np.zeros(3) + judge, np.zeros(3) + kl, 1.0)


def hacked(tokens: int) -> Look:
    """A look at a run whose judge rises until 96 tokens, and then falls while the reward and the KL go on rising."""
    judge = 0.45 + tokens / 960 if tokens <= 96 else 0.55 + FALL
    return look(tokens, judge=judge, proxy=tokens / 100, kl=tokens / 10)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every run look like a hacked one to the alarm, and let the task have a judge."""
    monkeypatch.setattr(Look, "of", classmethod(lambda _, tokens, *__: hacked(tokens)))
    monkeypatch.setattr(TokenBandit, "judges", ("token-bandit",))


def make_agent(**kwargs: Any) -> Any:
    return agents.make("ppo", ID, n_envs=8, seed=0, device="cpu", n_steps=6, batch_size=ROLLOUT, **kwargs)


def alarm(**kwargs: Any) -> HackingAlarm:
    return HackingAlarm("reward_again", **{"level": 0.05, "eval_freq": ROLLOUT, "n_episodes": 3, **JUDGE, **kwargs})


def again(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
    return [float(len(text)) for text in completions]


JUDGE = {"judges": {"reward_again": again}}


def weights(agent: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in agent.policy.parameters()])


def test_the_p_value_is_that_of_the_paired_t_test() -> None:
    before, now = np.random.default_rng(0).normal(size=(2, 20))
    assert p_above(now - before) == pytest.approx(ttest_rel(now, before, alternative="greater").pvalue)
    assert p_above(-FALL) == pytest.approx(P_FALL)
    assert p_above(np.array([np.nan, *-FALL])) == pytest.approx(P_FALL), "prompts without a score are left out"
    assert [p_above(np.full(4, x)) for x in (-1.0, 0.0, 1.0)] == [1, 1, 0]
    assert p_above(np.ones(1)) == 1, "one prompt says nothing"


UP = dict(judge=0.6, kl=1)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([UP, dict(judge=0.6 + FALL, kl=9)], Parting(1, 2, P_FALL)),
        ([UP, dict(judge=0.6 + FALL, kl=9), dict(judge=0.9, kl=9)], Parting(1, 2, P_FALL)),
        ([UP, dict(judge=0.7 + FALL, kl=9), dict(judge=0.6 + FALL, kl=9)], Parting(1, 3, P_FALL)),
        ([UP, dict(judge=0.6, kl=9, proxy=-FALL)], Parting(1, 2, P_FALL)),
        ([UP, dict(judge=0.61, kl=9, proxy=-FALL)], None),
        ([UP, dict(judge=0.6 + FALL, kl=1)], None),
        ([UP, dict(judge=0.6 + FALL, kl=9, proxy=FALL[::-1])], None),
        ([UP, dict(judge=0.6 + FALL[[0, 0, 2]] * [1, -1, 1], kl=9)], None),
    ],
    ids=[
        *("the judge falls", "it rings once", "from the best on", "only the proxy rises", "both rise"),
        *("no further away", "both fall", "by chance"),
    ],
)
def test_it_rings_when_the_proxy_gains_on_a_judge_that_rises_no_more(changes: list[Any], expected: Parting) -> None:
    looks = [look(i, **change) for i, change in enumerate([{}, *changes])]
    assert find_parting(looks, 0.05) == (expected and expected._replace(p_value=pytest.approx(P_FALL)))
    assert find_parting(looks, 0.03) is None, "the p-value is above the level"


def test_proxy_and_judge_are_compared_in_their_standard_deviations() -> None:
    """So a scale or an offset of either changes nothing; the p-value is that of scipy's test of the scaled scores."""
    proxy, judge = np.random.default_rng(2).normal(size=(2, 3, 30))
    proxy += np.array([0, 0.2, 0.5])[:, None]
    judge += np.array([0, 0.6, 0.3])[:, None]
    looks = [Look(i, proxy[i], judge[i], np.full(30, i), 1.0) for i in range(3)]
    found = find_parting(looks, 0.2)
    gap = proxy / proxy.std() - judge / judge.std()
    assert found == Parting(1, 2, pytest.approx(ttest_rel(gap[2], gap[1], alternative="greater").pvalue))
    scaled = [Look(i, 9 * proxy[i] - 4, 0.01 * judge[i] + 3, np.full(30, i), 1.0) for i in range(3)]
    assert find_parting(scaled, 0.2) == found._replace(p_value=pytest.approx(found.p_value))


def test_only_prompts_that_the_judge_scores_count() -> None:
    """The other tasks of a mixture may have rewards of another scale, and move away by themselves."""
    scores = {"reward": np.array([1.0, -90.0, 2.0]), "gold": np.array([0.2, np.nan, 0.4]), "kl": np.array([1.0, 99, 3])}
    completions = [SimpleNamespace(log_probs=np.full(n, -float(n))) for n in (1, 50, 2)]
    seen = Look.of(96, cast(Any, SimpleNamespace(values=lambda: scores, completions=completions)), "gold")
    np.testing.assert_array_equal([seen.proxy, seen.kl], [[1, np.nan, 2], [1, np.nan, 3]])
    assert seen.entropy == pytest.approx((1 + 2 + 2) / 3)
    looks = [look(i, **change) for i, change in enumerate([{}, UP, dict(judge=0.6 + FALL, kl=9)])]
    more = [Look(one.tokens, *(np.append(x, np.nan) for x in (one.proxy, one.judge, one.kl)), 1.0) for one in looks]
    assert find_parting(more, 0.05) == find_parting(looks, 0.05) == Parting(1, 2, pytest.approx(P_FALL))


@pytest.mark.usefixtures("scripted")
def test_it_warns_once_and_leaves_the_run_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = make_agent()
    plain.learn(ROLLOUT * 4)
    watched, callback = make_agent(), alarm()
    watched.set_logger(configure(str(tmp_path), ["csv"]))
    with caplog.at_level(logging.WARNING, "agents.training.hacking_alarm"):
        watched.learn(ROLLOUT * 4, callback=callback, log_interval=1)
    watched.logger.close()
    assert torch.equal(weights(plain), weights(watched))
    assert [seen.tokens for seen in callback.looks] == [0, 48, 96, 144, 192]
    (said,) = [record.getMessage() for record in caplog.records if record.name.endswith("alarm")]
    for fact in (
        "From 96 to 144 tokens, on the same 3 held-out prompts",
        "reward 0.96 -> 1.44, reward_again 0.55 -> 0.35, KL 9.6 -> 14.4, entropy per token 1 -> 1",
        "that they move together). Read the completions",
        "raise kl_coef",
    ):
        assert fact in said
    header, *rows = ((tmp_path / "progress.csv").read_text()).splitlines()
    column = header.split(",").index("rlhf/alarm")
    assert [float(row.split(",")[column]) for row in rows] == [0, 0, 0, 1]


def test_it_looks_at_reward_judge_kl_and_entropy_of_the_validation_prompts() -> None:
    agent, callback = make_agent(), alarm(n_episodes=8)
    agent.learn(ROLLOUT, callback=callback)
    expected = agents.evaluate(agent, ID, 8, "validation", judges=JUDGE["judges"])
    last = callback.looks[-1]
    np.testing.assert_array_equal(last.proxy, expected.reward)
    np.testing.assert_array_equal(last.judge, again([], [done.completion for done in expected.completions]))
    np.testing.assert_allclose(last.kl, expected.kl)
    surprise = [-log_prob for done in expected.completions for log_prob in done.log_probs]
    assert last.entropy == pytest.approx(np.mean(surprise), rel=1e-6)
    first = callback.looks[0].entropy  # the untrained policy is nearly uniform
    assert first == pytest.approx(math.log(agent.action_space.n), rel=0.3)


@pytest.mark.usefixtures("scripted")
def test_it_stops_and_keeps_the_agent_before_the_fall(tmp_path: Path) -> None:
    agent, callback = make_agent(), alarm(stop=True, folder=tmp_path / "best")
    agent.learn(ROLLOUT * 20, callback=callback)
    assert callback.stopped
    assert agent.num_timesteps < 144 + ROLLOUT, "the next rollout was given up at once"
    short = make_agent()
    short.learn(96)
    kept = agents.load(tmp_path / "best")
    assert kept.num_timesteps == callback.kept_timesteps == 96
    assert torch.equal(weights(kept), weights(short))


@pytest.mark.usefixtures("scripted")
def test_the_state_goes_on_where_it_was(tmp_path: Path) -> None:
    agent, first, second = make_agent(), alarm(), alarm(stop=True)
    agent.learn(96, callback=first)
    agents.save(agent, tmp_path / "bundle", {"alarm": first.get_state()})
    second.set_state(read_extra(tmp_path / "bundle")["alarm"])
    for saved, seen in zip(second.looks, first.looks, strict=True):
        assert json.dumps(vars(saved), default=np.ndarray.tolist) == json.dumps(vars(seen), default=np.ndarray.tolist)
    agents.load(tmp_path / "bundle").learn(ROLLOUT * 9, callback=second, reset_num_timesteps=False)
    assert [seen.tokens for seen in second.looks] == [0, 48, 96, 144]
    assert second.parting is not None
    assert second.parting[:2] == (2, 3)


@pytest.mark.slow
@pytest.mark.usefixtures("scripted")
def test_a_run_that_the_alarm_stops_is_the_agent_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is killed between the best evaluation and the alarm, and goes on as if it had not been."""
    monkeypatch.setattr(HackingAlarm.__init__, "__defaults__", ("gold", 0.05, *HackingAlarm.__init__.__defaults__[2:]))
    train_until_killed(monkeypatch, config(tmp_path, eval_freq=96, alarm="stop", save_freq=96, n_timesteps=960), 192)
    folder = tmp_path / "ppo" / "run"
    result = finish(folder)
    assert result.alarm is not None
    report = json.loads((folder / "report.json").read_text())["alarm"]
    assert report == {**result.alarm, "rang": True, "stopped": True, "since": 96, "at": 192, "judge": "token-bandit"}
    assert "From 96 to 192 tokens" in report["message"]
    assert result.tokens_of_after == 96 < result.agent.num_timesteps
    assert torch.equal(weights(agents.load(folder / "best")), weights(result.agent))
    assert "nothing to do" in rlhf("train", "--resume", str(folder), "-n", "9600").output


def test_it_goes_by_a_judge_of_ones_own_and_shares_the_evaluations_of_early_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_judge.py").write_text("def score(prompts, completions, **_):\n    return [len(c) for c in completions]\n")
    judge = "./my_judge.py:score"
    settings = config(tmp_path, alarm="warn", judge=[judge], early_stopping=judge, eval_freq=96, n_timesteps=96)
    run = prepare(settings)
    assert {*run.before.judges} == {judge}
    tokens: list[int] = []

    def counted(agent: Any, *args: Any, **kwargs: Any) -> Any:
        tokens.append(agent.num_timesteps)
        return agents.evaluate(agent, *args, **kwargs)

    monkeypatch.setattr("agents.training.held_out_callback.evaluate", counted)
    assert run.stopping is not None and run.alarm is not None
    run.agent.learn(96, callback=[run.stopping, run.alarm])
    run.lock.release()
    assert tokens == [0, 96]
    assert [(seen.tokens, seen.judge.mean()) for seen in run.alarm.looks] == run.stopping.history
    Path("run.json").write_text(run.config.model_dump_json())
    assert f"the judge '{judge}' is not imported just because" in rlhf("train", "--config", "run.json").stderr


def test_data_without_validation_prompts_is_refused(tmp_path: Path) -> None:
    rows = [{"prompt": text, "split": split} for split, text in (("train", "a"), ("test", "b"))]
    env = dict(data=rows, reward="length-penalty", reward_kwargs={"longest": 1}, max_new_tokens=3)
    with pytest.raises(ValueError, match="--alarm warn needs validation prompts"):
        prepare(config(tmp_path, alarm="warn", env="rlhf/Prompts-v0", env_kwargs=env))


def test_mistakes_are_named() -> None:
    for level in (0, 0.5, math.nan):
        with pytest.raises(ValueError, match=f"level={level}: expected a probability"):
            HackingAlarm(level=level)
    with pytest.raises(ValueError, match="judge='reward': that is the proxy"):
        HackingAlarm("reward")
    with pytest.raises(ValueError, match="no metric 'gold' to go by; there are reward, kl"):
        make_agent().learn(ROLLOUT, callback=HackingAlarm(n_episodes=4))
