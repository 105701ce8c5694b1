"""Read plain texts to pre-train on, split them, and lay them out as rows of tokens for a causal language model.

- A document is cut into *passages* of whole sentences. Each ends with EOS, so that the model learns to finish a thought
  within the few dozen tokens of an episode.
- A row of `block_size` tokens starts with a passage and holds as many of the following passages as fit, also of the
  next documents. So position 0 is the start of a sentence, as in a prompt, and there is little padding. Only a passage
  longer than a row goes on in the next one; the log says how many do.

No token is dropped: what is not learned is held out, or is in `Texts.left` with the reason.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from rlhf_envs.datasets import MissingSplitError, load_rows
from rlhf_envs.datasets.corpora import CORPORA, load_corpus, split_of
from rlhf_envs.datasets.loading import check_new_names
from rlhf_envs.datasets.splits import split_name, take_split
from rlhf_envs.tokens import encode_texts, keep_start
from rlhf_envs.words import join_sentences, split_sentences, split_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["PackedTexts", "Texts", "read_texts", "split_passages", "train_tokenizer"]

EOS, PAD = "<|eos|>", "<|pad|>"
MASKED = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}  # BERT's names
ROW_FILES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
logger = logging.getLogger(__name__)


class Texts(NamedTuple):
    """Hold the documents that are learned, those that are held out, and those that are left out, by the reason."""

    train: list[str]
    validation: list[str]
    left: dict[str, list[str]]


def read_texts(source: str, columns: Mapping[str, str] | None = None) -> Texts:
    """Read the texts of a named corpus, a text file, a folder of `.txt` files, or a file of rows.

    Blank lines separate the documents of a text file; other white space is a space. Rows (.jsonl, .json, .csv, .tsv,
    .parquet, each also .gz) have a document each. If they have a column `split`, it says what is learned
    ("train") and held out ("validation"). Else a twentieth of the documents is held out, by a hash of the text, and the
    last tenth of the passages if there is one document alone.

    Args:
        source: the corpus or the path.
        columns: new names of columns, `{"text": "body"}` where the column `body` has the texts of rows.

    Raises:
        FileNotFoundError: `source` is neither a corpus nor a path.
        ValueError: there is no text in it, or a single passage, or a file is not UTF-8, or rows lack the column `text`,
            or `columns` are given for something else than rows.
    """
    path = Path(source)
    of_rows = source not in CORPORA and path.name.removesuffix(".gz").endswith(ROW_FILES)
    if columns and (path.is_dir() or not of_rows):
        raise ValueError(
            f"columns={dict(columns)!r} are of files of rows ({', '.join(ROW_FILES)}), and {source!r} is none: leave "
            "them out"
        )
    if source in CORPORA:
        documents = load_corpus(source)
        parts = {split: [d.text for d in documents if d.split == split] for split in ("train", "validation", "test")}
        return Texts(parts["train"], parts["validation"], {"of the test split": parts["test"]})
    if not path.exists():
        raise FileNotFoundError(f"{source!r} is neither a file, a folder nor a corpus ({', '.join(sorted(CORPORA))})")
    if path.is_file() and of_rows:
        return _read_rows(source, columns)
    paths = sorted(path.glob("**/*.txt")) if path.is_dir() else [path]
    texts = [" ".join(part.split()) for p in paths for part in re.split(r"\n\s*\n", _read(p))]
    texts = [text for text in texts if text]
    if not texts:
        raise ValueError(f"{source!r} holds no text: documents are separated by blank lines in .txt files")
    return Texts(*_hold_out(texts, source), {})


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error}): save it as UTF-8") from error


def _read_rows(source: str, columns: Mapping[str, str] | None) -> Texts:
    """Read the texts of a file of rows, by its column `split` if it has one."""
    check_new_names(columns or {}, ("text", "split"), "pre-training")
    rows = load_rows(source, required=("text",), columns=columns)
    for i, row in enumerate(rows):
        if not isinstance(row["text"], str):
            shown = repr(row["text"])[:60]
            raise ValueError(f"{source}: row {i}: the column 'text' has {shown}: give it one text per row")
    if "split" not in rows[0]:
        return Texts(*_hold_out([_clean(row) for row in rows], source), {})
    train = take_split(rows, "train", source, column="text")
    try:
        validation = take_split(rows, "validation", source, column="text")
    except MissingSplitError:
        validation = []
    taken = {id(row) for row in (*train, *validation)}
    left: dict[str, list[str]] = {}
    for row in (row for row in rows if id(row) not in taken):
        name = split_name(row["split"])
        why = "in two splits" if name in ("train", "validation") else f"of the split {name!r}"
        left.setdefault(why, []).append(_clean(row))
    learned, held_out = [_clean(row) for row in train], [_clean(row) for row in validation]
    return Texts(learned, held_out, left) if held_out else Texts(*_hold_out(learned, source), left)


def _clean(row: Mapping[str, Any]) -> str:
    return " ".join(row["text"].split())


def _hold_out(texts: list[str], source: str) -> tuple[list[str], list[str]]:
    """Return the documents to learn and those to hold out. No document is in both."""
    held_out = {text for text in texts if split_of(text) == "validation"}
    if not held_out or held_out.issuperset(texts):
        held_out = {texts[-1]}
    train = [text for text in texts if text not in held_out]
    if train:
        return train, [text for text in texts if text in held_out]
    passages = split_passages(texts[0])
    n = max(len(passages) // 10, 1)
    if len(passages) < 2:
        raise ValueError(f"{source!r} holds a single passage of text, and one more is needed to hold out: add texts")
    begin, end = (reduce(join_sentences, part) for part in (passages[:-n], passages[-n:]))
    return [begin] * len(texts), [end] * len(texts)


def split_passages(text: str, max_words: int = 40) -> list[str]:
    """Cut a document into passages of whole sentences with at most about `max_words` words per passage."""
    passages: list[str] = []
    words = 0
    for sentence in split_sentences(text):
        length = len(split_words(sentence))
        if passages and words + length <= max_words:
            passages[-1] = join_sentences(passages[-1], sentence)
            words += length
        else:
            passages.append(sentence)
            words = length
    return passages


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, max_length: int, masked: bool = False
) -> PreTrainedTokenizerFast:
    """Train an uncased byte-level BPE tokenizer with distinct pad and EOS tokens.

    With `masked` it has the special tokens of BERT instead, and puts [CLS] before and [SEP] after a text.
    """
    special = MASKED if masked else {"pad_token": PAD, "eos_token": EOS}
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if masked:
        last, first = ((MASKED[name], list(MASKED).index(name)) for name in ("sep_token", "cls_token"))  # their ids
        tokenizer.post_processor = processors.BertProcessing(last, first)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        **special,
    )


class PackedTexts(Dataset[dict[str, torch.Tensor]]):
    """Hold rows of `block_size` token ids. Each starts with a passage; padding does not count in the loss.

    Attributes:
        ids: (rows, block_size) int32.
        lengths: tokens of each row without padding, (rows,) int64. EOS counts.
    """

    n_left = 0  # tokens that are in no row

    def __init__(self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, block_size: int) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, which ends a passage: set tokenizer.eos_token")
        passages = [passage for text in texts for passage in split_passages(text)]
        rows: list[list[int]] = [[]]
        n_long = 0
        for encoded in encode_texts(tokenizer, passages):
            ids = [*encoded, tokenizer.eos_token_id]
            n_long += len(ids) > block_size
            if rows[-1] and len(rows[-1]) + len(ids) > block_size:
                rows.append([])
            while len(ids) > block_size:
                part = keep_start(tokenizer, ids[: 2 * block_size], block_size)
                ids = ids[len(part) :]
                rows[-1].extend(part)
                rows.append([])
            rows[-1].extend(ids)
        if n_long:
            logger.warning("%d of %d passages are longer than a row of %d tokens", n_long, len(passages), block_size)
        self.ids = torch.full((len(rows), block_size), tokenizer.pad_token_id or 0, dtype=torch.int32)  # (rows, block)
        self.lengths = torch.tensor([len(row) for row in rows])
        for i, row in enumerate(rows):
            self.ids[i, : len(row)] = torch.tensor(row, dtype=torch.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.ids[index].long()
        mask = torch.arange(len(ids)) < self.lengths[index]
        labels = ids.masked_fill(~mask, -100)
        labels[0] = -100  # nothing predicts the first token, but the Trainer would count it
        return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}
