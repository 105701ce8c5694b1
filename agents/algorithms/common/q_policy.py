"""Define `QPolicy`: a Hugging Face causal language model as the Q network of a stock DQN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from rlhf_envs.models.adapters import adapter_layers

from ...core.base_policy import LanguageModelPolicy
from ...core.distribution import TokenDistribution
from ...core.forward_pass import hidden_states
from ...core.kv_cache import SlottedTrunk
from ...core.observations import check_token_ids, gather_hidden, read_contexts

__all__ = ["QPolicy"]


class QPolicy(LanguageModelPolicy):
    """Act by Q values: `q_net` and `q_net_target` are what a stock `stable_baselines3.DQN` trains.

    `Q(s, a) = v(h) + u(h)_a`, both linear in the trunk's last hidden state h. Both start at 0, so that a new agent
    finds all tokens equally good. (Snell et al. 2022, https://arxiv.org/abs/2206.11871, put heads on the trunk too,
    with a hidden layer and a random start.) What learns is the trunk, or the part of it that `train` names, and the
    heads. The language model's own head does not learn. The target network is a second trunk, which shares what is
    frozen, and a second set of heads.

    The reference, read with `temperature`, `top_k` and `top_p`, is the *base* distribution. The policy takes the best
    of the tokens to which the base gives any probability, and breaks ties by the base. With `beta` it draws from
    `base(a) exp(beta Q(s, a))`, which at the start is the base itself. The KL to the reference is therefore finite.

    Args:
        beta: how much one unit of Q counts against one nat of the base; None takes the best token.
        top_k, top_p: of the reference. No other token is ever taken, and none enters the maximum of a target. Q of
            tokens that nobody takes is a guess, and a maximum over a vocabulary of guesses is too high (BCQ makes the
            case for it: Fujimoto et al. 2019, https://arxiv.org/abs/1812.02900).

    The other arguments are `LanguageModelPolicy`'s: `model`, `train`, `lora`, `temperature` (which divides the logits
    of the reference), `bf16`, `dtype`, `attn_implementation`, `gradient_checkpointing`, `optimizer_class` and
    `optimizer_kwargs`.

    Attributes:
        n_heads: Q heads; a subclass may have more than one.
        learns_value: whether the value head learns.
    """

    is_language_model = False
    n_heads = 1
    learns_value = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        beta: float | None = None,
        top_k: int | None = 32,
        **kwargs: Any,
    ) -> None:
        if beta is not None and not beta >= 0:
            raise ValueError(f"beta={beta}: expected a number of at least 0, or None for the best token")
        self.beta = beta
        self._reference: tuple[SlottedTrunk, list[tuple[nn.Parameter, str]]] | None = None
        super().__init__(observation_space, action_space, lr_schedule, top_k=top_k, **kwargs)

    def _build_heads(self) -> None:
        super()._build_heads()
        self._freeze_what_has_no_part()
        self.q_head = _Heads(self.language_model.hidden_size, self.n_heads, self.n_actions)
        self.target_trunk = self.language_model.copy_trunk().requires_grad_(False)
        self.target_head = copy.deepcopy(self.q_head).requires_grad_(False)
        online = [*self._trunk.parameters(), *self.q_head.parameters()]
        shared = {id(p) for p in online}
        target = [*self.target_trunk.parameters(), *self.target_head.parameters()]
        self._nets = (  # in a tuple: they are views, and the parameters would be saved twice
            _Network(self.q_values, [p for p in online if p.requires_grad]),
            _Network(self.target_q_values, [p for p in target if id(p) not in shared]),
        )

    def _freeze_what_has_no_part(self) -> None:
        model = self.language_model.model
        if model.get_output_embeddings().weight is not model.get_input_embeddings().weight:
            model.get_output_embeddings().requires_grad_(False)
        self.value_net.requires_grad_(self.learns_value)

    @property
    def _trunk(self) -> Any:
        return self.language_model.trunk

    @property
    def q_net(self) -> nn.Module:
        """Return the network that DQN trains: observations to `(n, n_actions)`."""
        return self._nets[0]

    @property
    def q_net_target(self) -> nn.Module:
        """Return the network that DQN bootstraps from: observations to `(n, n_actions)`, -inf outside the base."""
        return self._nets[1]

    # Values

    def q_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Return Q of all tokens, `(n, n_actions)`; with several heads `(n, n_heads, n_actions)`.

        The n states are the places that `LanguageModelPolicy.hidden` reads.
        """
        return self._heads_of(self.q_head(self.hidden(obs).float()))

    @torch.no_grad()
    def target_q_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Return what `q_values` returns, by the target network, with -inf for tokens that the policy never takes."""
        values = self.target_q(obs)
        if self.restricts:
            values.masked_fill_(self.base_log_probs(obs).isneginf()[:, None], -torch.inf)
        return self._heads_of(values)

    @torch.no_grad()
    def target_q(self, obs: PyTorchObs) -> torch.Tensor:
        """Return Q of all tokens and heads by the target network, `(n, n_heads, n_actions)`."""
        assert isinstance(obs, dict)
        with self.autocast():
            hidden = gather_hidden(partial(hidden_states, self.target_trunk), obs, self._actor.packs)
        values: torch.Tensor = self.target_head(hidden.float())
        return values

    def _heads_of(self, values: torch.Tensor) -> torch.Tensor:
        """Return what the algorithm reads of `(n, n_heads, n_actions)` values."""
        return values[:, 0]

    @property
    def restricts(self) -> bool:
        """Return whether the base leaves any token out."""
        return (self.top_k is not None and self.top_k < self.n_actions) or (self.top_p is not None and self.top_p < 1)

    def acting_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Return the Q values that tokens are chosen by, `(n, n_actions)`: the mean of the heads."""
        values: torch.Tensor = self.q_head(self.hidden(obs).float())
        return values.mean(dim=1)

    @torch.no_grad()
    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Return the value of each context, `(n, 1)`: Q of the best token in the base."""
        values = self.acting_values(obs).masked_fill(self.base_log_probs(obs).isneginf(), -torch.inf)
        return values.amax(dim=1, keepdim=True)

    # The reference

    @torch.no_grad()
    def base_log_probs(self, obs: PyTorchObs) -> torch.Tensor:
        """Return the log-probabilities of the base, `(n, n_actions)`: -inf outside the reference's top-k and top-p."""
        assert isinstance(obs, dict)
        with self.autocast():
            hidden = self._reference_hidden(obs)
            logits = self._as_reference(self.language_model.head, hidden)
        return self.decoding_logits(logits).log_softmax(dim=-1)

    def reference_decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """Return the reference's logits at the temperature, `(n, n_actions)`.

        `top_k` and `top_p` do not enter: they are the agent's choice of tokens.
        """
        return logits[..., : self.n_actions] / self.temperature

    def _reference_hidden(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        if not any(p.requires_grad for p in self._trunk.parameters()):  # the trunk is still the reference's
            return self.hidden(obs)
        cache = self._reference_cache()
        if "rows" in obs:
            return gather_hidden(partial(hidden_states, cache.trunk), obs, self._actor.packs)
        return cache(*read_contexts(obs))

    def _reference_cache(self) -> SlottedTrunk:
        """Return the reference's trunk, with a KV cache of its own; its parameters are the snapshot's memory."""
        if self._reference is None:
            module = self.language_model.copy_trunk().requires_grad_(False).to(self.device)
            for layer in adapter_layers(module).values():
                layer.enable_adapters(False)
            names = {id(p): name for name, p in self.language_model.named_parameters()}
            pairs = [
                (mine, names[id(p)])
                for mine, p in zip(module.parameters(), self._trunk.parameters(), strict=True)
                if p.requires_grad
            ]
            self._reference = SlottedTrunk(module, self.max_length, self._actor.cache.enabled), pairs
        cache, pairs = self._reference
        snapshot = self.reference.parameters_by_name()
        moved = [(mine, snapshot[name]) for mine, name in pairs if mine.data_ptr() != snapshot[name].data_ptr()]
        if moved:
            cache.trunk.to(self.device)
            cache.clear()
            for mine, value in moved:
                mine.data = value
        return cache

    def set_training_mode(self, mode: bool) -> None:
        """Stay in evaluation mode, as in `LanguageModelPolicy`; with True the reference's KV cache is emptied too."""
        super().set_training_mode(mode)
        if mode and self._reference is not None:
            self._reference[0].clear()

    # Acting

    @torch.no_grad()
    def acting_and_base(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the log-probabilities of the policy and of the base, `(n, n_actions)` each."""
        base, values = self.base_log_probs(obs), self.acting_values(obs)
        if self.beta is not None:
            return (base + self.beta * values).log_softmax(dim=-1), base
        values = values.masked_fill(base.isneginf(), -torch.inf)
        best = values == values.amax(dim=1, keepdim=True)
        choice = base.masked_fill(~best, -torch.inf).argmax(dim=1, keepdim=True)
        return torch.full_like(base, -torch.inf).scatter_(1, choice, 0.0), base

    def get_distribution(self, obs: PyTorchObs) -> TokenDistribution:
        """Return the distribution of the next token of every context; without `beta` it is all on one token.

        Raises:
            FloatingPointError: the Q values are not finite.
            ValueError: the observations have been rescaled.
        """
        check_token_ids(obs)
        return TokenDistribution(self.n_actions).proba_distribution(self.acting_and_base(obs)[0])

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose a token for every context: actions `(n,)`, values `(n, 1)` and log-probabilities `(n,)`."""
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    @torch.no_grad()
    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return values `(n, 1)`, log-probabilities `(n,)` and entropies `(n,)` of n actions, without gradients."""
        log_probs, _ = self.acting_and_base(obs)
        taken = log_probs.gather(1, actions.long().reshape(-1, 1)).squeeze(1)
        entropies = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(dim=1)
        return self.predict_values(obs), taken, entropies

    def start_parameters(self) -> dict[str, tuple[nn.Parameter, torch.Tensor]]:
        """Return the parameters that learn and act, by name, each with its first value; the heads' is 0."""
        heads = nn.ModuleDict({"q_head": self.q_head, "value_net": self.value_net}).named_parameters()
        return super().start_parameters() | {name: (p, torch.zeros_like(p)) for name, p in heads}


class _Heads(nn.Module):
    """Compute `v(h) + u(h)_a` per head, `(n, hidden_size)` to `(n, n_heads, n_actions)`; 0 at the start."""

    def __init__(self, hidden_size: int, n_heads: int, n_actions: int) -> None:
        super().__init__()
        self.shape = (n_heads, n_actions)
        self.value = nn.Linear(hidden_size, n_heads)
        self.advantage = nn.Linear(hidden_size, n_heads * n_actions)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = self.advantage(hidden).view(-1, *self.shape) + self.value(hidden)[:, :, None]
        return values


class _Network(nn.Module):
    """Show DQN one function of observations as a network, with the policy's parameters that it moves."""

    def __init__(self, function: Callable[[PyTorchObs], torch.Tensor], learned: list[nn.Parameter]) -> None:
        super().__init__()
        self._function, self._learned = function, (learned,)

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        return self._function(obs)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return the parameters that learn; frozen ones are shared with the target, and moving them is meaningless."""
        return iter(self._learned[0])
