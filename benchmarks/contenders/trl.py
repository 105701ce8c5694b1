"""Run TRL's GRPO and RLOO trainers at the same work, with their fastest options.

All completions of an iteration are generated in one batch with the KV cache on; float32, like the others, and no
gradient checkpointing (TRL's defaults are bf16 and checkpointing); no padding to multiples; fused AdamW; no logging,
saving, tables or progress bars. `beta` is above 0, so the reference is on. The log-probabilities before the update are
TRL's own affair: it computes them if minibatches or iterations need them, in one more forward pass per sequence.

EOS: the tokenizer's EOS is a token beyond the model's vocabulary, which the model cannot emit, so `generate` runs to
the full length without masking logits. A prompt is repeated `num_generations` times, as the two algorithms want it; TRL
encodes it as often, so the work is that of as many prompts.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
from typing import Any

from ..work import ADAM_EPS, KL_COEF, LEARNING_RATE, MAX_GRAD_NORM, FreshModel, Work
from ..worker import Session
from .floor import split

__all__ = ["Grpo", "Rloo"]


class Grpo:
    """Run `trl.GRPOTrainer`, one `train` for the whole session: a callback stops it between iterations.

    Args:
        work: what to do. A fresh model is written to a temporary folder, where TRL finds its reference.
        session: reports iterations.
        frozen: train the same part of the model as the others; else all layers, whatever `work.train` says.
    """

    name = "GRPO"

    def __init__(self, work: Work, session: Session, frozen: bool = False) -> None:
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        import trl
        from datasets import Dataset  # type: ignore[import-untyped]
        from transformers import PrinterCallback, TrainerCallback
        from transformers.utils.logging import disable_progress_bar, set_verbosity_error

        set_verbosity_error()
        disable_progress_bar()
        logging.getLogger("trl").setLevel(logging.ERROR)
        self.work, self.session = work, session
        model, tokenizer = work.load()
        prompts = work.prompts(tokenizer)
        self.folder = tempfile.TemporaryDirectory()
        if isinstance(work.model, FreshModel):
            model.save_pretrained(self.folder.name)
            model.config._name_or_path = self.folder.name
        if frozen:
            split(model, work.train)
        else:
            model.requires_grad_(True)
        score = work.reward_fn()

        def reward(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
            session.tokens += sum(map(len, columns["completion_ids"]))
            return list(score(prompts, completions))

        class Turns(TrainerCallback):
            """Report and wait for the next command between two iterations."""

            steps = work.epochs * work.minibatches

            def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                control.should_training_stop = session.next() is None

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step % self.steps == 0:
                    control.should_training_stop = session.next() is None

        tokenizer = _never_ending(tokenizer, model)
        self.trainer = getattr(trl, f"{self.name}Trainer")(
            model=model,
            reward_funcs=reward,
            args=getattr(trl, f"{self.name}Config")(**self._config()),
            train_dataset=Dataset.from_dict({"prompt": prompts}),
            processing_class=tokenizer,
            callbacks=[Turns()],
        )
        self.trainer.remove_callback(PrinterCallback)

    def _config(self) -> dict[str, Any]:
        work = self.work
        return {
            "output_dir": self.folder.name,
            "use_cpu": work.device == "cpu",
            "seed": work.seed,
            "bf16": False,
            "gradient_checkpointing": False,
            "disable_dropout": True,
            "learning_rate": LEARNING_RATE,
            "lr_scheduler_type": "constant",
            "adam_epsilon": ADAM_EPS,
            "max_grad_norm": MAX_GRAD_NORM,
            "max_steps": 1_000_000,
            "per_device_train_batch_size": work.n_envs // work.minibatches,
            "gradient_accumulation_steps": 1,
            "steps_per_generation": work.minibatches,
            "num_iterations": work.epochs,
            "num_generations": _group(work.n_envs),
            "max_completion_length": work.new_tokens,
            "temperature": 1.0,
            "beta": KL_COEF,
            "pad_to_multiple_of": None,
            "logging_strategy": "no",
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }

    def drive(self) -> None:
        """Train until there is no command left."""
        self.trainer.train()


class Rloo(Grpo):
    """Run `trl.RLOOTrainer`."""

    name = "RLOO"


def _group(n: int) -> int:
    """Return the completions per prompt: the greatest divisor of 8 that divides n, at least 2."""
    group = math.gcd(n, 8)
    if group < 2:
        raise ValueError(f"n_envs={n}: GRPO and RLOO compare completions of one prompt, choose an even number")
    return group


def _never_ending(tokenizer: Any, model: Any) -> Any:
    """Make a token outside the model's vocabulary the EOS of the tokenizer and the model."""
    pad = tokenizer.pad_token or tokenizer.eos_token
    n = model.get_output_embeddings().weight.shape[0]
    fillers = [f"<|never-{i}|>" for i in range(n - len(tokenizer) + 1)]
    tokenizer.add_special_tokens({"eos_token": fillers[-1], "additional_special_tokens": fillers[:-1]})
    tokenizer.pad_token = pad
    assert tokenizer.eos_token_id >= n
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return tokenizer
