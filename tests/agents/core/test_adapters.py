"""LoRA: adapters learn on a frozen base, which is the reference and is never copied."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import pytest
import torch

import agents
from agents.core.language_model import LanguageModel
from agents.core.policy import TokenPolicy

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's

LENGTH = 20
CONTEXTS = [[5, 6, 7], [8, 9], [3, 4, 5, 6, 7, 8], [2]]
ACTIONS = torch.tensor([1, 2, 3, 4])
SHAPES = ["gpt2", "llama", "gpt_neox", "qwen3", "gemma3", "opt"]  # transposed, separate, fused and tied layers
SHAPES += ["phi3", "granite", "cohere2", "llama4"]  # scaled logits, experts
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def observation(contexts: list[list[int]] = CONTEXTS) -> dict[str, torch.Tensor]:
    ids, mask = torch.zeros((2, len(contexts), LENGTH), dtype=torch.long)
    for i, context in enumerate(contexts):
        ids[i, : len(context)], mask[i, : len(context)] = torch.tensor(context), 1
    return {"input_ids": ids, "attention_mask": mask}


def make_policy(model: Any, token_spaces: Any, **kwargs: Any) -> TokenPolicy:
    return TokenPolicy(*token_spaces(LENGTH), lambda _: 1e-2, **{"model": model, "train": "lora", **kwargs})


def train_adapters(model: Any) -> Any:
    """Give the adapters of a policy or model other weights, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=generator)
    return model


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def wrapped(model: Any, **config: Any) -> Any:
    fields = dict(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False) | config
    return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **fields))


