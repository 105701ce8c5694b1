"""Another program's OpenEnv server is a task of turns: `rlhf/OpenEnv-v0`."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlhf_envs.dialogs import ReplyError
from rlhf_envs.testing import check_text_env
from rlhf_envs.tokens import encode_after
from tests.rlhf_envs.interop.openenv.serving import Served, served
from tests.rlhf_envs.small_models import byte_level, save_model

pytest.importorskip("openenv", reason="needs the extra openenv")

from openenv.core.generic_client import GenericEnvClient

from rlhf_envs.interop.openenv import address, sessions
from rlhf_envs.interop.openenv import task as task_module
from rlhf_envs.interop.openenv.address import ServerError
from rlhf_envs.interop.openenv.schema import ActionForm
from rlhf_envs.interop.openenv.server import create_app
from rlhf_envs.interop.openenv.sessions import Sessions
from rlhf_envs.interop.openenv.task import INVALID
from tests.rlhf_envs.interop.openenv.servers import MoodyPiles, Mute, Piles, echo_app, piles_app

ID = "rlhf/OpenEnv-v0"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small model that reads and writes bytes."""
    return save_model(tmp_path_factory.mktemp("models") / "base", byte_level(), max_position_embeddings=1024)


@pytest.fixture(scope="module")
def piles() -> Iterator[Served]:
    with served(piles_app()) as server:
        yield server


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with served(echo_app(tmp_path, monkeypatch)) as server:
        yield server


def make(server: Served, base: str, **kwargs: Any) -> Any:
    room = {"n_prompts": 4, "max_prompt_tokens": 160, "max_new_tokens": 400}
    return gym.make(ID, base_url=server.url, model=base, **{**room, **kwargs}).unwrapped


def say(env: Any, text: str) -> tuple[float, bool, dict[str, Any]]:
    """End a turn with a text, and return its reward, whether the episode has ended, and the last info."""
    total = 0.0
    for token in [*encode_after(env.tokenizer, text), env.tokenizer.eos_token_id]:
        _, reward, ended, _, info = env.step(token)
        total += float(reward)
    return total, ended, info


def test_openenvs_own_example_is_played_in_turns(echo: Served, base: str) -> None:
    env = make(echo, base, max_turns=3)
    env.reset(seed=0)
    assert env.rows[0]["prompt"] == "Echo environment ready!\n"
    assert say(env, "hi there")[:2] == (pytest.approx(0.8), False)
    assert say(env, "on")[:2] == (pytest.approx(0.2), False)
    reward, ended, info = say(env, "a long last turn")
    assert (reward, ended, info["finish_reason"]) == (pytest.approx(1.0), True, "turns")
    assert [message["content"] for message in info["messages"]][1:5] == ["hi there", "hi there", "on", "on"]
    assert info["turn_rewards"] == pytest.approx([0.8, 0.2, 1.0])


def test_episodes_side_by_side_share_a_server_of_one_session(echo: Served, base: str) -> None:
    """The example allows one session. The episodes that lose theirs are played again, and nothing differs."""
    room = {"n_prompts": 4, "max_prompt_tokens": 64, "max_new_tokens": 200, "max_turns": 3}
    env: Any = gym.make_vec(ID, num_envs=3, base_url=echo.url, model=base, **room)
    env.reset(seed=0)
    eos = env.tokenizer.eos_token_id
    letters = [encode_after(env.tokenizer, text) for text in ("abcd", "efgh", "ijkl")]
    totals = np.zeros(3)
    for turn in range(3):
        for at in range(turn + 2):
            totals += env.step(np.array([ids[at] if at < turn + 1 else eos for ids in letters]))[1]
    assert totals == pytest.approx([0.1 + 0.2 + 0.3] * 3)
    assert env.task.sessions.replayed > 0


