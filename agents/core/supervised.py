"""Train on data beside the reward: PPO-ptx, a supervised loss in the loss of any algorithm.

Paper: Ouyang et al. 2022, "Training language models to follow instructions with human feedback",
https://arxiv.org/abs/2203.02155, equation 2. Its RL objective gains gamma times the mean log-likelihood of pretraining
data, which keeps what RL would unlearn. Here `sft_coef` is gamma: each minibatch of an algorithm draws a batch of the
data, and `sft_coef` times the batch's mean cross-entropy, in nats per token, is added to the loss
(`agents.core.added_loss`). Departures:

- The data are whatever `rlhf sft` reads. A prompt gives context and no loss; a row with an empty prompt is learned
  whole, as the paper's pretraining data are.
- The mean is over tokens and not over texts, so that the weight does not depend on their length.
- The model is read as it is, at temperature 1, without top-k, top-p and masks, however the agent decodes.
- Frozen blocks run again for every batch: their output for all of the data would take more memory than it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from rlhf_envs.chat_format import ChatFormat
from rlhf_envs.models import has_tokenizer, load_tokenizer
from rlhf_envs.tokens import end_ids

from .added_loss import add_loss
from .base_policy import LanguageModelPolicy
from .distribution import log_probs_and_entropies
from .examples import IGNORED, Example, read_examples
from .observations import micro_batches

__all__ = ["SupervisedData", "SupervisedLoss", "open_data"]

SupervisedData = str | Path | Sequence[Mapping[str, Any]] | None


class SupervisedLoss:
    """Add a supervised loss to the loss of one policy. It owns no parameters, so it is no module.

    Every call of `evaluate_actions` whose log-probabilities a loss differentiates draws a batch and adds its loss once.
    Each pass over the data has an order of its own, which the seed and the number of the pass determine. So the
    policy's `sft_state`, an int64 tensor of the seed and of how many examples have been drawn, is all that exact resume
    needs, and no other random number changes.

    Args:
        coef: factor of the mean cross-entropy in the loss.
        data: a file or rows. Only its training split is learned.
        batch_size: tokens of the examples of a batch, with their prompts; the last example may exceed it.

    Raises:
        ValueError: an argument is out of range, or `coef` is above 0 without data.
    """

    def __init__(self, coef: float, data: SupervisedData, batch_size: int = 512) -> None:
        if not 0 <= coef < float("inf"):
            raise ValueError(f"sft_coef={coef}: expected a number of at least 0; 0 is no supervised loss")
        if data is None and coef:
            raise ValueError(
                f"sft_coef={coef} without data: give the file that the supervised loss is on, such as "
                "sft_data='good.jsonl', or rows of {prompt, completion} or {messages}"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"sft_batch_size={batch_size!r}: expected a number of tokens, at least 1")
        self.coef, self.data, self.batch_size = coef, data, batch_size
        self.named_by: str | None = None  # the bundle that names the file, which is not read because of that
        self._examples: list[Example] = []
        self._order = (-1, np.zeros(0, np.int64))  # the number of a pass, and its order
        self._sum, self._count = torch.zeros(()), 0  # of the losses since `take_metrics`

    def open(self, policy: LanguageModelPolicy, env: Any = None) -> None:
        """Read the data, unless that is done.

        Args:
            policy: the policy, which reads contexts of at most its `max_length` tokens.
            env: the SB3 `VecEnv` whose chat options the data are read by. Without a text environment, conversations are
                written by the model's own chat template.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a row is wrong, nothing is left to learn, there is no tokenizer, or a bundle names the file.
        """
        if self._examples:
            return
        if self.named_by is not None and isinstance(self.data, str | Path):
            raise ValueError(
                f"sft_data names {str(self.data)!r}, which is not read just because {self.named_by} says so: pass it, "
                f"agents.load(..., policy_kwargs={{'sft_data': {str(self.data)!r}}})"
            )
        assert self.data is not None
        chat, ends = _form(policy, env)
        self._examples = read_examples(self.data, chat, policy.max_length, ends)

    def attach(
        self,
        policy: LanguageModelPolicy,
        state: torch.Tensor,
        log_probs: torch.Tensor,
        micro_batch_size: int | None = None,
    ) -> torch.Tensor:
        """Return the log-probabilities `(n,)`, unchanged; their backward pass adds the gradient of a batch's loss.

        `state` is the policy's `sft_state`, which moves on, and `micro_batch_size` is `TokenPolicy`'s.
        """
        if not torch.is_grad_enabled():
            return log_probs
        self.open(policy)
        obs, targets = as_batch(self._draw(state), policy.device)
        if micro_batch_size is None:
            total = _total(policy, obs, targets)
        else:  # the activations of a part are computed again in the backward pass
            parts = micro_batches(obs, micro_batch_size)
            sums = [checkpoint(_total, policy, part, targets[places], use_reentrant=False) for part, places in parts]
            total = torch.stack(sums).sum()
        loss = total / len(targets)
        self._sum, self._count = loss.detach() + self._sum.to(loss.device), self._count + 1
        return add_loss(log_probs, loss, self.coef)

    def _draw(self, state: torch.Tensor) -> list[Example]:
        """Return the next batch, and move the state on."""
        seed, drawn = state.tolist()
        examples: list[Example] = []
        tokens = 0
        while tokens < self.batch_size:
            number, place = divmod(drawn, len(self._examples))
            if self._order[0] != number:
                self._order = number, np.random.default_rng((seed, number)).permutation(len(self._examples))
            examples.append(self._examples[self._order[1][place]])
            tokens += len(examples[-1].ids)
            drawn += 1
        state[1] = drawn
        return examples

    def take_metrics(self) -> dict[str, float]:
        """Return `sft_loss`, the mean loss in nats per token since the last call; {} if there was no update."""
        total, n = self._sum, self._count
        self._sum, self._count = torch.zeros(()), 0
        return {"sft_loss": float(total) / n} if n else {}


def open_data(agent: Any) -> None:
    """Read the data of an agent's supervised loss, if it has one, by the chat options of its environment.

    Agents of this package call it. For a stock SB3 agent, call it before `learn`, or the data are read in the first
    update, by the model's own chat template.

    Raises:
        FileNotFoundError, ValueError: as `SupervisedLoss.open`.
    """
    policy: Any = getattr(agent, "policy", None)
    if isinstance(term := getattr(policy, "sft", None), SupervisedLoss):
        term.open(policy, agent.get_env())


def as_batch(
    examples: Sequence[Example], device: torch.device | str = "cpu"
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return n tokens to learn, `(n,)` int64, and the observations that `LanguageModelPolicy.hidden` reads for them.

    The observations are right-padded `input_ids` and `attention_mask`, `(batch, length)`, and the `rows` and `columns`
    `(n,)` of the tokens before those to learn.
    """
    length = max(len(example.ids) for example in examples) - 1  # the last token predicts none
    ids, mask, labels = (np.full((len(examples), length), fill, np.int64) for fill in (0, 0, IGNORED))
    for row, example in enumerate(examples):
        n = len(example.ids) - 1
        ids[row, :n], mask[row, :n], labels[row, :n] = example.ids[:-1], 1, example.labels[1:]
    rows, columns = np.nonzero(labels != IGNORED)
    arrays = {"input_ids": ids, "attention_mask": mask, "rows": rows, "columns": columns}
    obs = {name: torch.as_tensor(array, device=device) for name, array in arrays.items()}
    return obs, torch.as_tensor(labels[rows, columns], device=device)


def _total(policy: LanguageModelPolicy, obs: dict[str, torch.Tensor], targets: torch.Tensor) -> torch.Tensor:
    """Return the sum of the cross-entropies of the tokens `targets`, a scalar."""
    model, hidden = policy.language_model, policy.hidden(obs)
    with policy.autocast():
        log_probs, _ = log_probs_and_entropies(
            lambda hidden, _: model.head(hidden)[:, : policy.n_actions], hidden, targets, model.vocab_size
        )
    return -log_probs.sum()


def _form(policy: LanguageModelPolicy, env: Any) -> tuple[ChatFormat, Sequence[int]]:
    """Return how conversations are written, and the ids that end completions: the environment's, else the model's."""
    if env is not None and env.has_attr("episodes"):
        episodes = env.get_attr("episodes", 0)[0]
        return episodes.chat, episodes.ends
    name = policy.model_name
    if name is None or not has_tokenizer(name):
        raise ValueError(
            "sft_data has texts, and neither the environment nor the model has a tokenizer: name the model, or call "
            "agents.core.supervised.open_data(agent) with a text environment"
        )
    tokenizer = load_tokenizer(name)
    return ChatFormat(tokenizer), end_ids(tokenizer, name)
