from __future__ import annotations

import io
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from rlhf_envs.datasets import load_rows
from rlhf_envs.dialogs import Dialog
from rlhf_envs.models import resolve
from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.tasks.dialogue import Dialogue
from rlhf_envs.tasks.dialogue.judge import FEATURES, load_judge
from rlhf_envs.tasks.dialogue.partners import ModelPartner, People, _Index, find_partner, is_sensible, swapped
from rlhf_envs.tasks.dialogue.reward import BUCKETS, hashed, load_model
from rlhf_envs.tasks.dialogue.task import repetition, turns_of
from tests.rlhf_envs.small_models import byte_level, save_model

ENV = "rlhf/Dialogue-v0"


def dialog_of(*texts: str, seed: int = 0) -> Dialog:
    """Return a dialog of these turns, the first and, of an even number, the last but one by the partner."""
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return Dialog(messages, {"prompt": messages[:1]}, np.random.default_rng(seed), turn=len(texts) // 2)


def play(env: Any, *turns: str, index: int = 0, seed: int = 0) -> tuple[list[float], dict[str, Any]]:
    """Return the rewards of an episode in which the agent says these turns, and its last info."""
    env.reset(seed=seed, options={"index": index})
    rewards: list[float] = []
    for text in turns:
        for token in [*env.tokenizer(f" {text}")["input_ids"], env.tokenizer.eos_token_id]:
            _, reward, over, _, info = env.step(token)
            rewards.append(float(reward))
            if over:
                return rewards, info
    raise AssertionError("the episode did not end")


@pytest.fixture(scope="module")
def env() -> Any:
    return gym.make(ENV).unwrapped


CHATS = [
    (("hello there", "how are you?", "i am fine, thanks"), False),
    (("what is your favorite food?", "i love pizza", "me too!"), False),
    (("i have to go now", "bye"), True),
]


def test_people_say_what_was_said_after_the_most_similar_turn() -> None:
    people = People(CHATS)
    assert people([dialog_of("hi", "what food do you like?")]) == ["i love pizza"]
    assert people([dialog_of("hi", "how are you")]) == ["i am fine, thanks"]
    assert people([dialog_of("hi", "zzz qqq")]) == [None]  # no word that anybody used


def test_people_leave_where_the_person_left_and_say_nothing_twice() -> None:
    people = People(CHATS)
    assert people([dialog_of("i have to go", "bye")]) == [None]
    again = people([dialog_of("i love pizza", "what food do you like?")])
    assert again != ["i love pizza"]


@pytest.mark.parametrize(
    ("chats", "texts", "reply"),
    [
        # what was said before tells two equal turns apart
        (
            [("my dog is ill", "i see", "poor dog"), ("my car is new", "i see", "nice car")],
            ["is your car new?", "i see"],
            "nice car",
        ),
        # the agent's turn is about what is answered
        ([("i see", "poor dog"), ("i see", "nice car")], ["hm", "i see a car"], "nice car"),
    ],
)
def test_the_turn_before_and_the_answer_count_too(chats: list[tuple[str, ...]], texts: list[str], reply: str) -> None:
    for order in (chats, chats[::-1]):
        people = People([(turns, False) for turns in order])
        said = [people([dialog_of(*texts, seed=seed)])[0] for seed in range(40)]
        assert said.count(reply) >= 30


def test_turns_are_compared_by_the_cosine_of_their_weighted_words() -> None:
    texts = ["how are you?", "you and you", "what is it", "?!"]
    asked = "how is this you"
    words = sorted({*" ".join([*texts, asked]).replace("?", "").replace("!", "").split()})
    rows = np.array([[word in text.replace("?", "").split() for word in words] for text in [*texts, asked]], float)
    rows *= [np.log(1 + 4 / n) if n else np.log(1 + 4) for n in rows[:4].sum(0)]
    np.testing.assert_allclose(_Index(texts).compare(asked), cosine_similarity(rows[4:], rows[:4])[0])


def test_what_the_partner_says_depends_on_the_dialogs_own_generator_alone() -> None:
    people = find_partner("people")
    talk = "hey, what do you like to do?", "i like to play the piano"
    alone = [people([dialog_of(*talk, seed=seed)])[0] for seed in range(12)]
    assert [*people([dialog_of(*talk, seed=seed) for seed in range(12)])] == alone
    assert len({*alone}) > 1


@pytest.mark.parametrize(
    ("texts", "sensible"),
    [
        (["hi", "hello, how are you?"], True),
        (["hi", ""], False),
        (["hi", "?!"], False),
        (["hi", "hello\n\nUser: that is great"], False),
        (["do you like the sea?", "Do you like the sea"], False),
        (["yeah", "yeah"], True),  # too short for an echo
        (["hi", "yeah", "why?", "Yeah."], False),  # its own turn again
        (["hi", "yeah", "why?", "why not?"], True),
        (["hi", "yeah", "why?", "why not?", "so?", "yeah"], False),  # what it said two turns before
    ],
)
def test_nobody_answers_nothing_noise_and_what_was_said_already(texts: list[str], sensible: bool) -> None:
    assert is_sensible(texts) is sensible


def test_a_chat_has_four_turns_that_are_paid_one_by_one_and_at_the_end(env: Any) -> None:
    said = (
        "that sounds great, how was it?",
        "i think so too. what do you like?",
        "oh nice, why?",
        "haha that is so true",
    )
    for seed in range(20):  # until a chat in which nobody leaves
        rewards, info = play(env, *said, seed=seed)
        if info["finish_reason"] == "turns":
            break
    assert [message["role"] for message in info["messages"]] == ["user", "assistant"] * 4
    assert len(info["turn_rewards"]) == 4
    model = get_reward("dialogue-turn")
    for turn in range(4):
        asked, done = info["messages"][: 2 * turn + 1], info["messages"][2 * turn + 1 : 2 * turn + 2]
        assert info["turn_rewards"][turn] == pytest.approx(
            0.25 * model(prompts=[asked], completions=[done])[0], abs=1e-5
        )
    end = sum(info["reward_components"].values())
    assert 0 <= end <= 1
    assert sum(rewards) == pytest.approx(sum(info["turn_rewards"]) + end, abs=1e-5)
    assert info["metrics"]["turns"] == 4
    assert info["metrics"]["reply_words"] > 0


@pytest.mark.parametrize("said", ["", "zzxqj qqzz", "..."])
def test_nonsense_ends_the_chat(env: Any, said: str) -> None:
    rewards, info = play(env, said)
    assert info["finish_reason"] == "task"
    assert info["metrics"]["turns"] == 1
    assert sum(rewards) < 0.5 if said == "zzxqj qqzz" else sum(rewards) == 0


def test_the_weight_of_turns_and_their_reward_can_be_set() -> None:
    said = "that sounds great, how was it?"
    usual, double, none = (
        play(gym.make(ENV, max_turns=1, **own).unwrapped, said)[1]["turn_rewards"][0]
        for own in ({}, {"turn_weight": 0.5}, {"turn_reward": ""})
    )
    assert double == pytest.approx(2 * usual)
    assert (usual > 0, none) == (True, 0)


def test_held_out_openings_are_new_and_no_turn_of_training_chats() -> None:
    rows = {split: load_rows("chats", split) for split in ("train", "validation", "test")}
    assert [len(found) for found in rows.values()] == [6083, 120, 300]
    train = {text for row in rows["train"] for text in (row["prompt"], *row["turns"])}
    held_out = [row["prompt"] for split in ("validation", "test") for row in rows[split]]
    assert len({*held_out}) == len(held_out)
    assert not train & {*held_out}


def test_the_bundled_chats_show_no_digits_addresses_and_capitals() -> None:
    for row in load_rows("chats"):
        for text in (row["prompt"], *row["turns"]):
            assert not any(character.isdigit() or character in "@/_#" for character in text)
            assert text == text.lower()
            words = re.findall("[a-z]+(?:'[a-z]+)*", text)
            assert len(words) <= 24
            assert "jaezo" not in words  # a nickname that many wrote, in lower case too


def test_demonstrations_are_the_chats_from_both_sides() -> None:
    rows = Dialogue().demonstrations("validation")
    first = load_rows("chats", "validation")[0]
    assert next(message["content"] for message in rows[0]["messages"]) == first["prompt"]
    assert all(row["messages"][-1]["role"] == "assistant" for row in rows)
    said = {message["content"] for row in rows for message in row["messages"] if message["role"] == "assistant"}
    assert {*first["turns"]} <= said
    assert all(
        [m["role"] for m in row["messages"]] == ["user", "assistant"] * (len(row["messages"]) // 2) for row in rows
    )


def test_the_judge_prefers_what_people_said(env: Any) -> None:
    judge, rows = load_judge(), load_rows("chats", "test")
    rng = np.random.default_rng(0)
    real = judge.log_odds([([row["prompt"]], row["turns"][0]) for row in rows])
    words = [row["turns"][0].split() for row in rows]
    shuffled = judge.log_odds(
        [([row["prompt"]], " ".join(rng.permutation(w))) for row, w in zip(rows, words, strict=True)]
    )
    long = np.array([len(w) >= 5 for w in words])
    assert (real > shuffled)[long].mean() > 0.8
    echoed = judge.log_odds([([row["prompt"]], row["prompt"]) for row in rows])
    assert (real > echoed).mean() > 0.8


def test_the_reward_prefers_what_people_said() -> None:
    model, rows = get_reward("dialogue-turn"), load_rows("chats", "test")[:150]
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    said = [row["turns"][0] for row in rows]
    real, other = (
        model(prompts=prompts, completions=[[{"role": "assistant", "content": text}] for text in texts])
        for texts in (said, [" ".join(reversed(text.split())) for text in said])
    )
    long = np.array([len(text.split()) >= 5 for text in said])
    assert (np.array(real) > np.array(other))[long].mean() > 0.75
    assert min(real) >= 0
    assert max(real) <= 1


def test_the_rating_is_that_of_all_turns_of_the_agent_and_none_of_the_partners() -> None:
    rate, prompt = get_reward("dialogue-rating"), [{"role": "user", "content": "hey, what do you do for fun?"}]
    said = ["i love to read. do you?", "yeah, i read a lot", "nice! what is your favorite book?"]
    roles = ["assistant", "user", "assistant"]
    chat = [{"role": role, "content": text} for role, text in zip(roles, said, strict=True)]
    turns = [([prompt[0]["content"]], said[0]), ([prompt[0]["content"], *said[:2]], said[2])]
    (found,) = rate(prompts=[prompt], completions=[chat])
    human = np.mean([load_model().humanness(*turn) for turn in turns])
    assert found == pytest.approx(load_model().rating(turns) * human)
    assert 0 < found < 1
    assert rate(prompts=[prompt], completions=[[*chat[:2], chat[0]]]) == [0]  # said already
    ends = [[chat[0], {"role": "user", "content": text}] for text in ("?!", said[0], "yeah, me too")]
    assert {*rate(prompts=[prompt] * 3, completions=ends)} == {*rate(prompts=[prompt], completions=[chat[:1]])}


def test_features_are_hashed_once_and_have_one_norm() -> None:
    places, value = hashed(["how are you?"], "good, how are you?")
    assert len({*places.tolist()}) == len(places)
    assert len(places) * value**2 == pytest.approx(1)
    assert places.min() >= 0
    assert places.max() < BUCKETS
    other, _ = hashed(["what is it?"], "good, how are you?")
    assert {*places.tolist()} != {*other.tolist()}  # what was said before counts


@pytest.mark.parametrize("name", ["dialogue-reward", "dialogue-judge"])
def test_the_models_are_small_and_judge_and_reward_are_two(name: str) -> None:
    assert sum(file.stat().st_size for file in Path(resolve(name)).iterdir()) < 1e6
    assert load_judge().arrays["mean"].shape == (len(FEATURES),)


def test_metrics_are_read_from_the_turns() -> None:
    text = "hello, how are you?\n\nUser: good, and you?\n\nAssistant: fine. how are you?"
    assert turns_of(text) == [
        ("assistant", "hello, how are you?"),
        ("user", "good, and you?"),
        ("assistant", "fine. how are you?"),
    ]
    assert repetition(["how are you", "how are you"]) == 0.5
    assert repetition(["hi"]) == 0
    task, columns = Dialogue(), {"reference": ["pretty good", ""]}
    found = task.metrics(["hey", "hey"], [text, "good good good"], columns)
    assert found["turn_words"] == [4, 3]
    assert found["reply_words"] == [3, 0]
    assert found["win_rate"][0] in (0, 0.5, 1)
    assert np.isnan(found["win_rate"][1])  # there is nothing to win against
    assert found["judged_human"][0] > found["judged_human"][1]
    assert all(1 <= rating <= 10 for rating in found["judged_rating"])
    said = [text for _, text in turns_of(text)]
    turns = [(["hey"], said[0]), (["hey", *said[:2]], said[2])]
    assert found["judged_human"][0] == pytest.approx(load_judge().humanness(turns).mean())
    assert found["judged_rating"][0] == pytest.approx(load_judge().rating(turns))


def test_the_win_rate_is_that_of_the_first_turn_over_what_the_person_said() -> None:
    good, bad = "i am good, how are you?", "good good the you good"
    columns = {"reference": [bad, good, good, good]}
    completions = [good, bad, good, f"{good}\n\nUser: fine\n\nAssistant: {bad}"]
    assert Dialogue().metrics(["how are you?"] * 4, completions, columns)["win_rate"] == [1, 0, 0.5, 0.5]


def agreeing(dialogs: Sequence[Dialog]) -> list[str | None]:
    return ["i agree with that" for _ in dialogs]


def silent(dialogs: Sequence[Dialog]) -> list[str | None]:
    return []


@pytest.mark.parametrize("partner", [agreeing, f"{__name__}:agreeing"])
def test_a_function_can_be_the_partner(partner: Any) -> None:
    env: Any = gym.make(ENV, partner=partner, max_turns=2).unwrapped
    _, info = play(env, "that is great", "i see what you mean")
    assert info["messages"][2] == {"role": "user", "content": "i agree with that"}
    assert pickle.loads(pickle.dumps(env.task)).partner == partner


def test_a_model_can_be_the_partner_and_is_seeded_by_the_dialog(tmp_path: Path) -> None:
    partner = ModelPartner(save_model(tmp_path / "model", byte_level()))
    first, second = (partner([dialog_of("hi", "how are you?", seed=3)]) for _ in range(2))
    assert first == second
    assert swapped(dialog_of("hi", "how are you?").messages) == [{"role": "user", "content": "how are you?"}]


def test_a_model_sees_the_chat_from_the_agents_first_turn_on_as_the_other_side() -> None:
    partner = find_partner("tiny")
    chats = [("hi", "how are you?"), ("so what?", "how are you?"), ("hi", "where was it?")]
    first, other_opening, other_turn = (partner([dialog_of(*chat, seed=3)]) for chat in chats)
    assert first == other_opening != other_turn


def test_a_person_at_the_keyboard_can_be_the_partner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("good, thanks\n\n"))
    person = find_partner("person")
    assert person([dialog_of("hi", "how are \x1b[2Jyou?")]) == ["good, thanks"]
    assert person([dialog_of("hi", "a", "b", "and now?")]) == [None]  # an empty line
    assert person([dialog_of("hi", "a", "b", "and now?")]) == [None]  # the end of the input
    shown = capsys.readouterr().out
    assert "you: hi" in shown
    assert "agent: how are " in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"partner": "peeple"}, "unknown partner 'peeple': did you mean 'people'"),
        ({"partner": 3}, "partner=3 is no name, and no function"),
        ({"partner": "no_such_module:it"}, "no_such_module"),
        ({"turn_reward": "dialog-turn"}, "dialogue-turn"),
        ({"turn_weight": "1"}, "turn_weight='1'"),
        ({"turn_weight": float("nan")}, "turn_weight=nan"),
        (
            {"data": [{"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]},
            "row 0 ends with",
        ),
    ],
)
def test_bad_arguments_are_named(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gym.make(ENV, **own)


def test_a_partner_that_says_too_little_is_named() -> None:
    env: Any = gym.make(ENV, partner=silent).unwrapped
    with pytest.raises(Exception, match=r"returned \[\] for 1 dialogs"):
        play(env, "that is great")


def test_openings_of_ones_own_may_be_texts_or_chats() -> None:
    chat = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "so?"},
    ]
    env: Any = gym.make(
        ENV, data=[{"prompt": "what is up?", "split": "train"}, {"prompt": chat, "split": "train"}]
    ).unwrapped
    assert env.rows[0]["prompt"] == [{"role": "user", "content": "what is up?"}]
    _, info = play(env, "", index=1)
    assert info["messages"][:3] == chat
    assert "win_rate" not in info["metrics"]  # there is nobody to win against
