"""Hold what the steps of a loop (`.loop`) share: the configuration, the folders, the stores, the reward models."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf_envs.feedback.simulated.flagging import check_names
from rlhf_envs.files import find_folder, replace_file
from rlhf_envs.models import resolve as find_model
from rlhf_envs.registration import check_environment, task_of
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.aspects import FILE as ASPECTS
from rlhf_envs.rewards.aspects import Aspect, read_aspects
from rlhf_envs.rewards.ensemble import load_reward
from rlhf_envs.rewards.pessimism import Pessimistic

from ...algorithms.common.offline import OfflinePreferences
from ...registry import describe, get_algorithm
from ...saving.bundle import holds
from ...saving.folders import AGENT
from ...saving.provenance import provenance
from ...saving.run_paths import named_judges
from ...training.run import resolve_config
from ...training.trackers import RunTracker
from ..stepping import METRICS
from .aspects.taking import load_aspects, take_aspects
from .config import LoopConfig
from .served import check_serving_store

if TYPE_CHECKING:
    from rlhf_envs.feedback import FeedbackStore
    from rlhf_envs.feedback.settings import Settings

__all__ = ["PAIRS", "PROXY", "SNAPSHOT", "Loop", "Metrics", "check_asked", "name_run", "with_defaults"]

Metrics = dict[str, Any]
PAIRS, SNAPSHOT = "pairs.json", "judgements.json"
RUN = "run_id"  # a file next to the configuration, of no step: a step may run again, and the name may not change
PROXY = "proxy"  # a reward model
STUDY = "study.toml"  # the settings of the feedback project as a run began with them


@dataclass(frozen=True)
class Loop:
    """Hold a run of the loop, in an absolute `folder` and with the defaults of `config` filled in.

    Attributes:
        store: the open store that people answer, and simulated annotators too where no people do.
        simulated: the open store that simulated annotators answer. Where people label too it is another store, so that
            nobody answers the pairs of others.
        trackers: get what TensorBoard gets.
    """

    config: LoopConfig
    folder: Path
    store: FeedbackStore
    simulated: FeedbackStore
    say: Callable[[str], None]
    trackers: Sequence[RunTracker] = ()

    @classmethod
    @contextmanager
    def open(
        cls, config: LoopConfig, folder: Path, say: Callable[[str], None], trackers: Sequence[RunTracker] = ()
    ) -> Iterator[Loop]:
        """Open the stores of a run, for as long as the `with` lasts."""
        from rlhf_envs.feedback import FeedbackStore  # needs SQLAlchemy, an optional package

        with ExitStack() as stack:
            store = simulated = stack.enter_context(FeedbackStore(config.store or folder / "feedback.db"))
            if 0 < config.people < config.labels:
                simulated = stack.enter_context(FeedbackStore(folder / "simulated.db"))
            _take_study(config, folder, store, simulated)
            if config.aspects is not None:
                take_aspects(config, folder, store)
            yield cls(config, folder, store, simulated, say, trackers)

    @cached_property
    def name(self) -> str:
        """Return the name that tells this run's items in the store from others."""
        return (self.folder / RUN).read_text(encoding="utf-8").strip()

    @cached_property
    def aspects(self) -> dict[str, Aspect]:
        """Return the aspects of the run, each with a weight or a limit; none if it has one reward model."""
        return {} if self.config.aspects is None else read_aspects(self.folder / ASPECTS, to_fit=True)

    @cached_property
    def judges(self) -> dict[str, str]:
        """Return the judges of the evaluations, by name."""
        return named_judges(self.folder, self.config.judge)

    def place(self, number: int, step: str) -> Path:
        """Return the folder of a step of a round. Round 0 is what there is before the first round."""
        return self.folder / f"round_{number}" / step

    def read(self, number: int, step: str, file: str = METRICS) -> Any:
        """Return the content of a JSON file of a step, by default its metrics."""
        return json.loads((find_folder(self.place(number, step)) / file).read_text(encoding="utf-8"))

    def agent(self, number: int) -> Path:
        """Return the bundle of the agent at the end of a round."""
        return find_folder(self.place(number, "learn")) / AGENT

    def proxy(self, number: int) -> Path:
        """Return the folder of the reward model that a round fitted."""
        return find_folder(self.place(number, "fit")) / PROXY

    def fitting(self, number: int) -> dict[str, Any]:
        """Return how a round fits its reward models: arguments of `fit_reward` and `fit_aspects`."""
        config = self.config
        return {
            "model": config.reward_model,
            "held_out_share": config.held_out,
            "epochs": config.reward_epochs,
            "learning_rate": config.reward_learning_rate,
            "seed": 1000 * config.seed + number,
            "made": provenance(),
        }

    def reward(self, folder: Path) -> Any:
        """Load the reward function of RL in a folder: a reward model, aspects, or an ensemble with pessimism."""
        if self.config.aspects is not None:
            return load_aspects(folder)
        reward: Any = load_reward(folder)
        return Pessimistic(reward, k=self.config.pessimism) if self.config.pessimism else reward