def test_our_own_server_gives_the_rewards_of_the_environment_that_it_serves() -> None:
    with served(create_app("rlhf/Tutor-v0")) as server:
        there: Any = gym.make(ID, base_url=server.url, n_prompts=3, max_new_tokens=128, max_turns=4).unwrapped
        here: Any = gym.make("rlhf/Tutor-v0").unwrapped
        assert [row["reset"] for row in there.rows] == [{"seed": i, "split": "train", "index": i} for i in range(3)]
        for i in range(3):
            there.reset(options={"index": i})
            here.reset(seed=i, options={"index": i})
            for hint in (" Read it again.", " Add them.", " Take some away.", " Add 1."):
                found, expected = say(there, hint), say(here, hint)
                assert found[:2] == expected[:2]
                if found[1]:
                    break
            replies = [[m["content"] for m in one[2]["messages"][1:]] for one in (found, expected)]
            assert replies[0] == replies[1] and found[2]["turn_rewards"] == expected[2]["turn_rewards"]
    with pytest.raises(ServerError, match=f"no OpenEnv server answers at base_url='{server.url}'"):
        gym.make(ID, base_url=server.url)


def test_an_action_of_two_fields_is_written_as_json(piles: Served, base: str) -> None:
    env = make(piles, base, penalty=0.25)
    env.reset(options={"index": 1})
    assert env.rows[1]["prompt"] == '5 matches\nAnswer with a JSON object: {"move": enum, "amount": integer}\n'
    assert say(env, "take three")[:2] == (-0.25, False)
    assert say(env, '{"move": "take", "amount": 7}')[:2] == (-0.25, False)
    assert say(env, '{"move": "take", "amount": 3}')[:2] == (0.0, False)
    reward, ended, info = say(env, '{"move": "take", "amount": 3}')
    assert (reward, ended, info["finish_reason"]) == (1.0, True, "task")
    assert info["metrics"]["invalid_actions"] == 2.0 and info["metrics"]["turns"] == 4.0
    assert info["messages"][2]["content"].startswith(f"{INVALID} no JSON object")
    assert info["messages"][6]["content"] == "2 matches"


def test_under_the_masks_every_turn_is_an_action_while_there_is_room(piles: Served, base: str) -> None:
    pytest.importorskip("outlines_core", reason="needs outlines-core, of the extra openenv")
    rng, turns = np.random.default_rng(0), 0
    for room in (40, 100, 200):
        env = make(piles, base, json_mask=True, max_new_tokens=room, max_turns=4)
        for index in range(4):
            env.reset(options={"index": index})
            ended, info = False, {}
            while not ended:
                _, _, ended, _, info = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
            assert info["metrics"]["invalid_actions"] == 0
            assert info["finish_reason"] in ("task", "turns", "length")
            said = [one["content"] for one in info["messages"] if one["role"] == "assistant"]
            assert all(json.loads(text)["move"] in ("take", "stop") for text in said)  # the last one is finished too
            turns += int(info["metrics"]["turns"])
    assert turns > 12
    with pytest.raises(ValueError, match="there is room for 20 more tokens, and the shortest action has 27"):
        make(piles, base, json_mask=True, max_new_tokens=20).action_masks()


def test_masks_are_of_json_alone_and_survive_copies(piles: Served, echo: Served, base: str) -> None:
    pytest.importorskip("outlines_core", reason="needs outlines-core, of the extra openenv")
    with pytest.raises(ValueError, match="json_mask=True: the server's actions are one text, message"):
        make(echo, base, json_mask=True)
    env = make(piles, base, json_mask=True)
    env.reset(seed=0)
    other = pickle.loads(pickle.dumps(env.task))
    rooms = np.array([60])
    expected = env.task.turn_masks([np.zeros(0, np.int64)], rooms)
    assert (other.turn_masks([np.zeros(0, np.int64)], rooms) == expected).all() and 0 < expected.sum() < 5


def test_it_keeps_the_contracts_of_environments(piles: Served, base: str) -> None:
    check_text_env(gym.make(ID, base_url=piles.url, model=base, n_prompts=2, max_prompt_tokens=128, max_new_tokens=24))


def test_copies_open_sessions_of_their_own(piles: Served, base: str) -> None:
    env = make(piles, base)
    env.reset(options={"index": 0})
    say(env, '{"move": "take", "amount": 1}')
    other = copy.deepcopy(env)
    pickle.loads(pickle.dumps(env.task))
    before = env.task.sessions.replayed
    last = '{"move": "take", "amount": 3}'
    assert say(other, last)[:2] == say(env, last)[:2] == (1.0, True)
    assert other.task.sessions is env.task.sessions and env.task.sessions.replayed == before + 1


