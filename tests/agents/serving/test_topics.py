"""Topics are found as words of a text, however they are written, and nowhere else."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

import agents.serving.topics as searching
from agents.serving.topics import Topics, normalised

TOPICS = Topics({"drugs": ["cocaine", "Crack", "可卡因"], "harm": ["kill", "kill myself", "自杀"], "AI": ["AI", "c++"]})


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Buy COCAINE!", {("drugs", "cocaine")}),
        ("ｃｏｃａｉｎｅ", {("drugs", "cocaine")}),
        ("co\u200bca\u00adine", {("drugs", "cocaine")}),
        ("crackers and wisecrack", set()),
        ("I'll kill\n  myself", {("harm", "kill"), ("harm", "kill myself")}),
        ("kill myselfish", {("harm", "kill")}),
        ("我想自杀了", {("harm", "自杀")}),
        ("他用AI写诗", {("AI", "ai")}),
        ("maintain, AIs, C++!", {("AI", "c++")}),
        ("", set()),
    ],
)
def test_a_topic_is_found_by_its_words(text: str, found: set[tuple[str, str]]) -> None:
    assert set(TOPICS.find(text)) == found


def test_all_terms_are_found_as_by_a_search_for_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(0)
    terms = {"".join(rng.choices("ab ", k=rng.randint(1, 5))).strip() for _ in range(60)} - {""}
    terms = {normalised(term) for term in terms}
    topics = Topics({"all": sorted(terms)})
    monkeypatch.setattr(searching, "PIECE", 7)
    for _ in range(200):
        text = "".join(rng.choices("ab ", k=30))
        alone = {t for t in terms if re.search(rf"(?<!\w){re.escape(t)}(?!\w)", normalised(text))}
        found = topics.find(text)
        assert {term for _, term in found} == alone, text
        for term in alone:
            places = re.findall(rf"(?<!\w)(?={re.escape(term)}(?!\w))", normalised(text))
            assert found["all", term] == len(places), (term, text)


def test_a_term_may_stand_for_several_topics_and_counts() -> None:
    topics = Topics({"a": ["x y"], "b": ["X  Y", "z"]})
    assert topics.find("x y x y z") == {("a", "x y"): 2, ("b", "x y"): 2, ("b", "z"): 1}


def test_topics_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "topics.yml"
    path.write_text("drugs: [cocaine, 可卡因]\nself-harm:\n- kill myself\n", encoding="utf-8")
    assert Topics.load(path).names == ["drugs", "self-harm"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"- a", "expected topics"),
        (b"a: b", "needs a list"),
        (b"a: [1]", "needs a list"),
        (b"a: []", "has no words"),
        (b"a: ['\xe2\x80\x8b']", "must have 1 to 100 characters"),
        (b"'<b>': [x]", "expected 1 to 64 letters"),
        (b"a: [", "no YAML"),
        (b"a: \xff", "no YAML"),
    ],
)
def test_what_is_wrong_with_the_file_is_said(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "topics.yml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=problem) as error:
        Topics.load(path)
    assert str(path) in str(error.value)
