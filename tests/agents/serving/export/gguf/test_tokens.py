"""Tokenizers of SentencePiece's kind in GGUF: llama.cpp's algorithm reads the tokenizer's tokens from the file.

`SpmFile` is that algorithm, written again. test_llama_cpp.py asks llama.cpp itself, where it is installed.
"""

from __future__ import annotations

import heapq
import random
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from agents.serving.export.gguf.sentencepiece import BYTES, MARK, scores
from agents.serving.export.gguf.tokens import Texts, content_of
from agents.serving.export.gguf.writing import write_gguf
from agents.serving.export.run import export
from benchmarks.llama_cpp_check import TEXTS
from tests.agents.serving.llama.files import (
    PIECES,
    TEMPLATE,
    save_small,
    small_model,
    trained_pieces,
    trained_tokenizer,
)

MORE = (
    "",
    "\n\n\n",
    " \n ",
    "a" * 30,
    " " * 40,
    f"{MARK}film {MARK}",
    "<0x0A>",
    "<pad>a<pad> b",
    "<unk>",
    "<mask>x",
)
INST = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>{{ lead }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
ROLES = "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}</s>\n{% endfor %}<|assistant|>\n"


class SpmFile:
    """Read a text as llama.cpp does with a vocabulary of the kind "llama" (llama-vocab.cpp)."""

    def __init__(self, file: Path) -> None:
        reader = gguf.GGUFReader(file)

        def read(name: str) -> Any:
            field = reader.get_field(f"tokenizer.ggml.{name}")
            return None if field is None else field.contents()

        assert read("model") == "llama"
        self.names, self.scores, self.types = read("tokens"), read("scores"), read("token_type")
        self.ids = {name: i for i, name in enumerate(self.names)}
        self.starts = [read("bos_token_id")] * read("add_bos_token")
        self.adds_space = read("add_space_prefix")
        matched = [name for name, kind in zip(self.names, self.types, strict=True) if kind in (2, 3, 4)]
        self.matched = sorted(matched, key=lambda name: len(name.encode()), reverse=True)

    def read(self, text: str) -> list[int]:
        parts: list[str | int] = [text]
        for name in self.matched:  # the longest one first, in all of the text
            split: list[str | int] = []
            for part in parts:
                if isinstance(part, str):
                    first, *others = part.split(name)
                    split.append(first)
                    for other in others:
                        split += [self.ids[name], other]
                else:
                    split.append(part)
            parts = [part for part in split if part != ""]
        found = [*self.starts]
        for part in parts:
            found += [part] if isinstance(part, int) else self.join(" " * self.adds_space + part)
        return found

    def join(self, text: str) -> list[int]:
        pieces: list[str | None] = [*text.replace(" ", MARK)]
        after, before = [*range(1, len(pieces) + 1)], [*range(-1, len(pieces) - 1)]
        queue: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right < len(pieces) and (joined := f"{pieces[left]}{pieces[right]}") in self.ids:
                heapq.heappush(queue, (-self.scores[self.ids[joined]], left, right, joined))

        for i in range(len(pieces) - 1):
            offer(i, i + 1)
        while queue:
            _, left, right, joined = heapq.heappop(queue)
            if pieces[left] is None or pieces[right] is None or f"{pieces[left]}{pieces[right]}" != joined:
                continue
            pieces[left], pieces[right], after[left] = joined, None, after[right]
            if after[left] < len(pieces):
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        found = [piece for piece in pieces if piece is not None]
        return [i for piece in found for i in self.ids_of(piece)]

    def ids_of(self, piece: str) -> list[int]:
        return [self.ids[piece]] if piece in self.ids else [self.ids[f"<0x{byte:02X}>"] for byte in piece.encode()]


def written(tokenizer: Any, folder: Path) -> list[str]:
    return write_gguf(small_model("llama", len(tokenizer)), tokenizer, folder, None, "small")


def mixtures(n: int) -> list[str]:
    """Make texts of what the training texts have, at random."""
    rng = random.Random(0)
    letters = "".join(TEXTS)
    return ["".join(rng.choices(letters, k=rng.randrange(1, 60))) for _ in range(n)]


@pytest.mark.parametrize("kind", PIECES)
def test_the_file_gives_the_tokens_of_the_tokenizer(kind: str, tmp_path: Path) -> None:
    tokenizer = trained_pieces(kind)
    notes = written(tokenizer, tmp_path)
    assert len(notes) == (kind in ("always", "first"))
    file, texts = SpmFile(tmp_path / "model.gguf"), Texts(tokenizer)
    for text in (*TEXTS, *MORE, *mixtures(300)):
        # llama.cpp puts a space there that cannot be left out, as the note says.
        if not (kind == "first" and "<pad>a" in text) and not (kind in ("first", "always") and text == " "):
            assert file.read(texts(text)) == tokenizer(text)["input_ids"], text
    plain = [text for text in TEXTS if not text.startswith(" ")]
    assert all(texts(text) == text for text in plain), "texts that begin without a space need nothing"


def test_the_token_that_llama_server_puts_before_chats_is_told(tmp_path: Path) -> None:
    plain = written(trained_pieces("never", TEMPLATE), tmp_path)
    assert plain == ["llama-server begins each chat with '<s>', and the chat template does not."]
    assert written(trained_pieces("never", "{{ bos_token }}" + TEMPLATE), tmp_path) == []


def test_scores_decide_which_letters_are_joined(tmp_path: Path) -> None:
    """One score for all, as of gguf's LlamaHfVocab, joins from left to right."""
    tokenizer = trained_pieces("each")
    written(tokenizer, tmp_path)
    file = SpmFile(tmp_path / "model.gguf")
    file.scores = [-1000.0] * len(file.scores)
    assert sum(file.read(text) != tokenizer(text)["input_ids"] for text in mixtures(50)) > 5


def test_tokens_have_the_types_of_gguf(tmp_path: Path) -> None:
    tokenizer = trained_pieces("gemma")
    tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken(MARK * 2, normalized=False), "<think>"])
    model = small_model("llama", len(tokenizer) + 2)
    write_gguf(model, tokenizer, tmp_path, None, "small")
    file = SpmFile(tmp_path / "model.gguf")
    kinds = gguf.TokenType
    expected = {"<unk>": kinds.UNKNOWN, "<eos>": kinds.CONTROL, "<mask>": kinds.CONTROL, "\n\n": kinds.USER_DEFINED}
    expected |= {"<think>": kinds.USER_DEFINED, "<0x41>": kinds.BYTE, "film": kinds.NORMAL, MARK * 2: kinds.NORMAL}
    assert {name: file.types[file.ids[name]] for name in expected} == expected
    assert file.types[len(tokenizer) :] == [kinds.UNUSED] * 2
    assert file.types.count(kinds.BYTE) == 256
    for text in ("a\n\nb", "a  b   c", "a<think> b<mask>"):
        assert file.read(text) == tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    ("kind", "lead", "adds_space"), [("always", " ", False), ("always", "", True), ("first", "", False)]
)
def test_the_file_suits_the_chats_of_the_template(kind: str, lead: str, adds_space: bool, tmp_path: Path) -> None:
    """Mistral's chats have a space after <s> and Llama 2's do not: llama.cpp puts one everywhere, or nowhere."""
    tokenizer = trained_pieces(kind, INST.replace("{{ lead }}", lead), add_bos_token=False)
    notes = written(tokenizer, tmp_path)
    assert ("In chats" in " ".join(notes)) == (kind == "always" and not lead)
    file = SpmFile(tmp_path / "model.gguf")
    assert file.adds_space == adds_space
    messages = [{"role": role, "content": "the film"} for role in ("user", "assistant", "user")]
    chat = tokenizer.apply_chat_template(messages, tokenize=False)
    ids = tokenizer(chat, add_special_tokens=False)["input_ids"]
    assert file.read(Texts(tokenizer)(chat))[len(file.starts) :] == ids
    if not (kind == "always" and not lead):
        assert file.read(chat)[len(file.starts) :] == ids


