"""Draw the bundled chats from the package chitchat-dataset, without anything that tells who wrote them.

    pip download --no-deps chitchat-dataset==0.9.0 names==0.3.0
    python -m scripts.datasets.chitchat chitchat_dataset-0.9.0-py3-none-any.whl names-0.3.0.tar.gz

It needs the extra `safety` (alt-profanity-check). A turn is kept if all of this holds, and chats are cut where one is
not: every word of it was written by 15 different people; none is a proper noun (a word of which three in ten or more
stand capitalised within sentences) or a first name of the census that is no common word; it has no digit, no sign such
as "@" or "/", no phrase by which people tell who they are or where they live; the filter of offensive language gives it
less than a half.
Deterministic: the same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import re
import tarfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import networkx
from profanity_check import predict_prob

from scripts.datasets.writing import DATA, letters, write

MEMBER = "chitchat_dataset/dataset.json"
NAMES = ("names-0.3.0/names/dist.female.first", "names-0.3.0/names/dist.male.first")
PEOPLE = 15  # who wrote a word, for it to be kept
PROPER = 0.3  # of a word's places within sentences that are capitalised, for it to be a proper noun
COMMON, USES = 0.9, 200  # of a first name's places within sentences that are not, and how many, for it to be a word too
OFFENSIVE = 0.5
MAX_WORDS = 24  # of a turn
WINDOW = 9  # turns: an opening, and four of each
SHARES = {"train": 0.55, "judge": 0.25, "test": 0.13, "validation": 0.07}  # of the people
OPENINGS = {"validation": 120, "test": 300}
ALWAYS_CAPITAL = {"i", "i'm", "i'll", "i've", "i'd", "im", "ive", "ok", "tv", "lol", "usa"}

WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")
ALLOWED = re.compile(r"[A-Za-z' ,.!?:;()*-]+")
INSIDE = re.compile(r"(?<=[a-z,;] )[A-Za-z]+(?:'[a-z]+)?")  # words that open no sentence
PERSONAL = re.compile(
    r"\b(?:name(?:'?s)?|call me|called|named|years? old|born|birthday|email|e-mail|phone|number|address|instagram|"
    r"insta|facebook|snap(?:chat)?|twitter|from|live[ds]?|grew up|moved|my (?:age|major|job|work|mission)|"
    r"diagnosed|depress\w*|suicid\w*|anxiety|pregnan\w*|cancer|surgery)\b"
)


class Chat(NamedTuple):
    """Hold a chat: its id, who wrote in it, the turns with their writers, and the mean of its ratings, if any."""

    chat_id: str
    people: frozenset[str]
    turns: list[tuple[str, str]]
    rating: float | None


def read_chats(wheel: Path) -> list[Chat]:
    """Return the chats. Messages that one person sent one after the other are one turn."""
    with zipfile.ZipFile(wheel) as archive:
        stored = json.loads(archive.read(MEMBER))
    chats = []
    for chat_id, chat in stored.items():
        turns: list[tuple[str, str]] = []
        for message in (message for group in chat["messages"] for message in group):
            text, writer = " ".join(html.unescape(message["text"]).replace("’", "'").split()), message["sender"]
            if not text:
                continue
            if turns and turns[-1][0] == writer:
                said = turns[-1][1]
                turns[-1] = writer, f"{said}{'' if said[-1] in '.,!?:;)' else '.'} {text}"
            else:
                turns.append((writer, text))
        ratings = [int(value) for value in (chat.get("ratings") or {}).values()]
        mean = round(sum(ratings) / len(ratings), 2) if ratings else None
        chats.append(Chat(chat_id, frozenset(writer for writer, _ in turns), turns, mean))
    return chats


def read_names(archive: Path) -> set[str]:
    """Return the first names of the census of the USA, in lower case."""
    with tarfile.open(archive) as files:
        lists = [files.extractfile(name) for name in NAMES]
        return {line.split()[0].decode().lower() for names in lists if names for line in names}


def common_words(chats: Sequence[Chat], names: set[str]) -> set[str]:
    """Return the words that 15 people wrote, without proper nouns and first names."""
    people, inside, capital = defaultdict[str, set[str]](set), Counter[str](), Counter[str]()
    for chat in chats:
        for writer, text in chat.turns:
            for word in WORD.findall(text.lower()):
                people[word].add(writer)
            for word in INSIDE.findall(text):
                inside[word.lower()] += 1
                capital[word.lower()] += word[0].isupper()
    found = set()
    for word in (word for word, writers in people.items() if len(writers) >= PEOPLE):
        share = capital[word] / inside[word] if inside[word] else 0.0
        is_word = inside[word] >= USES and share <= 1 - COMMON if word in names else share < PROPER
        if word in ALWAYS_CAPITAL or is_word:
            found.add(word)
    return found


def clean(texts: Iterable[str], words: set[str]) -> dict[str, bool]:
    """Return for each text whether it can be shown to everybody."""
    found = {}
    for text in texts:
        spoken = WORD.findall(text.lower())
        found[text] = bool(ALLOWED.fullmatch(text)) and 0 < len(spoken) <= MAX_WORDS and {*spoken} <= words
        found[text] &= not PERSONAL.search(text.lower())
    kept = [text for text, good in found.items() if good]
    offensive = dict(zip(kept, predict_prob(kept), strict=True))
    return {text: good and offensive[text] < OFFENSIVE for text, good in found.items()}


def assign_people(chats: Sequence[Chat]) -> dict[str, str]:
    """Return the split of each person, such that few chats are between people of two splits.

    The communities of the graph of who talked to whom are dealt out from the greatest on, each to the split that lacks
    most people.
    """
    graph = networkx.Graph()
    for chat in chats:
        graph.add_nodes_from(sorted(chat.people))
        if len(chat.people) == 2:
            first, second = sorted(chat.people)
            weight = graph.get_edge_data(first, second, {"weight": 0})["weight"]
            graph.add_edge(first, second, weight=weight + 1)
    groups = networkx.community.louvain_communities(graph, seed=0, resolution=3.0)
    size, found = Counter[str](), dict[str, str]()
    for group in sorted(groups, key=lambda group: (-len(group), min(group))):
        split = min(SHARES, key=lambda name: (size[name] + len(group) / 2) / SHARES[name])
        size[split] += len(group)
        found.update(dict.fromkeys(group, split))
    return found


def chats_of_splits(chats: Sequence[Chat]) -> dict[str, list[Chat]]:
    """Return the chats between two people of each split. Those of people of two splits are in none."""
    people, found = assign_people(chats), {split: list[Chat]() for split in SHARES}
    for chat in (chat for chat in chats if len(chat.people) == 2):
        splits = {people[person] for person in chat.people}
        if len(splits) == 1:
            found[splits.pop()].append(chat)
    return found


def runs(chat: Chat, good: Mapping[str, bool]) -> Iterator[tuple[int, int]]:
    """Yield where each row of neighbouring turns begins and ends that can be shown, if there are two or more."""
    start = 0
    for i in range(len(chat.turns) + 1):
        if i == len(chat.turns) or not good[chat.turns[i][1]]:
            if i - start >= 2:
                yield start, i
            start = i + 1


def cut(chat: Chat, good: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Return the chat in pieces of up to nine turns: an opening and the `turns` after it. Neighbours share a turn."""
    pieces = []
    for start, end in runs(chat, good):
        for first in range(start, end - 1, WINDOW - 1):
            last = min(first + WINDOW, end)
            texts = [text.lower() for _, text in chat.turns[first:last]]
            pieces.append(
                {"prompt": texts[0], "turns": texts[1:], "rating": chat.rating, "ended": last == len(chat.turns)}
            )
    return pieces