def test_splits_have_seeds_of_their_own(piles: Served, base: str) -> None:
    task = make(piles, base).task
    seeds = [{row["reset"]["seed"] for row in task.rows(split, None)} for split in ("train", "validation", "test")]
    assert [len(some) for some in seeds] == [4, 4, 4] and not (seeds[0] & seeds[1] | seeds[1] & seeds[2])


def test_a_server_that_comes_back_in_the_middle_of_an_episode_is_played_up_to_there(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PAUSE", 0.05)
    server = Served(piles_app())
    env = make(server, base)
    env.reset(options={"index": 1})
    assert say(env, '{"move": "take", "amount": 2}')[:2] == (0.0, False)
    server.stop()
    again = Served(piles_app(), server.port)
    try:
        assert say(env, '{"move": "take", "amount": 3}')[:2] == (1.0, True)
        assert env.task.sessions.replayed == 1
    finally:
        again.stop()


def test_a_server_that_stays_away_ends_the_run_with_its_address(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "PAUSE", 0.01)
    server = Served(piles_app())
    env = make(server, base)
    env.reset(options={"index": 1})
    say(env, '{"move": "take", "amount": 1}')
    server.stop()
    with pytest.raises(ReplyError, match=rf"{server.url} has gone .* 5 tries\. Start it again, and resume the run"):
        say(env, '{"move": "take", "amount": 1}')


def test_a_server_whose_episodes_do_not_follow_from_the_seed_cannot_be_played_again(base: str) -> None:
    with served(piles_app(MoodyPiles)) as server:
        env = make(server, base)
        env.reset(options={"index": 1})
        say(env, '{"move": "take", "amount": 1}')
        env.task.sessions.close()
        with pytest.raises(ReplyError, match=r"does not answer as before: .* do not follow from the seed"):
            say(env, '{"move": "take", "amount": 1}')


def test_what_the_server_refuses_ends_the_episode_and_is_told(
    piles: Served, base: str, caplog: pytest.LogCaptureFixture
) -> None:
    for given, expected in (({}, -1.0), ({"penalty": 0.25}, -0.25), ({"invalid_reward": 0.5}, 0.5)):
        env = make(piles, base, **given)
        for action in ('{"move": "take", "amount": 0}', '{"move": "take", "amount": 3}'):
            env.reset(options={"index": 1})
            assert say(env, '{"move": "take", "amount": 2}')[:2] == (0.0, False)
            reward, ended, info = say(env, action)
            refused = action.endswith("0}")
            assert ended and reward == (expected if refused else 1.0)  # and the next session is a new one
            assert info["metrics"]["refused_actions"] == refused and info["finish_reason"] == "task"
        assert env.task.metric_names(env.rows) == ["turns", "reply_cut", "refused_actions", "invalid_actions"]
    assert "an episode ends with the reward 0.5, the 1. whose action was refused: " in caplog.text
    assert "nothing taken" in caplog.text


def test_a_server_that_refuses_everything_ends_the_run(
    piles: Served, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_module, "MOST_REFUSED", 3)
    env = make(piles, base)
    for last in (False, False, True):
        env.reset(options={"index": 1})
        if last:
            with pytest.raises(ReplyError, match=r"has refused 3 actions in a row, the last one: .*nothing taken"):
                say(env, '{"move": "take", "amount": 0}')
        else:
            say(env, '{"move": "take", "amount": 0}')


def test_an_action_that_is_refused_when_it_is_played_again_ends_the_run(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent has not written it now, so it is the server that has changed."""
    with served(piles_app()) as server:
        env = make(server, base)
        env.reset(options={"index": 1})
        say(env, '{"move": "take", "amount": 1}')
        env.task.sessions.close()
        monkeypatch.setattr(Piles, "step", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ReplyError, match="division by zero"):
            say(env, '{"move": "take", "amount": 1}')


@pytest.mark.parametrize(("reward", "done"), [("much", False), (float("nan"), False), (1.0, "no"), ([1.0], True)])
def test_a_reward_that_is_no_number_is_told(reward: Any, done: Any) -> None:
    async def answer() -> Any:
        return SimpleNamespace(observation={}, reward=reward, done=done)

    asked = Sessions("http://127.0.0.1:9")._ask(answer(), "the action a")
    with (
        ThreadPoolExecutor(1) as pool,  # a test of pages may have left a running event loop in this thread
        pytest.raises(ServerError, match=r"after the action a the reward is .*, not a finite number and a"),
    ):
        pool.submit(asyncio.run, asked).result()


def test_a_server_that_speaks_no_http_is_told() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ServerError, match=r"no OpenEnv server answers at base_url=.*SSH-2\.0"):
            Sessions(f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=10).get("/schema")


def test_an_answer_without_end_is_not_read_to_its_end(piles: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "LARGEST", 100)
    with pytest.raises(ServerError, match="/schema answers with more than 100 bytes"):
        Sessions(piles.url).get("/schema")


def test_turns_that_end_in_one_step_take_turns_on_a_server_of_one_session(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "PAUSE", 0.01)
    with served(piles_app(sessions=1)) as server:
        room = {"n_prompts": 2, "max_prompt_tokens": 160, "max_new_tokens": 400}
        env: Any = gym.make_vec(ID, num_envs=2, base_url=server.url, model=base, **room)
        env.reset(seed=0)
        ids = encode_after(env.tokenizer, '{"move": "take", "amount": 1}')
        for token in ids:
            env.step(np.array([token, token]))
        ended = env.step(np.full(2, env.tokenizer.eos_token_id))
        assert ended[1].tolist() == [0.0, 0.0]
        with served(piles_app(sessions=1)) as full, GenericEnvClient(base_url=full.url).sync() as other:
            other.reset()
            with pytest.raises(ServerError, match=r"has no further session: .*capacity"):
                make(full, base)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"base_url": None}, "rlhf/OpenEnv-v0 plays on a server: give its address, base_url="),
        ({"base_url": "localhost:8000"}, "base_url='localhost:8000': give the address of an OpenEnv server"),
        ({"base_url": "file:///etc/passwd"}, "base_url='file:///etc/passwd': give the address"),
        (
            {"base_url": "http://127.0.0.1:http"},
            "base_url='http://127.0.0.1:http': give the address of an OpenEnv server",
        ),
        ({"base_url": "http://[::1"}, r"base_url='http://\[::1': give the address"),
        ({"base_url": "http://local host"}, "base_url='http://local host': give the address"),
        ({"base_url": "http://127.0.0.1/?a=1"}, r"base_url='http://127.0.0.1/\?a=1': give the address"),
        ({"base_url": "http://me:secret@127.0.0.1"}, "^base_url: leave the user and the password out of the address"),
        ({"data": [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}]}, "row 0 has no column 'reset' with the arg"),
        ({"action": "text"}, r"action='text' is no field of text: the server's actions have move \(enum\), amount"),
        ({"observation": "board"}, "observation='board': the server's observations have pile"),
        ({"n_prompts": 0}, "n_prompts"),
        ({"penalty": -1}, "penalty=-1: give a number of at least 0"),
        ({"timeout": "long"}, "timeout='long': give a number"),
    ],
)
def test_wrong_arguments_are_told(piles: Served, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ID, **{"base_url": piles.url, **kwargs})


def test_a_server_that_is_none_and_one_that_says_nothing_are_told(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi import FastAPI

    with served(FastAPI()) as other, pytest.raises(ServerError, match="/schema answers 404: is it an OpenEnv server"):
        make(other, base)
    with served(piles_app(Mute)) as mute:
        assert make(mute, base).rows[0]["prompt"].startswith("Answer with")  # the hint is a prompt
        monkeypatch.setattr(ActionForm, "hint", "")
        with pytest.raises(ValueError, match=r"says nothing after reset.*: give instruction='...'"):
            make(mute, base)
        assert make(mute, base, instruction="Play.").rows[0]["prompt"] == "Play.\n"


def test_sessions_of_episodes_that_are_gone_are_used_again(piles: Served, base: str) -> None:
    env = make(piles, base)
    for _ in range(5):
        env.reset(options={"index": 0})
        say(env, '{"move": "take", "amount": 1}')
    own: Sessions = env.task.sessions
    assert len(own._clients) + len(own._idle) <= 2