def test_a_template_that_begins_with_words_gives_the_space_before_them(tmp_path: Path) -> None:
    """TinyLlama's chats begin with "<|user|>", which is no token, and go on after </s>."""
    tokenizer = trained_pieces("first", ROLES)
    written(tokenizer, tmp_path)
    file = SpmFile(tmp_path / "model.gguf")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    template = reader.get_field("tokenizer.chat_template").contents()
    assert template == "{{ ' ' }}" + ROLES and not file.adds_space
    messages = [{"role": "user", "content": "is it good?"}, {"role": "assistant", "content": "yes"}]
    expected = tokenizer.apply_chat_template(messages)["input_ids"]
    given = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)
    assert file.read(given)[len(file.starts) :] == expected


@pytest.mark.parametrize("kind", ["always", "first", "gemma"])
def test_added_tokens_of_ones_own_part_a_text(kind: str, tmp_path: Path) -> None:
    """They are found in a text before it is normalized, or after; without a normalizer that is the same."""
    tokenizer = trained_pieces(kind)
    tokenizer.add_tokens(["good", AddedToken("\u597d", normalized=False)])
    written(tokenizer, tmp_path)
    file, texts = SpmFile(tmp_path / "model.gguf"), Texts(tokenizer)
    for text in ("good film", "the good  film good", "a \u597d\u597d a", "  good"):
        if kind != "first" or text == "good film":
            assert file.read(texts(text)) == tokenizer(text)["input_ids"], text
    assert texts.n_bytes("\u597d") == 3 and texts.n_bytes(f"{MARK}t") == 2 and texts.n_bytes("<0xE4>") == 1


