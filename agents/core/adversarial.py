"""Train adversarially: keep the policy the same when its input embeddings are slightly wrong.

Paper: SA-PPO, Zhang et al. 2020, https://arxiv.org/abs/2003.08938. Its regulariser is the largest KL between the policy
and itself at a state nearby. Perturbed input embeddings come from Miyato et al. 2017, https://arxiv.org/abs/1605.07725,
and, for pre-trained language models, from SMART, Jiang et al. 2020, https://arxiv.org/abs/1911.03437.

`coef * mean KL(pi(.|s) || pi(.|s + delta))` over the action positions is added to the loss of any algorithm that calls
`evaluate_actions` and `backward` (see `agents.core.added_loss`). Values, log-probabilities and entropies do not change.
Departures from the papers:

- delta is found by projected gradient ascent (Madry et al. 2018), not by SGLD or convex relaxations. It starts at
  random, because the KL has no gradient at 0. It takes the unit gradient per token, in steps of 2.5 radii over their
  number, and projects after each step.
- The ball is an L2 ball per token. Its radius is relative: `epsilon` times the mean norm of the model's input
  embeddings as they are now, so that growing embeddings do not make the policy look robust.
- There is one delta per sequence, and all actions after it see it: one state per action would cost one pass per token.
- The KL is taken at the policy's temperature and over its action space, but without top-k and top-p: a token that one
  set keeps and the other drops would make it infinite.
- Its gradient runs through both distributions. SMART's loss is symmetric, Miyato's holds the clean distribution fixed.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.hooks import RemovableHandle

from .added_loss import add_loss
from .base_policy import LanguageModelPolicy
from .distribution import in_chunks
from .observations import micro_batches, read_contexts

__all__ = ["AdversarialRegulariser", "ascend", "divergences", "hidden_at", "perturbed", "radius_of", "random_start"]

Observations = dict[str, torch.Tensor]


class AdversarialRegulariser:
    """Add the regulariser to the loss of one policy. It owns no parameters, so it is no module.

    Every call of `evaluate_actions` whose log-probabilities a loss differentiates adds it once, no matter how the loss
    is scaled.

    Args:
        coef: factor of the mean KL in the loss.
        epsilon: radius of a token's ball, in mean norms of the input embeddings.
        steps: gradient steps to find the worst delta; each costs one forward and one backward pass.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, coef: float, epsilon: float, steps: int) -> None:
        if not 0 <= coef < float("inf"):
            raise ValueError(f"adversarial_coef={coef}: expected a number of at least 0; 0 is no adversarial training")
        if not 0 < epsilon < float("inf"):
            raise ValueError(
                f"adversarial_epsilon={epsilon}: expected a number above 0, in mean norms of the input embeddings; for "
                "no adversarial training take adversarial_coef=0"
            )
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"adversarial_steps={steps!r}: expected a whole number of at least 1")
        self.coef, self.epsilon, self.steps = coef, epsilon, steps
        self._kls: list[torch.Tensor] = []  # of the calls since `take_metrics`

    def attach(
        self,
        policy: LanguageModelPolicy,
        obs: Observations,
        log_probs: torch.Tensor,
        micro_batch_size: int | None = None,
    ) -> torch.Tensor:
        """Return the log-probabilities `(n,)`, unchanged; their backward pass adds the regulariser's gradient.

        `obs` is what `evaluate_actions` found them for, and `micro_batch_size` is `TokenPolicy`'s.
        """
        if not torch.is_grad_enabled():
            return log_probs
        radius = radius_of(policy, self.epsilon)
        obs = obs | {"start": random_start(policy, obs, radius)}  # drawn for all at once: parts do not change it
        if micro_batch_size is None:
            total = self._total(policy, obs, radius)
        else:
            parts = micro_batches(obs, micro_batch_size)
            total = torch.stack([self._total(policy, part, radius, recompute=True) for part, _ in parts]).sum()
        kl = total / len(log_probs)
        self._kls.append(kl.detach())
        return add_loss(log_probs, kl, self.coef)

    def _total(
        self, policy: LanguageModelPolicy, obs: Observations, radius: torch.Tensor, recompute: bool = False
    ) -> torch.Tensor:
        """Return the sum of the KLs of the actions in `obs`; with `recompute` no activations are kept for it."""
        obs = dict(obs)
        start = obs.pop("start")
        clean = hidden_at(policy, obs)
        delta = ascend(policy, obs, clean.detach(), start, radius, self.steps)
        if not recompute:
            return divergences(policy, clean, hidden_at(policy, obs, delta)).sum()
        del clean  # both passes are computed again in the backward pass: no part holds its activations until then

        def total(delta: torch.Tensor) -> torch.Tensor:
            return divergences(policy, hidden_at(policy, obs), hidden_at(policy, obs, delta)).sum()

        return checkpoint(total, delta, use_reentrant=False)

    def take_metrics(self) -> dict[str, float]:
        """Return `adversarial_kl`, the mean KL in nats per action since the last call; {} if there was no update."""
        kls, self._kls = self._kls, []
        return {"adversarial_kl": float(torch.stack(kls).mean())} if kls else {}


