"""Show PPO and A2C side by side in TensorBoard: two runs below one folder, under one set of tags.

Run `python examples/tensorboard_compare.py [tokens] [folder]`, then `tensorboard --logdir logs/compare`.
"""

from __future__ import annotations

import sys

from agents import TrainConfig, train


def main(n_timesteps: int, log_folder: str, n_test: int = 64) -> None:
    for algo in ("ppo", "a2c"):
        config = TrainConfig(
            algo=algo, n_timesteps=n_timesteps, log_folder=log_folder, eval_freq=0, test_episodes=n_test
        )
        result = train(config)
        change = result.after.change_from(result.before)
        print(f"{algo}: reward {change['reward']}, {result.seconds:.0f} s, in {result.folder}")
    print(f"tensorboard --logdir {log_folder}")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 32_768, arguments[1] if len(arguments) > 1 else "logs/compare")
