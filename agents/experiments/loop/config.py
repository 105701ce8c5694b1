"""Define the configuration of a loop (`.loop`): one documented pydantic model, whose fields are the flags."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import model_validator

from ...saving.untrusted import read_reward, read_store
from ...training.config import TrainConfig
from ...training.fields import Pairs, option

__all__ = ["LoopConfig"]


class LoopConfig(TrainConfig):
    """Hold the configuration of a loop: what `rlhf train` takes, for the RL of each round, and the other steps."""

    kind: ClassVar[tuple[str, str]] = ("loop", "rounds")
    free: ClassVar[tuple[str, ...]] = (*TrainConfig.free, "rounds", "enough", "patience", "poll")
    more: ClassVar[tuple[str, ...]] = ()  # n_timesteps are of each round

    # What is of one run: its rounds go on with one agent, and each would take what the last one has left of it.
    without: ClassVar[tuple[str, ...]] = (
        "lr_schedule",
        "early_stopping",
        "eval_patience",
        "alarm",
        "constraint",
        "limit",
        "multiplier_start",
        *("shard", "workers", "ray_address", "async_rollouts"),
        *("worker_retries", "worker_cpus", "worker_gpus", "worker_wait"),
    )

    aspects: str | None = option(
        None,
        "Aspects of an answer to ask about, fit and train by: names of the study's questions, harms, flags, pairwise "
        "or rating, with commas between; or a YAML file with weights and limits.",
    )
    n_timesteps: int | None = option(16_384, "Tokens of RL per round.", "-n", "--n-timesteps", gt=0)
    eval_freq: int = option(0, "Tokens between evaluations during RL; 0 for one per round.", ge=0)
    rounds: int = option(3, "Rounds; with --resume more than the run had adds some.", gt=0)
    labels: int = option(200, "Pairs of completions that are labelled per round; 0 with --from-serving alone.", ge=0)
    overlap: int | None = option(
        None, "Judgements of each pair. By default 3 by simulated annotators, 1 by people.", gt=0
    )
    annotators: int = option(10, "Simulated annotators; 0 for people only.", ge=0)
    random_share: float = option(
        0.1, "Share of the simulated annotators who are spammers: they click at random.", ge=0, le=1
    )
    noise: float = option(0.1, "Noise of the simulated annotators, in units of their scorer.", ge=0)
    skip_rate: float = option(0.0, "Share of the pairs that a simulated annotator skips.", ge=0, lt=1)
    scorer: str | None = option(
        None, "Registered reward that simulated annotators judge by. The task's judge by default."
    )
    by: Pairs = option(
        {},
        "Reward by which simulated annotators answer one of the project's questions, or flag a harm (from 0.5 on), "
        "NAME:REWARD; repeat the flag.",
    )
    people: int = option(
        0, "Pairs of each round that people label. Simulated annotators label the others, in another store.", ge=0
    )
    store: str | None = option(
        None,
        "Feedback store: a file, or postgresql://user@host/name, whose password PGPASSWORD has. By default "
        "feedback.db in the run's folder.",
    )
    from_serving: str | None = option(
        None,
        "Feedback store of rlhf serve --store: what people said of the served model counts too, in every round as far "
        "as it has come. With --labels 0 nobody else is asked.",
    )
    study: str | None = option(
        None, "TOML file of the project's settings and questions, which a new run takes over: rlhf feedback settings."
    )
    criterion: str | None = option(
        None, "One of the project's own questions, to whose answers the reward models are fitted."
    )
    enough: float = option(1.0, "Share of the people's judgements after which the loop goes on.", gt=0, le=1)
    patience: float = option(
        60.0, "Seconds that a round still waits when all who labelled in it have nothing left to label.", ge=0
    )
    poll: float = option(2.0, "Seconds between looks at the store while people label.", gt=0)
    aggregate: Literal["majority", "dawid_skene", "soft"] = option(
        "dawid_skene", "How several judgements of a pair become one: majority, dawid_skene or soft."
    )
    held_out: float = option(0.15, "Share of the pairs that no reward model is fitted to.", gt=0, lt=1)
    reward_model: str = option("tiny", "Model that reward models are fitted from.")
    members: int = option(1, "Reward models in the ensemble; 1 for a single model.", gt=0)
    pessimism: float = option(0.0, "Standard deviations of the ensemble that are taken off its mean.", ge=0)
    reward_epochs: int = option(2, "Passes over the pairs when a reward model is fitted.", gt=0)
    reward_learning_rate: float = option(
        2e-3, "Learning rate of the reward model. For larger ones than tiny take less, such as 1e-4.", gt=0
    )
    query: Literal["random", "disagreement", "uncertainty"] = option(
        "random", "Which pairs to ask about, of --pool times as many; by the last round's reward models."
    )
    pool: int = option(4, "Pairs generated for each that is asked about, where --query chooses.", gt=0)
    judge: list[str] | None = option(
        None, "Registered reward that evaluates; repeat. The scorer and the task's own rewards by default."
    )

    @model_validator(mode="after")
    def _askable(self) -> Self:
        self.check_askable()
        return self

    @model_validator(mode="after")
    def _with_aspects(self) -> Self:
        """Leave the environment as it is: a round fits the aspects, and makes them its reward."""
        return self

    def has_limits(self) -> bool:
        """Return whether the rewards of the rounds may have limits, whose prices training finds."""
        return self.aspects is not None

    def check_askable(self) -> None:
        """Raise ValueError if the fields do not go with one another, or are not for a loop."""
        for name in self.without:
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name}={value}: the rounds of a loop have none; leave it out")
        self._check_aspects()
        if self.labels < 4 and (self.labels or self.from_serving is None):
            raise ValueError(f"labels={self.labels}: a round needs at least 4 pairs, or none with from_serving")
        simulated, ensemble = self.labels - self.people, f"an ensemble: members is {self.members}, take at least 2"
        if simulated < 0:
            raise ValueError(f"people={self.people} is more than labels={self.labels}, the pairs of a round")
        if simulated and not self.annotators:
            raise ValueError(
                f"annotators=0 and people={self.people}: nobody labels {simulated} of the {self.labels} pairs; let "
                f"people label all, people={self.labels}"
            )
        if simulated and (self.overlap or 0) > self.annotators:
            raise ValueError(
                f"overlap={self.overlap}: a pair cannot be judged by more than annotators={self.annotators}"
            )
        if self.pessimism and self.members < 2:
            raise ValueError(f"pessimism={self.pessimism} needs {ensemble}")
        if self.query == "disagreement" and self.members < 2:
            raise ValueError(f"query=disagreement needs {ensemble}")

    def _check_aspects(self) -> None:
        """Raise ValueError if fields do not go with several aspects, or with simulated annotators."""
        if self.by and not self.annotators:
            name, reward = next(iter(self.by.items()))
            raise ValueError(f"by={name}:{reward} is for simulated annotators, and annotators=0")
        if self.aspects is None:
            return
        one_model = ("criterion", "members", "pessimism", "query", "aggregate")
        for name in one_model:
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                instead = "name the question among them" if name == "criterion" else "leave it out"
                raise ValueError(f"{name}={value} with aspects={self.aspects}: it is for one reward model; {instead}")

    def check_imports(self, source: str, given: TrainConfig) -> None:
        """Check the scorer and the store too."""
        super().check_imports(source, given)
        if "scorer" not in given.model_fields_set:
            read_reward(self.scorer, source, "scorer")
        if "by" not in given.model_fields_set:
            read_reward([*self.by.values()], source, "by")
        for name in ("store", "from_serving"):
            read_store(getattr(self, name), source, name, name in given.model_fields_set)

    def judgements_of_pair(self, by_people: bool) -> int:
        """Return how many different annotators judge a pair."""
        return self.overlap or (1 if by_people else min(3, self.annotators))

    def folder(self) -> Path:
        """Return the run's folder, `<log_folder>/loop/<Env>_<k>` with the next free k, or raise as for other runs."""
        return TrainConfig.folder(self.model_copy(update={"algo": "loop"}))