@torch.no_grad()
def radius_of(policy: LanguageModelPolicy, epsilon: float) -> torch.Tensor:
    """Return `epsilon` times the mean L2 norm of the input embeddings as the module outputs them, a scalar."""
    module = policy.embedding()
    some = torch.arange(min(64, len(module.weight)), device=module.weight.device)
    scale = module(some).float().norm() / module.weight[some].float().norm()  # not 1 where the module scales them
    return epsilon * scale * module.weight.float().norm(dim=-1).mean()


def random_start(policy: LanguageModelPolicy, obs: Observations, radius: torch.Tensor) -> torch.Tensor:
    """Return random directions of norm `radius`, one per token, padding too: `(batch, length, embedding size)`."""
    ids = obs["input_ids"]
    noise = torch.randn(*ids.shape, policy.embedding().weight.shape[1], device=ids.device)
    return radius * _unit(noise)


def ascend(
    policy: LanguageModelPolicy,
    obs: Observations,
    clean: torch.Tensor,
    start: torch.Tensor,
    radius: torch.Tensor,
    steps: int,
    where: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the delta that raises the KL most, by projected gradient ascent. The parameters' `.grad` stays as it is.

    Args:
        policy, obs: the policy, and observations as in `evaluate_actions`.
        clean: the hidden states `(n, hidden_size)` of the actions without a delta.
        start: a delta to start from, `(batch, length, embedding size)`.
        radius: radius of a token's L2 ball.
        steps: gradient steps; each has the size 2.5 radii over their number.
        where: the tokens to perturb, `(batch, length)` bool; all but padding by default.

    Returns:
        float32 `(batch, length, embedding size)`, within the ball, and 0 outside `where`.
    """
    ids, lengths = read_contexts(obs)
    real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    inside = (real if where is None else real & where)[..., None]
    delta = _project(start * inside, radius)
    for _ in range(steps):
        delta.requires_grad_()
        with torch.enable_grad():
            total = divergences(policy, clean, hidden_at(policy, obs, delta)).sum()
            (gradient,) = torch.autograd.grad(total, delta)
        delta = _project(delta.detach() + 2.5 * radius / steps * _unit(gradient), radius) * inside
    return delta


def hidden_at(policy: LanguageModelPolicy, obs: Observations, delta: torch.Tensor | None = None) -> torch.Tensor:
    """Return the actor's hidden states at the actions, `(n, hidden_size)`, with `delta` added to its input embeddings.

    With a delta the whole trunk runs, because stored trunk states belong to the clean input.
    """
    if "rows" not in obs:  # the row's last token; with its place given, nothing goes through the KV cache
        lengths = read_contexts(obs)[1]
        obs = obs | {"rows": torch.arange(len(lengths), device=lengths.device), "columns": lengths - 1}
    with policy.padded():  # a delta belongs to the places of padded contexts
        if delta is None:
            return policy.hidden(obs)
        obs = {key: value for key, value in obs.items() if key != "trunk_states"}
        with perturbed(policy.embedding(), delta):
            return policy.hidden(obs)


def perturbed(embedding: nn.Module, delta: torch.Tensor) -> RemovableHandle:
    """Add `delta`, cut to the contexts' length, to an embedding's output `(batch, length, size)`, in a `with` block."""

    def add(module: nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        return output + delta[:, : output.shape[1]].to(output.dtype)

    return embedding.register_forward_hook(add)


def divergences(policy: LanguageModelPolicy, clean: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return KL(clean || other) of the next token in nats, `(n,)`, from hidden states `(n, hidden_size)` each."""

    def log_probs(hidden: torch.Tensor) -> torch.Tensor:
        logits = policy.language_model.head(hidden)[..., : policy.n_actions]
        return (logits / policy.temperature).log_softmax(dim=-1)

    def evaluate(clean: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor]:
        with policy.autocast():
            p, q = log_probs(clean), log_probs(other)
        return ((p.exp() * (p - q)).sum(dim=-1),)

    return in_chunks(evaluate, 2 * policy.language_model.vocab_size, clean, other)[0]


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors of norm 1, and 0 for a vector of 0, such as the gradient of a token that no action sees."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(vectors.dtype).tiny)


def _project(delta: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
    return delta * (radius / torch.maximum(delta.norm(dim=-1, keepdim=True), radius))