@pytest.mark.parametrize(("shape", "value"), [*((shape, "shared") for shape in SHAPES), ("gpt2", "separate")])
def test_rollout_and_update_agree_and_the_reference_is_the_untouched_model(shape, value, small_model, token_spaces):
    untouched = small_model(shape)
    policy = train_adapters(make_policy(copy.deepcopy(untouched), token_spaces, value=value))
    torch.nn.init.normal_(policy.value_net.weight)
    contexts = [list(c) for c in CONTEXTS]
    for _ in range(2):
        obs = observation(contexts)
        with torch.no_grad():
            actions, values, log_probs = policy(obs)
            again = policy.evaluate_actions(obs, actions)
            current = policy.get_distribution(obs).distribution.logits
            base = policy._as_reference(policy.get_distribution, obs).distribution.logits
        torch.testing.assert_close(again[0], values, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(again[1], log_probs, atol=1e-5, rtol=1e-4)
        for row, context in enumerate(contexts):
            expected = logits(untouched, torch.tensor([context]))[0, -1].log_softmax(-1)
            torch.testing.assert_close(base[row].log_softmax(-1), expected, atol=1e-6, rtol=1e-6)
            assert not torch.allclose(current[row], base[row], atol=1e-2)
        contexts = [[*c, int(a)] for c, a in zip(contexts, actions, strict=True)]
        contexts[0] += [9, 8]  # it is replied to


def test_a_copy_switches_its_own_adapters_off(small_model):
    model = LanguageModel(small_model("gpt2"), "lora")
    train_adapters(model)
    before, twin = logits(model.model), copy.deepcopy(model)
    with twin.adapters.off():
        assert torch.equal(logits(model.model), before)
        assert not torch.allclose(logits(twin.model), before, atol=1e-2)


def test_adapters_that_are_frozen_stay_so_after_the_reference(small_model):
    model = wrapped(small_model("llama"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_B" in name)  # as LoRA-FA has it
    language_model = LanguageModel(model)
    learn = language_model.trained_parameters().keys()
    with language_model.adapters.off():
        pass
    assert language_model.trained_parameters().keys() == learn


@pytest.mark.parametrize("shape", SHAPES)
def test_adapters_and_the_value_head_learn_and_nothing_else_moves(shape, small_model, token_spaces):
    policy = train_adapters(make_policy(small_model(shape), token_spaces))
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    values, log_probs, _ = policy.evaluate_actions(observation(), ACTIONS)
    (values.sum() + log_probs.sum()).backward()
    policy.optimizer.step()
    moved = {n for n, tensor in policy.state_dict().items() if n != "kl_coef" and not torch.equal(tensor, before[n])}
    assert moved == {n for n in before if ".lora_" in n} | {"value_net.weight", "value_net.bias"}
    model = policy.language_model.model
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert tied == model.config.get_text_config().tie_word_embeddings


def test_the_defaults_are_the_documented_ones_and_entries_replace_them(small_model, token_spaces):
    def ranks(**kwargs: Any) -> dict[str, Any]:
        model = make_policy(small_model("llama"), token_spaces, **kwargs).language_model.model
        linear = {n.rpartition(".")[2]: m for n, m in model.named_modules() if hasattr(m, "lora_A")}
        return {name: (m.r["default"], m.lora_alpha["default"]) for name, m in linear.items()}

    linear = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    assert ranks() == dict.fromkeys(linear, (16, 32))
    assert ranks(lora=dict(r=4, target_modules=["q_proj"])) == {"q_proj": (4, 32)}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_peft_model_learns_with_its_own_adapters_and_its_base_is_the_reference(
    train, inference, small_model, token_spaces
):
    untouched = small_model("llama")
    model = wrapped(copy.deepcopy(untouched))
    expected = logits(model)
    if inference:
        model.requires_grad_(False)
    policy = make_policy(model, token_spaces, train=train)
    trained = policy.language_model.trained_parameters()
    assert trained and all("lora_" in name for name in trained)
    assert policy.train_part == "lora"
    torch.testing.assert_close(logits(policy.language_model.model), expected)
    where = torch.tensor([0]), torch.tensor([4])
    base = policy.reference_logits(IDS, torch.ones_like(IDS), *where)
    torch.testing.assert_close(base[0], logits(untouched)[0, 4], atol=1e-6, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # so peft 0.18 says of any head
def test_a_whole_head_that_learns_beside_adapters_of_any_name_is_off_in_the_reference(small_model, token_spaces):
    untouched = small_model("llama")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(copy.deepcopy(untouched), config, adapter_name="mine")
    policy = make_policy(model, token_spaces)
    policy.evaluate_actions(observation(), ACTIONS)[1].sum().backward()
    policy.optimizer.step()
    now = logits(policy.language_model.model)
    assert not torch.allclose(now, logits(untouched), atol=1e-2)
    where = torch.tensor([0]), torch.tensor([4])
    base = policy.reference_logits(IDS, torch.ones_like(IDS), *where)
    torch.testing.assert_close(base[0], logits(untouched)[0, 4], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits(policy.language_model.adapters.merged()), now, atol=1e-5, rtol=1e-5)


def test_the_first_minibatch_has_a_ratio_of_one():
    agent = agents.make(
        "ppo", "rlhf/IncreasingNumbers-v0", n_envs=4, seed=0, train="lora", learning_rate=1e-2, device="cpu"
    )
    train_adapters(agent.policy)
    differences: list[float] = []

    get = agent.rollout_buffer.get

    def spied(batch_size: int | None = None) -> Any:
        for samples in get(batch_size):
            with torch.no_grad():
                log_probs = agent.policy.evaluate_actions(samples.observations, samples.actions)[1]
            differences.append(float((log_probs - samples.old_log_prob).exp().sub(1).abs().max()))
            yield samples

    agent.rollout_buffer.get = spied
    agent.learn(agent.n_steps * 4)
    assert differences[0] < 1e-4 < max(differences)


@pytest.mark.parametrize(
    ("algorithm", "arguments"),
    [
        ("trpo", dict(n_steps=12)),
        ("dqn", dict(learning_starts=32)),
        pytest.param("qrdqn", dict(learning_starts=32), marks=pytest.mark.slow),
        *(pytest.param(name, {}, marks=pytest.mark.slow) for name in ("a2c", "grpo", "nlpo", "ilql")),
    ],
)
def test_every_kind_of_algorithm_trains_adapters_and_keeps_the_base(algorithm, arguments):
    arguments = dict(train="lora", lora=dict(r=2), learning_rate=1e-2, device="cpu") | arguments
    agent = agents.make(algorithm, "rlhf/IncreasingNumbers-v0", n_envs=4, seed=0, **arguments)
    policy = agent.policy
    frozen = {name: p.clone() for name, p in policy.language_model.named_parameters() if not p.requires_grad}
    adapters = {name: p.detach().clone() for name, p in policy.language_model.trained_parameters().items()}
    agent.learn(2 * 4 * getattr(agent, "n_steps", 16))
    now = dict(policy.language_model.named_parameters())
    assert frozen and all(torch.equal(now[name], before) for name, before in frozen.items())
    assert any(not torch.equal(now[name], before) for name, before in adapters.items())


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_new_adapters_start_as_the_reference(algorithm):
    agent = agents.make(algorithm, "rlhf/IncreasingNumbers-v0", n_envs=4, seed=0, train="lora", device="cpu")
    policy = train_adapters(agent.policy)
    obs = {key: value[:1, : policy.max_length] for key, value in observation([[2, 3, 4]]).items()}
    where = torch.tensor([0]), torch.tensor([2])
    reference = policy.reference_logits(*obs.values(), *where)
    assert not torch.allclose(policy.language_model.logits(*obs.values(), *where), reference, atol=1e-3)
    with policy.at_start():
        torch.testing.assert_close(policy.language_model.logits(*obs.values(), *where), reference)
    if algorithm == "dqn":
        own = {p.data_ptr() for p in policy.language_model.parameters()}
        assert {n for n, p in policy._reference_cache().trunk.named_parameters() if p.data_ptr() not in own} == {
            n for n, _ in policy.language_model.trunk.named_parameters() if ".lora_" in n
        }, "the base is in memory once"
        torch.testing.assert_close(policy.base_log_probs(obs), policy.decoding_logits(reference).log_softmax(-1))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(lora=dict(ranks=4)), "lora has the unknown entry 'ranks'; there are alpha_pattern, "),
        (dict(lora=dict(r=0)), "lora: r=0: expected a rank of at least 1"),
        (dict(lora=dict(init_lora_weights="pissa")), "lora: init_lora_weights='pissa' changes the base model"),
        (
            dict(lora=dict(target_modules=["c_attn"])),
            r"lora: no adapters fit on this LlamaForCausalLM .*; its linear layers are down_proj, gate_proj, k_proj",
        ),
        (dict(train=1, lora=dict(r=4)), r"lora=\{'r': 4\} with train=1: adapters need train='lora'"),
        (dict(compile=True), "compile=True with train='lora': only the passes of train='full' are compiled"),
    ],
)
def test_bad_arguments_are_clear_errors(kwargs, message, small_model, token_spaces):
    with pytest.raises(ValueError, match=message):
        make_policy(small_model("llama"), token_spaces, **kwargs)


@pytest.mark.parametrize("target", ["lm_head", "wte"])
def test_adapters_on_tied_embeddings_are_refused_and_taken_off_again(target, small_model):
    model = small_model("gpt2")
    with pytest.raises(ValueError, match="share their weights, and the adapters of one would change both: leave them"):
        LanguageModel(model, "lora", dict(target_modules=[target]))
    assert not hasattr(model, "peft_config")
    assert not any("lora" in name for name, _ in model.named_modules())


def test_a_model_without_linear_layers_says_so(small_model):
    model = small_model("llama")
    for name, module in list(model.model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            model.model.set_submodule(name, torch.nn.Identity())
    with pytest.raises(ValueError, match=r"lora: no adapters fit on this LlamaForCausalLM .*linear layers are lm_head"):
        LanguageModel(model, "lora")


def test_models_with_adapters_that_cannot_be_taken_are_refused(small_model):
    with pytest.raises(ValueError, match="train=1: this PeftModelForCausalLM learns with its adapters; take 'lora'"):
        LanguageModel(wrapped(small_model("llama")), 1)
    with pytest.raises(ValueError, match=r"lora: r=4, and the adapters of the given model have 2: leave"):
        LanguageModel(wrapped(small_model("llama")), "lora", dict(r=4))
    model = wrapped(small_model("llama"))
    model.get_base_model().lm_head.requires_grad_(True)
    with pytest.raises(ValueError, match=r"lm_head.weight of the base learns beside the adapters"):
        LanguageModel(model)
    prompt = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ValueError, match="this LlamaForCausalLM has no adapters in its layers"):
        LanguageModel(peft.get_peft_model(small_model("llama"), prompt))


def test_without_peft_the_error_names_the_extra(small_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ModuleNotFoundError, match=r"train='lora'\) need peft: pip install 'rlhf-envs\[train\]'"):
        LanguageModel(small_model("gpt2"), "lora")


def test_saved_adapters_load_as_a_model_and_their_base_is_still_the_reference(small_model, token_spaces, tmp_path):
    untouched = small_model("llama")
    untouched.save_pretrained(tmp_path / "base")
    policy = train_adapters(make_policy(str(tmp_path / "base"), token_spaces, lora=dict(r=2), temperature=0.7))
    policy.save_pretrained(tmp_path / "adapters")
    assert not [*(tmp_path / "adapters").glob("model*.safetensors")]
    again = make_policy(str(tmp_path / "adapters"), token_spaces, train="full", temperature=0.7)
    assert again.base_name == policy.base_name == str(tmp_path / "base")
    for one, other in zip(
        policy.evaluate_actions(observation(), ACTIONS), again.evaluate_actions(observation(), ACTIONS), strict=True
    ):
        torch.testing.assert_close(one, other)
    obs = observation() | {"rows": torch.arange(4), "columns": torch.tensor([2, 1, 5, 0])}
    one, other = policy.reference_log_prob(obs, ACTIONS), again.reference_log_prob(obs, ACTIONS)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_merged_model_has_the_policys_logits_and_the_policy_stays(shape, small_model, token_spaces, tmp_path):
    from transformers import AutoModelForCausalLM

    policy = train_adapters(make_policy(small_model(shape), token_spaces))
    before, expected = copy.deepcopy(policy.state_dict()), logits(policy.language_model.model)
    policy.save_pretrained(tmp_path, merge=True)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), expected, atol=1e-4, rtol=1e-4)
    assert not (tmp_path / "adapter_config.json").exists()
    assert all(torch.equal(t.nan_to_num(), before[n].nan_to_num()) for n, t in policy.state_dict().items())


