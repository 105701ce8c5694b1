"""An environment as an OpenEnv server gives the rewards of the Gymnasium environment, to OpenEnv's own client."""

from __future__ import annotations

import contextlib
import inspect
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import requests
from typer.testing import CliRunner

from agents.cli import app as rlhf
from rlhf_envs.tokens import encode_after
from tests.rlhf_envs.interop.openenv.serving import Served, served

pytest.importorskip("openenv", reason="needs the extra openenv")

from openenv.cli._validation import validate_running_environment
from openenv.core.generic_client import GenericEnvClient

from rlhf_envs.interop.openenv import server as module
from rlhf_envs.interop.openenv.server import ServedEnvironment, TextAction, create_app

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def play(env: Any, turns: list[str], **reset: Any) -> list[tuple[float, dict[str, Any]]]:
    """Write turns into the Gymnasium environment token by token, and return each one's reward and last info."""
    env.reset(**reset)
    found = []
    for text in turns:
        reward, ended = 0.0, False
        for token in [*encode_after(env.unwrapped.tokenizer, text), env.unwrapped.tokenizer.eos_token_id]:
            _, one, ended, _, info = env.step(token)
            reward += float(one)
            if ended:
                break
        found.append((reward, info))
        if ended:
            break
    return found


@pytest.fixture(scope="module")
def sentiment() -> Iterator[Served]:
    with served(create_app("rlhf/Sentiment-v0", max_new_tokens=12)) as server:
        yield server


@pytest.fixture(scope="module")
def words() -> Iterator[Served]:
    with served(create_app("rlhf/TokenBandit-v0", max_sessions=2)) as server:
        yield server


def client(server: Served) -> Any:
    return GenericEnvClient(base_url=server.url).sync()


TEXTS = [" was a great film.", " is awful , dull and far too long", "", " <|endoftext|> was good", " was" * 40]


def test_rewards_are_those_of_the_gymnasium_environment_for_the_same_texts(sentiment: Served) -> None:
    env: Any = gym.make("rlhf/Sentiment-v0", max_new_tokens=12).unwrapped
    with client(sentiment) as agent:
        for seed, text in enumerate(TEXTS[:3]):
            ((reward, info),) = play(env, [text], seed=seed)
            begun = agent.reset(seed=seed).observation
            assert begun["index"] == info["index"] and begun["text"] == env.rows[info["index"]]["prompt"]
            done = agent.step({"message": text})
            assert done.done and done.reward == pytest.approx(reward, abs=1e-6) and reward != 0
            assert done.observation["components"] == pytest.approx(info["reward_components"], abs=1e-6)
            assert done.observation["completion"] == info["completion"]
            assert done.observation["finish_reason"] == info["finish_reason"] == "eos"


def test_what_spells_a_control_token_ends_nothing(sentiment: Served) -> None:
    with client(sentiment) as agent:
        agent.reset(index=0)
        done = agent.step({"message": TEXTS[3]}).observation
    assert done["completion"].endswith("was good") and done["finish_reason"] in ("eos", "length")


def test_a_text_without_room_is_cut_and_the_cut_is_told(sentiment: Served) -> None:
    with client(sentiment) as agent:
        agent.reset(index=0)
        done = agent.step({"message": TEXTS[4]}).observation
    assert done["finish_reason"] == "length"
    assert done["cut_tokens"] == 40 - 12
    assert done["completion"] == " was" * 12


def test_rows_are_chosen_by_split_and_index_and_listed_as_tasks(sentiment: Served) -> None:
    rows = gym.make("rlhf/Sentiment-v0", split="test").unwrapped.rows  # type: ignore[attr-defined]
    base = f"{sentiment.url}/Sentiment-v0"
    assert [split["name"] for split in requests.get(f"{base}/splits").json()] == ["train", "validation", "test"]
    assert requests.post(f"{base}/num_tasks", json={"split": "test"}).json() == {"num_tasks": len(rows)}
    task = requests.post(f"{base}/task", json={"split": "test", "index": 5}).json()["task"]
    assert task == {"id": "test-5", "split": "test", "index": 5, "prompt": rows[5]["prompt"]}
    some = requests.post(f"{base}/task_range", json={"split": "test", "start": 4, "stop": 6}).json()["tasks"]
    assert [one["index"] for one in some] == [4, 5] and some[1] == task
    assert len(requests.post(f"{base}/tasks", json={"split": "train"}).json()["tasks"]) == module.PREVIEW
    assert requests.post(f"{base}/task", json={"split": "test", "index": len(rows)}).status_code == 400
    assert requests.post(f"{base}/num_tasks", json={"split": "dev"}).status_code == 404
    with client(sentiment) as agent:
        assert agent.reset(split="test", index=5).observation["text"] == rows[5]["prompt"]
        assert agent.reset(split="validation").observation["split"] == "validation"


