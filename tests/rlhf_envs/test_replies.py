"""A task answers its agent: what a dialog holds, how it ends, what is rewarded when, and what is refused."""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents import make_vec_env
from agents.saving.encoding import decode, encode
from rlhf_envs import Dialog, Reply, TextGenerationEnv, TextGenerationVectorEnv
from rlhf_envs.dialogs import ReplyError
from rlhf_envs.tasks import Task, WordTask
from tests.rlhf_envs.small_models import byte_level, save_model

EOS, A, B, C, D = range(1, 6)


def count_words(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    return [float(len(str(completion).split())) for completion in completions]


class Words(WordTask):
    """A user who says "d" for ever, and pays 1 for the first turn, 2 for the second, and so on."""

    name, words, prompts = "words", ("a", "b", "c", "d"), ("a", "b c")
    max_prompt_tokens, max_new_tokens = 2, 9

    def reward(self, max_new_tokens: int) -> Any:
        return count_words

    def replies(self, dialogs: Sequence[Dialog]) -> Sequence[Any]:
        return [Reply("d", reward=dialog.turn) for dialog in dialogs]


def answering(hook: Callable[..., Any], **attributes: Any) -> Any:
    """Make a task that answers with this function of the dialogs."""
    return type("Answering", (Words,), {"replies": lambda self, dialogs: hook(dialogs), **attributes})


def play(env: Any, actions: Sequence[int], index: int = 0) -> tuple[list[float], dict[str, Any]]:
    """Return the rewards of the actions, and the last info."""
    env.reset(seed=0, options={"index": index})
    rewards, info = [], {}
    for action in actions:
        _, reward, _, _, info = env.step(action)
        rewards.append(reward)
    return rewards, info


def test_a_turns_reward_falls_on_its_last_token_and_the_score_on_the_last_of_all() -> None:
    actions = [A, EOS, B, B, EOS, C, EOS]  # with two replies they fill the nine tokens
    rewards, info = play(TextGenerationEnv(Words), actions)
    assert rewards == [0, 1, 0, 0, 2, 0, 3 + 6], "six words: a d b b d c"
    assert info["turn_rewards"] == [1, 2, 3]
    assert info["finish_reason"] == "length", "the third reply has no room"
    assert info["metrics"] == {"turns": 3, "reply_cut": 1}
    assert info["messages"] == [
        {"role": role, "content": text}
        for role, text in zip(["user", "assistant"] * 3, ["a", "a", "d", "b b", "d", "c"], strict=True)
    ]
    _, info = play(TextGenerationEnv(Words), [A, EOS, B, B, B, B, B, B])
    assert (info["turn_rewards"], info["finish_reason"]) == ([1, 0], "length"), "nobody rated the second turn"
    assert info["messages"][-1] == {"role": "assistant", "content": "b b b b b b"}


def test_what_monitor_reports_is_the_sum_of_all_rewards() -> None:
    env = make_vec_env(lambda num_envs: TextGenerationVectorEnv(num_envs, Words, max_turns=2), 2, seed=0)
    env.reset()
    total = np.zeros(2)
    for action in ([A, B], [EOS, B], [B, EOS], [EOS, EOS]):
        _, rewards, dones, infos = env.step(np.array(action))
        total += rewards
    assert dones.all()
    assert [info["episode"]["r"] for info in infos] == total.tolist()
    assert [info["turn_rewards"] for info in infos] == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("answers", "options", "reason", "rewards"),
    [
        ([None], {}, "eos", [0]),
        (["d", None], {}, "eos", [0, 0]),
        ([Reply("bye", reward=2, done=True)], {}, "task", [2]),
        ([Reply(reward=2, done=True)], {}, "task", [2]),
        ([Reply("d", reward=1), Reply("d", reward=2)], {"max_turns": 2}, "turns", [1, 2]),
        ([Reply("d", reward=1), None], {"max_turns": 2}, "eos", [1, 0]),
        ([Reply("d d d d d d d d", reward=1)], {}, "length", [1]),
    ],
)
def test_why_an_episode_ends(answers: list[Any], options: Any, reason: str, rewards: list[float]) -> None:
    task = answering(lambda dialogs: [answers[dialog.turn - 1] for dialog in dialogs], reward=lambda *_: zero)
    env = TextGenerationEnv(task, **options)
    given, info = play(env, [EOS] * len(answers))
    assert (info["finish_reason"], info["turn_rewards"], given) == (reason, rewards, rewards)
    assert info["messages"][-1]["role"] == "assistant", "what is said at the end is not appended"
    assert info["metrics"]["reply_cut"] == (reason == "length")