def draw_openings(pieces: Sequence[dict[str, Any]], n: int, taken: set[str]) -> list[dict[str, Any]]:
    """Return n pieces, in the order of a hash, whose openings have three words and are new; `taken` has those known."""
    found: list[dict[str, Any]] = []
    for piece in sorted(pieces, key=lambda piece: hashlib.sha1(json.dumps(piece).encode()).hexdigest()):
        key = letters(piece["prompt"])
        if len(found) < n and len(piece["prompt"].split()) >= 3 and key not in taken:
            taken.add(key)
            found.append(piece)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("names", type=Path)
    args = parser.parse_args()
    chats = read_chats(args.wheel)
    splits = chats_of_splits(chats)
    words = common_words(chats, read_names(args.names))
    good = clean({text for chat in chats for _, text in chat.turns}, words)
    print(
        f"{len(chats):,} chats, {len(words):,} words, {sum(good.values()):,} of {len(good):,} different turns are kept"
    )
    pieces = {split: [piece for chat in found for piece in cut(chat, good)] for split, found in splits.items()}
    known = {letters(text) for piece in pieces["train"] for text in (piece["prompt"], *piece["turns"])}
    rows = [{**piece, "split": "train"} for piece in pieces["train"]]
    for split, n in OPENINGS.items():
        rows += [{**piece, "split": split} for piece in draw_openings(pieces[split], n, known)]
    print(Counter(row["split"] for row in rows), sum(len(row["turns"]) for row in rows if row["split"] == "train"))
    write(DATA / "chats.jsonl.gz", rows)


if __name__ == "__main__":
    main()
