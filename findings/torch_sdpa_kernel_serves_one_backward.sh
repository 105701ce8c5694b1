#!/bin/sh
# torch 2.13.0: activation checkpointing under `sdpa_kernel` cannot go backward twice.
#
# Expected: `context_fn` of `torch.utils.checkpoint.checkpoint` may return any two context managers; the second is entered
# for each recomputation. With `retain_graph=True` a graph serves several backward passes, as Hessian-vector products need.
# What happens: `checkpoint` calls context_fn once for each forward pass, and enters the second context again at each backward.
# `torch.autocast` and `torch.enable_grad` allow that. `sdpa_kernel` makes a context for one use: the second backward pass
# ends with an AttributeError that names neither.
# Source: torch/utils/checkpoint.py (recompute_context); torch/nn/attention/__init__.py (sdpa_kernel, a contextmanager).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
venv/bin/python - <<'PY'
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

print("torch", torch.__version__)


def attend(x):
    return scaled_dot_product_attention(x, x, x).sum()


def second_backward(make_context):
    """Return how a second backward pass through a checkpointed attention ends."""
    x = torch.randn(1, 1, 4, 8, requires_grad=True)
    loss = checkpoint(attend, x, use_reentrant=False, context_fn=lambda: (make_context(), make_context()))
    loss.backward(retain_graph=True)
    try:
        loss.backward()
    except AttributeError as error:
        return f"AttributeError: {error}"
    return "works"


outcomes = {
    "autocast": second_backward(lambda: torch.autocast("cpu", torch.bfloat16)),
    "enable_grad": second_backward(torch.enable_grad),
    "sdpa_kernel": second_backward(lambda: sdpa_kernel(SDPBackend.MATH)),
}
print(*(f"{name}: {outcome}" for name, outcome in outcomes.items()), sep="\n")
assert outcomes["autocast"] == outcomes["enable_grad"] == "works"
assert outcomes["sdpa_kernel"].startswith("AttributeError")
PY
