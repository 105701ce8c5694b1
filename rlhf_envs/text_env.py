"""Text generation as a Gymnasium environment: the observation is the context, an action is the next token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium as gym
import numpy as np

from rlhf_envs.episodes import EpisodeBatch, EpisodeOptions
from rlhf_envs.has_episodes import HasEpisodes
from rlhf_envs.rendering import draw, printable

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from rlhf_envs.tasks.base import Task

__all__ = ["TextGenerationEnv"]

Observation = dict[str, np.ndarray]


class TextGenerationEnv(HasEpisodes, gym.Env[Observation, int]):
    """The agent continues a prompt token by token; EOS or the length limit ends the episode, which is then rewarded.

    The observation is `{"input_ids": (L,) int64, "attention_mask": (L,) int8}`, right-padded, with L =
    max_prompt_tokens + max_new_tokens; the action is a token id. Episodes end by `terminated`, never by `truncated`,
    and the last `info` has `prompt`, `completion`, `finish_reason` ("eos" or "length"), `reward_components` and `index`
    (the row of the data); that of `reset` has `index`.

    Args:
        task: a `Task`, its class, or "module:Class".
        render_mode: "human" prints the text as it grows, "ansi" returns it, "rgb_array" draws it.
        **options: model, split, max_prompt_tokens, max_new_tokens, reward, reward_fn, reward_kwargs, data,
            on_long_prompt, reward_timeout, reward_retries, group_size, min_new_tokens and suppress_tokens, see
            `EpisodeBatch`.

    Raises:
        ValueError: an argument is wrong; the message says which and what would be right.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "ansi", "rgb_array"], "render_fps": 10}  # type: ignore[misc]

    def __init__(
        self, task: str | type[Task] | Task, *, render_mode: str | None = None, **options: Unpack[EpisodeOptions]
    ) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        self.episodes = EpisodeBatch(1, task, **options)
        self.observation_space = self.episodes.observation_space  # type: ignore[assignment]  # typed Dict[Any]
        self.action_space = self.episodes.action_space  # type: ignore[assignment]  # Discrete is a space of np.int64
        self._shown = ""  # of the current episode, in render mode "human"

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: of the generator that draws prompts, as in Gymnasium.
            options: `{"index": i}` takes the prompt of row i of the data instead.

        Raises:
            ValueError: there is no such row, or no such option.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := options.keys() - {"index"}:
            raise ValueError(f"unknown reset options {sorted(unknown)}; there is 'index', the row of the data")
        if seed is not None:
            self.episodes.begin_group()
        info = self.episodes.start(0, self.episodes.draw(self.np_random, options.get("index")))
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
        """The tokens that may come next, (V,) bool, as sb3-contrib's algorithms read them; see `EpisodeBatch`."""
        return self.episodes.action_masks()[0]

    def render(self) -> str | np.ndarray | None:
        """The text as a string ("ansi") or an image ("rgb_array"); None in mode "human", which prints as it goes."""
        if self.render_mode is None:
            gym.logger.warn("render() does nothing without a render_mode: make the environment with render_mode='ansi'")
            return None
        return None if self.render_mode == "human" else render_row(self.episodes, 0, self.render_mode)

    def _show(self) -> None:
        """Print what is new of the text; a new episode on a new line."""
        text = printable("".join(part[0] for part in self.episodes.texts([0])))
        grown = text.startswith(self._shown) and self.episodes.steps[0] > 0
        print(text[len(self._shown) :] if grown else f"\n{text}", end="", flush=True)
        self._shown = text


def check_render_mode(render_mode: str | None) -> None:
    """Raise a ValueError unless the mode is one that both environments have."""
    modes = TextGenerationEnv.metadata["render_modes"]
    if render_mode is not None and render_mode not in modes:
        raise ValueError(f"unknown render_mode {render_mode!r}; there are {', '.join(modes)}")


def render_row(episodes: EpisodeBatch, row: int, render_mode: str) -> str | np.ndarray:
    """The prompt and, behind a bar, the completion so far of a row, as text or as a picture."""
    prompts, completions = episodes.texts([row])
    text = f"{printable(prompts[0])} |{printable(completions[0])}"
    return draw(text) if render_mode == "rgb_array" else text
