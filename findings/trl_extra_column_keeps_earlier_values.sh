#!/bin/sh
# trl 1.16.0: what a reward function logged for the completions of one step is shown beside those of the next.
#
# Expected: where a reward function calls `log_extra` in some steps only, the table of completions has nothing in that
# column in the others.
# What happens: the column keeps the values of the last step in which it was logged, in the printed table and in the
# parquet file, each beside a completion that it is not about. Where two functions log one column, the values of one are lost.
# Source: trl/trainer/grpo_trainer.py: self._logs["extra"] is extended by the columns that are pending, and never cleared.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 trl==1.16.0 \
    transformers==5.23.0 pandas==3.1.1 rich
HF_HUB_OFFLINE=1 venv/bin/python - <<'PY'
import warnings
from importlib.metadata import version

import pandas as pd
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

warnings.simplefilter("ignore")
from trl import GRPOConfig, GRPOTrainer

print("trl", version("trl"))
words = Tokenizer(WordLevel({word: i for i, word in enumerate(["<pad>", "<eos>", *"abcdefgh"])}, unk_token="<eos>"))
words.pre_tokenizer = WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
config = GPT2Config(vocab_size=10, n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=None, eos_token_id=1)


def reward(completions, trainer_state, log_extra, **kwargs):
    if trainer_state.global_step == 0:
        log_extra("copy", list(completions))
    return [0.0] * len(completions)


trainer = GRPOTrainer(
    model=GPT2LMHeadModel(config),
    reward_funcs=reward,
    args=GRPOConfig(
        output_dir="run",
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=4,
        logging_steps=1,
        log_completions=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
    ),
    train_dataset=Dataset.from_dict({"prompt": ["a b", "c d"] * 4}),
    processing_class=tokenizer,
)
trainer.train()
first, second = (pd.read_parquet(f"run/completions/completions_0000{step}.parquet") for step in (1, 2))
print(second[["step", "completion", "copy"]])
assert first["copy"].tolist() == first["completion"].tolist()
assert second["copy"].tolist() == first["completion"].tolist() != second["completion"].tolist()
PY
