from __future__ import annotations

from typing import Any

import pytest
from jinja2 import TemplateError

from rlhf_envs.datasets.messages import as_text, shown
from rlhf_envs.datasets.rows import as_text_row, is_plain, read_pair, read_prompt

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": "Name a colour"}


def says(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


class Template:
    """A tokenizer that only has a chat template, which writes <role>content</>."""

    chat_template = "{# a template #}"

    def apply_chat_template(
        self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool = False
    ) -> str:
        assert not tokenize
        text = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
        return text + "<assistant>" * add_generation_prompt


def test_a_conversation_is_role_lines_and_the_answer_follows_a_space() -> None:
    prompt, completion = as_text([SYSTEM, USER], "Blue")
    assert prompt + completion == "System: Be brief.\n\nUser: Name a colour\n\nAssistant: Blue"
    assert completion == " Blue"
    assert as_text("This film", " is good") == ("This film", " is good"), "strings are joined as they are"


def test_a_chat_template_takes_the_place_of_role_lines() -> None:
    tokenizer: Any = Template()
    assert as_text([USER], "Blue", tokenizer) == ("<user>Name a colour</><assistant>", "Blue</>")
    tokenizer.chat_template = None
    assert as_text([USER], "Blue", tokenizer) == ("User: Name a colour\n\nAssistant:", " Blue")


def test_a_template_that_cannot_be_parted_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = Template()

    def with_count(messages: list[Any], tokenize: bool, add_generation_prompt: bool = False) -> str:
        return f"{len(messages)} messages"

    monkeypatch.setattr(tokenizer, "apply_chat_template", with_count, raising=False)
    with pytest.raises(ValueError, match="does not begin with its prompt, which ends '1 messages'"):
        as_text([USER], "Blue", tokenizer)


def test_messages_that_a_template_refuses_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer: Any = Template()

    def refuse(*messages: Any, **options: Any) -> str:
        raise TemplateError("System role not supported")

    monkeypatch.setattr(tokenizer, "apply_chat_template", refuse, raising=False)
    with pytest.raises(ValueError, match="refuses message 1 of 2, of role 'system': System role not"):
        as_text([SYSTEM, USER], "Blue", tokenizer)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "p", "question": "q"}, "p"),
        ({"prompt": [USER]}, [USER]),
        ({"question": "Name a colour"}, [USER]),
        ({"instruction": "Name a colour", "input": ""}, [USER]),
        ({"instruction": "Name a", "input": "colour"}, [{"role": "user", "content": "Name a\n\ncolour"}]),
        ({"system": "Be brief.", "question": "Name a colour"}, [SYSTEM, USER]),
        ({"system": "Be brief.", "prompt": "Name a colour"}, [SYSTEM, USER]),
        ({"system": "", "prompt": "Name a colour"}, [USER]),
        ({"system": None, "prompt": [SYSTEM, USER]}, [SYSTEM, USER]),
        ({"system_prompt": "Be brief.", "conversations": [{"from": "human", "value": "Name a colour"}]},
         [SYSTEM, USER]),
        ({"messages": [USER]}, [USER]),
        ({"prompt": "p", "messages": [USER]}, "p"),
        ({"chosen": "a"}, None),
    ],
)  # fmt: skip
def test_the_prompt_is_found_under_the_names_that_people_use(row: dict[str, Any], prompt: Any) -> None:
    assert read_prompt(row) == prompt


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q", "instruction": "i"}, "columns question, instruction could all be the prompt"),
        ({"prompt": 7, "system": "s"}, "'prompt' is int, not a string"),
        ({"prompt": [{"role": "tool", "content": "x"}]}, "a message of role 'tool'"),
        ({"conversations": [{"from": "human", "value": None}]}, "a message that is not text"),
        ({"question": []}, None),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(row: dict[str, Any], reason: str | None) -> None:
    if reason is None:
        assert read_prompt(row) == []
        return
    with pytest.raises(ValueError, match=reason):
        read_prompt(row)


