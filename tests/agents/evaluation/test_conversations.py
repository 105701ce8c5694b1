"""Agents, bundles, evaluations and questions to people go by the conversations of an environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from agents import evaluate, generate, load, make, make_vec_env, save
from agents.algorithms.common.logged_data import read_log
from agents.cli.evaluate import EvaluateConfig
from agents.cli.generate import GenerateConfig
from agents.cli.tables import sample_text
from agents.cli.train import TrainFlags
from agents.core.text_metrics import list_episodes
from agents.evaluation.chat import Chat
from agents.evaluation.items import generate_items
from agents.evaluation.prompting import open_prompts
from agents.saving.loading import load_policy
from agents.saving.untrusted import read_env_kwargs
from tests.rlhf_envs.chat_families import CHATML, family_tokenizer
from tests.rlhf_envs.small_models import save_model

ID = "rlhf/Prompts-v0"
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
TEMPLATE = CHATML.replace("assistant\n", "assistant:\n")
REWARD: dict[str, Any] = {"reward": "length-penalty", "reward_kwargs": {"longest": 1}}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("chatml"), family_tokenizer("chatml"), vocab_size=264)


@pytest.fixture(scope="module")
def bundle(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained agent whose chat template was a file that is gone."""
    folder = tmp_path_factory.mktemp("agent")
    file = folder / "mine.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    rows = [{"prompt": word, "split": split} for split, word in (("train", "hi"), ("test", "hello"))]
    options: dict[str, Any] = {"chat": True, "system_prompt": "Be brief.", "chat_template": str(file), **REWARD}
    env = make_vec_env(ID, n_envs=2, seed=0, model=model, data=rows, max_new_tokens=4, **options)
    agent = make("ppo", env, model=model, n_steps=4, batch_size=8, n_epochs=1, seed=0)
    agent.learn(8)
    save(agent, folder / "agent")
    file.unlink()
    return folder / "agent"


def test_a_bundle_has_the_text_of_its_template_and_asks_as_in_training(bundle: Path) -> None:
    described = json.loads((bundle / "agent.json").read_text(encoding="utf-8"))["env"]["kwargs"]
    assert described["chat_template"] == TEMPLATE
    (done,) = generate(bundle, prompts=["hi"])
    assert done.asked == ASKED
    tokenizer = family_tokenizer("chatml")
    expected = tokenizer.apply_chat_template(
        ASKED, add_generation_prompt=True, return_dict=False, chat_template=TEMPLATE
    )
    assert done.input_ids[: done.columns[0] + 1].tolist() == expected


