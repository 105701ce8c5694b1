"""Define the spam filter: read a text message, and answer spam or ham."""

from __future__ import annotations

from rlhf_envs.tasks.labels import LabelTask

__all__ = ["SpamFilter"]


class SpamFilter(LabelTask):
    """Read a text message, and answer whether it is spam or ham.

    ## Description
    The prompts are 2,512 English text messages, of which 512 are spam (1,582 train, 176 validation, 754 test). The
    agent answers with one word. `rlhf sft rlhf/SpamFilter-v0 start --epochs 0.5` teaches a model the form, `rlhf
    train --env rlhf/SpamFilter-v0 --model start` the rest. "tiny" itself answers with neither word, and learns nothing.

    ## Observation space
    `input_ids` and `attention_mask`, (100,) each: a prompt of up to 96 tokens and up to 4 new ones. A longer message
    loses its beginning.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    +w for the right word and -w for any other answer, where w weighs the classes equally: 0.62 for ham, 2.56 for spam.
    Evaluations report `balanced_accuracy`, `macro_f1` and `brier` (calibration) beside it.

    ## Episode end
    EOS, or 4 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/SpamFilter-v0")` needs none. `data` takes messages of your own, with the columns `prompt` (or
    `columns={"prompt": "text"}`) and `label`, "spam" or "ham". It takes the other arguments of `TextGenerationEnv`,
    such as `model`, `split` and `reward`.

    ## Version history
    v0: the first version.
    """

    name = "spam-filter"
    default_data = "spam"
    start = "--epochs 0.5"
    labels = ("ham", "spam")
    template = "Message: {text}\nSpam or ham:"
    max_prompt_tokens = 96
