"""The scripts that draw samples read their sources as they are written."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from scripts.datasets import aclsum, debian, interface_texts

ENTRY = """Package: {package}
Description-md5: 0
Description-en: {synopsis}
 {text}
  * an item of a list
 and its end.
 .
 A second paragraph.
"""
TEXT = "Quick is an image viewer of the GNOME desktop that starts in no time at all and shows pictures"


def test_the_first_paragraph_is_read_without_its_list(tmp_path: Path) -> None:
    path = tmp_path / "Translation-en"
    path.write_text(ENTRY.format(package="quick", synopsis="fast image viewer", text=TEXT) + "\n", encoding="utf-8")
    assert list(debian.read_paragraphs(path)) == [("quick", "fast image viewer", f"{TEXT} and its end.")]


def test_repeated_and_nearly_equal_descriptions_and_synopses_that_are_none_are_left_out(tmp_path: Path) -> None:
    entries = [
        ("quick", "fast image viewer", TEXT),
        ("quick-gtk", "fast viewer of pictures", TEXT),
        ("quick-qt", "image viewer of GNOME", TEXT.replace("in no time at all", "in no time")),
        ("copy", "Quick is an image viewer", TEXT),
        ("other", "plays chess", "Another description, of a program that plays chess against people and itself"),
        ("far", "something else entirely", TEXT.replace("image", "video").replace("pictures", "films")),
    ]
    path = tmp_path / "Translation-en"
    path.write_text(
        "\n".join(ENTRY.format(package=package, synopsis=synopsis, text=text) for package, synopsis, text in entries),
        encoding="utf-8",
    )
    assert [row["package"] for row in debian.read_rows(path)] == ["quick"]


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [("&Save  as…", "Save as…"), ("文件 (&F)", "文件"), ("Code & Servers", "Code & Servers"), ("保存(&S)", "保存")],
)
def test_marks_of_shortcut_keys_are_taken_off(text: str, cleaned: str) -> None:
    assert interface_texts.clean(text) == cleaned


def test_messages_of_both_kinds_of_files_are_paired_once_and_without_places_for_values(tmp_path: Path) -> None:
    pytest.importorskip("babel", reason="reads .po files")
    wheel = tmp_path / "some_package-1.0-py3-none-any.whl"
    catalog = [("Save", "保存"), ("Delete %s", "删除 %s"), ("save!", "保存！"), ("Done", "")]
    po = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
    po += "\n".join(f'msgid "{english}"\nmsgstr "{chinese}"\n' for english, chinese in catalog)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("some_package/locale/zh_Hans/LC_MESSAGES/django.po", po)
        archive.writestr("some_package/locale/de/LC_MESSAGES/django.po", po.replace("保存", "Sichern"))
        messages = {"": {"language": "zh"}, "menu\x04Open": ["打开"], "item": ["项", "项目"]}
        archive.writestr("some_package/locale/zh_CN/LC_MESSAGES/lab.json", json.dumps(messages))
    found = interface_texts.pairs([wheel])
    assert [(row["prompt"], row["reference"]) for row in found] == [("Open", "打开"), ("Save", "保存")]
    assert {row["package"] for row in found} == {"some_package"}
    assert [row["target"] for row in interface_texts.both_ways(found[0])] == ["Chinese", "English"]


def test_an_abstract_stands_once_for_each_aspect(tmp_path: Path) -> None:
    wheel = tmp_path / "aclsum.whl"
    paper = {
        "id": "P1",
        "summary": {"challenge": "It is hard.", "approach": " They try . ", "outcome": ""},
        "sentences": {"abstract": ["We try ( hard ) .", "It works ."]},
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in aclsum.SPLITS:
            archive.writestr(f"aclsum/dataset/{file}.jsonl", json.dumps(paper) + "\n")
    rows = aclsum.read_rows(wheel)
    assert [row["split"] for row in rows] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2
    assert rows[0] == {
        "id": "P1", "prompt": "We try (hard). It works.", "aspect": "challenge", "reference": "It is hard.",
        "split": "train",
    }  # fmt: skip
