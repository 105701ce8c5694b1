"""One PPO iteration with whole sequences against one row a token, side by side.

`python -m benchmarks.rollout_buffers` times whole iterations (rollout, reward, reference KL, epochs of updates) of the
same stock PPO on "tiny" with `SequenceRolloutBuffer` and with SB3's own `DictRolloutBuffer`, interleaved in one
process, and prints medians, spreads and the ratio. SB3's buffer charges no KL, which is in its favour.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer

from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env

BUFFERS = {"sequences": SequenceRolloutBuffer, "one row a token": DictRolloutBuffer}


def build(buffer: type, args: argparse.Namespace) -> PPO:
    env = make_vec_env(
        "rlhf/Sentiment-v0",
        args.n_envs,
        seed=0,
        max_prompt_tokens=args.prompt_tokens,
        max_new_tokens=args.new_tokens,
    )
    return PPO(
        TokenPolicy,
        env,
        learning_rate=1e-5,
        n_steps=args.new_tokens,
        batch_size=args.batch_size,
        n_epochs=args.epochs,
        gamma=1.0,
        seed=0,
        rollout_buffer_class=buffer,
        policy_kwargs={"model": "tiny"},
        device="cpu",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=16)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    tokens = args.n_envs * args.new_tokens
    agents = {name: build(buffer, args) for name, buffer in BUFFERS.items()}
    for agent in agents.values():
        agent.learn(tokens)  # warm up
    seconds: dict[str, list[float]] = {name: [] for name in agents}
    for _ in range(args.repeats):
        for name, agent in agents.items():
            start = time.perf_counter()
            agent.learn(tokens, reset_num_timesteps=False)
            seconds[name].append(time.perf_counter() - start)
    print(f"torch {torch.__version__}, {args.threads} threads, {vars(args)}")
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:>16}: {median:7.2f} s an iteration ({spread}), {tokens / median:6.0f} tokens/s")
    ratios = sorted(slow / fast for fast, slow in zip(*seconds.values(), strict=True))
    print(f"           ratio: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
