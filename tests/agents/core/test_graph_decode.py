"""Decoding by replay, on a backend that repeats recorded operations on the same memory, as a CUDA graph does."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from agents import TokenPolicy
from agents.core import graph_decode
from agents.core.frozen_states import SlotStates
from agents.core.graph_decode import CudaBackend, DecodingGraphs, Graphs
from agents.core.kv_cache import SlottedTrunk
from agents.core.language_model import LanguageModel

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

LENGTH = 24
WAITING = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "lift_fresh"}  # the host waits for the device


class Recorder(TorchDispatchMode):
    """Keep every operation with its results; refuse what a CUDA graph cannot capture."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, index = func._schema.name.split("::")[1], args[1] if "index" in func._schema.name else ()
        masks = isinstance(index, list) and any(i is not None and i.dtype == torch.bool for i in index)
        if name in WAITING or masks:
            raise RuntimeError(f"{name} during a capture")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Fake:
    """Capture on the CPU: what Python computed at the capture stays, and results stand where they first stood."""

    device_type: ClassVar[str] = "cpu"
    captures: ClassVar[int] = 0

    def __init__(self, device: torch.device) -> None:
        assert device.type == "cpu"

    def capture(self, function: Callable[[], None]) -> Callable[[], None]:
        type(self).captures += 1
        function()
        with Recorder() as recorder:
            function()
        return recorder.replay


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(graph_decode, "SHORTEST", 4)
    monkeypatch.setattr(Fake, "captures", 0)
    return Fake


def slotted_trunks(trunk: Any) -> tuple[SlottedTrunk, SlottedTrunk]:
    """One that decodes by replay, and an eager one."""
    graphed, eager = SlottedTrunk(trunk, LENGTH, enabled=True), SlottedTrunk(trunk, LENGTH, enabled=True)
    graphed.graphs = DecodingGraphs(trunk, graphed.adapted, Fake)
    return graphed, eager


def check_steps(graphed: SlottedTrunk, eager: SlottedTrunk, lengths: list[int], n_steps: int, **close: float) -> None:
    ids = torch.randint(0, 50, (len(lengths), LENGTH), generator=torch.Generator().manual_seed(0))
    for step in range(n_steps):
        if step == 3:  # one row starts anew, and one is replied to
            ids[0], lengths = ids[0].roll(1), [2, min(lengths[1] + 2, LENGTH), *lengths[2:]]
        now = torch.tensor(lengths)
        torch.testing.assert_close(graphed(ids, now), eager(ids, now), **(close or dict(atol=1e-5, rtol=1e-4)))
        lengths = [min(length + 1, LENGTH) for length in lengths]


def test_replays_leave_what_frozen_blocks_compute(small_model: Any, fake: Any) -> None:
    model = LanguageModel(small_model("llama"), train=1)
    graphed, eager = slotted_trunks(model.trunk)
    for slots in (graphed, eager):
        split = model.split(model.trunk)
        assert split is not None
        slots.frozen = SlotStates(split)
    for _ in range(2):
        check_steps(graphed, eager, [3, 7, 4], 6)
        kept, expected = (slots.frozen.states for slots in (graphed, eager) if slots.frozen is not None)
        assert kept is not None
        assert expected is not None
        for row, length in enumerate(eager._lengths.tolist()):
            torch.testing.assert_close(kept[row, :length], expected[row, :length], atol=1e-5, rtol=1e-4)
        learn(model.trunk)
    assert fake.captures == len(graphed.graphs or ()) == 2


def learn(trunk: Any) -> None:
    trained = [p for p in trunk.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.grad = torch.randn_like(parameter)
    torch.optim.Adam(trained, lr=0.02, fused=True).step()


def test_every_model_is_captured_and_replayed_as_it_decodes(slotted_shape: str, small_model: Any, fake: Any) -> None:
    graphed, eager = slotted_trunks(LanguageModel(small_model(slotted_shape)).trunk)
    check_steps(graphed, eager, [3, 7, 4], 6)
    assert fake.captures == len(graphed.graphs or ()) == 2  # contexts up to 8 and up to 16 tokens


def test_graphs_outlive_updates_and_not_what_is_frozen_in_them(small_model: Any, fake: Any) -> None:
    trunk = small_model("llama").base_model
    graphed, eager = slotted_trunks(trunk)
    check_steps(graphed, eager, [3, 20, 4], 7)
    assert fake.captures == 1  # of the whole capacity
    for slots in (graphed, eager):  # as before an update
        slots.clear()
    learn(trunk)
    check_steps(graphed, eager, [20, 3, 4], 3)
    assert fake.captures == 1
    check_steps(graphed, eager, [20, 3], 2)  # another number of slots
    assert fake.captures == 2
    trunk.norm.weight.data = trunk.norm.weight.data + 1  # another address
    check_steps(graphed, eager, [20, 3], 2)
    assert fake.captures == 3
    with torch.inference_mode():
        check_steps(graphed, eager, [20, 3], 2)
    again = copy.deepcopy(graphed)
    check_steps(again, eager, [20, 3], 2)
    assert again.trunk is not trunk
    assert fake.captures == 4


def test_replays_read_adapters_merged_after_the_last_update(small_model: Any, token_spaces: Any, fake: Any) -> None:
    pytest.importorskip("peft")
    policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, model=small_model("llama"), train="lora")
    trunk, adapters = policy._actor.module, policy.language_model.adapters
    graphed, eager = slotted_trunks(trunk)
    for captures in (1, 1):
        learn(trunk)
        check_steps(graphed, eager, [18, 3], 3)
        assert fake.captures == captures
    with adapters.off():
        check_steps(graphed, eager, [18, 3], 3)
    assert fake.captures == 2