def test_an_export_of_a_llama_reads_back(tmp_path: Path) -> None:
    source = save_small(tmp_path / "small", trained_pieces("first", ROLES))
    done = export(str(source), tmp_path / "out", "gguf", n_episodes=4, env_id="rlhf/Sentiment-v0")
    assert done.after.perplexity.mean == pytest.approx(done.before.perplexity.mean, rel=1e-4)
    assert any("llama.cpp puts no space before a text" in note for note in done.notes)
    assert SpmFile(tmp_path / "out" / "model.gguf").names[1] == "<s>"


def test_transformers_reads_the_tokenizer_of_the_file(tmp_path: Path) -> None:
    """It reads every file of the kind "llama" as one that puts a space before the first part alone."""
    tokenizer = trained_pieces("first", ROLES)
    written(tokenizer, tmp_path)
    for file in [*tmp_path.glob("tokenizer*"), *tmp_path.glob("*.jinja")]:
        file.unlink()
    back = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    for text in (*TEXTS, *MORE, *mixtures(50), "Hi</s>the film </s> a"):
        assert back(text)["input_ids"] == tokenizer(text)["input_ids"], text
    assert (back.bos_token, back.eos_token, back.pad_token) == ("<s>", "</s>", "<pad>")


def test_tokens_that_no_merge_makes_are_told(tmp_path: Path) -> None:
    tokenizer = trained_pieces("each")
    content = content_of(tokenizer)
    backend = tokenizer.backend_tokenizer

    def tokens(text: str) -> list[str]:
        return [token.value for token in backend.model.tokenize(text)]

    after = next(
        name for name in content["model"]["vocab"] if len(name) > 2 and tokens(f"film{name}") == ["film", name]
    )
    vocab = content["model"]["vocab"] | {f"film{after}": len(tokenizer), "zq!": len(tokenizer) + 1}
    merges = [tuple(merge) for merge in content["model"]["merges"]]
    backend.model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    (note,) = written(tokenizer, tmp_path)
    assert (
        note.startswith("llama.cpp reads 1 tokens where the tokenizer reads two each") and repr(f"film{after}") in note
    )
    ids = SpmFile(tmp_path / "model.gguf").read(f"a film{after}")
    assert vocab[f"film{after}"] in ids and ids != tokenizer(f"a film{after}")["input_ids"]


