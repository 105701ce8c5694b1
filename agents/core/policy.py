"""Define `TokenPolicy`: a Hugging Face causal language model as the policy of a stock Stable-Baselines3 agent."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from . import ranks
from .adversarial import AdversarialRegulariser
from .base_policy import LanguageModelPolicy
from .checks import check_results
from .distribution import TokenDistribution, check_rows, log_probs_and_entropies, log_probs_without_gradients
from .forward_pass import hidden_states
from .graph_decode import Graphs
from .language_model import TrainPart
from .last_values import LastValues
from .observations import check_token_ids, micro_batches
from .supervised import SupervisedData, SupervisedLoss
from .trunk import Trunk

__all__ = ["TokenPolicy"]

Evaluated = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class TokenPolicy(LanguageModelPolicy):
    """Act as a causal language model does, and learn as an actor-critic policy.

    Updates take either SB3's own samples, one row per token, or `SequenceRolloutBuffer`'s, one row per sequence.

    Args:
        value: "shared" reads the value from the actor's last hidden state, "separate" from a trunk of its own. The
            value head starts at 0.
        micro_batch_size: how many tokens (of contexts, with their padding) an update holds in memory at a time. A
            minibatch is cut into parts of that size, and the gradients of the parts add up to the minibatch's own. It
            costs one more forward pass: the parts are computed again in the backward pass, as in gradient
            checkpointing.
        compile: run the update's forward and backward passes through `torch.compile`. Needs `train="full"`.
        adversarial_coef: weight in the loss of the KL between the policy and itself under the worst small change of its
            input embeddings, see `agents.core.adversarial`; 0 for no adversarial training.
        adversarial_epsilon: L2 norm of that change for one token, in mean norms of the input embeddings.
        adversarial_steps: gradient steps that look for it. Each costs one forward and one backward pass.
        sft_coef: weight in the loss of the mean cross-entropy of `sft_data`, see `agents.core.supervised`; 0 for none.
        sft_data: a file or rows that `rlhf sft` reads: `{prompt, completion}` or `{messages}`. Only the training split
            is learned. Texts that are longer than a context are cut, and counted in the log.
        sft_batch_size: tokens of it that are learned beside each minibatch, with their prompts.

    The other arguments are `LanguageModelPolicy`'s: `model`, `train`, `lora`, `temperature`, `top_k`, `top_p`, `bf16`,
    `dtype`, `attn_implementation`, `gradient_checkpointing`, `optimizer_class` and `optimizer_kwargs`.

    Raises:
        ValueError: the spaces, the model and the arguments do not fit together.

    Attributes:
        draw_instead: what draws the tokens in the place of `forward`; None, except while an engine draws a rollout.
        sft_state: int64 `(2,)`, with a supervised loss: its seed, and how many examples have been drawn.
    """

    reads_pictures = True
    shardable = True
    draw_instead: Callable[[dict[str, torch.Tensor]], Evaluated] | None = None
    _at_last_values = False  # whether SB3 asks next for the values after a rollout
    sft_state: torch.Tensor

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        model: str | Any | None = None,
        train: TrainPart = "full",
        value: Literal["shared", "separate"] = "shared",
        micro_batch_size: int | None = None,
        compile: bool = False,
        adversarial_coef: float = 0.0,
        adversarial_epsilon: float = 0.05,
        adversarial_steps: int = 1,
        sft_coef: float | None = None,
        sft_data: SupervisedData = None,
        sft_batch_size: int = 512,
        **kwargs: Any,
    ) -> None:
        if value not in ("shared", "separate"):
            raise ValueError(f"value={value!r}: expected 'shared' or 'separate'")
        if micro_batch_size is not None and micro_batch_size < 1:
            raise ValueError(f"micro_batch_size={micro_batch_size}: expected a number of tokens, or None")
        regulariser = AdversarialRegulariser(adversarial_coef, adversarial_epsilon, adversarial_steps)
        if compile and adversarial_coef:
            raise ValueError(f"compile=True with adversarial_coef={adversarial_coef}: a compiled pass is not perturbed")
        if sft_coef is None and sft_data is not None:
            shown = repr(str(sft_data)) if isinstance(sft_data, str | Path) else f"[{len(sft_data)} rows]"
            raise ValueError(f"sft_data={shown} without a weight in the loss: give it too, such as sft_coef=0.1")
        supervised = SupervisedLoss(sft_coef or 0.0, sft_data, sft_batch_size)
        self.value_kind, self.micro_batch_size, self.compile_update = value, micro_batch_size, compile
        self.adversarial = regulariser if adversarial_coef else None
        self.sft = supervised if sft_coef else None
        super().__init__(observation_space, action_space, lr_schedule, model=model, train=train, **kwargs)

    # Construction

    def _build_heads(self) -> None:
        if self.compile_update and self.train_part != "full":
            raise ValueError(
                f"compile=True with train={self.train_part!r}: only the passes of train='full' are compiled"
            )
        if self.compile_update and self.gradient_checkpointing:
            raise ValueError("compile=True with gradient_checkpointing=True: take micro_batch_size instead")
        if self.compile_update:
            self._actor.run = torch.compile(hidden_states, dynamic=True)
            self._actor.packs = False  # packed rows are found by looking at positions, which is not compiled
        self.value_trunk = None
        self._critic = self._actor
        if self.value_kind == "separate":
            self.value_trunk = self.language_model.copy_trunk()
            if not any(p.requires_grad for p in self.value_trunk.parameters()):
                raise ValueError(
                    f"value='separate' with train={self.train_part!r}: a second trunk that does not learn computes the "
                    "same as the first; take value='shared', or train blocks"
                )
            self._critic = Trunk(
                self.value_trunk, self.max_length, self.language_model, self._actor, self.gradient_checkpointing
            )
        super()._build_heads()
        self._choosing = None if self._actor.cache.graphs is None else Graphs()
        if self.sft is not None:
            self.register_buffer("sft_state", torch.tensor([torch.initial_seed() % 2**63, 0]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load the state of a policy with or without a supervised loss, whether this one has such a loss or not."""
        name = f"{prefix}sft_state"
        if self.sft is None:
            state_dict.pop(name, None)
        else:
            state_dict.setdefault(name, self.sft_state)
        super()._load_from_state_dict(state_dict, prefix, *args)

    # Rollout

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> Evaluated:
        """Choose a token for every context.

        On a GPU with CUDA graphs the results lie in the host's memory, where SB3 wants them: they come in one copy.

        Returns:
            actions `(batch,)` int64, values `(batch, 1)` and log-probabilities `(batch,)`. The values carry
            `values.policy`, and `values.last_call`, by which the rollout buffer reads the frozen blocks' output for
            these contexts.
        """
        check_token_ids(obs)
        assert isinstance(obs, dict)
        self._at_last_values = False
        actions, values, log_probs = (self.draw_instead or partial(self._act, deterministic=deterministic))(obs)
        values.policy = self  # type: ignore[attr-defined]
        return actions, values, log_probs

    def _act(self, obs: dict[str, torch.Tensor], deterministic: bool) -> Evaluated:
        hidden, value_hidden = self._both_hidden(obs)
        last_call, masks = self._actor.last_call(), self.masks(obs)
        plain = not (masks or deterministic or torch.is_grad_enabled())  # what a mask forbids is checked on the host
        if plain and self._choosing is not None and self._choosing.usable(hidden.device):
            actions, values, log_probs = self._choose_by_graph(self._choosing, hidden, value_hidden)
        else:
            distribution = self.distribution_after(hidden, *masks)
            actions = distribution.get_actions(deterministic=deterministic)
            values, log_probs = self.value_net(value_hidden.float()), distribution.log_prob(actions)
        values.last_call = last_call  # type: ignore[attr-defined]
        return actions, values, log_probs

    def _choose_by_graph(self, graphs: Graphs, hidden: torch.Tensor, value_hidden: torch.Tensor) -> Evaluated:
        draws = torch.rand((len(hidden), 1), dtype=torch.float64, device=hidden.device)
        heads = (self.language_model.model.get_output_embeddings(), self.value_net)
        addresses = [parameter.data_ptr() for head in heads for parameter in head.parameters()]
        decoding = (self.temperature, self.top_k, self.top_p)
        graphs.fit(hidden.device, (hidden.shape, hidden.dtype, value_hidden.dtype, *decoding, *addresses))
        chosen = graphs.run("choose", self._choose, hidden, value_hidden, draws)
        assert chosen is not None
        actions, values, log_probs = chosen.cpu().T
        check_rows(log_probs)
        return actions.long(), values[:, None].float(), log_probs.float()

    def _choose(self, hidden: torch.Tensor, value_hidden: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Return actions, values and log-probabilities, `(n, 3)` float64, without asking the device for a number."""
        with self.autocast():
            logits = self.action_logits(hidden, None)
        distribution = TokenDistribution(self.n_actions).proba_distribution(logits, check=False)
        actions = distribution.sample(draws)
        values = self.value_net(value_hidden.float()).squeeze(1)
        return torch.stack([actions.double(), values.double(), distribution.log_prob(actions).double()], dim=1)

    def get_distribution(self, obs: PyTorchObs) -> TokenDistribution:
        """Return the distribution of the next token of every context.

        Raises:
            FloatingPointError: the logits are not finite.
            ValueError: the observations have been rescaled.
        """
        check_token_ids(obs)
        # TRPO differentiates its KL twice, which only attention's plain kernel can do.
        with sdpa_kernel(SDPBackend.MATH) if torch.is_grad_enabled() else nullcontext():
            hidden = self.hidden(obs)
        return self.distribution_after(hidden, *self.masks(obs))

    def predict_values(self, obs: PyTorchObs) -> torch.Tensor:
        """Return the values, shape `(batch, 1)`.

        The tensor carries `values.policy`, because SB3 hands the rollout buffer nothing else, and the buffer needs the
        policy for the reference's log-probabilities. After a rollout (`await_last_values`) it is a `LastValues`.
        """
        if self._at_last_values and not torch.is_grad_enabled():
            self._at_last_values = False
            assert isinstance(obs, dict)
            return LastValues.of(self, obs)
        values = self.values_of(obs)
        values.policy = self  # type: ignore[attr-defined]
        return values

    def values_of(self, obs: PyTorchObs, needed: torch.Tensor | None = None) -> torch.Tensor:
        """Return the values, `(batch, 1)`. Rows that are not `needed`, `(batch,)` bool, may get any number."""
        values: torch.Tensor = self.value_net(self.hidden(obs, self._critic, needed).float())
        return values

    def await_last_values(self) -> None:
        """Say that a rollout buffer is full: SB3 asks next for the values that the buffer bootstraps with."""
        self._at_last_values = True

    def _hidden_and_values(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor]:
        hidden, value_hidden = self._both_hidden(obs)
        return hidden, self.value_net(value_hidden.float())

    def _both_hidden(self, obs: PyTorchObs) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the hidden states that actions are chosen by, and the critic's, `(n, hidden_size)` each."""
        hidden = self.hidden(obs)
        return hidden, hidden if self.value_trunk is None else self.hidden(obs, self._critic)

    def set_training_mode(self, mode: bool) -> None:
        """Stay in evaluation mode, as in `LanguageModelPolicy`; with True the critic's KV cache is emptied too."""
        super().set_training_mode(mode)
        if mode:
            self._critic.cache.clear()
            self._at_last_values = False

    # Update

    def evaluate_actions(self, obs: PyTorchObs, actions: torch.Tensor) -> Evaluated:
        """Return values `(n, 1)`, log-probabilities `(n,)` and entropies `(n,)` of `n` actions.

        With `rows` and `columns` in `obs` (from `SequenceRolloutBuffer`), a row of `input_ids` is a whole sequence and
        action i was taken after its token `(rows[i], columns[i])`. Otherwise every row is one context and one action.

        In a data-parallel run the results are this rank's part of all ranks' (`agents.core.ranks.AllRanks`), and their
        backward pass sums the gradients of the ranks.

        Raises:
            FloatingPointError: a result is not finite; the message shows its context.
        """
        assert isinstance(obs, dict)
        actions = actions.to(self.device).long().flatten()
        if self.micro_batch_size is None:
            run = (lambda function, *args: function(*args)) if self.shards is None else self.shards.run
            results = run(self._evaluate, obs, actions)
        else:
            results = self._evaluate_in_parts(obs, actions, self.micro_batch_size)
        check_results(obs, results, self.decode)
        if self.adversarial is not None:
            values, log_probs, entropies = results
            results = values, self.adversarial.attach(self, obs, log_probs, self.micro_batch_size), entropies
        if self.sft is not None:
            values, log_probs, entropies = results
            results = values, self.sft.attach(self, self.sft_state, log_probs, self.micro_batch_size), entropies
        values, log_probs, entropies = ranks.shared(self, *results, summed=self.shards is not None)
        return values, log_probs, entropies

    @torch.no_grad()
    def values_and_log_probs(
        self, obs: dict[str, torch.Tensor], actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values `(n, 1)` and log-probabilities `(n,)` of `evaluate_actions`, without gradients."""
        values, log_probs, _ = self._evaluate(obs, actions)
        return values, log_probs

    def _evaluate(self, obs: dict[str, torch.Tensor], actions: torch.Tensor) -> Evaluated:
        hidden, values = self._hidden_and_values(obs)
        with self.autocast():
            log_probs, entropies = log_probs_and_entropies(
                self.action_logits, hidden, actions, self.language_model.vocab_size, *self.masks(obs)
            )
        return values, log_probs, entropies

    def _evaluate_in_parts(self, obs: dict[str, torch.Tensor], actions: torch.Tensor, size: int) -> Evaluated:
        parts = list(micro_batches(obs, size))
        # The activations of a part are not kept: they are computed again in the backward pass.
        results = [checkpoint(self._evaluate, part, actions[chosen], use_reentrant=False) for part, chosen in parts]
        back = torch.cat([chosen for _, chosen in parts]).argsort()
        values, log_probs, entropies = (torch.cat(column)[back] for column in zip(*results, strict=True))
        return values, log_probs, entropies

    @torch.no_grad()
    def trunk_states(self, obs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Return the output of the frozen blocks, `(batch, length, hidden_size)`; None if the model does not split.

        Given back as `obs["trunk_states"]`, it spares `evaluate_actions` and `reference_log_prob` those blocks.
        """
        if self._actor.split is None:
            return None
        with self.autocast():
            return self._actor.split.states(obs["input_ids"], obs["attention_mask"], self._actor.pixels(obs))

    @torch.no_grad()
    def log_prob(self, obs: dict[str, torch.Tensor], actions: torch.Tensor) -> torch.Tensor:
        """Return the log-probabilities `(n,)` of the `n` actions of `evaluate_actions`, without gradients."""
        with self.autocast():
            return self._log_prob(obs, actions, *self.masks(obs))

    @torch.no_grad()
    def reference_log_prob(self, obs: dict[str, torch.Tensor], actions: torch.Tensor) -> torch.Tensor:
        """Return the reference's log-probabilities `(n,)` of the `n` actions of `evaluate_actions`.

        The reference's tokens are drawn as the policy's are: with its temperature, masks, top-k and top-p.
        """
        return self._as_reference(self._log_prob, obs, actions, *self.masks(obs))

    def _log_prob(self, obs: dict[str, torch.Tensor], actions: torch.Tensor, *masks: torch.Tensor) -> torch.Tensor:
        vocab_size = self.language_model.vocab_size
        return log_probs_without_gradients(self.action_logits, self.hidden(obs), actions, vocab_size, *masks)