def zero(prompts: list[Any], **columns: Any) -> list[float]:
    return [0.0] * len(prompts)


def test_replies_are_asked_for_once_a_step_and_only_for_turns_that_have_ended() -> None:
    asked: list[list[int]] = []

    def hook(dialogs: Sequence[Dialog]) -> list[str]:
        asked.append([dialog.turn for dialog in dialogs])
        return ["d"] * len(dialogs)

    env = TextGenerationVectorEnv(3, answering(hook))
    env.reset(seed=0)
    for actions in ([A, A, A], [EOS, A, EOS], [A, A, A], [EOS, EOS, A]):
        env.step(np.array(actions))
    assert asked == [[1, 1], [2, 1]]


def test_a_task_has_max_turns_of_its_own_and_the_argument_wins() -> None:
    task = answering(lambda dialogs: ["d"] * len(dialogs), max_turns=1)
    assert play(TextGenerationEnv(task), [EOS])[1]["finish_reason"] == "turns"
    env = TextGenerationEnv(task, max_turns=2)
    assert env.max_turns == 2
    assert play(env, [EOS, EOS])[1]["metrics"]["turns"] == 2


class Chance(Words):
    """A user whose words depend on chance and on what it remembers."""

    def replies(self, dialogs: Sequence[Dialog]) -> Sequence[Reply]:
        return [self.answer(dialog) for dialog in dialogs]

    def answer(self, dialog: Dialog) -> Reply:
        seen = dialog.state.setdefault("seen", np.zeros(2))
        seen += [1, dialog.rng.random()]
        return Reply(str(dialog.rng.choice(["a", "b", "c", "d"])), reward=float(seen[1]))


def walk(env: TextGenerationVectorEnv, steps: int, seed: int = 0) -> list[Any]:
    rng = np.random.default_rng(seed)
    rows = [env.step(np.where(rng.random(env.num_envs) < 0.4, EOS, A)) for _ in range(steps)]
    return [[obs["input_ids"].tolist(), rewards.tolist(), infos] for obs, rewards, _, _, infos in rows]


@pytest.mark.parametrize("copied", ["state", "pickle"])
def test_an_environment_that_is_saved_in_a_dialog_goes_on_exactly(copied: str) -> None:
    env = TextGenerationVectorEnv(3, Chance)
    env.reset(seed=5)
    walk(env, 3)
    if copied == "pickle":
        other = pickle.loads(pickle.dumps(env))
    else:
        arrays: dict[str, np.ndarray] = {}
        text = json.dumps(encode(env.get_state(), arrays))  # as a bundle has it
        other = TextGenerationVectorEnv(3, Chance)
        other.set_state(decode(json.loads(text), arrays))
    first, again = walk(env, 30, seed=1), walk(other, 30, seed=1)
    assert repr(first) == repr(again)


def test_what_a_simulator_draws_does_not_depend_on_other_rows() -> None:
    def said(n: int) -> list[Any]:
        env = TextGenerationVectorEnv(n, Chance)
        env.reset(seed=[7, *range(n - 1)])
        env.step(np.full(n, EOS))
        return env.episodes.conversations(np.array([0]))[0]

    assert said(1) == said(4)


