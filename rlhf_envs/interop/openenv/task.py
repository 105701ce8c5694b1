"""Define the task that another program's OpenEnv server gives: its observations are what the agent answers."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.datasets import SPLITS, MissingSplitError, check_split
from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.interop.openenv.address import NoAnswerError, ServerError, check_url
from rlhf_envs.interop.openenv.json_masks import JsonMasks
from rlhf_envs.interop.openenv.library import import_openenv
from rlhf_envs.interop.openenv.schema import (
    ActionForm,
    InvalidActionError,
    ObservationForm,
    choose_action,
    choose_observation,
)
from rlhf_envs.interop.openenv.sessions import Job, RefusedError, Result, SessionKey, Sessions
from rlhf_envs.names import check_count
from rlhf_envs.tasks.base import Task
from rlhf_envs.tokens import end_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["INVALID", "OpenEnv"]

logger = logging.getLogger(__name__)

LOWEST = -1e9  # reward
MOST_REFUSED = 100  # actions that a server may refuse in a row
INVALID = "[no valid action]"  # begins the reply to a turn that is no action
EMPTY = "(empty)"  # stands for an empty observation, since a reply has text
SPAN = 10**6  # seeds per split


class OpenEnv(Task):
    """Play the episodes of an OpenEnv server: what it observes is said to the agent, and what the agent says is done.

    ## Description
    `gymnasium.make("rlhf/OpenEnv-v0", base_url="http://127.0.0.1:8000")` makes a task of turns of any OpenEnv server
    whose actions and observations are text. A prompt is what the server says after a reset, with the seed of the row,
    or with its split and index where the server lists its tasks. Each turn of the agent is a step of the server. Its
    reward is the turn's reward, and what it observes is the reply. `rlhf train --env rlhf/OpenEnv-v0 --env-kwargs
    base_url:http://127.0.0.1:8000` trains on it. It needs the extra `openenv`.

    The server's schema says how a text becomes an action. The one required string takes the whole text. An action of
    several fields is written as a JSON object, which the prompt asks for. A text that is no such object does not reach
    the server: the reply says what is wrong, and the turn costs `penalty`. With `json_mask` the masks allow nothing
    else, for agents that read them (`maskable_ppo`): what they write always fits the schema, and is finished in time.

    An action that the server does not take, because it fails to or finds it invalid, ends the episode with
    `invalid_reward`. It is logged, and the metric `refused_actions` counts it.

    A session that is lost, because the server stopped or the run did, is played again from its reset. That needs a
    server whose episodes follow from the seed and the actions. Another one ends the run with an error that says so, and
    so does a server that stays away.

    ## Observation space
    `input_ids` and `attention_mask`, (256,) each: a prompt of up to 96 tokens and up to 160 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    By turn: the server's reward, minus `penalty` for a text that is no action, or `invalid_reward` for one that the
    server refuses.

    ## Episode end
    The server's `done`, a refused action, 8 turns, or 160 new tokens with the server's replies.

    ## Arguments
    - `base_url`: the address of the server. There is no default, and files that name one are not believed.
    - `action`: the field of an action that takes the text, or "json"; by default as above.
    - `observation`: the field of an observation that the agent reads, or "json" for all of them; by default the only
      string, or the only required one, else "json".
    - `instruction`: a text before every prompt.
    - `n_prompts`: the number of prompts per split, 64.
    - `penalty`: the cost of a turn that is no action, 1.
    - `json_mask`: whether to mask what is no JSON of the schema, False. It needs outlines-core.
    - `invalid_reward`: the reward of a turn that the server refuses; by default minus `penalty`.
    - `timeout`: seconds that an answer of the server may take, 60.

    It takes the other arguments of `TextGenerationEnv`. Rows of `data` need the arguments of a reset as `reset`.

    ## Version history
    v0: the first version.

    Raises:
        ValueError: there is no `base_url`, an argument is wrong, or the server's actions are no text.
        ServerError: the server is not there, refuses a reset, or has refused one action after the other.
        ModuleNotFoundError: the extra `openenv` is missing.
    """

    name = "openenv"
    max_prompt_tokens, max_new_tokens, max_turns = 96, 160, 8

    def __init__(
        self,
        base_url: str | None = None,
        action: str | None = None,
        observation: str | None = None,
        instruction: str = "",
        n_prompts: int = 64,
        penalty: float = 1.0,
        timeout: float = 60.0,
        json_mask: bool = False,
        invalid_reward: float | None = None,
    ) -> None:
        self.base_url = None if base_url is None else check_url(base_url)
        self.action, self.observation, self.instruction = action, observation, instruction
        self.n_prompts = check_count("n_prompts", n_prompts, 1)
        self.penalty = _check_number("penalty", penalty, 0.0)
        self.timeout = _check_number("timeout", timeout, 1e-3)
        invalid_reward = -self.penalty if invalid_reward is None else invalid_reward
        self.invalid_reward = _check_number("invalid_reward", invalid_reward, LOWEST)
        if not isinstance(json_mask, bool):
            raise ValueError(f"json_mask={json_mask!r}: give true or false")
        self.json_mask = self.masks_bind = json_mask
        self._read_by: tuple[PreTrainedTokenizerBase, list[int]] | None = None  # the tokenizer, and what ends a turn
        self._masks: JsonMasks | None = None
        self._refused = self._refused_in_all = 0  # actions; the first in a row
        self._sessions: Sessions | None = None
        self._forms: tuple[ActionForm, ObservationForm] | None = None
        self._names: dict[str, Any] | None = None  # the server's tasks, see `_tasks`
        self._rows: dict[str, list[dict[str, Any]]] = {}  # by split: they are asked for once

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle all but the connections."""
        return {**self.__dict__, "_sessions": None, "_masks": None}

    def tokenizer(self, model: str | None) -> PreTrainedTokenizerBase:
        """Return the model's tokenizer.

        Raises:
            ValueError: with `json_mask`, no masks can be made for it or for the server's actions.
        """
        tokenizer = super().tokenizer(model)
        if self.json_mask:
            if (field := self.forms[0].field) is not None:
                raise ValueError(
                    f"json_mask=True: the server's actions are one text, {field}: leave it out, or give action='json'"
                )
            self._read_by, self._masks = (tokenizer, end_ids(tokenizer, model)), None
            self.least_turn = self.masks.least
        return tokenizer

    @property
    def masks(self) -> JsonMasks:
        """Return the masks of actions in JSON."""
        if self._masks is None:
            if self._read_by is None:
                raise ValueError("json_mask: make the environment first, whose tokenizer it masks")
            self._masks = JsonMasks(self.forms[0].written, *self._read_by)
        return self._masks

    def turn_masks(self, turns: Sequence[np.ndarray], rooms: np.ndarray) -> np.ndarray | None:
        """Return with `json_mask` what lets a turn become an action of the schema, (n, V), else None."""
        return self.masks(turns, rooms) if self.json_mask else None

    @property
    def sessions(self) -> Sessions:
        """Return the sessions on the server.

        Raises:
            ValueError: there is no `base_url`.
        """
        if self.base_url is None:
            raise ValueError(
                "rlhf/OpenEnv-v0 plays on a server: give its address, base_url='http://127.0.0.1:8000' (on the command "
                "line: --env-kwargs base_url:http://127.0.0.1:8000)"
            )
        if self._sessions is None:
            self._sessions = Sessions.shared(self.base_url, self.timeout)
        return self._sessions

    @property
    def forms(self) -> tuple[ActionForm, ObservationForm]:
        """Return how texts become actions, and observations texts, by the server's schemas."""
        if self._forms is None:
            import_openenv("core.generic_client")  # says what to install
            schemas = self.sessions.get("/schema")
            if not isinstance(schemas, Mapping) or not {"action", "observation"} <= schemas.keys():
                raise ServerError(f"{self.base_url}/schema has no schemas of actions and observations")
            observed = choose_observation(schemas["observation"], self.observation)
            self._forms = choose_action(schemas["action"], self.action), observed
        return self._forms

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the prompts that the server gives for the first tasks of a split, or the seeds of a split.

        Args:
            split: "train", "validation" or "test".
            data: rows that replace them, with a `prompt` and the arguments of the `reset` that it stands for.

        Raises:
            ValueError: a row of `data` has no `reset`, the server has no such split, or nothing to say after a reset.
        """
        if data is not None:
            for i, row in enumerate(data):
                if not isinstance(row.get("reset"), Mapping):
                    raise ValueError(
                        f"task {self.name!r}: row {i} has no column 'reset' with the arguments of a reset, such as "
                        "{'seed': 3}: the prompts come from the server, so leave out data"
                    )
            return [dict(row) for row in data]
        split = check_split(split, self.name)
        if split not in self._rows:
            self._rows[split] = self._ask_rows(split)
        return copy.deepcopy(self._rows[split])

    def _ask_rows(self, split: str) -> list[dict[str, Any]]:
        """Return the rows of a split, each with the prompt that the server gives after a reset."""
        action, observation = self.forms
        resets = self._resets(split)
        rows = []
        for reset, result in zip(resets, self.sessions.reset(resets), strict=True):
            parts = [self.instruction, observation.show(result.observation), action.hint]
            prompt = "\n".join(part for part in parts if part.strip())
            if not prompt:
                raise ValueError(
                    f"the server says nothing after reset({reset}): give instruction='...', which the agent reads, or "
                    "observation=..., the field that has the text"
                )
            rows.append({"prompt": f"{prompt}\n", "reset": reset})
        return rows

    def _resets(self, split: str) -> list[dict[str, Any]]:
        """Return the arguments of the resets of a split."""
        start = SPLITS.index(split) * SPAN
        counts = self._tasks()
        if counts is None:
            return [{"seed": start + i} for i in range(self.n_prompts)]
        name = next((one for one, about in counts.items() if split in (one, about["type"])), None)
        if name is None:
            raise MissingSplitError(f"{self.base_url} has no split {split!r}: it has {', '.join(counts)}")
        there = int(counts[name]["num_tasks"])
        if there > self.n_prompts:
            logger.info("%s: the first %d of the %d tasks of %s", self.base_url, self.n_prompts, there, name)
        return [{"seed": start + i, "split": name, "index": i} for i in range(min(there, self.n_prompts))]

    def _tasks(self) -> dict[str, Any] | None:
        """Return the server's splits by name, each with its type and number of tasks; None if it lists none."""
        if self._names is None:
            self._names = {}
            try:
                (env,) = self.sessions.get("/list_environments")
                for one in self.sessions.get(f"/{env}/splits"):
                    count = self.sessions.post(f"/{env}/num_tasks", {"split": one["name"]})["num_tasks"]
                    self._names[one["name"]] = {"type": one.get("type"), "num_tasks": count}
            except (NoAnswerError, KeyError, TypeError, ValueError):  # most servers have no such list
                self._names = {}
        return self._names or None

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        """Take the agent's turns as steps of the server, and return what it observes."""
        form, _ = self.forms
        found: dict[int, Reply] = {}
        jobs: dict[int, Job] = {}
        for i, dialog in enumerate(dialogs):
            try:
                action = form.encode(dialog.messages[-1]["content"])
            except InvalidActionError as error:
                found[i] = Reply(f"{INVALID} {error}", reward=-self.penalty)
                continue
            past = [(json.loads(done), seen) for done, seen in dialog.state.get("past", [])]
            jobs[i] = Job(self._key(dialog), dialog.row["reset"], past, action, self._fingerprint)
        results = self.sessions.play([*jobs.values()]) if jobs else []
        for (i, job), result in zip(jobs.items(), results, strict=True):
            if isinstance(result, RefusedError):
                found[i] = self._refuse(dialogs[i], result)
            else:
                found[i], self._refused = self._reply(dialogs[i], job, result), 0
        return [found[i] for i in range(len(dialogs))]

    def _refuse(self, dialog: Dialog, error: RefusedError) -> Reply:
        """End an episode whose action the server has refused.

        Raises:
            ServerError: it has refused so many in a row that it takes none at all.
        """
        self._refused += 1
        self._refused_in_all += 1
        if self._refused >= MOST_REFUSED:
            raise ServerError(
                f"the server has refused {self._refused} actions in a row, the last one: {error}"
            ) from error
        first = math.log10(self._refused_in_all).is_integer()  # the 1st, the 10th, the 100th
        logger.log(
            logging.WARNING if first else logging.DEBUG,
            "an episode ends with the reward %g, the %d. whose action was refused: %s",
            *(self.invalid_reward, self._refused_in_all, error),
        )
        dialog.state["refused"] = 1
        return Reply(reward=self.invalid_reward, done=True)

    def _reply(self, dialog: Dialog, job: Job, result: Result) -> Reply:
        """Keep a step in the dialog's state, and return what the agent is told."""
        done = json.dumps(dict(job.action), ensure_ascii=False)
        dialog.state.setdefault("past", []).append([done, self._fingerprint(result)])
        text = self.forms[1].show(result.observation)
        return Reply(text if text.strip() else EMPTY, reward=result.reward, done=result.done)

    def _key(self, dialog: Dialog) -> int:
        """Return the key of a dialog's session. It belongs to this object: a copy, or a loaded one, gets another."""
        key = getattr(dialog, "session", None)
        if not isinstance(key, SessionKey):
            key = self.sessions.key(dialog)
            dialog.session = key  # type: ignore[attr-defined]  # nowhere else does it end with the dialog
        return key.number

    def _fingerprint(self, result: Result) -> str:
        """Return what of an answer must be the same when an episode is played again: its text and its reward."""
        told = [self.forms[1].show(result.observation), round(result.reward, 6), result.done]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    def dialog_metrics(self, dialog: Dialog) -> dict[str, float]:
        """Return `refused_actions`: whether the server has refused the last action, 0 or 1."""
        return {"refused_actions": float(dialog.state.get("refused", 0))}

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `invalid_actions`: how many of an episode's turns were no action, by the replies to them."""
        return {"invalid_actions": [float(text.count(INVALID)) for text in completions]}


def _check_number(name: str, value: Any, least: float) -> float:
    """Return an argument that is a number of at least `least`.

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise ValueError(f"{name}={value!r}: give a number of at least {least:g}")
    return float(value)
