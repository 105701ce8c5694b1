"""Play an environment's episodes by texts instead of tokens, in many sessions that share data, reward and locks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding

from rlhf_envs.datasets import SPLITS, MissingSplitError
from rlhf_envs.datasets.messages import Messages, as_messages, said, shown
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.finished import FinishedEpisode
from rlhf_envs.interop.openenv.batching import BatchScorer
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.lookup import check_environment, task_of
from rlhf_envs.tokens import encode_after, escape_control_tokens

__all__ = ["Session", "Turn", "Workplace"]

LONGEST = 100_000  # characters of an action


@dataclass
class Turn:
    """Hold what a session says after `reset` or `step`.

    Attributes:
        text: what the agent is to answer: the prompt, or the last reply; "" once the episode has ended.
        messages: the conversation so far.
        reward: of the turn, and with the last one the episode's score; None after `reset`.
        done: whether the episode has ended.
        cut_tokens: the tokens of the action for which there was no room.
        info: the last info of the episode, see `TextGenerationEnv`; empty before.
    """

    text: str
    messages: Messages
    reward: float | None = None
    done: bool = False
    cut_tokens: int = 0
    info: dict[str, Any] = field(default_factory=dict)


class Workplace:
    """Hold what all sessions of a served environment share: its data and its rewards, by split.

    Args:
        env_id: a registered id.
        split: the split of sessions that name none.
        **env_kwargs: further arguments of the environment.

    Attributes:
        lock: is held while a session reads or writes tokens: neither tokenizers nor tasks are made for several threads.

    Raises:
        ValueError: there is no such environment, an argument is wrong, it shows pictures, or no token ends a text.
    """

    def __init__(self, env_id: str, split: str = "train", **env_kwargs: Any) -> None:
        self.env_id, self.split, self._env_kwargs = check_environment(env_id), split, env_kwargs
        task = task_of(self.env_id, **env_kwargs)
        if task is None:
            raise ValueError(f"{env_id!r} is no text environment: it has no task")
        self.task: Task = task
        self.lock = threading.RLock()
        self._batches: dict[str, EpisodeBatch] = {}
        self._scorers: dict[str, BatchScorer] = {}
        batch = self.batch(split)
        if batch.pictures is not None:
            raise ValueError(
                f"{self.env_id} shows pictures, and observations over OpenEnv carry none here: train on it in this "
                "process, or serve a task of texts"
            )
        if not batch.ends:
            raise ValueError(f"{self.env_id}: no token of the model {batch.model_name!r} ends a text")

    def batch(self, split: str) -> EpisodeBatch:
        """Return the episodes of a split, made when it is first asked for.

        Raises:
            ValueError: there is no such split, or it has no rows.
        """
        with self.lock:
            if split not in SPLITS:
                raise ValueError(f"split={split!r}: there are {', '.join(SPLITS)}")
            if split not in self._batches:
                kwargs = {**self._env_kwargs, "split": split}
                env: Any = gym.make(self.env_id, disable_env_checker=True, **kwargs).unwrapped
                self._batches[split] = env.episodes
                self._scorers[split] = BatchScorer(env.episodes.score)
            return self._batches[split]

    def scorer(self, split: str) -> BatchScorer:
        """Return what scores the episodes of a split that was asked for."""
        return self._scorers[split]

    def splits(self) -> list[str]:
        """Return the splits that have rows."""
        return [split for split in SPLITS if self._has(split)]

    def _has(self, split: str) -> bool:
        try:
            return bool(self.batch(split).rows)
        except MissingSplitError:
            return False


class Session:
    """Play one episode after the other by texts, with the results of the environment that is given their tokens.

    Args:
        place: what it shares with other sessions.
    """

    def __init__(self, place: Workplace) -> None:
        self.place = place
        self.split, self.index, self.turns = place.split, 0, 0
        self.running = False
        self._episodes: EpisodeBatch | None = None
        self._rng: np.random.Generator | None = None

    def reset(self, seed: int | None = None, split: str | None = None, index: int | None = None) -> Turn:
        """Begin the episode that `TextGenerationEnv.reset(seed=seed, options={"index": index})` begins.

        Raises:
            ValueError: there is no such split or row, or the seed is no whole number of at least 0.
        """
        split = self.place.split if split is None else split
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int) or seed < 0):
            raise ValueError(f"seed={seed!r} must be a whole number of at least 0")
        with self.place.lock:
            whole = self.place.batch(split)
            if self._episodes is None or split != self.split:
                self._episodes, self.split = whole.copy(1), split
            if seed is not None or self._rng is None:
                self._rng = seeding.np_random(seed)[0]
            self.index = int(self._episodes.draw(0, self._rng, index)["index"])
            self.turns, self.running = 0, True
            prompt = whole.rows[self.index]["prompt"]
            return Turn(shown(prompt), as_messages(prompt, "prompt"))

    def step(self, text: str) -> Turn:
        """Write a text as the agent's turn, and end it.

        Raises:
            ValueError: the text is too long, or the tokenizer cannot read it.
            gymnasium.error.ResetNeeded: there is no episode, or it has ended.
        """
        episodes = self._episodes
        if episodes is None:
            raise gym.error.ResetNeeded(
                "there is no episode: call reset first. Every request over HTTP is a session of its own: use an "
                "OpenEnv client (/ws)"
            )
        if not self.running:
            raise gym.error.ResetNeeded("the episode has ended: call reset to begin another one")
        if len(text) > LONGEST:
            raise ValueError(f"the message has {len(text):,} characters, and {LONGEST:,} are read at most: shorten it")
        with self.place.lock:
            written = encode_after(episodes.tokenizer, escape_control_tokens(episodes.tokenizer, text)) if text else []
            eos = episodes.tokenizer.eos_token_id
            end = eos if eos in episodes.ends else episodes.ends[0]
            finished: list[FinishedEpisode] = []
            reward, cut = 0.0, 0
            self.turns, self.running = self.turns + 1, False  # an episode that fails in the middle is over
            for at, token in enumerate([*written, end], start=1):
                rewards, terminated, _ = episodes.step(np.array([token]), finished)
                reward += float(rewards[0])
                if terminated[0]:
                    cut = max(len(written) - at, 0)
                    break
            if not finished:
                self.running = True
                talk = episodes.conversations(np.array([0]))[0]
                talk = talk[:-1] if talk[-1]["role"] == "assistant" else talk  # the turn that has not begun
                return Turn(talk[-1]["content"], talk, reward)
        (episode,) = finished
        reward += self.place.scorer(self.split).score(episode)
        info = episode.info
        talk = info.get("messages") or [*as_messages(info["prompt"], "prompt"), *_answer(info["completion"])]
        return Turn("", talk, reward, True, cut, {**info, "text": said(info["completion"])})


def _answer(completion: Any) -> Messages:
    """Return a completion as messages."""
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else list(completion)