@pytest.mark.parametrize(
    ("hook", "message"),
    [
        (lambda dialogs: ["d", "d"], r"replies returned 2 replies for 1 dialogs: return a list with one for each"),
        (lambda dialogs: None, r"replies returned None for 1 dialogs"),
        (lambda dialogs: "d", r"replies returned 'd' for 1 dialogs"),
        (lambda dialogs: [""], r"the reply is empty: give a text, or None or done=True to end the episode"),
        (lambda dialogs: [Reply(" \n")], r"the reply is empty"),
        (lambda dialogs: dialogs[0].messages.pop() and ["d"], r"replies changed dialog.messages: return the reply"),
        (lambda dialogs: [3], r"3 is no Reply, no text and not None"),
        (lambda dialogs: [Reply("d", reward=float("nan"))], r"the reward must be a finite number"),
        (lambda dialogs: [Reply("d", role="assistant")], r"the role one of user, tool, system"),  # type: ignore[arg-type]
        (lambda dialogs: ["huh"], r"cannot read the reply 'huh': words outside the vocabulary: huh;|no tokens"),
    ],
)
def test_a_wrong_reply_is_an_error_that_names_the_task_and_the_row(hook: Any, message: str) -> None:
    env = TextGenerationEnv(answering(hook, reply_format="{text}"))
    with pytest.raises(ValueError, match=rf"task 'words', environment 0 \(row 1 of the data\): .*({message})"):
        play(env, [EOS], index=1)


def test_a_simulator_that_raises_is_named_with_its_rows() -> None:
    def hook(dialogs: Sequence[Dialog]) -> list[str]:
        raise KeyError("mood")

    env = TextGenerationVectorEnv(2, answering(hook))
    env.reset(options={"index": [1, 0]})
    named = r"task 'words', environment 0 \(row 1 of the data\), 1 \(row 0 of the data\)"
    with pytest.raises(ReplyError, match=named + ": replies failed with KeyError: 'mood'"):
        env.step(np.array([EOS, EOS]))


def test_a_simulator_that_hangs_is_cut_off() -> None:
    done = threading.Event()
    env = TextGenerationEnv(answering(lambda dialogs: done.wait(5)), reply_timeout=0.02)
    with pytest.raises(ReplyError, match=r"TimeoutError: no answer in 0.02 s; if it is only slow, .*reply_timeout"):
        play(env, [EOS])
    done.set()


def test_a_state_that_no_bundle_holds_is_an_error_when_it_is_saved() -> None:
    def hook(dialogs: Sequence[Dialog]) -> list[str]:
        dialogs[0].state["known"] = [{"words": {1, 2}}]
        return ["d"]

    env = TextGenerationEnv(answering(hook))
    play(env, [EOS])
    with pytest.raises(ValueError, match=r"state\['known'\]\[0\]\['words'\] is a set, which cannot be saved"):
        env.episodes.get_state()


class Silent(WordTask):
    name, words, prompts = "silent", ("a",), ("a",)


