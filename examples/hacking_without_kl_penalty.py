"""Show reward hacking: without the KL penalty the agent learns to please the reward model, not to praise films.

Run `python examples/hacking_without_kl_penalty.py [tokens] [seed] [pairs]`; `rlhf train` has the penalty on.

As in Gao et al. 2022 (https://arxiv.org/abs/2210.10760) the proxy knows little: it is fitted here, in half a minute, to
200 comparisons of film snippets by people's mean ratings. The judge ("gold") learned from other labels and never meets
the agent. Both rise at first. Then the proxy goes on rising while gold falls, and the perplexity under the untouched
model says that no sentences are left.
"""

from __future__ import annotations

import random
import sys
import tempfile

import torch
from transformers import AutoModelForSequenceClassification

from agents import evaluate, make
from rlhf_envs.datasets import load_rows
from rlhf_envs.models import load_tokenizer, resolve
from rlhf_envs.preferences import fit_bradley_terry, normalise
from rlhf_envs.rewards.reward_model import RewardModel

N_EVALUATIONS = 6
FIGURES = {"reward": "proxy", "gold": "gold", "kl": "KL", "perplexity": "perplexity", "distinct_bigrams": "distinct"}


def comparisons(split: str, n: int, generator: random.Random) -> list[dict[str, object]]:
    """Draw pairs of snippets whose mean ratings are more than 1 apart."""
    rows, pairs = load_rows("rated_snippets", split, required=("text",)), []
    while len(pairs) < n:
        worse, better = sorted(generator.sample(rows, 2), key=lambda row: row["mean"])
        if better["mean"] - worse["mean"] > 1:
            pairs.append({"chosen": better["text"], "rejected": worse["text"]})
    return pairs


def fit_proxy(n_pairs: int, seed: int) -> RewardModel:
    """Fit a reward model to `n_pairs` comparisons."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    tokenizer = load_tokenizer("tiny")
    model = AutoModelForSequenceClassification.from_pretrained(resolve("tiny"), num_labels=1, dtype=torch.float32)
    torch.nn.init.zeros_(model.score.weight)
    held_out = comparisons("test", 300, generator)
    pairs = comparisons("train", n_pairs, generator)
    fitted = fit_bradley_terry(model, tokenizer, pairs, held_out, epochs=4, learning_rate=3e-4, seed=seed)
    normalise(model, tokenizer, [row["prompt"] + row["reference"] for row in load_rows("sentiment", "validation")])
    print(f"The proxy, of {n_pairs} comparisons, orders {fitted.accuracy:.1%} of held-out ones as people do.\n")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return RewardModel(folder)


def main(n_timesteps: int, seed: int = 0, n_pairs: int = 200, n_episodes: int = 128) -> None:
    proxy = fit_proxy(n_pairs, seed)
    settings = dict(learning_rate=5e-4, batch_size=512, temperature=0.7)
    agent = make("ppo", "rlhf/Sentiment-v0", n_envs=64, kl_coef=0.0, seed=seed, **settings)
    agent.get_env().set_attr("reward_fn", proxy)
    print("| tokens | " + " | ".join(FIGURES.values()) + " |\n" + "|---:" * (1 + len(FIGURES)) + "|")
    while True:
        evaluation = evaluate(agent, "rlhf/Sentiment-v0", n_episodes=n_episodes, env_kwargs={"reward_fn": proxy})
        estimates = evaluation.estimates()
        cells = [f"{estimates[name].mean:.2f} ± {estimates[name].sem:.2f}" for name in FIGURES]
        print(f"| {agent.num_timesteps:,} | {' | '.join(cells)} |", flush=True)
        if agent.num_timesteps >= n_timesteps:
            break
        agent.learn(max(n_timesteps // N_EVALUATIONS, 1), reset_num_timesteps=False)
    print()
    for sample, gold in list(zip(evaluation.completions, evaluation.judges["gold"], strict=True))[:5]:
        print(f"proxy {sample.reward:+.2f}, gold {gold:.2f}: {sample.prompt} |{sample.completion}")


if __name__ == "__main__":
    given = sys.argv[1:]
    tokens, seed, n_pairs = given + ["49152", "0", "200"][len(given) :]
    main(int(tokens), int(seed), int(n_pairs))