@pytest.mark.parametrize("shape", ["gpt2", "llama"])
def test_replays_multiply_by_weights_in_autocasts_type(shape: str, small_model: Any, fake: Any) -> None:
    trunk = small_model(shape).base_model
    graphed, eager = slotted_trunks(trunk)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            check_steps(graphed, eager, [18, 3], 3, atol=0.05, rtol=0.05)
        learn(trunk)
    assert fake.captures == 1
    ((_, replay, _),) = graphed.graphs._captured.values()
    cast = [args[0] for func, args, *_ in replay.__self__.calls if func._schema.name == "aten::_to_copy"]
    assert not any(one is parameter for one in cast for parameter in trunk.parameters() if parameter.dim() > 1)


def test_what_cannot_be_captured_is_decoded_eagerly_with_one_warning(small_model: Any, fake: Any) -> None:
    trunk = small_model("gpt2").base_model
    trunk.ln_f.register_forward_hook(lambda *_: print(trunk.wte.weight[0, 0].item()))
    graphed, eager = slotted_trunks(trunk)
    with pytest.warns(UserWarning, match="without CUDA graphs, .*_local_scalar_dense") as caught:
        check_steps(graphed, eager, [3, 7, 4], 6)
    assert len(caught) == fake.captures == 1


@pytest.fixture
def two_policies(small_model: Any, token_spaces: Any, fake: Any) -> Callable[..., tuple[TokenPolicy, TokenPolicy]]:
    """One that decodes by replay, and an eager one."""

    def build(**kwargs: Any) -> tuple[TokenPolicy, TokenPolicy]:
        graphed, eager = (
            TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, model=small_model("llama"), **kwargs) for _ in range(2)
        )
        for trunk in (graphed._actor, graphed._critic):
            trunk.cache.graphs = DecodingGraphs(trunk.module, [], fake)
        graphed._choosing = Graphs(fake)
        return graphed, eager

    return build


def observation(lengths: list[int]) -> dict[str, torch.Tensor]:
    ids = torch.randint(2, 50, (len(lengths), LENGTH), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, "attention_mask": (torch.arange(LENGTH) < torch.tensor(lengths)[:, None]).long()}


@torch.no_grad()
@pytest.mark.parametrize("arguments", [{}, dict(value="separate", top_k=9, top_p=0.9)], ids=["plain", "top"])
def test_tokens_values_and_log_probs_are_the_eager_ones(arguments: dict[str, Any], two_policies: Any) -> None:
    graphed, eager = two_policies(**arguments)
    torch.nn.init.normal_(graphed.value_net.weight)
    eager.load_state_dict(graphed.state_dict())
    for policy in (graphed, eager):
        policy.temperature = 0.7
    for step in range(4):
        if step == 2:  # frozen in the graph
            graphed.temperature = eager.temperature = 1.5
        found = []
        for policy in (graphed, eager):
            torch.manual_seed(step)
            found.append(policy(observation([17 + step, 3, 5])))
        (actions, values, log_probs), expected = found
        assert torch.equal(actions, expected[0])
        torch.testing.assert_close((values, log_probs), expected[1:], atol=1e-5, rtol=1e-4)
    assert len(graphed._choosing) == len(graphed._actor.cache.graphs) == len(graphed._critic.cache.graphs) == 1


@torch.no_grad()
def test_logits_that_are_not_finite_are_an_error_that_names_the_row(two_policies: Any) -> None:
    policy, _ = two_policies()
    obs = observation([5, 3])
    obs["input_ids"][1, 0] = 1  # in no other row
    policy.language_model.model.get_input_embeddings().weight[1] = torch.nan
    with pytest.raises(FloatingPointError, match="logits for environment 1 are not finite"):
        policy(obs)


def test_graphs_can_be_switched_off(small_model: Any, token_spaces: Any) -> None:
    for arguments, on in (({}, True), (dict(cuda_graphs=False, value="separate"), False)):
        policy = TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, model=small_model("gpt2"), **arguments)
        found = [policy._choosing, policy._actor.cache.graphs, policy._critic.cache.graphs]
        assert [graphs is not None for graphs in found] == [on] * 3
        assert not any(graphs and graphs.usable(torch.device("cpu")) for graphs in found)


def test_a_cuda_capture_comes_after_warm_ups_on_the_stream_that_it_is_made_on() -> None:
    """What runs without a device: the order of the calls, and that torch takes these arguments."""
    signature = inspect.signature(torch.cuda.graph)
    names = ("Stream", "CUDAGraph", "graph", "stream", "current_stream", "graph_pool_handle")
    with mock.patch.multiple(torch.cuda, **dict.fromkeys(names, mock.DEFAULT)) as cuda:
        calls: list[str] = []
        cuda["graph"].return_value.__enter__.side_effect = lambda *_: calls.append("capture")
        cuda["stream"].return_value.__enter__.side_effect = lambda *_: calls.append("side stream")
        replay = CudaBackend(torch.device("cuda")).capture(lambda: calls.append("run"))
    assert calls == ["side stream", "run", "run", "capture", "run"]
    bound = signature.bind(*cuda["graph"].call_args.args, **cuda["graph"].call_args.kwargs).arguments
    assert bound["stream"] is cuda["Stream"].return_value
    assert bound["pool"] is cuda["graph_pool_handle"].return_value
    assert replay is cuda["CUDAGraph"].return_value.replay
