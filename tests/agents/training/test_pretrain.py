"""Pre-training: from texts to a Hugging Face folder, and on from a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.training.pretrain import pretrain
from agents.training.texts import PackedTexts, read_texts, split_passages, train_tokenizer

TEXTS = [f"The cat number {i} sat on the mat. It was a good day for cat {i}! Was it?" for i in range(60)]
SMALL = dict(vocab_size=300, n_layer=1, n_embd=16, n_head=2, block_size=32, batch_size=4, save_freq=10)


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "cats.txt"
    path.write_text("\n\n".join(TEXTS), encoding="utf-8")
    return str(path)


def test_a_run_writes_a_model_that_has_learned(corpus, tmp_path):
    output = tmp_path / "model"
    figures = pretrain(corpus, output, steps=40, learning_rate=1e-2, **SMALL)
    assert figures["perplexity"] < 60, "of a vocabulary of 300"
    assert 200 < figures["perplexity_before"] < 400
    saved = json.loads((output / "pretrain.json").read_text())
    assert (saved["perplexity"], saved["steps"]) == (figures["perplexity"], 40)
    assert saved["made"]["versions"].keys() >= {"torch", "transformers"}
    model, tokenizer = AutoModelForCausalLM.from_pretrained(output), AutoTokenizer.from_pretrained(output)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    ids = tokenizer("the cat number", return_tensors="pt")["input_ids"]
    assert torch.isfinite(model(input_ids=ids).logits).all()
    events = EventAccumulator(str(next((output / "runs").iterdir())))
    events.Reload()
    assert len(events.Scalars("eval/perplexity")) >= 4


def interrupted(corpus, output, at):
    """A run of 20 steps that ends at a step, with a checkpoint every 10."""
    from transformers import Trainer

    class Interrupted(Exception):
        pass

    original = Trainer.training_step

    def stop(self, *args, **kwargs):
        if self.state.global_step == at:
            raise Interrupted
        return original(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "training_step", stop)
        with pytest.raises(Interrupted):
            pretrain(corpus, output, steps=20, **SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The texts of a run of 20 steps, and its metrics."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "cats.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    return str(folder / "cats.txt"), pretrain(str(folder / "cats.txt"), folder / "model", steps=20, **SMALL)


def test_a_resumed_run_equals_an_uninterrupted_one(whole, tmp_path, caplog):
    """It goes on from the newest checkpoint that is whole: a kill amid a save leaves half of one."""
    corpus, metrics = whole
    interrupted(corpus, tmp_path / "half", at=12)
    for step, state in ((13, None), (14, '{"global_step": 1')):
        torn = tmp_path / "half" / f"checkpoint-{step}"
        torn.mkdir()
        if state is not None:
            (torn / "trainer_state.json").write_text(state)
    resumed = pretrain(corpus, tmp_path / "half", steps=20, resume=True, **SMALL)
    assert resumed["loss"] == pytest.approx(metrics["loss"], abs=1e-5)
    assert [record.message for record in caplog.records if "did not finish" in record.message] == [
        f"skipping {tmp_path / 'half' / f'checkpoint-{step}'}: its save did not finish" for step in (14, 13)
    ]


def test_a_run_that_ended_before_its_first_checkpoint_starts_over(whole, tmp_path, caplog):
    corpus, metrics = whole
    interrupted(corpus, tmp_path / "half", at=3)
    resumed = pretrain(corpus, tmp_path / "half", steps=20, resume=True, **SMALL)
    assert resumed == metrics
    assert "ended before its first checkpoint: it starts over" in caplog.text


def test_a_folder_of_other_things_is_not_started_over(corpus, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name in ("tokenizer.json", "config.json"):
        (model / name).write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"nothing to resume: {model} holds no checkpoint"):
        pretrain(corpus, model, steps=1, resume=True)
    assert sorted(path.name for path in model.iterdir() if path.name != ".lock") == ["config.json", "tokenizer.json"]


def test_rows_start_with_passages_and_padding_is_outside_the_loss():
    tokenizer = train_tokenizer(TEXTS, 300, 32)
    data = PackedTexts(TEXTS[:5], tokenizer, 32)
    for i in range(len(data)):
        row = data[i]
        assert (row["labels"][row["attention_mask"] == 0] == -100).all()
        assert (row["labels"] == row["input_ids"])[row["attention_mask"] == 1][1:].all()
        assert tokenizer.decode(row["input_ids"][:2]).startswith(("the", "it", "was"))
    joined = " ".join(
        tokenizer.decode(row[:n], skip_special_tokens=True) for row, n in zip(data.ids, data.lengths, strict=True)
    )
    assert "cat number 4 sat on the mat" in joined, "no text is lost"


@pytest.mark.parametrize("text", ["the cat sat on the mat and " * 9, "电影很好看，" * 9])
def test_a_passage_longer_than_a_row_goes_on_in_the_next(text, caplog):
    tokenizer = train_tokenizer(TEXTS, 300, 32)
    with caplog.at_level("WARNING"):
        data = PackedTexts([text.strip()], tokenizer, 32)
    assert "1 of 1 passages are longer than a row of 32 tokens" in caplog.text
    parts = [tokenizer.decode(row[:n]) for row, n in zip(data.ids, data.lengths, strict=True)]
    assert "".join(parts) == tokenizer.decode(tokenizer(text.strip())["input_ids"]) + "<|eos|>"
    assert "\ufffd" not in "".join(parts), "no character is cut in two"


@pytest.mark.parametrize(
    ("text", "passages"),
    [
        ("One two. Three four! Five?", ["One two. Three four!", "Five?"]),
        ("很好。我爱！是吗？", ["很好。", "我爱！", "是吗？"]),
    ],
)
def test_passages_are_whole_sentences(text, passages):
    assert split_passages(text, max_words=4) == passages


def test_bad_sources_and_folders_are_clear_errors(corpus, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nor a corpus \(chinese-reviews, interface-texts, movie-reviews\)"):
        read_texts("no-such-corpus")
    empty = tmp_path / "empty.txt"
    empty.write_text("\n\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no text"):
        read_texts(str(empty))
    single = tmp_path / "single.txt"
    single.write_text("A single sentence.", encoding="utf-8")
    with pytest.raises(ValueError, match="holds a single passage of text, and one more is needed to hold out"):
        read_texts(str(single))
    single.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"is not UTF-8 .*: save it as UTF-8"):
        read_texts(str(single))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(FileExistsError, match="is not empty: pass --resume"):
        pretrain(corpus, tmp_path / "taken", steps=1)
    with pytest.raises(FileNotFoundError, match="nothing to resume"):
        pretrain(corpus, tmp_path / "nothing", steps=1, resume=True)


def test_going_on_from_a_causal_model_keeps_its_tokenizer_and_learns_the_texts(corpus, whole, tmp_path):
    """Domain-adaptive continuation, with a lower learning rate by default."""
    start = str(Path(whole[0]).parent / "model")
    other = tmp_path / "dogs.txt"
    other.write_text("\n\n".join(f"Dog {i} ran after ball {i}. It barked!" for i in range(60)), encoding="utf-8")
    metrics = pretrain(str(other), tmp_path / "on", model=start, steps=10, batch_size=8, block_size=32, save_freq=10)
    assert metrics["perplexity"] < metrics["perplexity_before"]
    saved = json.loads((tmp_path / "on" / "pretrain.json").read_text())
    assert (saved["model"], saved["objective"], saved["learning_rate"]) == (start, "clm", 1e-4)
    before, after = (AutoTokenizer.from_pretrained(folder) for folder in (start, tmp_path / "on"))
    assert before.get_vocab() == after.get_vocab()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "on").config.n_layer == 1


def test_one_document_is_held_out_in_part(tmp_path):
    """A book without blank lines: no passage is learned and held out too."""
    path = tmp_path / "book.txt"
    path.write_text(" ".join(f"{'word ' * 30}{i}." for i in range(40)), encoding="utf-8")
    texts = read_texts(str(path))
    learned, held_out = (set(split_passages(*part)) for part in (texts.train, texts.validation))
    assert (len(learned), len(held_out)) == (36, 4)
    assert not learned & held_out
    path.write_text("\n\n".join(["One text."] * 3 + ["Another text."]), encoding="utf-8")
    texts = read_texts(str(path))
    assert not set(texts.train) & set(texts.validation)
    assert len(texts.train) + len(texts.validation) == 4


def test_rows_are_texts_and_a_wrong_column_names_those_found(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('body,label\nA first text.,1\n"A second,  text.",0\n', encoding="utf-8")
    texts = read_texts(str(path), {"text": "body"})
    assert sorted(texts.train + texts.validation) == ["A first text.", "A second, text."]
    with pytest.raises(ValueError, match=r"no column 'text' \(it has: body, label\)"):
        read_texts(str(path))
    with pytest.raises(ValueError, match=r"pre-training reads no column 'txt'; did you mean 'text'\?"):
        read_texts(str(path), {"txt": "body"})


@pytest.mark.parametrize("source", ["movie-reviews", "cats.txt", "folder"])
def test_columns_are_for_rows_alone(source, corpus, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=rf"columns=.*body.* are of files of rows .*'{source}' is none: leave them"):
        read_texts(source, {"text": "body"})


@pytest.mark.parametrize("wrong", ['["a", "b"]', "[]", "0", "false", "3.5"])
def test_rows_whose_text_is_none_are_named(wrong, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "A first text."}}\n{{"text": {wrong}}}\n')
    with pytest.raises(ValueError, match=r"row 1: the column 'text' has .*: give it one text per row"):
        read_texts(str(path))
