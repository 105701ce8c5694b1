"""Offer text generation as a Gymnasium environment: the observation is the context, an action is the next token."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np

from rlhf_envs.datasets.messages import turn_lines
from rlhf_envs.episode_options import EpisodeOptions
from rlhf_envs.episodes import EpisodeBatch
from rlhf_envs.names import check_arguments
from rlhf_envs.rendering import draw, draw_turns, printable
from rlhf_envs.rewards.state import walk
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.lookup import own_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Unpack

__all__ = ["HasEpisodes", "TextGenerationEnv"]

Observation = dict[str, np.ndarray]


class HasEpisodes:
    """Share what the single and the batched environment show of their `EpisodeBatch`."""

    episodes: EpisodeBatch

    @property
    def task(self) -> Task:
        """Return the task."""
        return self.episodes.task

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Return the tokenizer whose vocabulary is the action space."""
        return self.episodes.tokenizer

    @property
    def model_name(self) -> str | None:
        """Return the name of the model that the tokenizer belongs to; None if the task has its own tokenizer."""
        return self.episodes.model_name

    @property
    def max_prompt_tokens(self) -> int:
        """Return the most tokens that a prompt may have."""
        return self.episodes.max_prompt_tokens

    @property
    def max_new_tokens(self) -> int:
        """Return the most tokens that may follow the prompt."""
        return self.episodes.max_new_tokens

    @property
    def max_turns(self) -> int | None:
        """Return the most turns that the agent may have in an episode; None if there is no limit."""
        return self.episodes.max_turns

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Return the data: one dict per row, with a `prompt`."""
        return self.episodes.rows

    def set_group_size(self, group_size: int) -> None:
        """Give every prompt that is drawn from now on to this many episodes, one after the other as rows come free."""
        self.episodes.set_group_size(group_size)

    @property
    def group_size(self) -> int:
        """Return how many episodes get each prompt that is drawn."""
        return self.episodes.group_size

    @property
    def trainer_state(self) -> Any:
        """Return what reward functions are given that declare `trainer_state`."""
        return self.episodes.trainer_state

    def set_trainer_state(self, trainer_state: Any) -> None:
        """Set what reward functions are given that declare `trainer_state`; agents do before every rollout."""
        self.episodes.trainer_state = trainer_state

    def set_reward_device(self, device: Any) -> None:
        """Move the reward models that were given no device to the policy's. Agents do when they are made."""
        for _, reward in walk(self.reward_fn):
            if hasattr(reward, "follow"):
                reward.follow(device)

    @property
    def reward_fn(self) -> Callable[..., Any]:
        """Return the reward function. A new one scores every episode that has no score when it is set."""
        return self.episodes.reward_fn

    @reward_fn.setter
    def reward_fn(self, reward_fn: Callable[..., Any]) -> None:
        self.set_reward_fn(reward_fn)

    def set_reward_fn(self, reward_fn: Callable[..., Any]) -> None:
        """Set the reward function. SB3's `env_method` can call this method through wrappers."""
        if not callable(reward_fn):
            raise ValueError(f"reward_fn must be callable, got {reward_fn!r}")
        self.episodes.reward_fn = reward_fn


