"""Reward hacking: without the KL penalty the agent learns to please the reward model, not to praise films.

Run `python examples/hacking_without_leash.py [tokens] [kl_coef] [seed]`; with kl_coef=0.1 the leash is on.

The proxy ("tiny-reward") is what the agent trains against. The judge ("gold") learned from other labels and never meets
the agent. Both rise at first. Then the proxy stays at its top while gold wavers, a little or a lot, depending on the
words that the agent happens to find: gold counts words, and a heap of praise is praise to it. What tells without fail
that no sentences are left is the perplexity under the untouched model, and the KL.
"""

from __future__ import annotations

import sys

from agents import evaluate, make

N_EVALUATIONS = 8
FIGURES = {"reward": "proxy", "gold": "gold", "kl": "KL", "perplexity": "perplexity", "distinct_bigrams": "distinct"}


def main(n_timesteps: int, kl_coef: float = 0.0, seed: int = 0, n_episodes: int = 128) -> None:
    agent = make("ppo", "rlhf/Sentiment-v0", n_envs=64, kl_coef=kl_coef, learning_rate=5e-4, batch_size=512, seed=seed)
    print("| tokens | " + " | ".join(FIGURES.values()) + " |\n" + "|---:" * (1 + len(FIGURES)) + "|")
    while True:
        evaluation = evaluate(agent, "rlhf/Sentiment-v0", n_episodes=n_episodes)
        estimates = evaluation.estimates()
        cells = [f"{estimates[name].mean:.2f} ± {estimates[name].sem:.2f}" for name in FIGURES]
        print(f"| {agent.num_timesteps:,} | {' | '.join(cells)} |", flush=True)
        if agent.num_timesteps >= n_timesteps:
            break
        agent.learn(max(n_timesteps // N_EVALUATIONS, 1), reset_num_timesteps=False)
    for sample, gold in list(zip(evaluation.completions, evaluation.judges["gold"], strict=True))[:5]:
        print(f"proxy {sample.reward:+.2f}, gold {gold:.2f}: {sample.prompt} |{sample.completion}")


if __name__ == "__main__":
    given = sys.argv[1:]
    tokens, kl_coef, seed = given + ["65536", "0", "0"][len(given) :]
    main(int(tokens), float(kl_coef), int(seed))
