"""What the steps of a loop (`.loop`) share: the configuration, the folders, the store, the reward models."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhf_envs.files import find_folder, replace_file

from .config import LoopConfig

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore, Item, Judgement

__all__ = [
    "AGENT",
    "FIGURES",
    "PAIRS",
    "PROXY",
    "RUN",
    "SNAPSHOT",
    "Figures",
    "Loop",
    "items_of",
    "judgements_of",
    "load_members",
    "load_reward",
    "name_run",
    "plain",
    "resolve",
    "write_json",
]

Figures = dict[str, Any]
FIGURES, PAIRS, SNAPSHOT = "figures.json", "pairs.json", "judgements.json"
RUN = "run_id"  # a file beside the configuration, of no step: a step may run again, and the name has to stay
AGENT, PROXY = "agent", "proxy"  # a bundle; a reward model


@dataclass(frozen=True)
class Loop:
    """A run.

    Attributes:
        config: resolved.
        folder: of the run, an absolute path.
        store: open; what people are asked through, and simulated annotators where no people are.
        simulated: open; what simulated annotators are asked through. Beside people it is one of their own, so that
            nobody answers the pairs of others.
        say: is told what is going on.
    """

    config: LoopConfig
    folder: Path
    store: FeedbackStore
    simulated: FeedbackStore
    say: Callable[[str], None]

    @classmethod
    @contextmanager
    def open(cls, config: LoopConfig, folder: Path, say: Callable[[str], None]) -> Iterator[Loop]:
        """The run with its stores open."""
        from rlhf_envs.feedback import FeedbackStore

        with ExitStack() as stack:
            store = simulated = stack.enter_context(FeedbackStore(config.store or folder / "feedback.db"))
            if 0 < config.people < config.labels:
                simulated = stack.enter_context(FeedbackStore(folder / "simulated.db"))
            yield cls(config, folder, store, simulated, say)

    @cached_property
    def name(self) -> str:
        """What tells this run's items in the store from those of others."""
        return (self.folder / RUN).read_text(encoding="utf-8").strip()

    def place(self, number: int, step: str) -> Path:
        """The folder of a step of a round; round 0 is what there is before the first."""
        return self.folder / f"round_{number}" / step

    def read(self, number: int, step: str, file: str = FIGURES) -> Any:
        """What a step left in a JSON file, by default its figures."""
        return json.loads((find_folder(self.place(number, step)) / file).read_text(encoding="utf-8"))

    def agent(self, number: int) -> Path:
        """The bundle of the agent at the end of a round."""
        return find_folder(self.place(number, "learn")) / AGENT

    def reward(self, number: int) -> Any:
        """The reward function that a round fitted."""
        return load_reward(self.config, self.proxy(number))

    def proxy(self, number: int) -> Path:
        """The folder of the reward model that a round fitted."""
        return find_folder(self.place(number, "fit")) / PROXY


def name_run(folder: Path) -> None:
    """Give a new run the name that its items have in the store; a run that has one keeps it.

    Raises:
        ValueError: the file with the name is gone and there are rounds, whose labels no other name would find.
    """
    path = folder / RUN
    if path.is_file():
        return
    if (folder / "round_1").exists():
        raise ValueError(
            f"{path} is gone, the name of this run's items in the store: write it again, it is `loop` in the meta of "
            f"the items in round_<n>/ask/{SNAPSHOT}"
        )
    replace_file(path, f"{uuid.uuid4().hex[:12]}\n".encode())


def load_reward(config: LoopConfig, folder: Path) -> Any:
    """The reward model, or the ensemble, in a folder, with the pessimism of the run."""
    from rlhf_envs.rewards.ensemble import RewardEnsemble
    from rlhf_envs.rewards.pessimism import Pessimistic
    from rlhf_envs.rewards.reward_model import RewardModel

    if config.members == 1:
        return RewardModel(str(folder))
    ensemble = RewardEnsemble(folder)
    return Pessimistic(ensemble, k=config.pessimism) if config.pessimism else ensemble


def load_members(config: LoopConfig, folder: Path) -> Callable[[list[str], list[str]], np.ndarray]:
    """What gives the scores of each reward model in a folder, (members, n), such that differences are log-odds."""
    from rlhf_envs.rewards.ensemble import RewardEnsemble
    from rlhf_envs.rewards.reward_model import RewardModel

    if config.members > 1:
        ensemble = RewardEnsemble(folder)
        return lambda prompts, completions: ensemble.member_scores(prompts, completions) / ensemble.gain
    model = RewardModel(str(folder))
    return lambda prompts, completions: model(prompts, completions)[None] / model.gain


def resolve(config: LoopConfig) -> LoopConfig:
    """The configuration with its defaults filled in, from the table of hyperparameters and from the task.

    Raises:
        ValueError: the environment, the algorithm or a reward is unknown, or the algorithm's agents cannot be saved.
        ImportError: a package that a later step needs is not installed.
    """
    from rlhf_envs.models import resolve as find_model
    from rlhf_envs.registration import check_environment, task_of
    from rlhf_envs.rewards import get_reward

    from ...registry import get_algorithm
    from ...saving.bundle import holds
    from ...training.run import resolve as with_defaults

    for package in ("sqlalchemy", "alembic", "crowdkit", "krippendorff"):
        if find_spec(package) is None:
            raise ImportError(f'rlhf loop needs {package}: pip install "rlhf-envs[web,agreement]"')
    check_environment(config.env)
    if not holds(get_algorithm(config.algo)):
        raise ValueError(
            f"--algo {config.algo}: a loop saves its agent after every round, and bundles hold on-policy agents only"
        )
    task = task_of(config.env_id)
    if task is None:
        raise ValueError(f"--env {config.env}: it has no task, and a loop needs a task's prompts and rewards")
    own = [*task.judges, task.default_reward]
    scorer = config.scorer or own[0]
    judges = config.judge or list(dict.fromkeys([scorer, *own]))
    for name in (scorer, *judges):
        get_reward(name)
    for model in (config.reward_model, config.model):
        if model is not None:
            find_model(model)
    store = config.store
    if store is not None and "://" not in store:
        store = str(Path(store).absolute())  # a run goes on from another directory too
    found: dict[str, Any] = {"scorer": scorer, "judge": judges, "store": store}
    if config.people == config.labels:
        found["annotators"] = 0  # nothing is left for them
    return LoopConfig.model_validate(with_defaults(config).model_dump() | found)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file into the folder of a step."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(records: Sequence[Item] | Sequence[Judgement]) -> list[dict[str, Any]]:
    """Records of the store as JSON takes them."""
    return [{**asdict(record), "created": record.created.isoformat()} for record in records]


def items_of(snapshot: Mapping[str, Any]) -> list[Item]:
    """The items that `plain` wrote."""
    from rlhf_envs.feedback import Item

    return [
        Item(**{**row, "completions": tuple(row["completions"]), "created": datetime.fromisoformat(row["created"])})
        for row in snapshot["items"]
    ]


def judgements_of(snapshot: Mapping[str, Any]) -> list[Judgement]:
    """The judgements that `plain` wrote."""
    from rlhf_envs.feedback import Judgement

    return [
        Judgement(**{**row, "sides": tuple(row["sides"]), "created": datetime.fromisoformat(row["created"])})
        for row in snapshot["judgements"]
    ]