class TextGenerationEnv(HasEpisodes, gym.Env[Observation, int]):
    """Continue a prompt token by token until EOS or the length limit, and reward the finished text.

    ## Description
    One episode writes one completion. `reset` draws a prompt from the task's data, and every `step` appends one token.
    A task may reply to an EOS, as a user or a tool would; then the episode goes on after the reply.

    ## Observation space
    `Dict(input_ids=Box(0, V - 1, (L,), int64), attention_mask=Box(0, 1, (L,), int8))` with the vocabulary size V and
    L = `max_prompt_tokens + max_new_tokens`. The context is right-padded. It only grows, by appending.

    ## Action space
    `Discrete(V)`: a token id. `action_masks()` returns which tokens are allowed, for agents that use masks.

    ## Reward
    0 in every step but the last, which gives the score of the completion by the task's reward, `reward` or `reward_fn`.
    The step that ends a turn also gives the reward of the reply to it.

    ## Episode end
    An EOS that gets no reply ("eos"), a reply that ends the episode ("task"), `max_turns` ("turns") or `max_new_tokens`
    ("length") end the episode by `terminated`, never by `truncated`. The last `info` has `prompt`, `completion`,
    `completion_ids` (a list of ints), `finish_reason`, `reward_components` (dict of floats), `index` (the row of the
    data) and, if the task has any, `metrics` (dict of floats). Of a conversation it has the `messages`, and of a task
    with replies `turn_rewards`, a float for each of the agent's turns. The `info` of `reset` has `index`.

    ## Version history
    v0: the first version.

    ## Arguments

    Args:
        task: a `Task`, its class, or "module:Class".
        render_mode: "human" prints the text as it grows, "ansi" returns it, "rgb_array" draws it.
        **options: model, split, max_prompt_tokens, max_new_tokens, max_turns, reward, reward_fn, reward_kwargs, data,
            on_long_prompt, system_prompt, chat, chat_template, chat_template_kwargs, reward_timeout, reward_retries,
            reply_timeout, group_size, min_new_tokens, suppress_tokens, tasks and weights, see `EpisodeBatch`; and
            what the task's class takes.

    Raises:
        ValueError: an argument is wrong; the message says which one and what would be right.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "ansi", "rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(
        self, task: str | type[Task] | Task, *, render_mode: str | None = None, **options: Unpack[EpisodeOptions]
    ) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        check_arguments(options, [*EpisodeOptions.__annotations__, *own_arguments(task)], "the environment")
        self.episodes = EpisodeBatch(1, task, **options)
        self.observation_space = self.episodes.observation_space  # type: ignore[assignment]  # typed Dict[Any]
        self.action_space = self.episodes.action_space  # type: ignore[assignment]  # Discrete is a space of np.int64
        self._shown = ""  # the part of the current episode that render mode "human" has printed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: seeds the generator that draws prompts, as in Gymnasium.
            options: `{"index": i}` takes the prompt of row i of the data instead of drawing one.

        Raises:
            ValueError: there is no such row, or no such option.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := options.keys() - {"index"}:
            raise ValueError(f"unknown reset options {', '.join(sorted(unknown))}; there is index, the row of the data")
        if seed is not None:
            self.episodes.sampler.begin_group()
        info = self.episodes.draw(0, self.np_random, options.get("index"))
        if self.render_mode == "human":
            self._show()
        return self.episodes.observe_row(0), info

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Append a token.

        Raises:
            ValueError: the action is not a token id of the vocabulary.
            gymnasium.error.ResetNeeded: the episode is over or has not begun.
        """
        rewards, terminated, infos = self.episodes.step(np.asarray(action)[None])
        if self.render_mode == "human":
            self._show()
            if terminated[0]:
                print(f" [{infos[0]['finish_reason']}, reward {rewards[0]:.3g}]", end="", flush=True)
        return self.episodes.observe_row(0), float(rewards[0]), bool(terminated[0]), False, infos.get(0, {})

    def action_masks(self) -> np.ndarray:
        """Return which tokens may come next, (V,) bool, as sb3-contrib's algorithms expect it; see `EpisodeBatch`."""
        return self.episodes.action_masks()[0]

    def render(self) -> str | np.ndarray | None:
        """Return the text as a string ("ansi") or an image ("rgb_array"). Mode "human" prints in `step`: None."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode: make the environment with render_mode='ansi'")
            return None
        return None if self.render_mode == "human" else render_row(self.episodes, 0, self.render_mode)

    def _show(self) -> None:
        """Print what the last step has added; begin a new line for a new episode."""
        talk = shown_turns(self.episodes, 0)
        text = "\n".join(talk) if talk else printable("".join(part[0] for part in self.episodes.texts([0])))
        grown = text.startswith(self._shown) and self.episodes.steps[0] > 0
        print(text[len(self._shown) :] if grown else f"\n{text}", end="", flush=True)
        self._shown = text


def check_render_mode(render_mode: str | None) -> None:
    """Raise a ValueError unless both environments have this render mode."""
    modes = TextGenerationEnv.metadata["render_modes"]
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"unknown render_mode {render_mode!r}; there are {', '.join(modes)}")


def render_row(episodes: EpisodeBatch, row: int, render_mode: str) -> str | np.ndarray:
    """Return a row as text or image: the turns of a conversation, else the prompt, a bar and the completion so far."""
    if talk := shown_turns(episodes, row):
        return draw_turns(talk) if render_mode == "rgb_array" else "\n".join(talk)
    prompts, completions = episodes.texts([row])
    text = f"{printable(prompts[0])} |{printable(completions[0])}"
    return draw(text) if render_mode == "rgb_array" else text


def shown_turns(episodes: EpisodeBatch, row: int) -> list[str]:
    """Return the turns of a conversation, such as "User: Hello", safe to print; nothing for a text that goes on."""
    if episodes.dialogs is None and isinstance(episodes.rows[episodes.index[row]]["prompt"], str):
        return []
    return [printable(line) for line in turn_lines(episodes.conversations(np.array([row]))[0])]
