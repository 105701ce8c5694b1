"""`TokenPolicy`: a Hugging Face causal language model as the policy of a stock Stable-Baselines3 agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from .adversarial import AdversarialRegulariser
from .checks import check_arguments, check_gradients, check_results, check_sizes
from .distribution import TokenDistribution, keep_top, log_probs_and_entropies, log_probs_without_gradients
from .kv_cache import Trunk
from .language_model import LanguageModel, Snapshot, TrainPart, hidden_states
from .models import find_model
from .observations import check_token_ids, micro_batches, read_contexts

__all__ = ["TokenPolicy"]


class TokenPolicy(ActorCriticPolicy):
    """An actor-critic policy whose actor is a causal language model and whose actions are tokens.

    Observations are the token environments' `Dict(input_ids, attention_mask)`, right-padded contexts of shape
    `(batch, length)`. Rollouts decode through a KV cache with one slot an environment (`SlottedTrunk`). Updates take
    either SB3's own samples, one row a token, or `SequenceRolloutBuffer`'s, one row a sequence.

    Args:
        model: a name that `rlhf_envs.models.resolve` knows ("tiny", a folder, a hub id), or a `PreTrainedModel`, which
            is trained in place. With None, "tiny" where the action space is its vocabulary, and else a small fresh
            model for the action space.
        train: what learns: "full", a number k (the last k blocks, the final norm and the heads) or "head" (k = 0, the
            two heads alone).
        value: "shared" reads the value from the actor's last hidden state, "separate" from a trunk of its own. The
            value head starts at 0.
        temperature: divides the logits, in sampling and in the log-probabilities of rollout and update alike.
        top_k, top_p: keep the k most probable tokens, or the smallest set of probability at least p. They too enter the
            log-probabilities. The token that was taken always counts as kept, so that an update which drops it from
            the set leaves its log-probability finite. The reference is read the same way: a token that only the policy
            keeps costs a finite KL, a little less than its due.
        bf16: run the model under bfloat16 autocast, in rollout and update; weights, values and log-probabilities stay
            float32.
        micro_batch_size: tokens (of contexts, with their padding) that an update holds in memory at a time. A minibatch
            is cut into parts of that size, whose gradients add up to the minibatch's own, at the price of one more
            forward pass (the parts are computed again for the backward pass, as in gradient checkpointing).
        compile: run the update's forward and backward passes through `torch.compile`; with `train="full"` only.
        adversarial_coef: weight in the loss of the KL between the policy and itself with the worst small change of its
            input embeddings, see `agents.core.adversarial`; 0 for no adversarial training.
        adversarial_epsilon: L2 norm of that change a token, in mean norms of the input embeddings.
        adversarial_steps: gradient steps that look for it; each costs a forward and a backward pass.
        optimizer_class, optimizer_kwargs: as in SB3; Adam, fused and with eps 1e-5, by default.

    Raises:
        ValueError: the spaces, the model and the arguments do not fit together.

    Attributes:
        is_language_model: whether the model that `save_pretrained` writes is all of the policy.
        reads_action_masks: whether tokens are chosen under the environment's action masks.
    """

    is_language_model: ClassVar[bool] = True
    reads_action_masks: ClassVar[bool] = False

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        model: str | Any | None = None,
        train: TrainPart = "full",
        value: Literal["shared", "separate"] = "shared",
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        bf16: bool = False,
        micro_batch_size: int | None = None,
        compile: bool = False,
        adversarial_coef: float = 0.0,
        adversarial_epsilon: float = 0.05,
        adversarial_steps: int = 1,
        use_sde: bool = False,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        check_arguments(observation_space, action_space, value, temperature, top_k, top_p, use_sde)
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size={micro_batch_size}: expected a number of tokens, or None")
        if compile and train != "full":
            raise ValueError(f"compile=True with train={train!r}: only the passes of train='full' are compiled")
        regulariser = AdversarialRegulariser(adversarial_coef, adversarial_epsilon, adversarial_steps)
        if compile and adversarial_coef:
            raise ValueError(f"compile=True with adversarial_coef={adversarial_coef}: a compiled pass is not perturbed")
        if optimizer_kwargs is None and optimizer_class is torch.optim.Adam:
            optimizer_kwargs = dict(eps=1e-5, fused=True)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
        )
        self._given_model = (model,)  # in a tuple: a module would be registered, and saved, twice
        self.train_part, self.value_kind = train, value
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self.bf16, self.micro_batch_size, self.compile_update = bf16, micro_batch_size, compile
        self.adversarial_settings = (adversarial_coef, adversarial_epsilon, adversarial_steps)
        self.adversarial = regulariser if adversarial_coef else None
        self.n_actions = int(action_space.n)  # type: ignore[attr-defined]
        self.max_length = int(observation_space["input_ids"].shape[0])  # type: ignore[index]
        network, self.model_name = find_model(model, action_space, self.max_length)
        self.language_model = LanguageModel(network, train)
        check_sizes(self.language_model, self.model_name, self.n_actions, self.max_length)
        self.value_trunk = self._copy_trunk() if value == "separate" else None
        self.value_net = nn.Linear(self.language_model.hidden_size, 1)
        nn.init.zeros_(self.value_net.weight)
        nn.init.zeros_(self.value_net.bias)
        self.reference = Snapshot(self.language_model.trained_parameters())
        self.register_buffer("kl_coef", torch.tensor(torch.nan))  # the adaptive coefficient, saved with the policy
        self.kl_coef: torch.Tensor
        trained = [p for p in self.parameters() if p.requires_grad]
        self.optimizer = optimizer_class(trained, lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
        self.optimizer.register_step_pre_hook(self._check_gradients)
        self._hidden_states = torch.compile(hidden_states, dynamic=True) if compile else hidden_states
        self._actor = Trunk(network.base_model, self.max_length, self.language_model)
        self._critic = self._actor
        if self.value_trunk is not None:
            self._critic = Trunk(self.value_trunk, self.max_length, self.language_model, like=self._actor)
        self.set_training_mode(False)

    # Construction

    def _build(self, lr_schedule: Schedule) -> None:
        """Nothing: SB3 would build its MLPs here; ours are built once the module exists."""

    def _copy_trunk(self) -> nn.Module:
        trunk = self.language_model.copy_trunk()
        if not any(p.requires_grad for p in trunk.parameters()):
            raise ValueError(
                f"value='separate' with train={self.train_part!r}: a second trunk that does not learn says what the "
                "first says; take value='shared', or train blocks"
            )
        return trunk

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return dict(
            observation_space=self.observation_space,
            action_space=self.action_space,
            lr_schedule=self._dummy_schedule,
            model=self._given_model[0],
            train=self.train_part,
            value=self.value_kind,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            bf16=self.bf16,
            micro_batch_size=self.micro_batch_size,
            compile=self.compile_update,
            adversarial_coef=self.adversarial_settings[0],
            adversarial_epsilon=self.adversarial_settings[1],
            adversarial_steps=self.adversarial_settings[2],
            optimizer_class=self.optimizer_class,
            optimizer_kwargs=self.optimizer_kwargs,
        )

    # Rollout

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Choose a token for every context.

        Returns:
            actions `(batch,)` int64, values `(batch, 1)` and log-probabilities `(batch,)`.
        """
        check_token_ids(obs)
        hidden = self.hidden(obs)
        value_hidden = hidden if self.value_trunk is None else self.hidden(obs, self._critic)
        distribution = self._distribution(hidden, *self.masks(obs))
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, self.value_net(value_hidden.float()), distribution.log_prob(actions)

    def get_distribution(self, obs: PyTorchObs) -> TokenDistribution:
        """The distribution of the next token of every context.

        Raises:
            FloatingPointError: the logits are not finite.
            ValueError: the observations have been rescaled.
        """
        check_token_ids(obs)
        # TRPO differentiates its KL twice, which of attention's kernels only the plain one can
        kernel = sdpa_kernel(SDPBackend.MATH) if torch.is_grad_enabled() else nullcontext()
        with kernel:
            hidden = self.hidden(obs)
        return self._distribution(hidden, *self.masks(obs))

    def _distribution(self, hidden: torch.Tensor, *masks: torch.Tensor) -> TokenDistribution:
        with self.autocast():
            logits = self.decoding_logits(self.language_model.head(hidden), None, *masks)
        return TokenDistribution(self.n_actions).proba_distribution(logits)

    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Values `(batch, 1)`; they know the policy they come from, so that the rollout buffer finds the reference."""
        values = self.value_net(self.hidden(obs, self._critic).float())
        values.policy = self
        return values

    def embedding(self) -> Any:
        """Return the module that turns the actor's token ids into vectors."""
        return self._actor.module.get_input_embeddings()  # type: ignore[operator]

    def hidden(self, obs: PyTorchObs, trunk: Trunk | None = None) -> torch.Tensor:
        """Return the last hidden states at the places where actions are chosen, shape `(n, hidden_size)`.

        Without gradients they come through the KV cache, unless `obs` has `rows`.

        Args:
            obs: observations, as in `evaluate_actions`.
            trunk: the trunk to run; the actor's by default.
        """
        with self.autocast():
            return self._hidden(obs, self._actor if trunk is None else trunk)

    def _hidden(self, obs: PyTorchObs, trunk: Trunk) -> torch.Tensor:
        assert isinstance(obs, dict)
        input_ids, lengths = read_contexts(obs)
        if "rows" not in obs and not torch.is_grad_enabled():
            return trunk.cache(input_ids, lengths)
        length = int(lengths.max())
        input_ids = input_ids[:, :length]
        mask = (torch.arange(length, device=input_ids.device) < lengths[:, None]).long()
        if "trunk_states" in obs and trunk.split is not None:
            hidden = trunk.split.finish(obs["trunk_states"][:, :length], input_ids, mask)
        else:
            hidden = self._hidden_states(trunk.module, input_ids, mask)
        if "rows" in obs:
            return hidden[obs["rows"], obs["columns"]]
        return hidden[torch.arange(len(input_ids), device=input_ids.device), lengths - 1]

    def set_training_mode(self, mode: bool) -> None:
        """Stay in evaluation mode: dropout would make the update's log-probabilities differ from the rollout's."""
        super().set_training_mode(False)
        if mode:  # an update comes: the slots will be of no use
            self._actor.cache.clear()
            self._critic.cache.clear()

    def autocast(self) -> torch.autocast:
        """Return the context in which the model runs: bfloat16 autocast with `bf16`, else float32."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    # Update

    def evaluate_actions(
        self, obs: PyTorchObs, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Values `(n, 1)`, log-probabilities `(n,)` and entropies `(n,)` of `n` actions.

        With `rows` and `columns` in `obs` (from `SequenceRolloutBuffer`), a row of `input_ids` is a whole sequence and
        action i was taken after its token `(rows[i], columns[i])`; else every row is one context and one action.
        """
        assert isinstance(obs, dict)
        actions = actions.long().flatten()
        if self.micro_batch_size is None:
            results = self._evaluate(obs, actions)
        else:
            order, parts = [], []
            for part, chosen in micro_batches(obs, self.micro_batch_size):
                order.append(chosen)
                # By its sequences: their activations are computed again in the backward pass and not kept until then.
                parts.append(checkpoint(self._evaluate, part, actions[chosen], use_reentrant=False))
            back = torch.cat(order).argsort()
            values, log_probs, entropies = (torch.cat(column)[back] for column in zip(*parts, strict=True))
            results = values, log_probs, entropies
        check_results(obs, *results, self.decode)
        if self.adversarial is not None:
            results = results[0], self.adversarial.attach(self, obs, results[1]), results[2]
        return results

    def _evaluate(
        self, obs: dict[str, torch.Tensor], actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with self.autocast():
            hidden = self.hidden(obs)
            value_hidden = hidden if self.value_trunk is None else self.hidden(obs, self._critic)
            log_probs, entropies = log_probs_and_entropies(
                self._logits, hidden, actions, self.language_model.vocab_size, *self.masks(obs)
            )
        return self.value_net(value_hidden.float()), log_probs, entropies

    def _logits(self, hidden: torch.Tensor, actions: torch.Tensor, *masks: torch.Tensor) -> torch.Tensor:
        return self.decoding_logits(self.language_model.head(hidden), actions, *masks)

    def masks(self, obs: PyTorchObs) -> tuple[torch.Tensor, ...]:
        """What a subclass forbids tokens by, `(n, ...)` each, for the n actions of `obs`: `allowed` reads it."""
        return ()

    def allowed(self, taken: torch.Tensor | None, *masks: torch.Tensor) -> torch.Tensor:
        """The tokens `(n, n_actions)` that may be chosen, bool, from what `masks` gave; never asked without masks."""
        raise NotImplementedError

    @torch.no_grad()
    def trunk_states(self, obs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """What the frozen blocks make of contexts, `(batch, length, hidden_size)`; None where they are not apart.

        Given back as `obs["trunk_states"]`, it spares `evaluate_actions` and `reference_log_prob` those blocks.
        """
        if self._actor.split is None:
            return None
        with self.autocast():
            return self._actor.split.states(obs["input_ids"], obs["attention_mask"])

    @torch.no_grad()
    def reference_log_prob(self, obs: dict[str, torch.Tensor], actions: torch.Tensor) -> torch.Tensor:
        """Log-probabilities `(n,)` under the reference, decoded as the policy is; `obs` as in `evaluate_actions`."""
        with self.autocast():
            masks = self.masks(obs)

        def reference_log_probs() -> torch.Tensor:
            hidden = self.hidden(obs)
            return log_probs_without_gradients(self._logits, hidden, actions, self.language_model.vocab_size, *masks)

        return self._as_reference(reference_log_probs)

    @torch.no_grad()
    def reference_logits(self, *inputs: torch.Tensor) -> torch.Tensor:
        """What `LanguageModel.logits` gives, of the model as it was before training."""
        return self._as_reference(self.language_model.logits, *inputs)

    def _as_reference(self, function: Callable[..., torch.Tensor], *args: torch.Tensor) -> torch.Tensor:
        """Call a function of the model as it was: only the parameters that learn have a second copy."""
        return self._with(self.reference, function, *args)

    def _with(self, snapshot: Snapshot, function: Callable[..., torch.Tensor], *args: torch.Tensor) -> torch.Tensor:
        """Call a function of the model with the parameters of a snapshot."""
        with self.autocast():
            result: torch.Tensor = torch.func.functional_call(
                self.language_model, snapshot.parameters_by_name(), (function, *args)
            )
        return result

    def _check_gradients(self, *_: object) -> None:
        check_gradients(self.named_parameters())

    def decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """The logits `(n, n_actions)` that tokens are drawn by, from the model's `(n, vocab_size)`.

        They are cut to the action space and divided by the temperature, and -inf outside top-k and top-p; `taken`
        tokens, `(n,)`, are always inside. What `masks` (of the method of that name) forbid is -inf before that.
        """
        logits = logits[..., : self.n_actions]
        if self.temperature != 1.0:
            logits = logits / self.temperature
        if masks:
            logits = logits.masked_fill(~self.allowed(taken, *masks), -torch.inf)
        return keep_top(logits, self.top_k, self.top_p, taken)

    def reference_decoding_logits(
        self, logits: torch.Tensor, taken: torch.Tensor | None = None, *masks: torch.Tensor
    ) -> torch.Tensor:
        """The logits that the reference's tokens would be drawn by: decoded as the policy's are."""
        return self.decoding_logits(logits, taken, *masks)

    def decode(self, ids: Any) -> str | list[int]:
        """The text of token ids, for people to read; the ids themselves where no tokenizer goes with the model."""
        from rlhf_envs.models import has_tokenizer, load_tokenizer

        if self.model_name is None or not has_tokenizer(self.model_name):
            return [int(i) for i in ids]
        return str(load_tokenizer(self.model_name).decode(ids))

    def start_parameters(self) -> dict[str, tuple[nn.Parameter, torch.Tensor]]:
        """What acts, as it is and as it was before training: parameters that learn, with their first values."""
        first = self.reference.parameters_by_name()
        return {name: (p, first[name]) for name, p in self.language_model.trained_parameters().items()}

    @contextmanager
    def at_start(self) -> Iterator[None]:
        """Let the policy be what it was before training, its reference, for as long as the `with` lasts."""
        start = self.start_parameters()
        learned = {name: parameter.data for name, (parameter, _) in start.items()}
        self.set_training_mode(True)  # empties its caches
        try:
            for parameter, first in start.values():
                parameter.data = first
            yield
        finally:
            for name, (parameter, _) in start.items():
                parameter.data = learned[name]
            self.set_training_mode(True)
            self.set_training_mode(False)

    # Saving

    def save_pretrained(self, directory: str | Path) -> None:
        """Write a plain Hugging Face model, and its tokenizer where the model was given by name."""
        from rlhf_envs.models import load_tokenizer, no_progress_bars

        with no_progress_bars():
            self.language_model.model.save_pretrained(directory)
        if self.model_name is not None:
            load_tokenizer(self.model_name).save_pretrained(directory)
