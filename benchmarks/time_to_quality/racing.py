"""Run one contender of `benchmarks.time_to_quality`, and stop the clock while held-out completions are judged.

Everybody trains the same model on the same prompts, all of `prompt_tokens` tokens (TRL 1.16 scores left-padded prompts
of models like "tiny" at wrong positions), with the same reward, and draws completions of at most 32 tokens, which EOS
may end, at the same temperature. Everybody is judged by the same code.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DISTINCT", "GAIN", "KL", "Race", "Referee", "equal_prompts", "is_met", "run", "save"]

ENV, REWARD, TEMPERATURE, NEW_TOKENS = "rlhf/Sentiment-v0", "tiny-reward", 0.7, 32
GAIN, KL, DISTINCT = 0.15, 6.0, 0.8  # the least gain of "gold", the most nats, the least share of the start's bigrams
SAMPLES = 12
MINIBATCH = 32  # TRL's completions per optimiser step


@dataclass(frozen=True)
class Race:
    """Describe one run.

    Args:
        contender: an algorithm of ours, or "trl-grpo" or "trl-rloo".
        settings: arguments of `agents.make`; or fields of TRL's configuration, where `completions` are those of an
            iteration, with an optimiser step for every 32.
        split: which prompts judge.
        every: tokens between two evaluations; the iteration that reaches them is finished.
        tokens: the limit.
        cpu_seconds: a second limit.
        episodes: completions that are judged.
    """

    contender: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    split: str = "validation"
    model: str = "tiny"
    train: str = "full"
    prompt_tokens: int = 5
    every: int = 1
    tokens: int = 20_480
    cpu_seconds: float = float("inf")
    episodes: int = 256

    @property
    def arm(self) -> str:
        """Return the contender with its settings."""
        return " ".join([self.contender, *(f"{key}={value}" for key, value in self.settings.items())])


def is_met(point: Mapping[str, float]) -> bool:
    """Return whether a point of a curve is the target."""
    return point["gain"] >= GAIN and point["kl"] <= KL and point["distinct"] >= DISTINCT


class Referee:
    """Keep the clocks of a race. They stand still while completions of held-out prompts are judged.

    Args:
        race: the limits.
        judge: returns an `agents.Evaluation` of the model as it is now.

    Attributes:
        curve: a point per evaluation: tokens, seconds by the clock and of this process's CPU, the gain, KL and share of
            distinct bigrams (as a multiple of the start's).
    """

    def __init__(self, race: Race, judge: Callable[[], Any]) -> None:
        self.race, self.judge = race, judge
        self.curve: list[dict[str, float]] = []
        self.before = self.last = judge()
        self._wall = self._cpu = 0.0
        self._start()

    def _start(self) -> None:
        self._since = time.perf_counter(), time.process_time()

    def is_over(self, tokens: int) -> bool:
        """Judge if it is time. Return whether the target or a limit is reached. Call it between two iterations."""
        self._wall += time.perf_counter() - self._since[0]
        self._cpu += time.process_time() - self._since[1]
        reached, limited = False, tokens >= self.race.tokens or self._cpu >= self.race.cpu_seconds
        if limited or tokens >= (self.curve[-1]["tokens"] if self.curve else 0) + self.race.every:
            self.last = self.judge()
            self.curve.append({"tokens": tokens, "wall": self._wall, "cpu": self._cpu, **self._measure()})
            reached = is_met(self.curve[-1])
        self._start()
        return reached or limited

    def _measure(self) -> dict[str, float]:
        gain = self.last.change_from(self.before)["gold"]
        before, after = self.before.estimates(), self.last.estimates()
        distinct = after["distinct_bigrams"].mean / before["distinct_bigrams"].mean
        shown = {name: after[name].mean for name in ("kl", "reward", "length")}
        return {"gain": gain.mean, "sem": gain.sem, "distinct": distinct, **shown}

    def result(self) -> dict[str, Any]:
        """Return what a race leaves behind, for JSON."""
        pairs = zip(self.before.samples(SAMPLES), self.last.samples(SAMPLES), strict=True)
        samples = [[one.prompt, one.completion, other.completion] for one, other in pairs]
        reached = is_met(self.curve[-1])
        return {**asdict(self.race), "arm": self.race.arm, "reached": reached, "curve": self.curve, "samples": samples}


def equal_prompts(tokenizer: Any, n: int) -> list[dict[str, Any]]:
    """Return the task's rows of all splits with prompts of n tokens; longer prompts are cut there, between words."""
    from rlhf_envs.datasets import SPLITS, load_rows, prompt_key

    rows = [row for split in SPLITS for row in load_rows("sentiment", split)]
    texts = [row["prompt"] for row in rows]
    found: dict[str, dict[str, Any]] = {}
    for row, spans in zip(rows, tokenizer(texts, return_offsets_mapping=True)["offset_mapping"], strict=True):
        end = spans[n - 1][1] if len(spans) >= n else 0
        prompt, rest = row["prompt"][:end], row["prompt"][end:]
        if end and rest[:1] in ("", " ") and len(tokenizer(prompt)["input_ids"]) == n:
            found.setdefault(prompt_key(prompt), {**row, "prompt": prompt, "reference": rest + row["reference"]})
    return list(found.values())


def run(race: Race) -> dict[str, Any]:
    """Train in this process, on one thread, until the target or a limit is reached, and return `Referee.result()`."""
    import torch
    import torch._dynamo  # a first optimiser would import it, which takes seconds

    from rlhf_envs.models import load_tokenizer

    torch.set_num_threads(1)
    rows = equal_prompts(load_tokenizer(race.model), race.prompt_tokens)
    return (_run_trl if race.contender.startswith("trl-") else _run_ours)(race, rows)


def save(race: Race, file: Path) -> None:
    """Run a race and write its result."""
    from rlhf_envs.files import replace_file

    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, (json.dumps(run(race)) + "\n").encode())