def test_merges_that_words_are_split_before_do_not_count() -> None:
    merges = [("a", "b"), ("ab", MARK), ("ab" + MARK, "c")]
    names = ["a", "b", "c", MARK, "ab", "ab" + MARK, "ab" + MARK + "c"]
    assert scores(names, merges, False, set()) == ([-4.0, -4.0, -4.0, -4.0, 0.0, -1.0, -2.0], [])
    found, strays = scores(names, merges, True, {"ab" + MARK + "c"})
    assert found[4:] == [0.0, -4.0, -4.0] and strays == ["ab" + MARK]


def test_what_a_gguf_cannot_say_of_added_tokens_is_told(tmp_path: Path) -> None:
    for tokenizer in (trained_pieces("each"), trained_tokenizer()):
        tokenizer.add_tokens([AddedToken("<think>", rstrip=True, normalized=False)])
        (note,) = written(tokenizer, tmp_path)
        assert "1 of them: '<think>'" in note
    tokenizer = trained_pieces("each")
    tokenizer.add_tokens(["film"])  # found after a space alone, as the normalizer puts one before it too
    assert "1 of them: 'film'" in written(tokenizer, tmp_path)[0]
    tokenizer = trained_pieces("each")
    tokenizer.eos_token = None
    assert "takes the third one for it, '</s>'" in written(tokenizer, tmp_path)[0]


def test_what_is_done_before_spaces_are_marked_is_told_and_done(tmp_path: Path) -> None:
    tokenizer = trained_pieces("each")
    backend = tokenizer.backend_tokenizer
    marks = backend.normalizer
    inner = normalizers.Sequence([normalizers.Lowercase(), normalizers.NFKC()])
    backend.normalizer = normalizers.Sequence([inner, marks])
    (note,) = written(tokenizer, tmp_path)
    assert "(Lowercase, NFKC)" in note and "rlhf serve --upstream" in note
    texts = Texts(tokenizer)
    assert texts("The FILM</s>No") == "the film</s>no" and texts.inner("\uff21 ") == "a "
    text = "The FILM</s>No  \uff21"
    assert SpmFile(tmp_path / "model.gguf").read(texts(text)) == tokenizer(text)["input_ids"]


def refused() -> list[tuple[str, Any]]:
    found = []
    for named, change in {
        "no <0x41>": lambda model, backend: model["vocab"].pop("<0x41>"),
        "whole words as they are": lambda model, backend: model.update(ignore_merges=True),
        "\\(Lowercase, Whitespace": lambda model, backend: setattr(
            backend, "pre_tokenizer", pre_tokenizers.Whitespace()
        ),
        "\\(Lowercase, Metaspace": lambda model, backend: setattr(
            backend, "pre_tokenizer", pre_tokenizers.Metaspace(replacement="_", split=False)
        ),
        "\\(Lowercase\\)": lambda model, backend: setattr(backend, "pre_tokenizer", None),
        "BPE with its own end_of_word_suffix": lambda model, backend: model.update(end_of_word_suffix="</w>"),
    }.items():
        vocab = {token: i for i, token in enumerate(["<unk>", "a", "b", *BYTES])}
        model = {"vocab": vocab, "merges": [], "unk_token": "<unk>", "byte_fallback": True}
        backend = Tokenizer(models.BPE())
        backend.normalizer, backend.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Metaspace(split=False)
        change(model, backend)
        backend.model = models.BPE(**model)
        found.append((named, backend))
    found.append(("is a Unigram", Tokenizer(models.Unigram([("a", 0.0), ("b", -1.0)], 0, True))))
    found.append(("is a WordPiece", Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))))
    return found


@pytest.mark.parametrize(("named", "backend"), [pytest.param(*each, id=each[0]) for each in refused()])
def test_what_llama_cpp_cannot_read_is_refused_by_name(named: str, backend: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"{named}.*take --to hf"):
        written(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="a"), tmp_path)
