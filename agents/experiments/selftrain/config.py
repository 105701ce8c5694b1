"""Define the configuration of self-training (`.run`): one documented pydantic model, whose fields are the flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from ...training.config import TrainConfig
from ...training.fields import Algorithm, Model, option

__all__ = ["SelfTrainConfig"]

# What `rlhf train` takes and self-training too; its other fields are of RL.
SHARED = ("env", "env_kwargs", "seed", "log_folder", "run_name", "test_episodes", "test_split", "judge")


class SelfTrainConfig(TrainConfig):
    """Hold the configuration of self-training: what is drawn, what is kept, and how it is learned."""

    kind: ClassVar[tuple[str, str]] = ("self-training", "keep")
    free: ClassVar[tuple[str, ...]] = ("rounds",)
    more: ClassVar[tuple[str, ...]] = ()
    without: ClassVar[tuple[str, ...]] = tuple(
        name for name in TrainConfig.model_fields if name not in (*SHARED, "model", "learning_rate")
    )

    algo: Algorithm = option("sft", "How the answers are learned.")
    model: Model | None = Field(
        None,
        description="Run folder, bundle, model name or folder, or hub id: what is trained.",
        json_schema_extra={"argument": True},
    )
    learning_rate: float | None = option(2e-4, "Highest learning rate.", gt=0)
    judge: list[str] | None = option(
        None, "Reward that measures each round too, and chooses no answers; repeat. The task's judges by default."
    )
    rounds: int = option(2, "Rounds of drawing and learning; with --resume more than the run had adds some.", gt=0)
    prompts: int = option(256, "Training prompts per round; others in each round, while there are any.", gt=0)
    n: int = option(8, "Answers drawn to each prompt.", "-n", "--n", ge=2)
    keep: str = option(
        "best",
        "Which of them are learned: best, the best one to each prompt; a share, such as 0.25 for its best quarter; "
        "all, with --min-score.",
    )
    min_score: float | None = option(None, "Score below which no answer is learned.", allow_inf_nan=False)
    train_from: Literal["last", "start"] = option(
        "last", "What a round's answers train: the model of the last round, or the start anew."
    )
    temperature: float | None = option(None, "Divides the logits. The run's own, or 1.", gt=0)
    top_k: int | None = option(None, "Draw from the k most probable tokens.", ge=1)
    top_p: float | None = option(None, "Draw from the smallest set of this probability.", gt=0, le=1)
    epochs: float = option(1.0, "How often a round's answers are learned.", gt=0)
    batch_size: int = option(8, "Answers per step.", gt=0)
    lora: bool = option(False, "Learn LoRA adapters alone.")
    bf16: bool = option(False, "Learn in bfloat16.")

    @field_validator("keep", mode="before")
    @classmethod
    def _read_keep(cls, value: Any) -> str:
        text = str(value).strip().lower()
        if text in ("best", "all"):
            return text
        try:
            share = float(text)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            raise ValueError("expected best, all, or a share between 0 and 1, such as 0.25")
        return text

    @model_validator(mode="after")
    def _check_own(self) -> Self:
        for name in self.without:
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name}={value}: self-training has no such setting; leave it out")
        if self.keep == "all" and self.min_score is None:
            raise ValueError("keep=all learns whatever is drawn, which changes nothing: give --min-score too")
        return self

    @property
    def share(self) -> float | None:
        """Return the share of a prompt's answers that may be learned; None for the best one alone."""
        return None if self.keep == "best" else 1.0 if self.keep == "all" else float(self.keep)

    @property
    def decoding(self) -> dict[str, Any]:
        """Return temperature, top_k and top_p by name."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}

    def folder(self) -> Path:
        """Return the run's folder, `<log_folder>/self-train/<Env>_<k>`, or raise as for other runs."""
        plain = TrainConfig(env=self.env, log_folder=self.log_folder, run_name=self.run_name)
        return plain.model_copy(update={"algo": "self-train"}).folder()