class Old(Silent):
    def reply(self, prompt: str, completion: str, row: Any) -> None:
        return None


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (Old, {}, r"task 'silent' defines reply\(prompt, completion, row\), .*: define replies\(dialogs\)"),
        (Silent, {"max_turns": 2}, "max_turns=2 is for tasks with replies, and task 'silent' has none"),
        (Silent, {"reply_timeout": 1}, "reply_timeout=1 is for tasks with replies"),
        (Words, {"max_turns": 0}, "max_turns must be a whole number of at least 1, got 0"),
        (Words, {"reply_timeout": 0}, "reply_timeout must be seconds above 0"),
        (answering(list, reply_format="so"), {}, "reply_format='so' needs a place for the {text}"),
        (answering(list, reply_format="{name}: {text}"), {}, r"may have {text} and {role}, .* \(KeyError: 'name'\)"),
        (answering(list, reply_format="{text} }"), {}, "every other brace doubled .ValueError: Single '}'"),
    ],
)
def test_wrong_arguments_are_refused(task: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextGenerationEnv(task, reward_fn=count_words, **options)


class Asks(Task):
    name, max_prompt_tokens, max_new_tokens = "asks", 60, 90

    def replies(self, dialogs: Sequence[Dialog]) -> list[str | None]:
        return ["why?" if dialog.turn == 1 else None for dialog in dialogs]


def test_a_reply_to_a_string_has_the_tasks_plain_form_and_strings_go_to_the_reward(tmp_path: Path) -> None:
    model, scored = save_model(tmp_path, byte_level()), []

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        scored.extend([*prompts, *completions])
        return [0.0]

    env = TextGenerationEnv(Asks, model=model, data=[{"prompt": "so"}], reward_fn=reward)
    yes = env.tokenizer("yes", add_special_tokens=False)["input_ids"]
    _, info = play(env, [*yes, 2, *yes, 2])
    assert scored == ["so", "yes\nwhy?\nyes"]
    assert [message["content"] for message in info["messages"]] == ["so", "yes", "why?", "yes"]


def test_a_conversation_goes_to_the_reward_as_messages_and_is_drawn_in_bubbles(tmp_path: Path) -> None:
    model, scored = save_model(tmp_path, byte_level()), []

    def reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        scored.extend([*prompts, *completions])
        return [0.0]

    options: Any = {
        "model": model,
        "data": [{"prompt": "hi"}],
        "reward_fn": reward,
        "chat": True,
        "chat_template": "roles",
    }
    env = TextGenerationEnv(Asks, render_mode="ansi", **options)
    yes = env.tokenizer(" yes", add_special_tokens=False)["input_ids"]
    play(env, [*yes, 2, yes[1]])
    assert env.render() == "User: hi\nAssistant:  yes\nUser: why?\nAssistant: y"
    drawn = TextGenerationEnv(Asks, render_mode="rgb_array", **options)
    play(drawn, [*yes, 2])
    picture = drawn.render()
    assert isinstance(picture, np.ndarray)
    blue = (picture == (0xD6, 0xE8, 0xFF)).all(axis=-1).any(axis=0)
    assert not blue[:320].any(), "the agent's bubbles are on the right"
    assert blue[320:].any()
    _, info = play(env, [*yes, 2, *yes, 2])
    turns = [{"role": "assistant", "content": " yes"}, {"role": "user", "content": "why?"}]
    assert scored == [[{"role": "user", "content": "hi"}], [*turns, turns[0]]]
    assert info["messages"] == [*scored[0], *scored[1]]


def test_masks_of_a_turn_know_its_tokens_and_its_room() -> None:
    asked: list[tuple[list[list[int]], list[int]]] = []

    class Echoed(Words):
        def turn_masks(self, turns: Sequence[np.ndarray], rooms: np.ndarray) -> np.ndarray:
            asked.append(([turn.tolist() for turn in turns], rooms.tolist()))
            masks = np.ones((len(turns), 6), dtype=np.bool_)
            for mask, turn, room in zip(masks, turns, rooms, strict=True):
                mask[turn] = False
                mask[A:] &= room > 1
            return masks

    env = TextGenerationEnv(Echoed)
    env.reset(seed=0)
    for action in (A, B, EOS, C):
        env.step(action)
    assert env.action_masks().tolist() == [False, True, True, True, False, True] and asked[-1] == ([[C]], [9 - 5])
    for action in (A, B):
        env.step(action)
    env.step(D)
    assert asked.pop() == ([[C]], [4])
    plain = TextGenerationEnv(type("Alone", (Echoed,), {"replies": Task.replies}))
    plain.reset(seed=0, options={"index": 1})
    plain.step(B)
    assert plain.action_masks().sum() == 4 and asked.pop() == ([[B]], [8])


def test_a_reply_has_to_leave_room_for_the_least_turn() -> None:
    task = answering(lambda dialogs: ["d"] * len(dialogs), least_turn=5)
    _, info = play(TextGenerationEnv(task), [A, B, EOS])
    assert "finish_reason" not in info  # nine without the turn's three and the reply's one
    _, info = play(TextGenerationEnv(task), [A, B, C, EOS])
    assert info["finish_reason"] == "length" and info["metrics"]["reply_cut"] == 1


def test_metrics_of_what_a_dialog_keeps_stand_beside_the_others() -> None:
    class Counting(Words):
        def replies(self, dialogs: Sequence[Dialog]) -> Sequence[Any]:
            for dialog in dialogs:
                dialog.state["seen"] = dialog.state.get("seen", 0) + 1
            return [None if dialog.turn == 2 else "d" for dialog in dialogs]

        def dialog_metrics(self, dialog: Dialog) -> dict[str, float]:
            return {"seen": float(dialog.state.get("seen", 0))}

    env = TextGenerationEnv(Counting)
    _, info = play(env, [A, EOS, EOS])
    assert info["metrics"] == {"turns": 2, "reply_cut": 0, "seen": 2}
    assert env.task.metric_names(env.rows) == ["turns", "reply_cut", "seen"]