def test_turns_of_a_dialog_have_the_replies_and_rewards_of_the_environment() -> None:
    env: Any = gym.make("rlhf/Tutor-v0").unwrapped
    hints = [" Read it again.", " Add them.", " Take some away.", " Add 1."]
    with served(create_app("rlhf/Tutor-v0")) as server, client(server) as agent:
        for seed in range(3):
            expected, found = play(env, hints, seed=seed), []
            agent.reset(seed=seed)
            for hint in hints:
                found.append(agent.step({"message": hint}))
                if found[-1].done:
                    break
            assert [one.reward for one in found] == pytest.approx([reward for reward, _ in expected])
            last = expected[-1][1]
            assert found[-1].observation["messages"] == last["messages"]
            assert found[-1].observation["turn_rewards"] == last["turn_rewards"]
            assert found[-1].observation["metrics"] == last["metrics"]
            assert found[0].observation["text"] == last["messages"][2]["content"]
            assert len(found) > 1


def test_openenvs_validator_has_nothing_to_say(words: Served) -> None:
    report = validate_running_environment(words.url)
    assert report["passed"] and not report["summary"]["failed_criteria"], report


def test_an_action_has_exactly_one_required_string() -> None:
    """verifiers and NeMo Gym hand a model's raw text to such an action alone."""
    schema = TextAction.model_json_schema()
    assert schema["required"] == ["message"] and schema["properties"]["message"]["type"] == "string"
    assert ServedEnvironment.SUPPORTS_CONCURRENT_SESSIONS


def test_the_parts_of_a_score_are_rubrics_by_name() -> None:
    kwargs = {"reward": "tiny-reward", "max_new_tokens": 8}
    place, names = module.Workplace("rlhf/Sentiment-v0", **kwargs), dict[str, None]()
    env, later = ServedEnvironment(place, names), ServedEnvironment(place, names)
    env.reset(seed=0)
    seen: list[float] = []
    assert env.rubric is not None
    env.rubric.register_forward_hook(lambda rubric, action, observation, result: seen.append(result))
    done = env.step(TextAction(message=" was great."))
    assert {name: rubric.last_score for name, rubric in env.rubric.named_rubrics()} == done.components
    assert env.rubric.last_score == done.reward == seen[0]
    later = ServedEnvironment(place, names)
    assert later.rubric is not None
    assert [name for name, _ in later.rubric.named_rubrics()] == [*done.components]


def test_many_sessions_at_once_get_each_their_own_rewards(sentiment: Served) -> None:
    env: Any = gym.make("rlhf/Sentiment-v0", max_new_tokens=12).unwrapped
    expected = [play(env, [TEXTS[i % 2]], options={"index": i})[0][0] for i in range(6)]

    def one(i: int) -> float:
        with client(sentiment) as agent:
            agent.reset(index=i)
            return float(agent.step({"message": TEXTS[i % 2]}).reward)

    with ThreadPoolExecutor(6) as threads:
        assert [*threads.map(one, range(6))] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("reset", "message"),
    [
        ({"split": "dev"}, "split='dev': there are train, validation, test"),
        ({"index": 10**6}, "index must be a row of the data, 0 to"),
        ({"index": "3"}, "index must be a row of the data"),
        ({"seed": "one"}, "seed='one' must be a whole number of at least 0"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"task": 3}, "reset takes seed, episode_id, split, index, and no task"),
    ],
)
def test_a_wrong_reset_is_told_and_the_session_goes_on(words: Served, reset: dict[str, Any], message: str) -> None:
    with client(words) as agent:
        with pytest.raises(RuntimeError, match=message):
            agent.reset(**reset)
        assert agent.reset(seed=0).observation["split"] == "train"


def test_wrong_actions_are_told_and_the_episode_goes_on(words: Served) -> None:
    with client(words) as agent:
        with pytest.raises(RuntimeError, match="there is no episode: call reset first"):
            agent.step({"message": "a"})
        agent.reset(seed=0)
        with pytest.raises(RuntimeError, match="100,001 characters, and 100,000 are read at most"):
            agent.step({"message": "a" * 100_001})
        with pytest.raises(RuntimeError, match="words outside the vocabulary: wrong"):
            agent.step({"message": "wrong"})
        for action in ({}, {"message": 3}, {"message": "a", "other": 1}):
            with pytest.raises(RuntimeError, match="Invalid message"):
                agent.step(action)
        assert agent.step({"message": ""}).done  # an empty completion, which the Gymnasium environment has too
        with pytest.raises(RuntimeError, match="the episode has ended: call reset to begin another one"):
            agent.step({"message": ""})