def _take_study(config: LoopConfig, folder: Path, store: FeedbackStore, simulated: FeedbackStore) -> None:
    """Give a new run's stores the settings of its study, and check the criterion.

    Simulated annotators are asked in the order of the pairs, unless the study says otherwise: a run that was killed and
    goes on then comes to the same answers, which a drawn order would change.

    Raises:
        ValueError: the study cannot be read, or there is no such criterion, or it compares no completions.
    """
    from rlhf_envs.feedback.settings_file import read_settings_file, settings_as_toml

    if (simulated is not store or config.people == 0) and not simulated.items():
        simulated.update_settings(next_item="age")
    if config.study is not None and not (folder / STUDY).exists():
        store.update_settings(**read_settings_file(config.study))
        replace_file(folder / STUDY, settings_as_toml(store.settings).encode())
    if simulated is not store and not simulated.items():
        settings = store.settings
        same = {"questions": settings.questions, "wording": settings.wording}
        simulated.update_settings(**same, harms=settings.harms, scale=settings.scale)
    check_asked(config, store.settings, store.versions())


def check_asked(config: LoopConfig, settings: Settings, versions: Mapping[int, Settings]) -> None:
    """Raise ValueError unless a project asks what simulated annotators answer, and what is fitted.

    Args:
        config: the run.
        settings: those of the project.
        versions: see `FeedbackStore.versions`.
    """
    from rlhf_envs.feedback.criteria import derive, find_criterion

    try:
        check_names(config.by, settings)
    except ValueError as error:
        raise ValueError(f"by={', '.join(config.by)}: {error}") from error
    if config.criterion is not None:
        derive([], [], find_criterion(versions, config.criterion), "pairs")


def name_run(folder: Path) -> None:
    """Write the name that a new run's items have in the store; a run that has a name keeps it.

    Raises:
        ValueError: the file with the name is gone and there are rounds: no other name would find their labels.
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


def _check_algorithm(config: LoopConfig) -> None:
    """Raise ValueError if an algorithm learns from something else than the rewards of a loop's rounds."""
    algorithm = get_algorithm(config.algo)
    if "multiplier_step" in describe(algorithm).defaults:
        raise ValueError(
            f"--algo {config.algo}: a round has another reward, without its cost; take --algo ppo, and --aspects with "
            "a limit to keep a cost under it"
        )
    if config.aspects is not None and issubclass(algorithm, OfflinePreferences):
        raise ValueError(
            f"--algo {config.algo} with --aspects: it learns from the pairs themselves and no reward model; take "
            "--algo ppo, or --criterion with one of the questions"
        )


def with_defaults(config: LoopConfig) -> LoopConfig:
    """Return the configuration with its defaults filled in, from the settings files and from the task.

    Raises:
        ValueError: the environment, the algorithm or a reward is unknown, or the algorithm's agents cannot be saved.
        ImportError: a package that a later step needs is not installed.
    """
    for package in ("sqlalchemy", "alembic", "crowdkit"):
        if find_spec(package) is None:
            raise ImportError(f'rlhf loop needs {package}: pip install "rlhf-envs[web,agreement]"')
    check_environment(config.env)
    _check_algorithm(config)
    if not holds(get_algorithm(config.algo)):
        raise ValueError(
            f"--algo {config.algo}: a loop saves its agent after every round, and bundles hold on-policy agents only"
        )
    task = task_of(config.env_id)
    if task is None:
        raise ValueError(f"--env {config.env}: it has no task, and a loop needs a task's prompts and rewards")
    own = [name for name in (*task.judges, task.default_reward) if name]
    if config.scorer is None and (task.subtasks or not own):
        has = "each task of a mixture has its own reward" if task.subtasks else f"task {task.name!r} has no judge"
        raise ValueError(f"--env {config.env}: {has}; name what its pairs are judged by, --scorer, such as gold")
    scorer = config.scorer or own[0]
    judges = config.judge or list(dict.fromkeys([scorer, *map(str, config.by.values()), *own]))
    for name in (scorer, *map(str, config.by.values()), *judges):
        get_reward(name)
    for model in (config.reward_model, config.model):
        if model is not None:
            find_model(model)
    store = config.store
    if store is not None and "://" not in store:
        store = str(Path(store).absolute())  # so that the run goes on from another directory too
    found: dict[str, Any] = {"scorer": scorer, "judge": judges, "store": store}
    if config.from_serving is not None:
        check_serving_store(config.from_serving)
        if "://" not in config.from_serving:
            found["from_serving"] = str(Path(config.from_serving).absolute())
    if config.people == config.labels:
        found["annotators"] = 0  # no pairs are left for simulated ones
    return LoopConfig.model_validate(resolve_config(config).model_dump() | found)
