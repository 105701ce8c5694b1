"""Stock Stable-Baselines3 PPO teaches a small language model to praise films: `python quickstart.py [tokens]`."""

import sys

from stable_baselines3 import PPO

from agents import SequenceRolloutBuffer, TokenPolicy, generate, make_vec_env

buffer = dict(rollout_buffer_class=SequenceRolloutBuffer, rollout_buffer_kwargs=dict(kl_coef=0.35, kl_target=6.0))
policy = dict(model="tiny", train="full", temperature=0.7, optimizer_kwargs=dict(eps=1e-8))
settings = dict(learning_rate=2.5e-4, n_steps=32, batch_size=512, n_epochs=1, gamma=1.0, vf_coef=0.1, seed=0)
model = PPO(TokenPolicy, make_vec_env("rlhf/Sentiment-v0", 32, seed=0), **settings, **buffer, policy_kwargs=policy)
model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 20_480, progress_bar=True)
for done in generate(model, "rlhf/Sentiment-v0", n_prompts=4):
    print(f"{done.prompt} ->{done.completion}")