def test_a_request_without_a_session_says_what_to_use(words: Served) -> None:
    answer = requests.post(f"{words.url}/step", json={"action": {"message": "a"}})
    assert answer.status_code == 409 and "use an OpenEnv client (/ws)" in answer.json()["detail"]
    assert requests.post(f"{words.url}/reset", json={"split": "dev"}).status_code == 422
    assert requests.get(f"{words.url}/state").json()["running"] is False


def test_one_session_too_many_and_a_session_that_is_not_there_are_refused(words: Served) -> None:
    with client(words) as first, client(words) as second:
        first.reset(seed=0), second.reset(seed=0)
        with pytest.raises(RuntimeError, match="at capacity: 2/2"), client(words) as third:
            third.reset(seed=0)
    lost = GenericEnvClient(base_url=words.url)
    lost._ws_url += "?session_id=none"
    with lost.sync() as other, pytest.raises(RuntimeError, match="Unknown session_id: none"):
        other.reset()


def test_sessions_that_nobody_ends_make_room_and_a_client_that_waits_plays_on() -> None:
    """OpenEnv looks for them every 5 seconds, or four times in the time allowed."""
    begin = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create", "params": {}}
    app = create_app("rlhf/TokenBandit-v0", max_sessions=2, session_timeout=0.5)
    with served(app) as server, client(server) as waiting:
        waiting.reset(seed=0)
        assert "session_id" in requests.post(f"{server.url}/mcp", json=begin).json()["result"]
        with pytest.raises(RuntimeError, match="at capacity: 2/2"), client(server) as full:
            full.reset(seed=0)
        for _ in range(120):
            time.sleep(0.5)
            with contextlib.suppress(RuntimeError), client(server) as later:  # "at capacity" until there is room
                assert later.reset(seed=0).observation["text"]
                break
        else:
            raise AssertionError("there was no room in a minute")
        assert waiting.step({"message": ""}).done
    assert inspect.signature(create_app).parameters["session_timeout"].default


def test_a_reward_that_fails_is_told_and_the_session_goes_on() -> None:
    def moody(completions: list[str], **columns: Any) -> list[float]:
        if any("9" in text for text in completions):
            raise ZeroDivisionError("nine")
        return [1.0] * len(completions)

    app = create_app("rlhf/IncreasingNumbers-v0", reward_fn=moody, reward_retries=0)
    with served(app) as server, client(server) as agent:
        agent.reset(seed=0)
        with pytest.raises(RuntimeError, match="nine"):
            agent.step({"message": "9"})
        agent.reset(seed=0)
        assert agent.step({"message": "1"}).reward == 1.0


def test_pictures_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    place = module.Workplace("rlhf/TokenBandit-v0")
    monkeypatch.setattr(place.batch("train"), "pictures", object())
    monkeypatch.setattr(module.Workplace, "batch", lambda self, split: place._batches[split])
    with pytest.raises(ValueError, match="rlhf/TokenBandit-v0 shows pictures, and observations over OpenEnv carry"):
        create_app("rlhf/TokenBandit-v0")


def test_a_taken_port_and_an_unknown_environment_end_the_command_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(rlhf, ["serve-env", "rlhf/TokenBandit-v0", "--port", port])
        assert done.exit_code == 2 and f"--port {port} is taken" in done.output, done.output
    done = CliRunner().invoke(rlhf, ["serve-env", "rlhf/TokenBandit-v0", "--env-kwargs", "split:test"])
    assert done.exit_code == 2 and "--env-kwargs split:test: give it as --split" in done.output
    done = CliRunner().invoke(rlhf, ["serve-env", "rlhf/TokenBandits-v0", "--port", "0"])
    assert done.exit_code == 2 and "rlhf/TokenBandit-v0" in done.output


def test_the_command_serves(tmp_path: Any) -> None:
    command = [sys.executable, "-m", "agents.cli", "serve-env", "rlhf/TokenBandit-v0", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("rlhf/TokenBandit-v0 on http://127.0.0.1:"), line
            with GenericEnvClient(base_url=line.split()[2].rstrip(",")).sync() as agent:
                assert np.isfinite(agent.reset(seed=0).observation["index"])
        finally:
            process.terminate()
        assert process.wait(30) in (0, -15)
