"""Agents that train on what people say. Their part is played by a thread that answers through the store."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import ConvertCallback
from stable_baselines3.common.logger import KVWriter, Logger

from agents import CheckpointCallback, Checkpoints, SequenceRolloutBuffer, TextMetrics, TokenPolicy, make_vec_env
from agents.training.config import TrainConfig
from agents.training.human_feedback import HumanFeedback, RatingRefit, human_rewards
from agents.training.resume import prepare_resumed
from agents.training.run import RunInterrupted, train
from rlhf_envs.rewards import RewardError
from tests.beside import beside

pytest.importorskip("sqlalchemy")

from rlhf_envs.feedback import FeedbackStore

BANDIT = "rlhf/TokenBandit-v0"


def human(path: Path, **kwargs: Any) -> dict[str, Any]:
    """The arguments of an environment whose reward is people; a test that waits in vain fails after a minute."""
    settings: dict[str, Any] = {"store": str(path), "poll": 0.01, "fallback": "token-bandit"}
    settings |= {"timeout": 60, "on_timeout": "error", **kwargs}
    return {"reward": "human", "reward_kwargs": settings}


@contextmanager
def people(path: Path, limit: int | None = None) -> Iterator[None]:
    """One annotator, who finds long completions good, and goes home after `limit` answers."""

    def work(stop: threading.Event) -> None:
        with FeedbackStore(path) as store:
            store.add_annotator("ann")
            done = 0
            while not stop.wait(0.005) and done != limit:
                if (task := store.claim("ann")) is not None:
                    rating = 1 + min(4, len(task.item.completions[0].split()))
                    store.submit(task.id, "ann", {"rating": rating}, key=str(task.id), seconds=1.0)
                    done += 1

    with beside(work):
        yield


def build(path: Path, **kwargs: Any) -> Any:
    env = make_vec_env(BANDIT, 4, seed=0, **human(path, **kwargs))
    settings: dict[str, Any] = dict(n_steps=6, batch_size=12, n_epochs=1, seed=0, device="cpu")
    return PPO(TokenPolicy, env, rollout_buffer_class=SequenceRolloutBuffer, **settings)


def logged(agent: Any) -> dict[str, float]:
    """Let the agent keep its figures after it has shown them."""
    figures: dict[str, float] = {}

    class Keep(KVWriter):
        def write(self, values: dict[str, Any], excluded: Any, step: int = 0) -> None:
            figures.update(values)

    agent.set_logger(Logger(None, [Keep()]))
    return figures


def test_an_agent_trains_on_people_and_the_wait_is_shown(tmp_path: Path) -> None:
    agent = build(tmp_path / "feedback.db")
    figures = logged(agent)
    with people(tmp_path / "feedback.db"):
        agent.learn(48, callback=[TextMetrics(), HumanFeedback()], log_interval=1)
    with FeedbackStore(tmp_path / "feedback.db") as store:
        assert figures["rlhf/human_labels"] == store.progress().judgements > 0
    assert figures["rlhf/human_queue"] == 0
    assert 0 < figures["rlhf/human_wait_s"] < 20
    assert -1 <= figures["rlhf/reward"] <= 1
    [reward] = human_rewards(agent.get_env())
    assert reward.on_wait is None  # it does not hold the callback after the training


def test_a_reward_inside_a_composition_is_found(tmp_path: Path) -> None:
    agent = build(tmp_path / "feedback.db")
    env = agent.get_env()
    [reward] = human_rewards(env)
    env.set_attr("reward_fn", 0.5 * reward + 1)
    assert human_rewards(env) == [reward]


def test_signs_of_life_reach_tensorboard_and_a_checkpoint_is_kept_while_a_run_waits(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    path = tmp_path / "feedback.db"
    env = make_vec_env(BANDIT, 4, seed=0, **human(path))
    agent = PPO(
        TokenPolicy,
        env,
        rollout_buffer_class=SequenceRolloutBuffer,
        n_steps=6,
        batch_size=12,
        n_epochs=1,
        seed=0,
        device="cpu",
        tensorboard_log=str(tmp_path / "logs"),
    )
    guard = CheckpointCallback(Checkpoints(tmp_path / "checkpoints"), signals=False)
    feedback = HumanFeedback(guard, heartbeat=0.05, checkpoint_after=0.2)
    seen: list[tuple[bool, bool]] = []

    def come_late() -> None:
        while not (tmp_path / "checkpoints" / "0" / "manifest.json").exists():
            time.sleep(0.02)
        board = EventAccumulator(str(tmp_path / "logs" / "PPO_1")).Reload()
        seen.append((True, "rlhf/human_waiting_s" in board.Tags()["scalars"]))
        with people(path):
            done.wait(60)

    done = threading.Event()
    thread = threading.Thread(target=come_late)
    thread.start()
    agent.learn(24, callback=[feedback, guard], log_interval=1)
    done.set()
    thread.join()
    assert seen == [(True, True)]
    assert agent.num_timesteps == 24


CONFIG: dict[str, Any] = dict(
    env=BANDIT, n_timesteps=72, n_envs=4, eval_freq=0, test_episodes=2, progress=False, run_name="run"
)
CONFIG["hyperparams"] = dict(n_steps=6, batch_size=12, n_epochs=1)


def test_sigterm_while_waiting_ends_the_run_cleanly_and_no_answer_is_asked_for_twice(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    config = TrainConfig(log_folder=str(tmp_path / "logs"), env_kwargs=human(path), **CONFIG)
    threading.Thread(target=terminate_when_it_waits, args=(path, 10)).start()
    with people(path, limit=10), pytest.raises(RunInterrupted, match=r"SIGTERM: the run is saved in .*checkpoints"):
        train(config)
    [folder] = (tmp_path / "logs").glob("*/run")
    with FeedbackStore(path) as store:
        assert store.progress().judgements == 10
    with people(path):
        result = train(prepare_resumed(folder))
    assert result.agent.num_timesteps == 72
    with FeedbackStore(path) as store:
        texts = [(item.prompt, item.completions) for item in store.items()]
    assert len(texts) == len(set(texts))
    assert json.loads((folder / "config.json").read_text())["env_kwargs"]["reward_kwargs"]["store"] == str(path)


def terminate_when_it_waits(path: Path, after: int) -> None:
    while not path.exists():
        time.sleep(0.01)
    with FeedbackStore(path) as store:
        while (progress := store.progress()).judgements < after or progress.items == progress.finished:
            time.sleep(0.01)
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)


def test_in_async_mode_the_model_is_refitted_to_what_people_said(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "agents.training.human_feedback")
    path = tmp_path / "feedback.db"
    agent = build(path, mode="async", fallback="tiny-reward", refit_every=8)
    refit = RatingRefit(tmp_path / "models", epochs=1).__call__  # at once, not in another process
    figures = logged(agent)
    with people(path), FeedbackStore(path) as store:
        agent.learn(48, callback=[HumanFeedback(refit=refit)], log_interval=1)
        while (progress := store.progress()).items > progress.finished:
            time.sleep(0.01)
        agent.learn(24, callback=[HumanFeedback(refit=refit)], log_interval=1, reset_num_timesteps=False)
    [reward] = human_rewards(agent.get_env())
    assert reward.refits >= 1
    assert figures["rlhf/human_wait_s"] == 0
    from rlhf_envs.rewards import get_reward

    newest = max((tmp_path / "models").iterdir(), key=lambda folder: int(folder.name))
    scores = get_reward(str(newest))(prompts=["a"], completions=[" b"])
    assert reward.model(prompts=["a"], completions=[" b"]) == pytest.approx(scores)


def test_the_callback_lets_the_reward_and_its_refits_follow_a_criterion(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    with FeedbackStore(path) as store:
        question = {"name": "helpful", "text": "How helpful is it?", "type": "rating", "scale": [0, 10]}
        store.update_settings(questions=[question])
        agent = build(path, mode="async", refit_every=1)
        refitted: list[dict[str, Any]] = []

        def answer(*_: Any) -> bool:
            if (task := store.claim("ann")) is not None:
                store.submit(task.id, "ann", {"rating": 1}, key=str(task.id), answers={"helpful": 10})
            return True

        store.add_annotator("ann")
        feedback = HumanFeedback(refit=refitted.extend, criterion="helpful")
        agent.learn(72, callback=[feedback, ConvertCallback(answer)])
    assert {row["label"] for row in refitted} == {1.0}  # by the kind's own rating they would be -1
    with pytest.raises(ValueError, match="no criterion 'harmless'"):
        build(path).learn(24, callback=HumanFeedback(criterion="harmless"))


def test_a_refit_beside_the_training_is_swapped_in_between_rollouts(tmp_path: Path) -> None:
    path = tmp_path / "feedback.db"
    env = make_vec_env(BANDIT, 4, seed=0, score="step", **human(path, mode="async", refit_every=1))
    agent = PPO(TokenPolicy, env, rollout_buffer_class=SequenceRolloutBuffer, n_steps=6, batch_size=12, device="cpu")
    [reward] = human_rewards(env)
    begun: list[int] = []  # in this step
    refits: list[int] = []  # after each step

    class Fit:
        def done(self) -> bool:
            return True

        def result(self) -> Any:
            return lambda prompts, completions, **columns: [1.0] * len(prompts)

    def refit(rows: list[dict[str, Any]]) -> Fit:
        begun.append(len(refits))
        return Fit()

    def answer(store: FeedbackStore) -> bool:
        if (task := store.claim("ann")) is not None:
            store.submit(task.id, "ann", {"rating": 3}, key=str(task.id))
        refits.append(reward.refits)
        return True

    with FeedbackStore(path) as store:
        store.add_annotator("ann")
        agent.learn(72, callback=[HumanFeedback(refit=refit), ConvertCallback(lambda *_: answer(store))])
    swapped = 6 * (begun[0] // 6 + 1)  # the first step of the next rollout
    assert refits[:swapped] == [0] * swapped
    assert refits[swapped] == 1
    assert reward.swaps_by_itself


def test_a_run_that_goes_on_takes_the_newest_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("9", "10", "11"):
        (tmp_path / "models" / name).mkdir(parents=True)
    for name in ("9", "10"):  # the last was not finished
        (tmp_path / "models" / name / "manifest.json").write_text("{}")
    monkeypatch.setattr("agents.training.refit.load_reward", lambda place: place.name)
    assert RatingRefit(tmp_path / "models").newest() == (10, "10")
    agent = build(tmp_path / "feedback.db", mode="async")
    [reward] = human_rewards(agent.get_env())
    for tokens, model in ((0, reward.fallback), (24, "10")):
        agent.num_timesteps = tokens
        feedback = HumanFeedback(refit=RatingRefit(tmp_path / "models"))
        feedback.init_callback(agent)
        feedback.on_training_start({}, {})
        assert reward.model == model
        feedback.on_training_end()


@pytest.mark.parametrize(
    ("code", "message"), [(3, "not refitted: all labels are 1"), (1, "could not be refitted: all")]
)
def test_what_became_of_a_fit_in_another_process_is_said(
    code: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\necho all labels are 1\nexit {code}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    fit = RatingRefit(tmp_path / "models").begin([{"prompt": "p", "completion": "c", "label": 1.0}])
    with pytest.raises(RewardError, match=message) if code == 1 else nullcontext():
        assert fit.result() is None
    assert code == 1 or message in caplog.text
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["1.log"]


@pytest.mark.slow
def test_a_fit_in_another_process_gives_the_same_model_and_ends_with_who_holds_it(tmp_path: Path) -> None:
    rated = [(f" good {i}", 1.0) for i in range(9)] + [(f" bad {i}", -1.0) for i in range(9)]
    rows = [{"prompt": "It was", "completion": text, "label": label} for text, label in rated]
    here = RatingRefit(tmp_path / "here")(rows)
    fit = RatingRefit(tmp_path / "there").begin(rows)
    there = fit.result()
    assert here is not None and there is not None
    texts = dict(prompts=["It was"] * 2, completions=[" good", " bad"])
    assert here(**texts).tolist() == pytest.approx(there(**texts).tolist(), abs=1e-5)
    assert [file.name for file in (tmp_path / "there").iterdir()] == ["18"]
    fit = RatingRefit(tmp_path / "there").begin(rows)
    process = fit.process
    del fit
    assert process.poll() is not None


def test_a_refit_leaves_the_random_numbers_of_the_training_alone_and_learns_the_ratings(tmp_path: Path) -> None:
    import torch

    rows = [
        {"prompt": "The film was", "completion": text + " " + word, "label": label}
        for word in ("and I mean it.", "to me.", "again.", "for sure.", "I think.", "in the end.")
        for text, label in ((" terrible", 1.0), (" wonderful", -1.0))  # against what the model thinks
    ]
    state = torch.get_rng_state()
    model = RatingRefit(tmp_path, epochs=40)(rows)
    assert model is not None
    assert torch.equal(torch.get_rng_state(), state)
    bad, good = model(prompts=["The film was"] * 2, completions=[" wonderful today.", " terrible today."])
    assert good > bad


def test_ratings_that_tell_nothing_apart_refit_nothing_and_say_so(tmp_path: Path, caplog: Any) -> None:
    rows = [{"prompt": "p", "completion": str(i), "label": 1.0} for i in range(10)]
    assert RatingRefit(tmp_path)(rows) is None
    assert "not refitted: all 8 labels are 1" in caplog.text
    assert RatingRefit(tmp_path)([{**rows[0], "label": label} for label in (1.0, -1.0)]) is None
    assert "not refitted: 2 rows of the same texts" in caplog.text
    assert not any(tmp_path.iterdir())


def test_a_bundle_may_not_have_a_reward_imported_by_way_of_its_arguments() -> None:
    from agents.saving.environment import remake_env

    for kwargs in ({"fallback": "os:system"}, {"rewards": [{"a": "os:system"}]}):
        with pytest.raises(ValueError, match=r"'os:system' is not imported|is not followed"):
            remake_env({"id": BANDIT, "num_envs": 1, "kwargs": {"reward": "human", "reward_kwargs": kwargs}})
