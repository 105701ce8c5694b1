"""The settings as TOML: what is read, what is refused and by which words, and what is written."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_envs.feedback import Question, Settings
from rlhf_envs.feedback.settings_file import (
    describe_changes,
    parse_settings,
    read_settings_file,
    settings_as_toml,
)
from rlhf_envs.feedback.taking_part import Consent

STUDY = """
guidelines = {file = "guidelines.md"}
lease_seconds = 300
scale = [0, 10]

[wording]
pairwise = "Which answer would you rather get?"

[[questions]]
name = "helpful"
text = "How helpful is it?"
type = "rating"
scale = [1, 7]
ends = ["not at all", "very"]
each = true

[[questions]]
name = "faults"
text = "What is wrong?"
type = "spans"
labels = ["untrue", "rude"]
keys = ["x", "y"]
required = false
help = "Mark the words."
"""


def test_a_file_is_read_with_the_texts_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    (tmp_path / "guidelines.md").write_text("# Be *kind*\n\nRead “all”.\n", encoding="utf-8")
    found = read_settings_file(tmp_path / "study.toml")
    helpful = Question("helpful", "How helpful is it?", "rating", scale=(1, 7), ends=("not at all", "very"), each=True)
    faults = Question(
        "faults",
        "What is wrong?",
        "spans",
        labels=("untrue", "rude"),
        keys=("x", "y"),
        required=False,
        help="Mark the words.",
    )
    assert found == {
        "guidelines": "# Be *kind*\n\nRead “all”.\n",
        "lease_seconds": 300.0,
        "scale": (0, 10),
        "wording": {"pairwise": "Which answer would you rather get?"},
        "questions": (helpful, faults),
    }
    assert type(found["lease_seconds"]) is float


QUESTION = '[[questions]]\nname = "a"\ntext = "A?"\ntype = "rating"\n'
LABELS = '[[questions]]\nname = "a"\ntext = "A?"\ntype = "labels"\nlabels = ["x", "y"]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("guidlines = 'x'", r"unknown setting 'guidlines'; did you mean 'guidelines'\?"),
        ("a = 1\nguidelines = x", r"this is no TOML: .*line 2"),
        ("guidelines = 1", r"guidelines: must be text, got 1"),
        ("guidelines = 2026-01-01", r"guidelines: only texts, numbers"),
        ("paused = 1", r"paused: must be true or false, got 1"),
        ("scale = [1]", r"scale\[1\]: is missing"),
        ("scale = [true, 2]", r"scale\[0\]: must be a whole number, got true"),
        ("scale = [1.0, 2]", r"scale\[0\]: must be a whole number"),
        ("scale = [5, 1]", r"scale must be two whole numbers"),
        ("guidelines = {file = 'none.md'}", r"guidelines: cannot read .*none\.md: No such file"),
        ("wording = {pairwize = 'x'}", r"wording: unknown kind 'pairwize'"),
        ("wording = {pairwise = ' '}", r"wording: the text of 'pairwise'"),
        ("questions = 'a'", r"questions: must be a list"),
        (QUESTION + "requird = true", r"questions\[0\]: unknown key 'requird'; did you mean 'required'\?"),
        (QUESTION.replace("rating", "rate"), r"questions\[0\]\.type: Input should be 'choice', 'rating'.*got \"rate\""),
        ('[[questions]]\nname = "a"', r"questions\[0\]\.text: is missing"),
        (QUESTION + "labels = ['x', 'y']", r"question 'a': labels is for the type labels and spans, not for 'rating'"),
        (QUESTION + "scale = [3, 3]", r"question 'a': scale must be the lowest and the highest rating"),
        (QUESTION + "kinds = ['pairs']", r"question 'a': kinds: unknown kind 'pairs'"),
        (QUESTION.replace('"a"', '"a b"'), r"name 'a b': write at most 60 letters"),
        (QUESTION + QUESTION, r"questions: two have the name 'a'"),
        (QUESTION + "when = {b = ['x']}", r"question 'a': when: there is no question 'b' before it"),
        (
            LABELS + QUESTION.replace('"a"', '"b"') + "when = {a = ['z']}",
            r"when: \['z'\] are no answers to 'a'",
        ),
        (LABELS + "keys = ['s', 'x']", r"question 'a': keys: 's' is no key for a label: take a digit or one of a b"),
        (LABELS + "keys = ['x']", r"question 'a': keys: write one for each of the 2 labels"),
        (LABELS.replace('"x", "y"', '"x"'), r"question 'a': labels: write two or more"),
        (LABELS.replace('"x", "y"', '"x", "x"'), r"question 'a': labels must differ"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(ValueError, match=r"study\.toml: .*" + words):
        read_settings_file(tmp_path / "study.toml")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b'guidelines = "\xff"')
    with pytest.raises(ValueError, match=r"study\.toml: .*utf-8"):
        read_settings_file(tmp_path / "study.toml")


def test_without_a_folder_no_file_is_read() -> None:
    with pytest.raises(ValueError, match=r"questions\[0\]\.help: the file '/etc/passwd' cannot be read here"):
        parse_settings(QUESTION + "help = {file = '/etc/passwd'}")


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(guidelines=st.text(st.characters(exclude_categories=["Cs"]), max_size=200), wording=texts, label=texts)
def test_what_is_written_is_read_back(guidelines: str, wording: str, label: str) -> None:
    questions = (
        Question("kind-of", wording, "labels", labels=(label, f"{label}!"), multiple=True),
        Question("q_2", label, "choice", grades=3, kinds=("pairwise",), when={"kind-of": (label,)}),
    )
    before = Settings(guidelines=guidelines, wording={"rating": wording}, questions=questions, lease_seconds=0.1)
    assert Settings(**parse_settings(settings_as_toml(before))) == before


def test_every_setting_is_written_with_what_it_does() -> None:
    lines = settings_as_toml(Settings()).split("\n")
    kinds = [(Settings, "")] + [(type(value), name) for name, value in vars(Settings()).items() if is_dataclass(value)]
    for kind, table in kinds:
        for field in fields(kind):
            names = (
                f"{field.name} = ",
                f"# {field.name} = ",
                f"[{field.name}]",
                f"# [{field.name}]",
                f"# [[{field.name}]]",
            )
            (place,) = [i for i, line in enumerate(lines) if line.startswith(names)]
            assert lines[place - 1].startswith("# "), (table, field.name)
    assert "# pass_mark = 0.8" in lines


def test_a_line_like_a_heading_in_a_text_is_kept() -> None:
    before = Settings(consent=Consent("first\n[consent]\n[panel]\n# comment"), guidelines="[consent]\n\nx\n")
    assert Settings(**parse_settings(settings_as_toml(before))) == before


def test_changes_are_told_by_name() -> None:
    one = Question("helpful", "Helpful?", "rating")
    before = Settings(questions=(one, Question("tone", "Tone?", "text")))
    after = Settings(
        guidelines="x" * 100,
        questions=(Question("helpful", "Helpful?", "rating", scale=(1, 7)), Question("new", "N", "text")),
    )
    assert describe_changes(before, before) == []
    assert describe_changes(before, after) == [
        f'guidelines: "" -> "{"x" * 59}… (102 characters)',
        "question 'new': new",
        "question 'tone': removed",
        "question 'helpful': scale default -> [1, 7]",
    ]
    assert describe_changes(before, Settings(questions=before.questions[::-1])) == ["questions: another order"]


def test_the_settings_of_the_guide_about_annotators_are_taken() -> None:
    guide = Path(__file__).parents[3] / "docs" / "guides" / "feedback" / "annotators.md"
    text = guide.read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]
    settings = Settings(**parse_settings(text))
    assert settings.training.n_items == 5
    assert settings.panel.screening[0].accept == ("Yes, well",)
    assert parse_settings(settings_as_toml(settings))["panel"] == settings.panel