def _referee(race: Race, rows: list[dict[str, Any]], source: Any) -> Referee:
    from agents import evaluate

    kwargs = {"data": rows, "model": race.model, "reward": REWARD}

    def judge() -> Any:
        return evaluate(
            source,
            ENV,
            race.episodes,
            race.split,
            reference=race.model,
            env_kwargs=kwargs,
            temperature=TEMPERATURE,
            max_new_tokens=NEW_TOKENS,
        )

    return Referee(race, judge)


def _run_ours(race: Race, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Train an agent of ours with its settings for the task, and with those given.

    Without a KL penalty it does not compute the KL either, as TRL does not with `beta=0`.
    """
    from agents import make, make_vec_env
    from agents.training.hyperparams import RUN_SETTINGS, default_hyperparams

    settings = {**default_hyperparams(ENV, race.contender), "temperature": TEMPERATURE, **race.settings}
    if settings.get("kl_coef") == 0:
        settings["report_kl"] = False
    env = make_vec_env(
        ENV,
        settings["n_envs"],
        seed=race.seed,
        data=rows,
        model=race.model,
        reward=REWARD,
        max_new_tokens=NEW_TOKENS,
    )
    learner = {name: value for name, value in settings.items() if name not in RUN_SETTINGS}
    agent = make(race.contender, env, seed=race.seed, model=race.model, train=race.train, device="cpu", **learner)
    referee = _referee(race, rows, agent)
    while not referee.is_over(agent.num_timesteps):
        agent.learn(1, reset_num_timesteps=False)  # one iteration
    return referee.result()


def _run_trl(race: Race, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Train TRL's trainer with its fastest options, see `benchmarks.contenders.trl`."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import trl
    from datasets import Dataset  # type: ignore[import-untyped]
    from transformers import PrinterCallback, TrainerCallback
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    from rlhf_envs.models import load_causal_lm, load_tokenizer
    from rlhf_envs.models.adapters import LORA
    from rlhf_envs.rewards import get_reward

    set_verbosity_error()
    disable_progress_bar()
    scorer, sampled = get_reward(REWARD), [0]

    def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
        sampled[0] += sum(map(len, columns["completion_ids"]))
        return [float(score) for score in scorer(prompts, completions)]

    class Watch(TrainerCallback):
        """Let the referee look between two iterations."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.referee = _referee(race, rows, trainer.model)
            self.steps = args.steps_per_generation * args.num_iterations
            trainer.model.train()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step % self.steps == 0:
                control.should_training_stop = self.referee.is_over(sampled[0])
                trainer.model.train()

    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer = load_causal_lm(race.model), copy.deepcopy(load_tokenizer(race.model))
        adapters = None
        if race.train == "lora":
            from peft import LoraConfig

            adapters = LoraConfig(task_type="CAUSAL_LM", **LORA)
        else:
            model.save_pretrained(folder)
            model.config._name_or_path = folder  # where TRL finds its reference
            model.requires_grad_(True)
        name = race.contender.removeprefix("trl-").upper()
        watch = Watch()
        trainer = getattr(trl, f"{name}Trainer")(
            model=model,
            reward_funcs=reward,
            args=getattr(trl, f"{name}Config")(**_trl_config(race, folder)),
            train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in rows if row["split"] == "train"]),
            processing_class=tokenizer,
            callbacks=[watch],
            peft_config=adapters,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return watch.referee.result()


def _trl_config(race: Race, folder: str) -> dict[str, Any]:
    settings = dict(race.settings)
    completions = settings.pop("completions", 64)
    return {
        "output_dir": folder,
        "use_cpu": True,
        "seed": race.seed,
        "bf16": False,
        "gradient_checkpointing": False,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1.0,
        "max_steps": 1_000_000,
        "per_device_train_batch_size": min(completions, MINIBATCH),
        "gradient_accumulation_steps": 1,
        "steps_per_generation": max(completions // MINIBATCH, 1),
        "max_completion_length": NEW_TOKENS,
        "temperature": TEMPERATURE,
        "pad_to_multiple_of": None,
        "logging_strategy": "no",
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **settings,
    }
