"""Stock Stable-Baselines3 PPO teaches a small language model to praise films: `python quickstart.py [tokens]`."""

import sys

from stable_baselines3 import PPO

from agents import SequenceRolloutBuffer, TokenPolicy, make_vec_env
from agents.evaluation import generate

env = make_vec_env("rlhf/Sentiment-v0", n_envs=64, seed=0)
text = dict(rollout_buffer_class=SequenceRolloutBuffer, rollout_buffer_kwargs=dict(kl_coef=0.1, kl_target=6.0))
model = PPO(TokenPolicy, env, 1e-4, n_steps=32, batch_size=512, n_epochs=4, gamma=1.0, vf_coef=0.1, seed=0, **text)
model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 32_768, progress_bar=True)
for sample in generate(model, "rlhf/Sentiment-v0", n_prompts=4):
    print(f"{sample.prompt} ->{sample.completion}")
