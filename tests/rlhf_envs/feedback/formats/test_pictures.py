"""Pictures of items: read into the store with their rows, checked by their content, and moved with an export."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rlhf_envs.datasets.rows import as_text_rows
from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback import pictures as module
from rlhf_envs.feedback.formats.exporting import export_file
from rlhf_envs.feedback.formats.importing import Import, import_file
from rlhf_envs.feedback.pictures import Picture, read_picture
from rlhf_envs.preferences.crowd import aggregate_pairs


def image(kind: str = "PNG", size: tuple[int, int] = (6, 4), colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, kind)
    return file.getvalue()


def url(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def imported(store: FeedbackStore, folder: Path, *rows: dict[str, Any], format: str = "auto") -> Import:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return import_file(store, path, format)


@pytest.mark.parametrize(("kind", "type"), module.TYPES.items())
def test_type_is_told_by_the_content(tmp_path: Path, kind: str, type: str) -> None:
    (tmp_path / "a.txt").write_bytes(image(kind))
    picture = read_picture("a.txt", tmp_path)
    assert (picture.type, picture.width, picture.height, picture.name) == (type, 6, 4, "a.txt")
    assert picture.data == image(kind)


BAD = {
    "no picture": (b"<svg onload='alert(1)'/>", "'a.png' is no picture: expected PNG, JPEG, WebP or GIF"),
    "damaged": (image(size=(64, 64))[:-40], "the picture 'a.png' is damaged"),
    "empty": (b"", "is no picture"),
    "bomb": (image(size=(7000, 6000)), "has 7000 x 6000 pixels: make it smaller"),
    "large": (image() + b"\0" * 4 * 2**20, "has more than 4 MiB: make it smaller"),
}


@pytest.mark.parametrize("data, reason", BAD.values(), ids=BAD)  # noqa: PT006
def test_what_is_no_picture_is_refused_with_the_place_of_its_row(
    store: FeedbackStore, tmp_path: Path, data: bytes, reason: str
) -> None:
    (tmp_path / "a.png").write_bytes(data)
    row = {"prompt": "p", "completion": "c", "images": ["a.png"]}
    done = imported(store, tmp_path, {"prompt": "q", "completion": "c"}, row)
    (bad,) = done.bad
    assert bad.where.endswith("rows.jsonl:2")
    assert reason in bad.reason
    assert [item.prompt for item in store.items()] == ["q"]


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("missing.png", "'missing.png' cannot be read: No such file or directory"),
        ("../secret.png", "is not below .*: put it beside the file"),
        ("/etc/secret.png", "is not below"),
        ("..\\secret.png", "is not below"),
        ("https://example.org/a.png", "is elsewhere: download it, and write its path"),
        ("//example.org/a.png", "is elsewhere"),
        ("data:image/png,abc", "no data URL in base64"),
        ("data:image/png;base64,a?b", "is no base64"),
        ("a\0b", "is no path"),
        (7, "must be a path or a data URL, got 7"),
        ({"alt": "no place"}, "must be a path or a data URL"),
        ({"path": "a.png", "message": -1}, "must count the messages from 0, got -1"),
    ],
)
def test_references_that_lead_nowhere_or_elsewhere_are_refused(tmp_path: Path, reference: Any, reason: str) -> None:
    (tmp_path / "secret.png").write_bytes(image())
    folder = tmp_path / "below"
    folder.mkdir()
    (folder / "a.png").write_bytes(image())
    with pytest.raises(ValueError, match=reason):
        read_picture(reference, folder)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(image())
    (tmp_path / "below").mkdir()
    (tmp_path / "below/a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ValueError, match="is not below"):
        read_picture("a.png", tmp_path / "below")
    with pytest.raises(ValueError, match="is a path: give a data URL"):
        read_picture("a.png", None)


def test_pictures_of_messages_and_of_the_row(store: FeedbackStore, tmp_path: Path) -> None:
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/cat.png").write_bytes(image())
    parts = [{"type": "image", "path": "pics/cat.png", "alt": "a cat"}, {"type": "text", "text": "What is it?"}]
    link = [{"type": "image_url", "image_url": {"url": url(image(colour="blue"))}}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A cat."}]
    row = {
        "system": "Be brief.",
        "prompt": [*messages, {"role": "user", "content": [*link, {"type": "text", "text": "And this?"}]}],
        "completions": ["Blue.", "Red."],
        "images": ["pics/cat.png"],
    }
    assert imported(store, tmp_path, row).bad == ()
    (item,) = store.items()
    contents = [message["content"] for message in item.meta["messages"]]
    assert contents == ["Be brief.", "What is it?", "A cat.", "And this?"]
    found = [(one["name"], one.get("alt"), one.get("message")) for one in item.meta["images"]]
    assert found == [("cat.png", "a cat", 1), ("picture", None, 3), ("cat.png", None, None)]
    assert store.picture(item.meta["images"][0]["id"]) == ("image/png", image())
    assert store.picture("0" * 64) is None


def test_trl_rows_with_placeholders(store: FeedbackStore, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image())
    asked = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Colour?"}]}]
    row = {"images": ["a.png"], "prompt": asked, "chosen": "red", "rejected": "blue"}
    done = imported(store, tmp_path, row, {**row, "images": []})
    assert done.format == "preference"
    (item,) = store.items()
    assert [(one["name"], one["message"]) for one in item.meta["images"]] == [("a.png", 0)]
    assert [bad.reason for bad in done.bad] == [
        "a message has a picture without its path or data, and 'images' has no more of them"
    ]


def test_a_picture_by_the_assistant_is_refused(store: FeedbackStore, tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": [{"type": "image", "data": url(image())}]}
    done = imported(store, tmp_path, {"messages": [{"role": "user", "content": "Draw."}, answer]})
    assert ["only pictures of the prompt" in bad.reason for bad in done.bad] == [True]


def test_a_message_that_is_not_there_has_no_picture(store: FeedbackStore, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(image())
    picture = {"path": "a.png", "message": 1}
    done = imported(store, tmp_path, {"prompt": "p", "completion": "c", "images": [picture]})
    assert [bad.reason for bad in done.bad] == [
        "the picture 'a.png' is of message 1, and the prompt has 0 messages, from 0"
    ]


def test_too_many_pictures_are_refused(store: FeedbackStore, tmp_path: Path) -> None:
    done = imported(store, tmp_path, {"prompt": "p", "completion": "c", "images": [url(image())] * 17})
    assert [bad.reason for bad in done.bad] == ["an item can have 16 pictures, and this has 17"]


def test_the_same_words_about_another_picture_are_another_question(store: FeedbackStore, tmp_path: Path) -> None:
    rows = [
        {"prompt": "Colour?", "completion": "c", "images": [url(image(colour=colour))]}
        for colour in ("red", "blue", "red")
    ]
    done = imported(store, tmp_path, *rows)
    assert done.items == 2
    assert ["duplicate" in bad.reason for bad in done.bad] == [True]


def test_an_export_of_items_moves_the_pictures(store: FeedbackStore, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": [{"type": "image", "data": url(image()), "alt": "red"}]}]
    row = {"prompt": asked, "completion": "c", "meta": {"own": 1}}
    assert imported(store, tmp_path, row, {"prompt": "p", "completion": "d"}).bad == ()
    export_file(store, tmp_path / "all.jsonl", "items")
    assert export_file(store, tmp_path / "sft.jsonl", "sft").dropped == {
        "not judged yet (item)": 2,
        "picture: only --format items has them (item)": 1,
    }
    with FeedbackStore(tmp_path / "other.db") as other:
        assert import_file(other, tmp_path / "all.jsonl").bad == ()
        assert [item.meta for item in other.items()] == [item.meta for item in store.items()]
        assert other.picture(other.items()[0].meta["images"][0]["id"]) == ("image/png", image())
        again = import_file(other, tmp_path / "all.jsonl")
        assert (again.items, len(again.bad)) == (0, 2)


def test_pictures_are_kept_on_both_databases(store_url: str) -> None:
    picture = Picture(image(), "a.png", alt="red")
    with FeedbackStore(store_url) as store:
        assert (
            store.add_pictures([picture, picture])
            == [{"id": picture.id, "name": "a.png", "width": 6, "height": 4, "alt": "red"}] * 2
        )
        store.add_pictures([picture])
        assert store.picture(picture.id) == ("image/png", image())


# Completions of several turns


def test_completions_of_several_turns_keep_them(store: FeedbackStore, tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Weather?"}
    turns = [
        {"role": "assistant", "content": "Where?"},
        {"role": "user", "content": "Paris."},
        {"role": "assistant", "content": "Rain."},
    ]
    short = [{"role": "assistant", "content": "I cannot tell."}]
    row = {"prompt": [asked], "completions": [turns, short]}
    whole = {"completions": [[asked, *turns], [{"role": "user", "content": "Hi"}, *short]], "prompt": ""}
    done = imported(store, tmp_path, row, {**row, "completions": [turns[:2], short]})
    assert [bad.reason for bad in done.bad] == [
        "a completion ends with a message of 'user': people judge what the assistant says"
    ]
    (item,) = store.items()
    assert item.completions == ("Where?\n\nUser: Paris.\n\nAssistant: Rain.", "I cannot tell.")
    assert item.meta == {"messages": [asked], "turns": [turns, None]}
    assert imported(store, tmp_path, whole).bad == ()
    both = store.items()[1]
    assert both.meta["turns"] == whole["completions"]
    assert both.completions[1] == "User: Hi\n\nAssistant: I cannot tell."
    export_file(store, tmp_path / "all.jsonl", "items")
    with FeedbackStore(tmp_path / "other.db") as other:
        import_file(other, tmp_path / "all.jsonl")
        assert [item.meta["turns"] for item in other.items()] == [item.meta["turns"] for item in store.items()]


def test_turns_are_exported_to_trainers_as_messages_and_read_again(store: FeedbackStore, tmp_path: Path) -> None:
    asked = {"role": "user", "content": "Weather?"}
    turns = [
        {"role": "assistant", "content": "Where?"},
        {"role": "user", "content": "Paris."},
        {"role": "assistant", "content": "Rain."},
    ]
    short = [{"role": "assistant", "content": "I cannot tell."}]
    judged = {"judgements": [{"annotator": "ann", "value": {"choice": 0, "strength": 1}}]}
    assert imported(store, tmp_path, {"prompt": [asked], "completions": [turns, short], **judged}).bad == ()
    pair = {"prompt": [asked], "chosen": turns, "rejected": short, "annotator": "ann"}
    labels = [{"completion": turns, "label": True}, {"completion": short, "label": False}]
    found: dict[str, list[Any]] = {}
    for name in ("preference", "kto"):
        export_file(store, tmp_path / f"{name}.jsonl", name, conversational=True)
        lines = (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        found[name] = list(map(json.loads, lines))
        with FeedbackStore(tmp_path / f"{name}.db") as other:
            assert import_file(other, tmp_path / f"{name}.jsonl").bad == ()
            kept: dict[str, Any] = {}
            for item in other.items():
                kept |= zip(item.completions, item.meta.get("turns", [None]), strict=True)
            assert kept == {"Where?\n\nUser: Paris.\n\nAssistant: Rain.": turns, "I cannot tell.": None}
    assert found["preference"] == [pair]
    assert found["kto"] == [{"prompt": [asked], **row, "annotator": "ann"} for row in labels]
    rows = aggregate_pairs(store.items(), store.judgements(), "majority", messages=True, turns=True)
    assert (rows[0]["chosen"], rows[0]["rejected"]) == (turns, "I cannot tell.")
    (row,) = as_text_rows(found["preference"])
    assert row["chosen"] == " Where?\n\nUser: Paris.\n\nAssistant: Rain."