WHOLE = [SYSTEM, USER]
PAIRS: list[dict[str, Any]] = [
    {"prompt": WHOLE, "chosen": [says("Blue")], "rejected": [says("Dog")]},
    {"prompt": WHOLE, "chosen": "Blue", "rejected": [says("Dog")]},
    {"prompt": WHOLE, "chosen": [*WHOLE, says("Blue")], "rejected": [*WHOLE, says("Dog")]},
    {"prompt": WHOLE, "chosen": [USER, says("Blue")], "rejected": [USER, says("Dog")]},
    {"prompt": "Name a colour", "chosen": [*WHOLE, says("Blue")], "rejected": [*WHOLE, says("Dog")]},
    {"system": "Be brief.", "prompt": "Name a colour", "chosen": "Blue", "rejected": "Dog"},
    {"system": "Be brief.", "question": "Name a colour", "chosen": "Name a colour Blue",
     "rejected": "Name a colour Dog"},
    {"system": "Be brief.", "chosen": [USER, says("Blue")], "rejected": [USER, says("Dog")]},
    {"chosen": [*WHOLE, says("Blue")], "rejected": [*WHOLE, says("Dog")]},
    {
        "conversations": [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Name a colour"}],
        "chosen": {"from": "gpt", "value": "Blue"},
        "rejected": {"from": "gpt", "value": "Dog"},
    },
]  # fmt: skip


@pytest.mark.parametrize("row", PAIRS)
def test_pairs_of_every_shape_are_one_conversation_with_two_answers(row: dict[str, Any]) -> None:
    assert read_pair(row) == (WHOLE, "Blue", "Dog")
    texts = as_text_row({**row, "margin": 1})
    prompt = "System: Be brief.\n\nUser: Name a colour\n\nAssistant:"
    assert {name: texts[name] for name in ("prompt", "chosen", "rejected", "margin")} == {
        "prompt": prompt, "chosen": " Blue", "rejected": " Dog", "margin": 1
    }  # fmt: skip
    assert not is_plain(row)


def test_what_both_answers_begin_with_belongs_to_the_prompt() -> None:
    more = [says("Which kind?"), {"role": "user", "content": "A dark one"}]
    row = {"prompt": [USER], "chosen": [*more, says("Blue")], "rejected": [*more, says("Dog")]}
    assert read_pair(row) == ([USER, *more], "Blue", "Dog")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Other", "chosen": [USER, says("a")], "rejected": [USER, says("b")]}, "'Other' does not stand"),
        ({"system": "s", "chosen": "a", "rejected": "b"}, "a system text and no prompt"),
        ({"prompt": [USER], "chosen": [says("a")], "rejected": [says("a")]}, "are the same"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [says("a")]}, "'chosen' must be one assistant message"),
    ],
)
def test_a_pair_that_cannot_be_read_is_refused(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_pair(row)


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "found"),
    [
        ("A colour?", "A colour? Blue", "A colour? Dog", (" Blue", " Dog")),
        ("说一种颜色", "说一种颜色蓝色", "说一种颜色小狗", ("蓝色", "小狗")),
        ("A colour?", "A colour? Blue", "Dog", ("A colour? Blue", "Dog")),  # one answer alone may quote it
        ("A", "Apples", "Avocados", ("Apples", "Avocados")),  # the beginning of a word
        ("p", "p", "p, said again", ("p", "p, said again")),  # nothing else is said
        ("", "a", "b", ("a", "b")),
        ("Hi", "Hi, how are you?", "Hi. What?", ("Hi, how are you?", "Hi. What?")),  # greeted, not repeated
        ("你好", "你好，请问", "你好！", ("你好，请问", "你好！")),
    ],
)
def test_a_prompt_that_both_texts_repeat_stands_once(
    prompt: str, chosen: str, rejected: str, found: tuple[str, str]
) -> None:
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    assert read_pair(row) == (prompt, *found)
    assert is_plain(row) == (found == (chosen, rejected))


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("今天的天气很好", "今天的天气很差", "今天的天气很"),
        ("この映画は面白い。", "この映画はつまらない。", "この映画は"),
        ("หนังเรื่องนี้ดีมาก", "หนังเรื่องนี้แย่มาก", "หนังเรื่องนี้"),
        ("ที่", "ที", ""),  # the sign that differs is part of the letter before it
        ("The film is 好看", "The film is 难看", "The film is"),
        ("看完 good", "看完 great", "看完"),
        ("The skys", "The sky blue", "The"),
        ("天空", "天空是蓝的", "天"),  # neither answer is empty
        ("오늘 날씨가 좋다", "오늘 날씨가 나쁘다", "오늘 날씨가"),
        ("same", "same", None),
    ],
)
def test_an_implicit_prompt_ends_between_words_of_the_script(chosen: str, rejected: str, prompt: str | None) -> None:
    row = {"chosen": chosen, "rejected": rejected}
    if prompt is None:
        with pytest.raises(ValueError, match="are the same"):
            read_pair(row)
        return
    found, better, worse = read_pair(row)
    assert found == prompt and (f"{found}{better}", f"{found}{worse}") == (chosen, rejected)


def test_people_see_a_single_message_alone_and_a_longer_conversation_with_its_roles() -> None:
    assert shown([USER]) == "Name a colour"
    assert shown([SYSTEM, USER]) == "System: Be brief.\n\nUser: Name a colour"
    assert shown("a text") == "a text"


@pytest.mark.parametrize(
    "row",
    [
        {"context": "Oslo is in Norway.", "chosen": "Oslo it is", "rejected": "Oslo is not"},
        {"history": ["hi"], "chosen": "A good one", "rejected": "A bad one"},
        {"dialogue": "A: hi", "chosen": "A good one", "rejected": "A bad one"},
        {"question": "Who?", "context": "Bob did.", "chosen": "Bob", "rejected": "Al"},
        {"instruction": "Who?", "passage": "Bob did.", "completion": "Bob", "label": 1},
    ],
)
def test_a_column_that_may_be_a_part_of_the_prompt_is_refused_and_not_passed_over(row: dict[str, Any]) -> None:
    assert not is_plain(row)
    with pytest.raises(ValueError, match="may belong to the prompt"):
        as_text_row(row)


def test_a_column_prompt_is_all_of_the_prompt() -> None:
    row = {"prompt": "Who?", "context": "Bob did.", "text": "x", "chosen": "Bob", "rejected": "Al"}
    assert is_plain(row) and read_pair(row) == ("Who?", "Bob", "Al")
    alpaca = {"instruction": "Add", "input": "1 2", "text": "Add 1 2: 3", "completion": "3"}
    assert read_prompt(alpaca) == [{"role": "user", "content": "Add\n\n1 2"}]


@pytest.mark.parametrize(
    ("prompt", "better", "worse"), [("ｱｲｳ", "ｴｵ", "ｶｷ"), ("བོད་ཀྱི་རྒྱལ་ས་", "ལྷ་ས།", "པེ་ཅིན།"), ("ꆈꌠ", "ꁱ", "ꂷ")]
)
def test_implicit_prompts_end_where_answers_part_in_scripts_without_spaces(
    prompt: str, better: str, worse: str
) -> None:
    assert read_pair({"chosen": prompt + better, "rejected": prompt + worse}) == (prompt, better, worse)