def test_adapters_on_a_model_without_a_name_are_saved_merged_alone(small_model, token_spaces, tmp_path):
    policy = make_policy(small_model("gpt2"), token_spaces)
    with pytest.raises(ValueError, match=r"has no name to load it by: write the whole model, save_pretrained\(.*merge"):
        policy.save_pretrained(tmp_path)


def test_a_policy_on_a_given_model_saves_and_loads_as_sb3_has_it(small_model, token_spaces, tmp_path):
    policy = train_adapters(make_policy(small_model("gpt2"), token_spaces, lora=dict(r=2)))
    policy.save(str(tmp_path / "policy.pt"))
    loaded = TokenPolicy.load(str(tmp_path / "policy.pt"), device="cpu")
    for one, other in zip(
        policy.evaluate_actions(observation(), ACTIONS), loaded.evaluate_actions(observation(), ACTIONS), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_run_leaves_adapters_that_evaluate_and_train_on(tmp_path):
    from agents.evaluation.source import Source
    from tests.agents.training.runs import rlhf

    flags = ["--env", "rlhf/Sentiment-v0", "-n", "64", "--n-envs", "4", "--test-episodes", "2", "--eval-freq", "0"]
    flags += ["--env-kwargs", "max_new_tokens:4", "--no-progress", "-params", "batch_size:64", "-f", str(tmp_path)]
    flags += ["--train", "lora", "-params", "lora:{'r': 2}", "-params", "n_steps:4", "--run-name", "run"]
    result = rlhf("train", *flags)
    assert result.exit_code == 0, result.output
    run = next(tmp_path.rglob("model"))
    names = {file.name for file in run.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= names
    assert Source.of(run.parent).model == str(run)
    assert "load_causal_lm" in (run / "README.md").read_text()
    again = agents.make("ppo", "rlhf/Sentiment-v0", n_envs=2, model=str(run), device="cpu")
    assert (again.policy.base_name, again.policy.train_part) == ("tiny", "lora")


def test_a_run_that_trained_adapters_on_is_measured_against_their_base(tmp_path):
    from agents.evaluation.source import Source

    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "adapter_config.json").write_text('{"base_model_name_or_path": "tiny"}')
    (tmp_path / "run" / "config.json").write_text(json.dumps({"model": str(tmp_path / "adapters")}))
    assert Source.of(tmp_path / "run").start == "tiny"
