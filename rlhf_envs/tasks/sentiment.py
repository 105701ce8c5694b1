"""Define the sentiment tasks: continue the opening of a real movie review so that it reads as praise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rlhf_envs.rewards.registry import get_reward
from rlhf_envs.tasks.base import Task

__all__ = ["HumanSentiment", "Sentiment"]


class Sentiment(Task):
    """Continue the opening of a real movie review so that it reads as praise.

    ## Description
    The prompts are the first 3 to 8 words of 5,500 movie reviews (4,000 train, 500 validation, 1,000 test), half of
    them from positive reviews. The agent writes on. A learned reward model scores how positive the text is.

    ## Observation space
    `input_ids` and `attention_mask`, (48,) each: a prompt of up to 16 tokens and up to 32 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    At the end of an episode the score of "tiny-reward", with mean 0 and standard deviation 1 over real reviews. The
    judge "gold" scores the same texts for reports; agents never train against it. The data's columns `reference` (how
    the review went on) and `label` (1 for a positive review) reach any reward function.

    ## Episode end
    EOS, or 32 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/Sentiment-v0")` needs none. It takes the arguments of `TextGenerationEnv`, such as `model`,
    `split`, `max_new_tokens`, `reward` and `data`.

    ## Version history
    v0: the first version.
    """

    name = "sentiment"
    default_reward = "tiny-reward"
    judges = ("gold",)
    default_data = "sentiment"
    max_prompt_tokens = 16
    max_new_tokens = 32


class HumanSentiment(Sentiment):
    """Continue the opening of a movie review so that people like it: `Sentiment` with people as the reward.

    ## Description
    The prompts are the same as in `Sentiment`. Finished completions go to a feedback store, and people's ratings are
    the scores. `HumanReward` documents when an episode waits for people and when a reward model answers in their place.

    ## Observation space
    `input_ids` and `attention_mask`, (48,) each, as in `Sentiment`.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    At the end of an episode the reward "human", in [-1, 1]. Pass `reward_kwargs={"store": "feedback.db"}` to ask people
    through that store. Without `reward_kwargs` nobody is asked, and "tiny-reward" answers.

    ## Episode end
    EOS, or 32 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/HumanSentiment-v0")` needs none. It takes the arguments of `TextGenerationEnv`;
    `reward_kwargs` go to `rlhf_envs.rewards.human.HumanReward`.

    ## Version history
    v0: the first version.
    """

    name = "human-sentiment"
    default_reward = "human"

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the human reward without a store."""
        return get_reward(self.default_reward, store=None)
