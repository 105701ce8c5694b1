"""Score chats by "dialogue-reward", a reward model of turns, and of chats that people rated.

It is linear in hashed features (Weinberger et al., 2009, https://arxiv.org/abs/0902.2206) of a turn and of what was
said before it: words, pairs and triples of words, and pairs of a word that was said and one of the answer.
`scripts/models/dialogue/reward.py` fits it to chats of the training split. NumPy alone scores it.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from rlhf_envs.datasets.messages import Prompt
from rlhf_envs.models import resolve
from rlhf_envs.overlap import FUNCTION_WORDS
from rlhf_envs.rewards.base import Reward
from rlhf_envs.tasks.dialogue.partners import is_sensible

__all__ = ["BUCKETS", "FOLDER", "DialogueModel", "DialogueRating", "DialogueTurn", "hashed", "load_model"]

FOLDER = "dialogue-reward"
BUCKETS = 2**16
ASKING = {"what", "why", "how", "where", "when", "who", "which", "do", "are", "is", "have", "would", "did", "can"}

_WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")


class DialogueModel:
    """Tell how probably a person said a turn, and where people's rating of a chat would stand.

    Args:
        arrays: the weights of hashed features, `turn` (BUCKETS,) and `rating` (BUCKETS,); `intercept`, of the log-odds;
            `mean` and `deviation`, of the ratings of training chats before they are standardised.
    """

    def __init__(self, arrays: dict[str, NDArray[np.float64]]) -> None:
        self.arrays = arrays

    def humanness(self, before: Sequence[str], said: str) -> float:
        """Return how probably a person said a turn there, as against something else, in [0, 1]."""
        return 1 / (1 + math.exp(-self.log_odds(before, said)))

    def log_odds(self, before: Sequence[str], said: str) -> float:
        """Return the log-odds of `humanness`."""
        return self._weigh("turn", before, said) + float(self.arrays["intercept"])

    def rating(self, turns: Sequence[tuple[Sequence[str], str]]) -> float:
        """Return the share of training chats that would be rated lower than one with these turns, in [0, 1]."""
        raw = float(np.mean([self._weigh("rating", *turn) for turn in turns]))
        return float(ndtr((raw - self.arrays["mean"]) / self.arrays["deviation"]))

    def _weigh(self, name: str, before: Sequence[str], said: str) -> float:
        places, value = hashed(before, said)
        return float(self.arrays[name][places].sum() * value)

    def save(self, folder: str | Path) -> None:
        """Write `weights.npz`, in half precision."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {
            name: np.float16(array) if array.ndim else np.float32(array) for name, array in self.arrays.items()
        }
        np.savez_compressed(Path(folder) / "weights.npz", **arrays)

    @classmethod
    def load(cls, name: str = FOLDER) -> DialogueModel:
        """Load a model that `save` wrote, by the name of an embedded model or from a folder."""
        with np.load(Path(resolve(name)) / "weights.npz", allow_pickle=False) as stored:
            return cls({key: stored[key].astype(np.float64) for key in stored})


@cache
def load_model() -> DialogueModel:
    """Return the embedded model, loaded once."""
    return DialogueModel.load()


def hashed(before: Sequence[str], said: str) -> tuple[NDArray[np.int64], float]:
    """Return the places of the features of a turn, without repetitions, and the value of each: all have the norm 1."""
    places = np.unique([zlib.crc32(name.encode()) % BUCKETS for name in _features(before, said)])
    return places, len(places) ** -0.5


def _features(before: Sequence[str], said: str) -> Iterator[str]:
    """Yield the names of the features of a turn."""
    words, asked = split(said), split(before[-1] if before else "")
    own = split(before[-2]) if len(before) > 1 else []
    marked = ["<", *words, ">"]
    yield from marked
    for n in (2, 3):
        yield from (" ".join(part) for part in zip(*(marked[i:] for i in range(n)), strict=False))
    yield f"length {int(math.log2(len(words) + 1) * 2)}"
    yield f"repeated {_share(len(words) - len({*words}), len(words))}"
    pairs, theirs = [*itertools.pairwise(words)], {*itertools.pairwise(asked)}
    yield f"pairs repeated {_share(len(pairs) - len({*pairs}), len(pairs))}"
    yield f"echo {_share(sum(pair in theirs for pair in pairs), len(pairs))}"
    yield f"again {_share(len({*words} & {*own}), len({*words}))}"
    kind = "?" if "?" in asked else "."
    opened = next((word for word in asked if word in ASKING), "") if kind == "?" else " ".join(asked[:1])
    yield from (f"asked {kind} {opened} {word}" for word in words[:3])
    yield f"asked {kind} {opened} {'?' if '?' in words else '.'} {int(math.log2(len(words) + 1))}"
    content = [word for word in {*words} if word not in FUNCTION_WORDS]
    heard = [word for word in {*asked} if word not in FUNCTION_WORDS]
    yield from (f"{first} ~ {second}" for first in heard for second in content)
    yield f"shared {min(len({*content} & {*heard}), 3)} of {min(len(content), 4)}"


def split(text: str) -> list[str]:
    """Return the words and the signs of a text, in lower case."""
    return _WORD.findall(text.lower())


def _share(part: int, whole: int) -> int:
    """Return a share in quarters."""
    return round(4 * part / whole) if whole else 0


class DialogueTurn(Reward):
    """Score how probably a person said the last turn of a completion there, as against something else, in [0, 1].

    A turn that nobody would answer scores 0, see `rlhf_envs.tasks.dialogue.partners.is_sensible`.
    """

    name = "dialogue-turn"
    reads_messages = True

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[object]) -> np.ndarray:
        """Return (n,) float64."""
        chats = [[*_texts(prompt), *_texts(done)] for prompt, done in zip(prompts, completions, strict=True)]
        return np.array([load_model().humanness(chat[:-1], chat[-1]) if is_sensible(chat) else 0.0 for chat in chats])


class DialogueRating(Reward):
    """Score the agent's turns of a chat by the share of training chats that people would rate lower, in [0, 1].

    It is multiplied with how probably people said these turns, on average, since ratings tell nothing of noise. A chat
    scores 0 if nobody would answer the agent's last turn.
    """

    name = "dialogue-rating"
    reads_messages = True

    def score(self, prompts: Sequence[Prompt], completions: Sequence[Prompt], **columns: list[object]) -> np.ndarray:
        """Return (n,) float64."""
        return np.array(
            [self._rate(_texts(prompt), _texts(done)) for prompt, done in zip(prompts, completions, strict=True)]
        )

    def _rate(self, before: list[str], said: list[str]) -> float:
        chat = [*before, *said]
        turns = [(chat[:i], chat[i]) for i in range(len(before), len(chat), 2)]
        human = float(np.mean([load_model().humanness(*turn) for turn in turns]))
        last = [*turns[-1][0], turns[-1][1]]  # without what the partner says after it, where there is no room to answer
        return load_model().rating(turns) * human if is_sensible(last) else 0.0


def _texts(said: Prompt) -> list[str]:
    """Return what was said, turn by turn."""
    return [said] if isinstance(said, str) else [message["content"] for message in said if message["role"] != "system"]
