"""Define the configuration of a loop (`.loop`): one documented pydantic model, whose fields are the flags."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from ...training.config import TrainConfig, find_config

__all__ = ["LoopConfig", "find_loop"]

# Flags that may change when a run goes on: how it is shown, how many rounds it has, and how long it waits.
FREE = ("progress", "verbose", "threads", "rounds", "enough", "patience", "poll")


class LoopConfig(TrainConfig):
    """Hold the configuration of a loop: that of `rlhf train`, for the RL of each round, and that of the other steps."""

    n_timesteps: int | None = Field(
        16_384, gt=0, description="Tokens of RL per round.", json_schema_extra={"flags": ["-n", "--n-timesteps"]}
    )
    eval_freq: int = Field(0, ge=0, description="Tokens between evaluations during RL; 0 for one per round.")
    rounds: int = Field(3, gt=0, description="Rounds; with --resume more than the run had adds some.")
    labels: int = Field(200, ge=4, description="Pairs of completions that are labelled per round.")
    overlap: int | None = Field(
        None, gt=0, description="Judgements of each pair. By default 3 by simulated annotators, 1 by people."
    )
    annotators: int = Field(10, ge=0, description="Simulated annotators; 0 for people only.")
    random_share: float = Field(
        0.1, ge=0, le=1, description="Share of the simulated annotators who are spammers: they click at random."
    )
    noise: float = Field(0.1, ge=0, description="Noise of the simulated annotators, in units of their scorer.")
    skip_rate: float = Field(0.0, ge=0, lt=1, description="Share of the pairs that a simulated annotator skips.")
    scorer: str | None = Field(
        None, description="Registered reward that simulated annotators judge by. The task's judge by default."
    )
    people: int = Field(
        0,
        ge=0,
        description="Pairs of each round that people label. Simulated annotators label the others, in another store.",
    )
    store: str | None = Field(
        None,
        description="Feedback store: a file, or postgresql://user@host/name, whose password PGPASSWORD has. By default "
        "feedback.db in the run's folder.",
    )
    enough: float = Field(1.0, gt=0, le=1, description="Share of the people's judgements after which the loop goes on.")
    patience: float = Field(
        60.0,
        ge=0,
        description="Seconds that a round still waits when all who labelled in it have nothing left to label.",
    )
    poll: float = Field(2.0, gt=0, description="Seconds between looks at the store while people label.")
    aggregate: Literal["majority", "dawid_skene", "soft"] = Field(
        "dawid_skene", description="How several judgements of a pair become one: majority, dawid_skene or soft."
    )
    held_out: float = Field(0.15, gt=0, lt=1, description="Share of the pairs that no reward model is fitted to.")
    reward_model: str = Field("tiny", description="Model that reward models are fitted from.")
    members: int = Field(1, gt=0, description="Reward models in the ensemble; 1 for a single model.")
    pessimism: float = Field(0.0, ge=0, description="Standard deviations of the ensemble that are taken off its mean.")
    reward_epochs: int = Field(2, gt=0, description="Passes over the pairs when a reward model is fitted.")
    reward_learning_rate: float = Field(
        2e-3, gt=0, description="Learning rate of the reward model. For larger ones than tiny take less, such as 1e-4."
    )
    query: Literal["random", "disagreement", "uncertainty"] = Field(
        "random", description="Which pairs to ask about, of --pool times as many; by the last round's reward models."
    )
    pool: int = Field(4, gt=0, description="Pairs generated for each that is asked about, where --query chooses.")
    judge: list[str] | None = Field(
        None, description="Registered reward that evaluates; repeat. The scorer and the task's own rewards by default."
    )

    @model_validator(mode="after")
    def _askable(self) -> Self:
        self.check_askable()
        return self

    def check_askable(self) -> None:
        """Raise ValueError if the fields do not go with one another."""
        simulated = self.labels - self.people
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
            raise ValueError(
                f"pessimism={self.pessimism} needs an ensemble: members is {self.members}, take at least 2"
            )
        if self.query == "disagreement" and self.members < 2:
            raise ValueError(f"query=disagreement needs an ensemble: members is {self.members}, take at least 2")

    def judgements_of_pair(self, by_people: bool) -> int:
        """Return how many different annotators judge a pair."""
        return self.overlap or (1 if by_people else min(3, self.annotators))

    def folder(self) -> Path:
        """Return the run's folder, `<log_folder>/loop/<Env>_<k>` with the next free k, or raise as for other runs."""
        return TrainConfig.folder(self.model_copy(update={"algo": "loop"}))


def find_loop(folder: str | Path, given: LoopConfig | None = None) -> LoopConfig:
    """Return the configuration of a loop's folder, with `given` flags, see `agents.training.config.find_config`."""
    return find_config(LoopConfig, folder, given, FREE, "loop", "rounds")
