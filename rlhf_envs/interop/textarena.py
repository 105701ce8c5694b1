"""Play TextArena's single-player games: `rlhf/TextArena-v0`, which importing this module registers.

    env = gymnasium.make("rlhf_envs.interop.textarena:rlhf/TextArena-v0", game="GuessTheNumber-v0")
    rlhf train --env rlhf_envs.interop.textarena:rlhf/TextArena-v0 --env-kwargs game:Mastermind-v0

The extra `textarena` has the games (pip install 'rlhf-envs[textarena]').
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlhf_envs.datasets import check_split
from rlhf_envs.dialogs import Dialog, Reply
from rlhf_envs.names import nearest
from rlhf_envs.registration import register_task
from rlhf_envs.tasks.base import Task

__all__ = ["ENV_ID", "TextArena", "games"]

ENV_ID = "rlhf/TextArena-v0"
SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}  # the first game of each split
# Games that ask nltk to download word lists, or a language model behind an API.
ONLINE = re.compile(
    r"Codenames|DontSayIt|GuessWho|Hangman|LetterAuction|SpellingBee|Taboo|TwentyQuestions|Word|Debate|Scenario"
)


def package() -> Any:
    """Return the module `textarena`.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import textarena
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{ENV_ID} needs TextArena ({error}): pip install 'rlhf-envs[textarena]'") from error
    return textarena


def games() -> list[str]:
    """Return the names of TextArena's games that need no download. Those for several players are among them."""
    names = package().envs.registration.ENV_REGISTRY
    return sorted(name for name in names if not name.endswith(("-raw", "-train")) and not ONLINE.match(name))


class TextArena(Task):
    """Play a single-player game of TextArena by text: guess a number, crack a code, move discs.

    ## Description
    `gymnasium.make("rlhf_envs.interop.textarena:rlhf/TextArena-v0", game="GuessTheNumber-v0")`. The prompt is the
    game's own: its rules and, where there is one, the board. Each turn of the agent is a move, and the game's messages
    are the replies. A move without brackets gets them ("5" is "[5]"), as TextArena's own wrapper does it.

    A row of the data is a seed of the game. The splits have seeds of their own; where the rules say nothing of the
    hidden number or code, all rows have the same prompt.

    ## Observation space
    `input_ids` and `attention_mask`, (256,) each: a prompt of up to 176 tokens and up to 80 of moves and replies. For
    longer games take a model with more positions, and give `max_prompt_tokens` and `max_new_tokens`.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    The game's own, with the last move: 1 for a win, else mostly how far the player came, 0 to 1. A game that the limit
    of tokens or `max_turns` cuts earns nothing.

    ## Episode end
    The game's end, its limit of turns, a second invalid move, or the last new token.

    ## Arguments
    - `game`: a name of `rlhf_envs.interop.textarena.games()`.
    - `options`: arguments of the game, such as `{"max_number": 5}`.
    - `size`: games of the training split, 256 by default; the others have a quarter of it.

    It takes the other arguments of `TextGenerationEnv`.

    ## Version history
    v0: the first version.

    Raises:
        ModuleNotFoundError: TextArena is not installed.
        ValueError: there is no such game, it is for several players, needs a download, or refuses the options.
    """

    name = "textarena"
    max_prompt_tokens, max_new_tokens = 176, 80

    def __init__(
        self, game: str = "GuessTheNumber-v0", options: Mapping[str, Any] | None = None, size: int = 256
    ) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 4:
            raise ValueError(f"size={size!r}: give a whole number of games, at least 4")
        known = games()
        if game not in known:
            reason = "needs a download or an API" if ONLINE.match(str(game)) else nearest(str(game), known)
            raise ValueError(f"game={game!r}: {reason}")
        self.game, self.options, self.size = game, dict(options or {}), size
        with self._play(0) as env:
            if len(env.state.observations) != 1:
                raise ValueError(f"game={game!r} is for several players: take a single-player game")

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the games of a split, each with its first observation and its `game_seed`; or those of `data`.

        Rows of `data` need a `game_seed`, and keep their own prompts.
        """
        if data is not None:
            for number, row in enumerate(data):
                if not isinstance(row.get("game_seed"), int):
                    raise ValueError(f"task {self.name!r}: row {number} needs a whole number as its column 'game_seed'")
            return [dict(row) for row in data]
        first = SEEDS[check_split(split, self.name)]
        seeds = range(first, first + (self.size if split == "train" else max(1, self.size // 4)))
        found = []
        for seed in seeds:
            with self._play(seed) as env:
                found.append({"prompt": _said_by_the_game(env) + "\n", "game_seed": seed})
        return found

    def replies(self, dialogs: Sequence[Dialog]) -> list[Reply]:
        """Return the games' answers to moves, and with the last move the reward."""
        return [self._reply(dialog) for dialog in dialogs]

    def _reply(self, dialog: Dialog) -> Reply:
        """Replay the game from its seed with the moves so far: what is kept of a dialog is plain, so runs resume."""
        moves = [*dialog.state.get("moves", []), dialog.messages[-1]["content"]]
        dialog.state["moves"] = moves
        with self._play(int(dialog.row["game_seed"])) as env:
            for move in moves:
                _said_by_the_game(env)
                done, _ = env.step(action=move if "[" in move or "]" in move else f"[{move}]")
            if done:
                rewards, _ = env.close()
                return Reply(reward=float(rewards[0]), done=True)
            return Reply(_said_by_the_game(env) or "Your move.")

    @contextmanager
    def _play(self, seed: int) -> Iterator[Any]:
        """Begin the game of a seed. Games draw from Python's global generator, which is left as it was."""
        before = random.getstate()
        try:
            env = self._begin(seed)
            yield env
        finally:
            random.setstate(before)

    def _begin(self, seed: int) -> Any:
        try:
            env: Any = package().make(self.game, **self.options)
            while hasattr(env, "env"):  # wrappers repeat all that was said before
                env = env.env
            random.seed(seed)
            env.reset(num_players=1, seed=seed)
        except AssertionError as error:
            raise ValueError(
                f"game={self.game!r} is for several players ({error}): take one for a single player"
            ) from error
        except (ImportError, LookupError, OSError, SyntaxError) as error:  # Chess of 0.7.4 needs Python 3.12
            raise ValueError(f"game={self.game!r} cannot start here: {type(error).__name__}: {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"game={self.game!r} refuses options={self.options!r}: {error}") from error
        return env


def _said_by_the_game(env: Any) -> str:
    """Return what the game has said to the player since it was last asked, without the player's own moves."""
    _, observations = env.get_observation()
    own = package().ObservationType.PLAYER_ACTION
    return "\n".join(message.strip() for _, message, kind in observations if kind != own and message.strip())


register_task(ENV_ID, f"{__name__}:TextArena")
