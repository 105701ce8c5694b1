#!/bin/sh
# transformers 5.23.0: after a run was stopped while it saved, its last checkpoint is one that cannot be resumed from.
#
# Expected: `trainer.train(resume_from_checkpoint=True)` goes on from the last checkpoint that is whole.
# What happens: a checkpoint is written in place, file by file, and trainer_state.json comes last. get_last_checkpoint
# takes the folder with the highest number, whatever is in it, so training ends with a FileNotFoundError, although the
# checkpoint before is whole and resumes.
# Source: transformers/trainer.py (_save_checkpoint); transformers/trainer_utils.py (get_last_checkpoint).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 transformers==5.23.0 accelerate==1.15.0
venv/bin/python - <<'PY'
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

print(*(f"{name} {version(name)}" for name in ("transformers", "torch", "accelerate")))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, x, labels):
        logits = self.layer(x)
        return {"loss": ((logits - labels) ** 2).mean(), "logits": logits}


class Stopped(Trainer):
    def _save_optimizer_and_scheduler(self, output_dir):
        if output_dir.endswith("checkpoint-4"):
            raise KeyboardInterrupt  # Ctrl-C at this moment
        super()._save_optimizer_and_scheduler(output_dir)


def trainer(kind=Trainer):
    options = dict(per_device_train_batch_size=1, report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no")
    arguments = TrainingArguments("out", max_steps=6, save_steps=2, **options)
    return kind(Model(), arguments, train_dataset=[{"x": torch.ones(1), "labels": torch.ones(1)}] * 8)


try:
    trainer(Stopped).train()
except KeyboardInterrupt:
    print({folder.name: sorted(file.name for file in folder.iterdir()) for folder in sorted(Path("out").iterdir())})
print("get_last_checkpoint:", get_last_checkpoint("out"))
assert Path(get_last_checkpoint("out")).name == "checkpoint-4"
try:
    trainer().train(resume_from_checkpoint=True)
except FileNotFoundError as failure:
    print("resume_from_checkpoint=True:", failure)
else:
    raise SystemExit("it goes on from a whole checkpoint now")
assert trainer().train(resume_from_checkpoint="out/checkpoint-2").global_step == 6
PY
