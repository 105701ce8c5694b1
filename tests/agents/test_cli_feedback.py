from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy", reason='the store needs pip install "rlhf-envs[web]"')

from agents.cli import app
from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.terminal import TerminalKeyboard
from rlhf_envs.models import resolve

SHORT = ("--env-kwargs", "max_new_tokens:4")
PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def feedback(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["feedback", *arguments], env={"COLUMNS": "200"})


def done(*arguments: str) -> str:
    result = feedback(*arguments)
    assert result.exit_code == 0, result.output
    return str(result.output)


def write(name: str, *rows: dict[str, Any]) -> str:
    Path(name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return name


def test_questions_from_a_file_are_answered_by_simulated_annotators_and_exported() -> None:
    rows = [{"prompt": f"film {i}", "completions": [" was wonderful", " was awful"]} for i in range(6)]
    assert "items, 6 rows: 6 new items" in done("add", write("rows.jsonl", *rows), "--overlap", "2")
    output = done("simulate", "--scorer", "gold", "-n", "4", "--random-share", "0.25", "--temperature", "0")
    assert "12 answers, 6 of 6 items are done" in output
    assert re.search(r"who clicks at random: simulated-\d\n", output)
    status = done("status", "-o", "status.json")
    assert "6 of 6 items are done, 12 judgements, 0 skips" in status
    assert "Krippendorff's alpha, pairwise" in status and "simulated-4" in status
    figures = json.loads(Path("status.json").read_text())
    assert figures["judgements"] == 12 and len(figures["annotators"]) == 4
    output = done("export", "pairs.jsonl", "--how", "soft")
    exported = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert output.startswith(f"pairs.jsonl: {len(exported)} rows")
    assert len(exported) == 6 and all(row["chosen"] == " was wonderful" for row in exported if row["probability"] > 0.5)


def test_a_model_writes_the_questions() -> None:
    assert "5 questions added" in done("add", "tiny", "-n", "5", *SHORT, "--seed", "3", "--overlap", "2")
    with FeedbackStore("feedback.db") as store:
        items = store.items()
    assert [item.kind for item in items] == ["pairwise"] * 5
    assert all(item.completions[0] != item.completions[1] and item.overlap == 2 for item in items)
    assert {(item.source, item.policy) for item in items} == {("rlhf/Sentiment-v0", "tiny")}
    assert len({item.prompt for item in items}) == 5
    done("add", "tiny", "-n", "5", *SHORT, "--seed", "3", "--store", "again.db")
    with FeedbackStore("again.db") as store:
        assert [item.completions for item in store.items()] == [item.completions for item in items]


def test_a_model_writes_one_or_many_completions() -> None:
    done("add", "tiny", "-n", "2", *SHORT, "--n-completions", "1")
    done("add", "tiny", "-n", "1", *SHORT, "--n-completions", "3")
    done("add", "tiny", "-n", "1", *SHORT, "--n-completions", "2", "--kind", "thumbs")
    with FeedbackStore("feedback.db") as store:
        assert [item.kind for item in store.items()] == ["rating", "rating", "ranking", "thumbs", "thumbs"]


def test_two_models_are_compared() -> None:
    shutil.copytree(resolve("tiny"), "other")
    done("add", "tiny", "-n", "4", *SHORT, "--against", "other")
    with FeedbackStore("feedback.db") as store:
        assert {item.policy for item in store.items()} == {"tiny | other"}
        assert all(item.meta["policies"] == ["tiny", "other"] for item in store.items())


def test_prompts_whose_completions_are_all_the_same_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import agents.generation

    generate = agents.generation.generate_in
    monkeypatch.setattr(agents.generation, "generate_in", lambda *a, **k: generate(*a, **{**k, "deterministic": True}))
    assert "0 questions added; 3 prompts left out, whose completions are all the same" in done(
        "add", "tiny", "-n", "3", *SHORT
    )


def test_import_says_what_was_not_taken_and_where_it_is() -> None:
    path = write("rows.jsonl", PAIR, PAIR, {**PAIR, "chosen": "bad", "rejected": "good"}, {"prompt": "p"})
    output = done("import", path, "--annotator", "ada")
    assert "preference, 4 rows: 1 new items, 1 new judgements" in output
    assert "not taken: 3 rows or judgements (1 duplicates, 1 contradictions), see rows.jsonl.quarantine.jsonl" in output
    assert "the first: rows.jsonl:2: duplicate: 'ada' has judged this item" in output
    assert len(Path("rows.jsonl.quarantine.jsonl").read_text().splitlines()) == 3


def test_columns_of_other_names_are_read_and_gold_is_kept_out_of_exports() -> None:
    done("import", write("a.jsonl", {"question": "q", "chosen": "x", "rejected": "y"}), "--column", "prompt:question")
    done("add", write("gold.jsonl", PAIR), "--gold", "--overlap", "3")
    with FeedbackStore("feedback.db") as store:
        assert [item.prompt for item in store.items()] == ["q", "p"] and store.items()[1].gold is not None
    done("simulate", "-n", "3")
    output = done("export", "out.jsonl")
    assert "out.jsonl: 1 rows" in output and "left out: 3 gold question" in output


@pytest.mark.parametrize("format", ["items", "argilla", "label-studio"])
def test_what_is_exported_is_imported_again(format: str) -> None:
    done("import", write("rows.jsonl", PAIR, {**PAIR, "prompt": "q"}))
    name = "out.jsonl" if format == "items" else "out.csv"
    done("export", name, "--format", format)
    assert f"{format}, 2 rows: 2 new items, 2 new judgements" in done("import", name, "--store", "two.db")


def test_label_takes_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    done("add", write("rows.jsonl", {"prompt": "p", "completion": "a", "kind": "thumbs"}))
    keys = iter("1x")
    monkeypatch.setattr(TerminalKeyboard, "key", lambda self: next(keys))
    output = done("label", "--name", "ada")
    assert "nothing is left to judge" in output
    with FeedbackStore("feedback.db") as store:
        assert [(judgement.annotator, judgement.value) for judgement in store.judgements()] == [("ada", {"up": True})]


def test_serve_hands_its_flags_to_the_app(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    seen: dict[str, Any] = {}

    def pretend(*arguments: Any, **options: Any) -> None:
        seen.update(arguments=arguments, **options)

    monkeypatch.setattr("rlhf_envs.feedback.web.server.serve", pretend)
    done("serve", "--host", "0.0.0.0", "--port", "9000")
    assert seen == {"arguments": ("feedback.db", "0.0.0.0", 9000), "secure_cookies": False}


def test_invitations_work_once() -> None:
    links = done("invite", "--role", "admin", "-n", "2", "--url", "https://label.example.org/").split()
    assert len(set(links)) == 2
    token = links[0].removeprefix("https://label.example.org/invite/")
    with FeedbackStore("feedback.db") as store:
        assert store.register(token, "ada", "hash").role == "admin"
        with pytest.raises(ValueError, match="used"):
            store.register(token, "bob", "hash")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status"], "--store feedback.db: there is no such file"),
        (["export", "out.jsonl", "--store", "gone.db"], "--store gone.db: there is no such file"),
        (["label", "--store", "gone.db"], "there is no such file"),
        (["status", "--store", "notes.txt"], "not a database"),
        (["add", "no-such-model"], "unknown model 'no-such-model'"),
        (["add", "tiny", "--env", "rlhf/Nothing-v0"], "unknown environment"),
        (["add", "tiny", "--kind", "pairwise", "--n-completions", "3"], "n_completions=3: pairwise compares 2"),
        (["add", "tiny", "--kind", "essay"], "--kind"),
        (["add", "tiny", "--overlap", "0"], "--overlap"),
        (["add", "tiny", "--gold"], "--gold: the expected answers come from a file"),
        (["import", "gone.jsonl"], "there is no file 'gone.jsonl'"),
        (["import", "notes.txt"], "unknown extension '.txt'"),
        (["import", "notes.txt", "--column", "prompt"], "--column 'prompt': write ours:theirs"),
        (["import", "notes.txt", "--format", "alpaca"], "--format"),
        (["invite", "--role", "king"], "--role"),
        (["serve", "--port", "70000"], "--port"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    Path("notes.txt").write_text("these are notes and not a database, however long they may be\n" * 20)
    result = feedback(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.startswith("rlhf: ") and result.stderr.count("\n") == 1
    assert not Path("gone.db").exists()


def test_errors_of_the_store_are_one_line_too() -> None:
    done("invite")
    result = feedback("simulate", "--scorer", "nobody")
    assert result.exit_code == 2 and "unknown reward 'nobody'" in result.stderr
    with FeedbackStore("feedback.db") as store:
        store.add_annotator("boss", "admin")
    write("rows.jsonl", {"prompt": "p", "completion": "a"})
    done("add", "rows.jsonl")
    result = feedback("label", "--name", "boss")
    assert result.exit_code == 2 and "taken by an account of role 'admin'" in result.stderr


def test_the_verbs_that_need_no_model_import_no_torch() -> None:
    write("rows.jsonl", PAIR)
    verbs = [
        ["--help"],
        ["add", "--help"],
        ["import", "rows.jsonl"],
        ["export", "out.jsonl"],
        ["status"],
        ["status", "--store", "x"],
    ]
    code = f"import sys; from agents.cli import app\nfor verb in {verbs!r}:\n    try: app(['feedback', *verb])\n"
    code += "    except SystemExit: pass\nassert not {'torch', 'transformers', 'stable_baselines3'} & set(sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
