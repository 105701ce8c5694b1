"""Learn a reward from people: label pairs of completions, fit a reward model to the labels, train on it, and plot.

    python examples/people_in_the_loop.py [tokens] [pairs] [--person]     # a person: you label, at a web page

Else simulated annotators choose by "gold", with noise, and one in ten chooses at random. The agent never meets "gold",
but what was learned from the choices. The store keeps them: run it again, and more are added. `rlhf loop` does rounds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

import numpy as np
from matplotlib.figure import Figure

from agents import evaluate, generate, make
from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.simulated import annotate, simulated_crowd
from rlhf_envs.preferences import fit_bradley_terry, load_backbone, normalise
from rlhf_envs.preferences.crowd import aggregate_pairs
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.reward_model import RewardModel

ENV, STORE = "rlhf/Sentiment-v0", "people_in_the_loop.db"


def ask(store: FeedbackStore, agent: object, n: int, overlap: int) -> list[str]:
    """Put n pairs of the agent's completions of training prompts into the store, and return all the texts."""
    first = len(store.items())  # earlier runs have had other prompts
    prompts = np.random.default_rng(0).permutation(4000).take(range(first, first + n), mode="wrap")
    done = generate(agent, ENV, indices=np.repeat(prompts, 2), split="train", seed=first)
    pairs = [(one.prompt, (one.completion, other.completion)) for one, other in zip(done[::2], done[1::2], strict=True)]
    store.add_items([NewItem("pairwise", prompt, texts, overlap=overlap) for prompt, texts in pairs])
    return [prompt + text for prompt, texts in pairs for text in texts]


def wait_for_a_person(store: FeedbackStore) -> None:
    """Serve the page where pairs are judged, on a free port, until all of them are, or are skipped."""
    n_pairs, n_done = len(store.items()), -1
    page = subprocess.Popen([sys.executable, "-m", "agents.cli", "feedback", "serve", "--store", STORE, "--port", "0"])
    try:
        while n_done < n_pairs:
            if page.poll() is not None:
                sys.exit("the page has ended, what it said is above; the labels are kept")
            n_done = len({judgement.item_id for judgement in store.judgements(include_skips=True)})
            print(f"\r{n_done} of {n_pairs} pairs are done", end="\n" if n_done == n_pairs else " ", flush=True)
            time.sleep(1)
    finally:
        page.terminate()
        page.wait()


def fit(store: FeedbackStore, references: list[str]) -> RewardModel:
    """Fit a reward model to the aggregated labels, with mean 0 and standard deviation 1 over `references`."""
    rows = aggregate_pairs(store.items(), store.judgements())
    n = max(1, len(rows) // 5)
    model, tokenizer = load_backbone("tiny")
    fitted = fit_bradley_terry(model, tokenizer, rows[n:], rows[:n], epochs=2, learning_rate=2e-3)
    normalise(model, tokenizer, references)
    print(f"{len(rows)} labelled pairs; the reward model orders {fitted.accuracy:.0%} of {n} held-out ones as labelled")
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return RewardModel(folder)


def main(n_timesteps: int, n_pairs: int, person: bool) -> None:
    agent = make("ppo", ENV, n_envs=64, learning_rate=3e-4, batch_size=512, temperature=0.7, kl_coef=0.1, seed=0)
    with FeedbackStore(STORE) as store:
        texts = ask(store, agent, n_pairs, overlap=1 if person else 3)
        if person:
            wait_for_a_person(store)
        else:
            crowd = simulated_crowd(get_reward("gold"), 10, random_share=0.1, temperature=0.1)
            print(f"{annotate(store, crowd)} judgements by {len(crowd)} simulated annotators")
        reward = fit(store, texts)
    agent.get_env().set_attr("reward_fn", reward)
    points = []
    while not points or agent.num_timesteps < n_timesteps:
        if points:
            agent.learn(max(n_timesteps // 3, 1), reset_num_timesteps=False)
        estimates = evaluate(agent, ENV, n_episodes=128, env_kwargs={"reward_fn": reward}).estimates()
        points.append((agent.num_timesteps, estimates))
        print(f"{agent.num_timesteps:>7,} tokens: learned reward {estimates['reward']}, gold {estimates['gold']}")
    figure = Figure(figsize=(8, 3), layout="constrained")
    for axis, name in zip(figure.subplots(1, 2), ("reward", "gold"), strict=True):
        means, errors = ([getattr(e[name], of) for _, e in points] for of in ("mean", "sem"))
        axis.errorbar([tokens for tokens, _ in points], means, yerr=errors, fmt="o-", capsize=3)
        axis.set(title={"reward": "learned reward"}.get(name, name), xlabel="tokens")
    figure.savefig("people_in_the_loop.png")
    print("people_in_the_loop.png shows both, held-out prompts with standard errors")


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:] if text.isdecimal()]
    main(*(numbers + [24_576, 200][len(numbers) :]), person="--person" in sys.argv)
