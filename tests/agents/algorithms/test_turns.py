"""DPO and KTO on completions of several turns: which tokens are learned, and the losses and gradients of TRL."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agents
from agents.algorithms.common.preference_data import LABELS, PAIRS, read_logged
from agents.algorithms.kto import as_labels
from agents.core.episodes import open_batch
from tests.agents.algorithms.test_policy_gradient import assert_equal_loss_and_gradients, move
from tests.rlhf_envs.chat_families import CHATML, QWEN3, family_tokenizer
from tests.rlhf_envs.small_models import save_model

Row = dict[str, Any]
# As transformers' `return_assistant_tokens_mask` needs it: what the assistant wrote is marked.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORDS = ("tea", "a cup", "why", "no milk", "yes", "hot", "two", "it is late")


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def talk(*contents: str) -> list[dict[str, str]]:
    """What the assistant says first, and then in turns with the user."""
    return [said(("assistant", "user")[i % 2], content) for i, content in enumerate(contents)]


def pairs(n: int = 8) -> list[Row]:
    """Pairs of conversations of one to three turns of the assistant, the first of which begin alike."""
    draw = np.random.default_rng(0)
    system, rows = said("system", "be brief"), []
    for i in range(n):
        chosen, rejected = (talk(str(i), *draw.choice(WORDS, 2 * int(draw.integers(0, 3)))) for _ in range(2))
        asked = [system, said("user", WORDS[i])] if i % 2 else [said("user", WORDS[i])]
        rows.append({"prompt": asked, "chosen": chosen, "rejected": [*rejected[:-1], said("assistant", WORDS[-1 - i])]})
    rows[0] |= {"chosen": talk("yes", "why", "hot"), "rejected": talk("yes", "why", "two")}
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("chatml"), family_tokenizer("chatml"))


def make_env(model: str, template: str = MARKED, **kwargs: Any) -> Any:
    rows = [{"prompt": "hi", "split": "train"}, {"prompt": "hello", "split": "test"}]
    options = {"data": rows, "chat": True, "reward": "length-penalty", "reward_kwargs": {"longest": 1}}
    options |= {"max_prompt_tokens": 80, "max_new_tokens": 120, "chat_template": template}
    return agents.make_vec_env("rlhf/Prompts-v0", 4, seed=0, model=model, **{**options, **kwargs})


def prepared(name: str, data: list[Row], model: str, **kwargs: Any) -> tuple[Any, Any, Any, list[int]]:
    """An agent with moved weights, a copy of the model from before, a minibatch, and the rows that it is of."""
    env = make_env(model)
    agent = agents.make(name, env, seed=0, device="cpu", data=data, batch_size=None, n_steps=40, **kwargs)
    start = copy.deepcopy(agent.policy.language_model.model)
    callback = agent._setup_learn(10_000, None)[1]
    callback.on_training_start({}, {})
    agent.collect_rollouts(agent.env, callback, agent.rollout_buffer, agent.n_steps)
    buffer = agent.rollout_buffer
    buffer.advantages, buffer.returns = (a.astype(np.float32) for a in agent._advantages(buffer))
    move(agent.policy)
    (samples,) = buffer.get(None)
    rows = [next(i for i, row in enumerate(agent._logged) if row is drawn) for drawn in agent._drawn]
    return agent, start, samples, rows


def trainer(name: str, agent: Any, reference: Any, data: list[Row], folder: Path, **config: Any) -> Any:
    """TRL's trainer, which has read the same rows by its own code."""
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    options: Row = dict(use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", max_length=None)
    options |= {"train_sampling_strategy": "sequential"} if name == "KTO" else {}
    tokenizer = copy.copy(family_tokenizer("chatml"))
    tokenizer.chat_template = MARKED
    built = getattr(trl, f"{name}Trainer")(
        model=agent.policy.language_model.model,
        ref_model=reference,
        args=getattr(trl, f"{name}Config")(output_dir=str(folder), per_device_train_batch_size=4, **options, **config),
        train_dataset=datasets.Dataset.from_list(data),
        processing_class=tokenizer,
    )
    built.model.eval(), reference.eval()
    return built


def of_the_assistant(row: Row, name: str, n_prompt: int) -> list[int]:
    """What transformers says the assistant wrote of a completion, token by token."""
    tokenizer = copy.copy(family_tokenizer("chatml"))
    tokenizer.chat_template = MARKED
    options: Row = {"return_dict": True, "return_assistant_tokens_mask": True}
    found: Any = tokenizer.apply_chat_template([*row["prompt"], *row[name]], **options)
    return list(found["assistant_masks"][n_prompt:])


def masked(mask: torch.Tensor, learned: list[list[int]]) -> torch.Tensor:
    """A completion mask of TRL's without the tokens that are not the assistant's."""
    for row, own in enumerate(learned):
        start = int(mask[row].nonzero()[0])
        mask[row, start : start + len(own)] *= torch.tensor(own)
    return mask


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("assistant_only", [True, False])
@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo"])
def test_dpos_loss_of_turns_is_trls(model: str, tmp_path: Path, loss_type: str, assistant_only: bool) -> None:
    data, settings = pairs(), {"loss_type": loss_type, "beta": 0.3}
    agent, start, samples, rows = prepared("dpo", data, model, assistant_only_loss=assistant_only, **settings)
    theirs = trainer("DPO", agent, start, data, tmp_path, **settings)
    examples = [theirs.train_dataset[i] for i in rows]
    batch = theirs.data_collator(examples)
    if assistant_only:
        prompts = [len(example["prompt_ids"]) for example in examples]
        both = [(data[i], name, n) for name in ("chosen", "rejected") for i, n in zip(rows, prompts, strict=True)]
        batch["completion_mask"] = masked(batch["completion_mask"], [of_the_assistant(*one) for one in both])
    assert len(samples.actions) == int(batch["completion_mask"].sum())
    loss, metrics = agent._loss(samples)
    assert_equal_loss_and_gradients(agent.policy, loss, theirs._compute_loss(theirs.model, batch, False))
    assert metrics["rewards/margins"].item() == pytest.approx(theirs._metrics["eval"]["rewards/margins"][-1], abs=1e-5)


@pytest.mark.filterwarnings("ignore::Warning")
@pytest.mark.parametrize("assistant_only", [True, False])
def test_ktos_loss_of_turns_is_trls(model: str, tmp_path: Path, assistant_only: bool) -> None:
    data, settings = as_labels(pairs()), {"beta": 0.4, "undesirable_weight": 1.5}
    agent, start, samples, rows = prepared("kto", data, model, assistant_only_loss=assistant_only, **settings)
    theirs = trainer("KTO", agent, start, data, tmp_path, **settings)
    examples = [dict(theirs.train_dataset[i]) for i in rows]
    for i, example in enumerate(examples):  # as TRL does within its own batches
        example["KL_completion_ids"] = examples[i - 1]["completion_ids"]
    batch = theirs.data_collator(examples)
    if assistant_only:
        prompts = [len(example["prompt_ids"]) for example in examples]
        learned = [of_the_assistant(data[i], "completion", n) for i, n in zip(rows, prompts, strict=True)]
        batch["completion_mask"] = masked(batch["completion_mask"], learned)
        batch["KL_completion_mask"] = masked(batch["KL_completion_mask"], [learned[i - 1] for i in range(len(rows))])
    assert len(samples.actions) == int(batch["completion_mask"].sum())
    loss, metrics = agent._loss(samples)
    assert_equal_loss_and_gradients(agent.policy, loss, theirs._compute_loss(theirs.model, batch, False))
    kl = theirs._metrics["eval"]["kl"][-1]  # the difference of two sums of some 500 nats in float32
    assert metrics["kl"].item() == pytest.approx(kl, abs=1e-4)


def shown(model: str, row: Row, template: str, columns: Any = PAIRS, **kwargs: Any) -> list[tuple[str, str]]:
    """The context of each completion, and what of it is learned."""
    env = make_env(model, template, **kwargs)
    batch = open_batch(env, 1)
    (logged,), _ = read_logged([row], batch, columns)
    decode: Any = batch.tokenizer.decode
    return [
        (decode([*e.context["input_ids"], e.actions[-1]]), "|".join(decode([token]) for token in e.actions))
        for e in logged.episodes
    ]


def test_turns_are_learned_and_what_others_say_is_context(model: str) -> None:
    row = {"prompt": [said("user", "q")], "chosen": talk("ab", "c", "d"), "rejected": talk("x")}
    head = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
    more = "ab<|im_end|>\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\nd<|im_end|>"
    chosen, rejected = shown(model, row, CHATML)
    assert chosen == (head + more, "a|b|<|im_end|>|d|<|im_end|>")
    assert rejected == (f"{head}x<|im_end|>", "x|<|im_end|>")


def test_turns_in_role_lines_end_with_eos(model: str) -> None:
    row = {"prompt": [said("user", "q")], "completion": talk("a", "c", "d"), "label": True}
    ((whole, learned),) = shown(model, row, "roles", LABELS, chat=False)
    assert whole.removeprefix("<s>") == "User: q\n\nAssistant: a</s>\n\nUser: c\n\nAssistant: d</s>"
    assert learned == " |a|</s>| |d|</s>"


def test_without_a_prompt_it_is_what_both_begin_with_and_other_questions_are_context(model: str) -> None:
    same = [said("user", "q"), said("assistant", "a")]
    row = {"chosen": [*same, said("user", "b"), said("assistant", "c")], "rejected": [*same, *talk("", "b", "d")[1:]]}
    row["rejected"][2] = said("user", "other")
    (chosen, one), (rejected, two) = shown(model, row, CHATML)
    assert "q<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>user\nb<|im_end|>" in chosen
    assert "other" in rejected
    assert (one, two) == ("c|<|im_end|>", "d|<|im_end|>")


def test_a_template_that_drops_thoughts_is_replaced_by_trls_for_training(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl.chat_template_utils")
    qwen = save_model(tmp_path, family_tokenizer("qwen3"))
    row = {"prompt": [said("user", "q")], "chosen": talk("a", "c", "d"), "rejected": talk("x")}
    (chosen, learned), _ = shown(qwen, row, trl.qwen3_chat_template)
    assert chosen.count("<|im_start|>assistant\n") == 2
    assert learned.endswith("d|<|im_end|>") and "|a|<|im_end|>|" in f"|{learned}"
    with pytest.raises(ValueError, match="the chat template rewrites earlier turns of the agent"):
        shown(qwen, row, QWEN3.replace("role", "role "))


def test_a_completion_is_cut_with_the_turns_of_others(model: str) -> None:
    row = {"prompt": [said("user", "q")], "chosen": talk("ab", "c", "d"), "rejected": talk("x")}
    (chosen, learned), _ = shown(model, row, CHATML, max_new_tokens=8)
    assert learned == "a|b|<|im_end|>" and chosen.endswith("ab<|im_end|>")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            dict(chosen=talk("a", "b"), rejected=talk("c")),
            "'chosen' must be one assistant message .* that end with one",
        ),
        (dict(chosen=talk("a", "b", "c"), rejected=talk("a", "b", "c")), "'chosen' and 'rejected' are the same"),
        (dict(chosen=[said("tool", "a"), *talk("b")], rejected=talk("c")), ".* a message of role 'tool'"),
        (dict(chosen=[*talk("a", "b"), said("assistant", "c") | {"weight": 0}], rejected=talk("d")), ".* of weight 0"),
    ],
)
def test_conversations_that_cannot_be_learned_are_named(model: str, row: Row, message: str) -> None:
    with pytest.raises(ValueError, match=f"data, row 0: {message}"):
        agents.make("dpo", make_env(model), data=[{"prompt": [said("user", "q")], **row}])