def test_a_saved_model_ends_where_its_template_ends_a_turn(bundle: Path, tmp_path: Path) -> None:
    policy, _ = load_policy(bundle)
    policy.save_pretrained(tmp_path)
    ends = GenerationConfig.from_pretrained(tmp_path).eos_token_id
    assert family_tokenizer("chatml").convert_ids_to_tokens(ends) == ["</s>", "<|im_end|>"]
    assert (tmp_path / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE, "the run's own"


def test_a_bundle_goes_on_with_the_conversation(bundle: Path) -> None:
    agent = load(bundle)
    assert agent.get_env().get_attr("rows", 0)[0] == [{"prompt": ASKED, "split": "train"}]


def test_a_template_that_a_bundle_names_is_not_read() -> None:
    with pytest.raises(ValueError, match="chat_template names '/etc/passwd', which is not followed"):
        read_env_kwargs({"chat_template": "/etc/passwd"}, "a bundle", follow_paths=False)
    for text in (CHATML, "roles"):
        assert read_env_kwargs({"chat_template": text}, "a bundle", follow_paths=False) == {"chat_template": text}


def test_an_evaluation_gives_judges_messages_and_people_texts(bundle: Path) -> None:
    seen: dict[str, Any] = {}

    def judge(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions)
        return [1.0] * len(prompts)

    found = evaluate(
        bundle, ID, n_episodes=2, judges={"mine": judge}, env_kwargs={"data": [{"prompt": "hello", "split": "test"}]}
    )
    done, shown = found.completions[0], "System: Be brief.\n\nUser: hello"
    assert seen["prompts"] == [[ASKED[0], {"role": "user", "content": "hello"}]] * 2
    assert seen["completions"][0] == [{"role": "assistant", "content": done.completion}]
    sample = found.to_dict()["samples"][0]
    assert sample["prompt"] == done.prompt == shown
    assert sample["messages"] == done.asked
    assert "  System: Be brief.\nUser: hello\nAssistant:" in sample_text(done).plain
    assert found.prompts == "held-out prompts"


def test_training_prompts_are_known_as_such_in_conversations_too(bundle: Path) -> None:
    rows = [{"prompt": "hi", "split": "test"}]
    found = evaluate(bundle, ID, n_episodes=2, judges={}, env_kwargs={"data": rows})
    assert found.prompts == "training prompts"


def test_people_are_asked_about_a_conversation_that_stays_one(bundle: Path) -> None:
    rows = [{"prompt": "hi", "split": "train"}]
    items, _ = generate_items(str(bundle), ID, n_prompts=1, n_completions=1, env_kwargs={"data": rows})
    assert items[0].prompt == "System: Be brief.\n\nUser: hi"
    assert items[0].meta["messages"] == ASKED


def test_samples_in_a_log_are_readable() -> None:
    info = {"prompt": ASKED[1:], "completion": [{"role": "assistant", "content": " Hello "}], "episode": {"r": 1.0}}
    assert list_episodes([info]) == "- `1.00` User&#58; hi  \n  **Assistant&#58; Hello**"


def test_a_chat_without_the_template_is_not_wrapped_by_it(bundle: Path) -> None:
    read: list[str] = []

    class Spy(Chat):
        def _complete(self, prompt: Any, on_step: Any = None) -> str:
            batch = open_prompts(self.source, [prompt], None, self.max_new_tokens, self.env_kwargs)
            batch.start(0, 0)
            read.extend(batch.texts([0])[0])
            return ""

    Spy(bundle, style="plain").say("hi")
    Spy(bundle, style="template").say("hi")
    assert read[0] == "hi"
    assert read[1].startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>")


def test_references_are_learned_after_the_environments_conversation(model: str) -> None:
    answer = [{"role": "assistant", "content": "yes"}]
    rows = [{"prompt": ASKED[1:], "completion": answer, "split": "train"}]
    env = make_vec_env(ID, n_envs=1, seed=0, model=model, data=rows, max_new_tokens=16, **REWARD)
    (episode,) = make("sft", env, model=model, n_steps=8)._references
    whole = family_tokenizer("chatml").apply_chat_template([*ASKED[1:], *answer], return_dict=False)
    written = [*episode.context["input_ids"].tolist(), int(episode.actions[-1])]
    assert written == whole[: len(written)]
    assert family_tokenizer("chatml").decode(whole[len(written) :]) == "\n", "which nobody writes"


@pytest.mark.parametrize("has_end", [True, False])
def test_an_answer_that_ran_out_of_room_is_learned_whole_and_without_an_end(model: str, has_end: bool) -> None:
    """Also where no token ends a text, so that none is put behind it and taken off again."""
    rows = [{"prompt": "hi", "completion": " yes yes", "finish_reason": "length", "split": "train"}]
    env = make_vec_env(ID, n_envs=1, seed=0, model=model, data=rows, max_new_tokens=16, **REWARD)
    if not has_end:
        env.get_attr("episodes", 0)[0].ends = []
    (episode,) = make("sft", env, model=model, n_steps=16)._references
    tokenizer = family_tokenizer("chatml")
    assert episode.actions.tolist() == tokenizer(" yes yes", add_special_tokens=False)["input_ids"]


def test_a_typed_prompt_is_what_a_user_says_where_there_is_a_system_prompt(model: str) -> None:
    """A run with a system prompt has learned from conversations, also one without `chat`."""
    system = {"system_prompt": "Be brief.", "max_new_tokens": 2}
    (done,) = generate(model, prompts=["hi"], env_kwargs=system)
    assert done.asked == ASKED
    typed, said = generate(model, prompts=["hi", ASKED[1:]], env_kwargs=system)
    assert (typed.asked, said.asked) == ("hi", ASKED), "beside conversations a text stays one"
    with pytest.raises(ValueError, match="all prompts of task"):
        generate(model, prompts=["hi"], env_kwargs={**system, "chat": False})


def test_logged_answers_follow_the_environments_conversation(model: str) -> None:
    options: dict[str, Any] = {"system_prompt": "Be brief.", "max_new_tokens": 16, **REWARD}
    env = make_vec_env(ID, n_envs=1, model=model, data=[{"prompt": ASKED[1:], "split": "train"}], **options)
    log = [{"prompt": ASKED[1:], "completion": "yes", "label": 1}, {"prompt": "hi", "completion": "yes", "label": 0}]
    (conversation, plain), lengths, _ = read_log(log, env)
    tokenizer = family_tokenizer("chatml")
    whole = tokenizer.apply_chat_template([*ASKED, {"role": "assistant", "content": "yes"}], return_dict=False)
    assert conversation.tolist() == whole[:-1], "without the line break after the end of the turn"
    prompt = tokenizer.apply_chat_template(ASKED, add_generation_prompt=True, return_dict=False)
    assert lengths == [len(prompt), len(tokenizer("hi")["input_ids"])]
    assert plain[: lengths[1]].tolist() == tokenizer("hi")["input_ids"]


def test_the_flags_for_conversations_become_arguments_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    given = {"chat": True, "system_prompt": "Be brief.", "chat_template": str(file)}
    expected = {"chat": True, "system_prompt": "Be brief.", "chat_template": TEMPLATE}
    flags = [TrainFlags(**given), EvaluateConfig(source="tiny", **given), GenerateConfig(source="tiny", **given)]
    assert [config.env_kwargs for config in flags] == [expected] * 3
    with pytest.raises(ValueError, match=r"chat_template='no.jinja': there is no such file"):
        TrainFlags(chat_template="no.jinja")
