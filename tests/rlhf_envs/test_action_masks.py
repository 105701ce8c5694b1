"""`action_masks()` of the text environments: what it forbids, for one row and for n, and what it refuses."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan

import agents
from agents.saving.environment import describe_env, remake_env
from rlhf_envs import TextGenerationEnv, TextGenerationVectorEnv
from rlhf_envs.tasks.token_bandit import TokenBandit

BANDIT = "rlhf/TokenBandit-v0"
PAD, EOS, A, B = 0, 1, 2, 3


class Alternating(TokenBandit):
    """A letter may not come twice in a row, and after "b" in the completion only EOS may."""

    def action_masks(self, input_ids, lengths, prompt_lengths, steps):
        rows = np.arange(len(steps))
        last = input_ids[rows, lengths - 1]
        masks = np.ones((len(steps), 8), bool)
        masks[rows, last] = False
        over = (steps > 0) & (last == B)
        masks[over] = False
        masks[over, EOS] = True
        return masks


def test_by_default_the_padding_alone_is_masked():
    env = gym.make(BANDIT)
    env.reset(seed=0)
    mask = env.get_wrapper_attr("action_masks")()
    assert mask.dtype == np.bool_
    assert mask.tolist() == [False] + [True] * 7


def test_padding_that_is_eos_is_not_masked():
    class Shared(TokenBandit):
        def tokenizer(self, model):
            tokenizer = super().tokenizer(model)
            tokenizer.pad_token = tokenizer.eos_token
            return tokenizer

    env = TextGenerationEnv(Shared())
    env.reset(seed=0)
    assert env.action_masks().all()


def test_eos_is_masked_until_min_new_tokens_of_the_rows_own_episode():
    env = TextGenerationVectorEnv(2, TokenBandit, min_new_tokens=2)
    env.reset(seed=0)
    seen = []
    for _ in range(4):  # an episode has three tokens
        seen.append(env.action_masks()[:, EOS].tolist())
        env.step(np.array([A, A]))
    assert seen == [[False, False], [False, False], [True, True], [False, False]]
    env.reset(seed=0)
    env.step(np.array([A, EOS]))  # the environment takes what is masked too, and row 1 begins anew
    env.step(np.array([A, A]))
    assert env.action_masks()[:, EOS].tolist() == [True, False]


def test_suppressed_tokens_are_masked_always():
    env = TextGenerationVectorEnv(3, TokenBandit, suppress_tokens=[B, 7])
    env.reset(seed=0)
    for _ in range(3):
        masks = env.action_masks()
        assert masks.shape == (3, 8)
        assert (masks == [False, True, True, False, True, True, True, False]).all()
        env.step(np.array([A, 4, 5]))


def test_a_task_masks_row_by_row_and_single_and_batched_agree():
    rng = np.random.default_rng(0)
    batched = TextGenerationVectorEnv(4, Alternating(), min_new_tokens=1, suppress_tokens=[6])
    singles = [TextGenerationEnv(Alternating(), min_new_tokens=1, suppress_tokens=[6]) for _ in range(4)]
    batched.reset(seed=3)
    for i, env in enumerate(singles):
        env.reset(seed=3 + i)
    forced = 0
    for _ in range(40):
        masks = batched.action_masks()
        np.testing.assert_array_equal(masks, [env.action_masks() for env in singles])
        last = batched.episodes.ids[np.arange(4), batched.episodes.lengths - 1]
        assert not masks[np.arange(4), last].any()
        forced += int((masks.sum(axis=1) == 1).sum())
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        batched.step(actions)
        for env, action in zip(singles, actions, strict=True):
            if env.step(int(action))[2]:
                env.reset()
    assert forced, "only EOS was left somewhere"


def test_masks_are_new_arrays():
    env = TextGenerationVectorEnv(2, TokenBandit)
    env.reset(seed=0)
    env.action_masks()[:] = False
    assert env.action_masks()[:, 1:].all()


def test_sb3_contrib_reads_a_mask_a_row():
    ours = agents.make_vec_env(BANDIT, 3, seed=0, min_new_tokens=2)
    stock = DummyVecEnv([lambda: gym.make(BANDIT, min_new_tokens=2)] * 3)
    stock.seed(0)
    for env in (ours, VecCheckNan(ours), stock):
        env.reset()
        assert is_masking_supported(env)
        masks = get_action_masks(env)
        assert masks.shape == (3, 8)
        assert (masks == [False, False] + [True] * 6).all()
    assert [len(mask) for mask in ours.env_method("action_masks", indices=[1])] == [8]


def test_the_arguments_are_json_and_go_with_a_copy_of_the_environment():
    env = gym.make(BANDIT, min_new_tokens=2, suppress_tokens=[4])
    assert json.loads(json.dumps(env.spec.kwargs | {"task": None}))["suppress_tokens"] == [4]
    copied = env.unwrapped.episodes.copy(5)
    assert copied.mask_options == {"min_new_tokens": 2, "suppress_tokens": [4]}
    described = describe_env(agents.make_vec_env(BANDIT, 2, min_new_tokens=2, suppress_tokens=[4]))
    again = remake_env(described)
    again.reset()
    assert get_action_masks(again)[0].tolist() == [False, False, True, True, False, True, True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(min_new_tokens=4), "from 0 to max_new_tokens=3, got 4"),
        (dict(min_new_tokens=-1), "got -1"),
        (dict(min_new_tokens=True), "got True"),
        (dict(min_new_tokens=1.0), "got 1.0"),
        (dict(suppress_tokens=[8]), "has 8, which is no token id: they go from 0 to 7"),
        (dict(suppress_tokens=[-1]), "has -1"),
        (dict(suppress_tokens=["a"]), "has 'a'"),
        (dict(suppress_tokens="ab"), "a list of token ids, got 'ab'"),
        (dict(suppress_tokens=range(1, 8)), "mask all 8 tokens"),
        (dict(suppress_tokens=range(2, 8), min_new_tokens=1), "mask all 8 tokens"),
    ],
)
def test_wrong_arguments_are_refused_when_the_environment_is_made(arguments, message):
    with pytest.raises(ValueError, match=message):
        gym.make(BANDIT, **arguments)


def test_a_row_without_a_token_is_an_error_that_names_it():
    env = TextGenerationVectorEnv(2, Alternating(), min_new_tokens=2)
    env.reset(seed=0, options={"index": 0})
    env.step(np.array([4, B]))  # after "b" only EOS, which min_new_tokens forbids
    with pytest.raises(ValueError, match=r"no token may come next in row 1, after \[3\].*min_new_tokens=2.*allow at"):
        env.action_masks()


@pytest.mark.parametrize("wrong", [np.ones((2, 7), bool), np.ones((1, 8), bool), np.ones((2, 8))])
def test_masks_of_another_shape_or_type_are_refused(wrong):
    class Wrong(TokenBandit):
        def action_masks(self, input_ids, lengths, prompt_lengths, steps):
            return wrong

    env = TextGenerationVectorEnv(2, Wrong())
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"must return bools of shape \(2, 8\), or \(8,\) for all rows"):
        env.action_masks()
