"""`QPolicy`: a Hugging Face causal language model as the Q network of a stock DQN."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from ...core.distribution import TokenDistribution
from ...core.kv_cache import SlottedTrunk
from ...core.language_model import TrainPart, hidden_states
from ...core.observations import check_token_ids, read_contexts
from ...core.policy import TokenPolicy

__all__ = ["QPolicy"]


class QPolicy(TokenPolicy):
    """A `TokenPolicy` that acts by Q values: `q_net` and `q_net_target` are what a stock `stable_baselines3.DQN` wants.

    `Q(s, a) = v(h) + u(h)_a`, both linear in the trunk's last hidden state h and 0 at the start, so that a new agent
    thinks all tokens equally good (Snell et al. 2022, https://arxiv.org/abs/2206.11871, put heads on the trunk too,
    with a hidden layer and random at the start). What learns is the trunk, or the part of it that `train` says, and the
    heads; the language model's own head does not. The target is a second trunk, which shares what is frozen, and heads.

    The language model as it was, the *reference*, stays by its side: read with `temperature`, `top_k` and `top_p` it is
    the *base* distribution. The policy takes the best of the tokens that the base gives any probability, and breaks
    ties by it; or, with `beta`, draws from `base(a) exp(beta Q(s, a))`, which is the reference itself at the start. So
    `get_distribution`, and all that reads it, goes on as with any `TokenPolicy`, and the KL to the reference is finite.

    Args:
        train: as in `TokenPolicy`.
        beta: how much a unit of Q counts against a nat of the base; None for the best token.
        top_k, top_p: of the reference. No other token is ever taken, and none enters the maximum of a target: Q of
            tokens that nobody takes is a guess, and a maximum over a vocabulary of guesses is too high (the case for
            it: BCQ, Fujimoto et al. 2019, https://arxiv.org/abs/1812.02900).
        temperature: divides the logits of the reference.

    The others are those of `TokenPolicy`.
    """

    is_language_model = False
    n_heads = 1
    learns_value = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        model: str | Any | None = None,
        train: TrainPart = "full",
        beta: float | None = None,
        temperature: float = 1.0,
        top_k: int | None = 32,
        top_p: float | None = None,
        bf16: bool = False,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if beta is not None and not beta >= 0:
            raise ValueError(f"beta={beta}: expected a number of at least 0, or None for the best token")
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            model=model,
            train=train,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            bf16=bf16,
            use_sde=use_sde,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self.beta = beta
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
        self._reference: tuple[SlottedTrunk, list[tuple[nn.Parameter, str]]] | None = None
        trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.optimizer.register_step_pre_hook(self._check_gradients)

    def _freeze_what_has_no_part(self) -> None:
        head, embedding = (
            self.language_model.model.get_output_embeddings(),
            self.language_model.model.get_input_embeddings(),
        )
        if head.weight is not embedding.weight:
            head.requires_grad_(False)
        self.value_net.requires_grad_(self.learns_value)

    @property
    def _trunk(self) -> Any:
        return self.language_model.model.base_model

    @property
    def q_net(self) -> nn.Module:
        """What DQN trains: observations to `(n, n_actions)`."""
        return self._nets[0]

    @property
    def q_net_target(self) -> nn.Module:
        """What DQN bootstraps from: observations to `(n, n_actions)`, -inf for tokens outside the base."""
        return self._nets[1]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters() | {"beta": self.beta}
        none_of_q = (
            "value",
            "micro_batch_size",
            "compile",
            "adversarial_coef",
            "adversarial_epsilon",
            "adversarial_steps",
        )
        return {k: v for k, v in parameters.items() if k not in none_of_q}

    # Values

    def q_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Q of all tokens, `(n, n_actions)`; of several heads `(n, n_heads, n_actions)`.

        With `rows` and `columns` in `obs`, a row of `input_ids` is a whole sequence and state i is its token
        `(rows[i], columns[i])`; else every row is one context.
        """
        assert isinstance(obs, dict)
        return self._heads_of(self.q_head(self.hidden(obs).float()))

    @torch.no_grad()
    def target_q_values(self, obs: PyTorchObs) -> torch.Tensor:
        """As `q_values`, by the target network, and -inf for the tokens that the policy would never take."""
        values = self.target_q(obs)
        if self.restricts:
            values.masked_fill_(self.base_log_probs(obs).isneginf()[:, None], -torch.inf)
        return self._heads_of(values)

    @torch.no_grad()
    def target_q(self, obs: PyTorchObs) -> torch.Tensor:
        """Q of all tokens and heads, `(n, n_heads, n_actions)`, by the target network."""
        assert isinstance(obs, dict)
        with self.autocast():
            hidden = _gather(self.target_trunk, obs)
        values: torch.Tensor = self.target_head(hidden.float())
        return values

    def _heads_of(self, values: torch.Tensor) -> torch.Tensor:
        """From `(n, n_heads, n_actions)` to what the algorithm reads."""
        return values[:, 0]

    @property
    def restricts(self) -> bool:
        """Whether the base leaves any token out."""
        return (self.top_k is not None and self.top_k < self.n_actions) or (self.top_p is not None and self.top_p < 1)

    def acting_values(self, obs: PyTorchObs) -> torch.Tensor:
        """The Q values `(n, n_actions)` that tokens are chosen by: of several heads, their mean."""
        return self._acting_values(self.q_head(self.hidden(obs).float()))

    def _acting_values(self, values: torch.Tensor) -> torch.Tensor:
        return values.mean(dim=1)

    @torch.no_grad()
    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """The value `(n, 1)` of contexts: Q of the best token that the base has."""
        values = self.acting_values(obs).masked_fill(self.base_log_probs(obs).isneginf(), -torch.inf)
        return values.amax(dim=1, keepdim=True)

    # The reference

    @torch.no_grad()
    def base_log_probs(self, obs: PyTorchObs) -> torch.Tensor:
        """Log-probabilities `(n, n_actions)` under the reference, -inf outside its top-k and top-p."""
        assert isinstance(obs, dict)
        with self.autocast():
            hidden = self._reference_hidden(obs)
            logits = self._as_reference(self.language_model.head, hidden)
        return self.decoding_logits(logits).log_softmax(dim=-1)

    def reference_decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """The reference's `(n, n_actions)` at the temperature: `top_k` and `top_p` are the agent's choice of tokens."""
        return logits[..., : self.n_actions] / self.temperature

    def _reference_hidden(self, obs: dict[str, torch.Tensor]) -> torch.Tensor:
        if not any(p.requires_grad for p in self._trunk.parameters()):  # it is still what it was
            return self.hidden(obs)
        cache = self._reference_cache()
        return _gather(cache.trunk, obs) if "rows" in obs else cache(*read_contexts(obs))

    def _reference_cache(self) -> SlottedTrunk:
        """A trunk whose parameters are the snapshot of the reference, in its memory, with a KV cache of its own."""
        if self._reference is None:
            module = copy.deepcopy(self._trunk).requires_grad_(False).to(self.device)
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
        """As `TokenPolicy`'s."""
        super().set_training_mode(mode)
        if mode and getattr(self, "_reference", None) is not None:
            assert self._reference is not None
            self._reference[0].clear()

    # Acting

    @torch.no_grad()
    def acting_and_base(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor]:
        """The log-probabilities of the policy and of the base, `(n, n_actions)` each."""
        base, values = self.base_log_probs(obs), self.acting_values(obs)
        if self.beta is not None:
            return (base + self.beta * values).log_softmax(dim=-1), base
        values = values.masked_fill(base.isneginf(), -torch.inf)
        best = values == values.amax(dim=1, keepdim=True)
        choice = base.masked_fill(~best, -torch.inf).argmax(dim=1, keepdim=True)
        return torch.full_like(base, -torch.inf).scatter_(1, choice, 0.0), base

    def get_distribution(self, obs: PyTorchObs) -> TokenDistribution:
        """The distribution of the next token of every context; all of it on one token without `beta`.

        Raises:
            FloatingPointError: the Q values are not finite.
            ValueError: the observations have been rescaled.
        """
        check_token_ids(obs)
        return TokenDistribution(self.n_actions).proba_distribution(self.acting_and_base(obs)[0])

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `TokenPolicy`'s: actions `(n,)`, values `(n, 1)` and log-probabilities `(n,)`."""
        distribution = self.get_distribution(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.predict_values(obs), distribution.log_prob(actions)

    @torch.no_grad()
    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values `(n, 1)`, log-probabilities `(n,)` and entropies `(n,)` of `n` actions, without gradients."""
        log_probs, _ = self.acting_and_base(obs)
        taken = log_probs.gather(1, actions.long().reshape(-1, 1)).squeeze(1)
        entropies = -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(dim=1)
        return self.predict_values(obs), taken, entropies

    def start_parameters(self) -> dict[str, tuple[nn.Parameter, torch.Tensor]]:
        """As `TokenPolicy`'s; the heads begin at 0."""
        heads = [(f"q_head.{name}", p) for name, p in self.q_head.named_parameters()]
        heads += [(f"value_net.{name}", p) for name, p in self.value_net.named_parameters()]
        return super().start_parameters() | {name: (p, torch.zeros_like(p)) for name, p in heads}


class _Heads(nn.Module):
    """`v(h) + u(h)_a` for each of `n_heads` heads: `(n, hidden_size)` to `(n, n_heads, n_actions)`; 0 at the start."""

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
    """A function of observations and the parameters that DQN moves with it, which belong to the policy."""

    def __init__(self, function: Callable[[PyTorchObs], torch.Tensor], learned: list[nn.Parameter]) -> None:
        super().__init__()
        self._function, self._learned = function, (learned,)

    def forward(self, obs: PyTorchObs) -> torch.Tensor:
        return self._function(obs)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The learned ones alone: what is frozen is shared with the target, which must not be mixed with itself."""
        return iter(self._learned[0])


def _gather(trunk: Any, obs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Hidden states `(n, hidden_size)` of the states in `obs`, by one pass and without any cache."""
    ids, lengths = read_contexts(obs)
    length = int(lengths.max())
    mask = (torch.arange(length, device=ids.device) < lengths[:, None]).long()
    hidden = hidden_states(trunk, ids[:, :length], mask)
    if "rows" in obs:
        return hidden[obs["rows"], obs["columns"]]
    return hidden[torch.arange(len(ids), device=ids.device), lengths - 1]
