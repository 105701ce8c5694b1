from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard
from typer.testing import CliRunner

pytest.importorskip("sqlalchemy", reason='the store needs pip install "rlhf-envs[web]"')

from agents.cli import app
from rlhf_envs.feedback import FeedbackStore, NewItem, Settings, Task
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.forecasts import Forecast, LabelForecast
from rlhf_envs.feedback.store.panels import enter_panel
from rlhf_envs.feedback.store.training import answer_training, next_training
from rlhf_envs.feedback.terminal.label import TerminalKeyboard
from rlhf_envs.models import resolve
from rlhf_envs.preferences.crowd import aggregate_pairs, crowd_figures
from rlhf_envs.preferences.forecasting import forecast_labels

SHORT = ("--env-kwargs", "max_new_tokens:4")
needs_crowdkit = pytest.mark.skipif(find_spec("crowdkit") is None, reason="crowd-kit is missing")
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
    assert all(row["chosen"] == " was wonderful" for row in exported if row["probability"] > 0.5)
    ties = [row["chosen"] for row in exported if row["probability"] == 0.5]
    assert len(exported) == 6 + len(ties) // 2 and ties == [" was awful", " was wonderful"] * (len(ties) // 2)
    assert (f"TRL reads no probability: {len(ties) // 2} ties" in output) == bool(ties)  # who answers what is drawn


def test_a_forecast_trains_the_blocks_that_are_asked_for() -> None:
    rows = [{"prompt": f"film {i}", "chosen": f" good {i}", "rejected": f" bad {i}"} for i in range(120)]
    done("import", write("pairs.jsonl", *rows))
    said = done("forecast", "--train", "1", "--epochs", "1", "--repeats", "2", "--target", "0.6")
    assert re.search(r"\d+ pairs: held-out accuracy \d\.\d{3}", said)
    wrong = feedback("forecast", "--train", "all", "--repeats", "2")
    assert wrong.exit_code == 2 and 'choose "full", "head", "lora" or a number of last blocks' in wrong.stderr


def crowd(n: int = 30) -> None:
    """Four annotators who know what is better, a clicker who always says the opposite of what they would, and gold."""
    good, names = " was wonderful", [f"ann-{i}" for i in range(4)]
    with FeedbackStore("feedback.db", seed=0) as store:
        store.update_settings(next_item="age")  # the clicker is asked about pairs alone
        new = [NewItem("pairwise", f"film {i}", (good, " was awful")[:: (-1) ** i], overlap=5) for i in range(n)]
        store.add_items([*new, NewItem("correction", "c", ("bad",), priority=-1), NewItem("rating", "r", ("c",))])
        draw = random.Random(0)

        def know(task: Task) -> Response | None:
            if task.item.kind != "pairwise":
                return Response({"text": "good"} if task.item.kind == "correction" else {"rating": 3})
            return Response({"choice": task.item.completions.index(good), "strength": 1})

        work(store, "clicker", lambda task: Response({"choice": draw.randrange(2), "strength": 1}), limit=n)
        for name in names:
            work(store, name, know)


def test_status_names_who_seems_to_click_at_random() -> None:
    crowd()
    output = " ".join(done("status", "-o", "status.json").split())
    assert re.search(r"clicker seems to click at random: \d+% of the answers .*, by 30 that others gave too", output)
    assert output.count("seems to click at random") == 1
    figures = json.loads(Path("status.json").read_text())["clickers"]
    assert list(figures) == ["clicker"] and figures["clicker"]["n"] == 30


def test_status_suspects_nobody_where_that_cannot_be_told() -> None:
    crowd(n=5)
    assert "who clicks at random cannot be told" in done("status", "-o", "status.json")
    assert json.loads(Path("status.json").read_text())["clickers"] is None


def test_nobody_is_cleared_whose_comparisons_nobody_shares() -> None:
    with FeedbackStore("feedback.db") as store:
        store.add_items([NewItem("pairwise", f"film {i}", ("good", "bad")) for i in range(36)])
        for name in ("a", "b", "c"):
            work(store, name, lambda task: Response({"choice": 0, "strength": 1}), limit=12)
    output = done("status")
    assert "who clicks at random cannot be told" in output and "nobody" not in output.replace("(nobody shares", "")
    assert "who seems to click at random: that cannot be told" in done("export", "pairs.jsonl", "--without-spammers")


def test_an_export_says_how_conversations_are_written() -> None:
    prompt = [{"role": "user", "content": "a colour?"}]
    done("import", write("pairs.jsonl", {"prompt": prompt, "chosen": "red", "rejected": "loud"}))
    assert "conversations as messages: 1 rows; --no-conversational writes strings" in done("export", "messages.jsonl")
    said = done("export", "lines.jsonl", "--no-conversational")
    assert "conversations in role lines: 1 of 1 rows; a model with a chat template needs messages" in said
    done("import", write("texts.jsonl", PAIR))
    assert "role lines: 1 of 2 rows, for other prompts are strings; a model" in done("export", "mixed.jsonl")
    assert "role lines" not in done("export", "all.jsonl", "--conversational")
    found = {name: [json.loads(line)["prompt"] for line in Path(f"{name}.jsonl").read_text().splitlines()]
             for name in ("messages", "lines", "mixed", "all")}  # fmt: skip
    lines = "User: a colour?\n\nAssistant:"
    assert found["messages"] == [prompt] and found["lines"] == [lines] and found["mixed"] == [lines, "p"]
    assert found["all"] == [prompt, [{"role": "user", "content": "p"}]]


def test_an_export_writes_a_dataset_card_without_anybodys_texts_or_names() -> None:
    done("import", write("pairs.jsonl", {**PAIR, "annotator": "Ada"}, {**PAIR, "prompt": "another secret"}))
    assert "README.md: the dataset card" in done("export", "out.jsonl", "--how", "majority", "--card")
    card = DatasetCard.load("README.md")
    assert card.data.size_categories == ["n<1K"] and "preference" in card.data.tags
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": "out.jsonl"}]
    assert "| rows | 2 |" in card.text and "`chosen`" in card.text and "Licence" in card.text
    assert not any(text in card.content for text in ("another secret", "good", "bad", "Ada"))
    Path("README.md").write_text("mine")
    assert "dataset card" not in done("export", "out.jsonl", "--card")
    assert Path("README.md").read_text() == "mine"
    assert "give a file, not -" in feedback("export", "-", "--card").output


def test_a_dataset_card_tells_peoples_judgements_from_models() -> None:
    for names, tags, counts in (
        (["Ada"], {"human-feedback"}, (1, 0)),
        (["ai:j@1", "Ada"], {"human-feedback", "ai-feedback"}, (2, 1)),
        (["ai:j@1"], {"ai-feedback"}, (1, 1)),
    ):
        with FeedbackStore("feedback.db") as store:
            store.add_items([NewItem("pairwise", f"p{len(names)}{names[0]}", ("good", "bad"), overlap=len(names))])
            for name in names:
                work(store, name, lambda task: Response({"choice": 0, "strength": 1}))
        done("export", "out.jsonl", "--card")
        card = DatasetCard.load("README.md")
        assert {tag for tag in card.data.tags if tag.endswith("-feedback")} == tags
        assert f"| annotators | {counts[0]} |\n| of them models that judge | {counts[1]} |" in card.text
        Path("feedback.db").unlink()


def test_export_leaves_out_who_clicks_at_random() -> None:
    crowd()
    output = done("export", "pairs.jsonl", "--without-spammers")
    rows = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    assert "who seems to click at random: clicker\n" in output
    assert "left out: 30 of an annotator who was left out\n" in output
    assert {row["annotator"] for row in rows} == {f"ann-{i}" for i in range(4)}
    assert {row["chosen"] for row in rows} == {" was wonderful", "good"}


@needs_crowdkit
def test_export_by_dawid_skene_weighs_annotators_by_their_reliability() -> None:
    crowd()
    done("export", "soft.jsonl", "--how", "soft")
    done("export", "weighed.jsonl", "--how", "dawid_skene", "--conversational")
    soft, weighed = (
        [json.loads(line) for line in Path(name).read_text().splitlines()] for name in ("soft.jsonl", "weighed.jsonl")
    )
    assert [row["prompt"] for row in soft] == [row["prompt"][0]["content"] for row in weighed]
    with FeedbackStore("feedback.db") as store:
        items = [item for item in store.items() if item.kind == "pairwise"]
        rows = aggregate_pairs(items, [j for j in store.judgements() if j.kind == "pairwise"], "dawid_skene")
    expected = {row["prompt"]: (row["chosen"], row["probability"]) for row in rows}
    found = {row["prompt"][0]["content"]: (row["chosen"][0]["content"], row["probability"]) for row in weighed}
    assert found.pop("c") == ("good", 1.0)  # a correction, which nobody else has weighed
    assert found == expected and len(found) == 30
    outvoted = [
        (s["probability"], w["probability"]) for s, w in zip(soft, weighed, strict=True) if s["probability"] < 1
    ]
    assert len(outvoted) > 5 and all(before == 0.8 and after > 0.95 for before, after in outvoted)


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


def test_a_model_is_asked_in_conversations() -> None:
    done("add", "tiny", "-n", "1", *SHORT, "--chat", "--system-prompt", "be kind", "--chat-template", "roles")
    with FeedbackStore("feedback.db") as store:
        (item,) = store.items()
    assert [message["role"] for message in item.meta["messages"]] == ["system", "user"]
    refused = feedback("add", write("rows.jsonl", PAIR), "--chat")
    assert refused.exit_code == 2 and "rows.jsonl has its prompts: --env-kwargs, --chat and" in refused.output


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
    import agents.evaluation.items

    generate = agents.evaluation.items.generate_in
    monkeypatch.setattr(
        agents.evaluation.items, "generate_in", lambda *a, **k: generate(*a, **{**k, "deterministic": True})
    )
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
    done("simulate", "-n", "3", "--yes")  # an imported answer is there already
    output = done("export", "out.jsonl")
    assert "out.jsonl: 1 rows" in output and "left out: 3 gold question" in output


def test_an_imported_store_says_which_settings_it_took() -> None:
    with FeedbackStore("feedback.db") as store:
        store.update_settings(scale=(1, 7))
        store.add_items([NewItem("rating", "p", ("c",))])
    done("export", "all.jsonl", "--format", "items")
    assert "the store took the file's scale\n" in done("import", "all.jsonl", "--store", "new.db")


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
    done(
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        "9000",
        "--proxy",
        "10.0.0.1",
        "--proxy",
        "fd00::/8",
        "--url",
        "https://l",
    )
    seen_by_server = {"url": "https://l", "proxies": ["10.0.0.1", "fd00::/8"], "secure_cookies": False}
    assert seen.pop("analyse") is crowd_figures
    assert seen.pop("forecaster") is forecast_labels
    assert seen == {"arguments": ("feedback.db", "0.0.0.0", 9000), **seen_by_server}


def test_invitations_work_once() -> None:
    links = done("invite", "--role", "admin", "-n", "2", "--url", "https://label.example.org/").split()
    assert len(set(links)) == 2
    token = links[0].removeprefix("https://label.example.org/invite/")
    with FeedbackStore("feedback.db") as store:
        assert store.register(token, "ada", "hash").role == "admin"
        with pytest.raises(ValueError, match="used"):
            store.register(token, "bob", "hash")


@pytest.mark.parametrize(
    "row",
    [
        PAIR,
        {"prompt": "p", "completion": "c", "label": True},
        {"prompt": "p", "completions": ["a", "b"], "gold": {"choice": 0}},
    ],
)
def test_gold_questions_with_an_explanation_train_people(row: dict[str, Any]) -> None:
    done("add", write("gold.jsonl", {**row, "explanation": "because"}), "--gold")
    Path("study.toml").write_text("[training]\nn_items = 1\ntries = 1\n")
    done("settings", "study.toml")
    with FeedbackStore("feedback.db") as store:
        store.add_annotator("ada")
        task = next_training(store, "ada")
        assert task is not None
        refused = feedback("label", "--name", "ada")
        assert "has not done the training: sign in on the annotation page" in refused.output
        assert answer_training(store, "ada", 1, task.item.id, None).explanation == "because"
        assert next_training(store, "ada") is None
        assert "'ada' is let in without the training" in done("account", "ada", "admit")
        assert store.audit()[0].action == "let in"


def test_a_person_is_withdrawn_and_their_labels_leave_the_export() -> None:
    done("add", write("rows.jsonl", {"prompt": "p", "completions": ["a", "b"]}))
    with FeedbackStore("feedback.db") as store:
        assert work(store, "ada", lambda task: Response({"choice": 0, "strength": 1})) == 1
        assert feedback("account", "ada", "withdraw").exit_code != 0  # nobody there to ask
        assert len(store.judgements()) == 1
        output = done("account", "ada", "withdraw", "--yes")
        assert "1 answers and skips of 'ada' are out, kept" in output
        assert store.judgements() == []
        entry, _ = store.audit()  # the other is of the import
        assert (entry.action, entry.annotator) == ("withdraw person", "ada")
        assert entry.after == {"labels": "kept", "answers": 1}
    assert "0 rows" in done("export", "out.jsonl")


def test_who_came_from_a_panel_is_written_only_by_its_own_command() -> None:
    done("add", write("rows.jsonl", {"prompt": "p", "completions": ["a", "b"]}))
    Path("study.toml").write_text('[panel]\nperson = "PROLIFIC_PID"\n')
    done("settings", "study.toml")
    with FeedbackStore("feedback.db") as store:
        name = enter_panel(store, {"PROLIFIC_PID": "5f0c"}).name
        assert work(store, name, lambda task: Response({"choice": 0, "strength": 1})) == 1
    head, row = done("panel").splitlines()
    assert head.startswith("annotator,PROLIFIC_PID,state,answers")
    assert row.startswith(f"{name},5f0c,active,1,")
    assert "people.csv: 1 people" in done("panel", "-o", "people.csv")
    done("export", "all.jsonl", "--format", "items")
    exported = Path("all.jsonl").read_text()
    assert name in exported
    assert "5f0c" not in exported


def test_links_carry_the_address_that_was_served_last() -> None:
    result = feedback("invite")
    assert result.stdout.startswith("http://localhost:8000/invite/") and "was not served yet" in result.stderr
    with FeedbackStore("feedback.db") as store:
        store.remember_address("http://10.0.0.5:8078")
        store.add_annotator("ada")
        assert store.settings == Settings(), "the address is no setting"
    result = feedback("invite", "-n", "2")
    assert result.stdout.count("http://10.0.0.5:8078/invite/") == 2 and result.stderr == ""
    assert done("invite", "--url", "https://l.example.org/").startswith("https://l.example.org/invite/")


def test_a_store_is_copied_and_restored_by_two_commands() -> None:
    done("import", write("pairs.jsonl", PAIR))
    assert "copy.db: 1 items, 1 judgements, 1 annotators" in done("backup", "copy.db")
    assert "new.db: 1 items, 1 judgements, 1 annotators" in done("restore", "copy.db", "--store", "new.db")
    assert "1 judgements" in done("status", "--store", "new.db")
    result = feedback("restore", "copy.db")
    assert result.exit_code == 2 and "feedback.db exists: end the server, and move it away" in result.stderr


def test_simulated_answers_are_not_mixed_with_those_of_people_unasked() -> None:
    rows = [{"prompt": f"film {i}", "completions": [" was wonderful", " was awful"]} for i in range(4)]
    done("add", write("rows.jsonl", *rows), "--overlap", "2")
    done("simulate", "-n", "2", "--limit", "2")
    done("simulate", "-n", "2", "--limit", "2")  # simulated ones may go on
    with FeedbackStore("feedback.db") as store:
        work(store, "ada", lambda task: Response({"choice": 0, "strength": 1}), limit=1)
    result = feedback("simulate")
    assert result.exit_code == 2 and "feedback.db has 1 answers by ada: simulated ones would stand" in result.stderr
    assert "answers, " in done("simulate", "--yes")


def test_a_password_is_reset_and_an_account_switched_off() -> None:
    with FeedbackStore("feedback.db") as store:
        for name in ("ada", "ben"):
            store.register(store.invite("admin"), name, "hash")
        session = store.begin_session("ada", "hash")
        assert session is not None
        link = done("account", "ada", "reset", "--url", "https://label.example.org/").strip()
        store.register(link.removeprefix("https://label.example.org/invite/"), "ada", "new hash")
        assert (store.password_hash("ada"), store.session_annotator(session)) == ("new hash", None)
        assert "the account 'ada' is switched off" in done("account", "ada", "off")
        assert store.password_hash("ada") is None
        refused = feedback("account", "ben", "off")
        assert refused.exit_code == 2 and "'ben' is the only admin" in refused.stderr
        done("account", "ada", "on")
        assert store.password_hash("ada") == "new hash"
        told = [(entry.action, entry.annotator) for entry in store.audit()]
        assert told == [("switch on", "ada"), ("switch off", "ada"), ("link to reset the password", "ada")]
        assert {entry.actor.endswith(" (command line)") for entry in store.audit()} == {True}


def test_what_commands_add_is_in_the_audit(tmp_path: Path) -> None:
    row = {"prompt": "p", "completions": ["a", "b"]}
    done("add", write("rows.jsonl", row))
    final = {"value": {"choice": 0, "strength": 1}, "by": "ada"}
    moved = {**row, "kind": "pairwise", "prompt": "q", "final": final, "store_settings": {"guidelines": "Read."}}
    done("import", str(tmp_path / write("moved.jsonl", moved, {"prompt": 7})), "--store", "other.db")
    done("add", "tiny", "--env", "rlhf/Sentiment-v0", "-n", "2", *SHORT)
    with FeedbackStore("feedback.db") as store:
        generated, added = store.audit()
        items = len(store.items()) - 1
    with FeedbackStore("other.db") as store:
        (imported,) = store.audit()
    assert {entry.actor.endswith(" (command line)") for entry in (generated, added, imported)} == {True}
    assert (added.action, added.after) == (
        "import",
        {"file": "rows.jsonl", "items": 1, "judgements": 0, "not taken": 0},
    )
    assert (generated.action, generated.after) == ("add", {"source": "tiny", "items": items})
    counts = {"items": 1, "judgements": 0, "final answers": 1, "not taken": 1}
    assert imported.after == {"file": "moved.jsonl", **counts, "settings": ["guidelines"]}


def test_settings_that_a_command_changes_are_in_the_audit_without_the_secret() -> None:
    secret = done("webhook-secret").strip()
    Path("study.toml").write_text(
        f'guidelines = "Read."\nwebhooks = {{url = "https://a.org", events = ["item.finished"], secret = "{secret}"}}\n'
    )
    done("settings", "study.toml")
    done("settings", "study.toml")  # which changes nothing
    done("prioritise", "--policy", "uncertainty")
    with FeedbackStore("feedback.db") as store:
        last, first = store.audit()
    assert (first.action, last.after) == ("settings", ['next_item: "random" -> "uncertainty"'])
    assert first.after[0] == 'guidelines: "" -> "Read."' and "webhooks" in first.after[1]
    assert secret not in str(first) and first.actor.endswith(" (command line)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status"], "--store feedback.db: there is no such file"),
        (["export", "out.jsonl", "--store", "gone.db"], "--store gone.db: there is no such file"),
        (["label", "--store", "gone.db"], "there is no such file"),
        (["status", "--store", "notes.txt"], "not a database"),
        (["add", "no-such-model"], "unknown model 'no-such-model'"),
        (["add", "tiny", "--env", "rlhf/Nothing-v0"], "unknown environment"),
        (["add", "tiny", "--kind", "pairwise", "--n-completions", "3"], "--n-completions 3: pairwise compares 2"),
        (["add", "tiny", "--kind", "essay"], "--kind"),
        (["add", "tiny", "--overlap", "0"], "--overlap"),
        (["add", "tiny", "--gold"], "--gold: the expected answers come from a file"),
        (["export", "o.jsonl", "--how", "dawid_skene", "--format", "kto"], "--how dawid_skene is for --format pref"),
        (["export", "o.jsonl", "--without-spammers", "--format", "sft"], "--without-spammers is for --format pref"),
        (["import", "gone.jsonl"], "there is no file 'gone.jsonl'"),
        (["import", "notes.txt"], "notes.txt:1: columns prompt: expected prompt with completions"),
        (["import", "notes.txt", "--column", "prompt"], "--column 'prompt': write ours:theirs"),
        (["import", "notes.txt", "--format", "alpaca"], "--format"),
        (["invite", "--role", "king"], "--role"),
        (["serve", "--port", "70000"], "--port"),
        (["serve", "--proxy", "*"], "proxy '*': give an address"),
        (["account", "nobody", "off", "--store", "s.db"], "there is no such file"),
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
    result = feedback("label", "--name", "no\nname")
    assert result.exit_code == 2 and "an annotator's name must have" in result.stderr


@pytest.mark.parametrize("flags", [(), ("--pseudonymise",)])
def test_a_person_is_forgotten_once_and_again_is_said(flags: tuple[str, ...]) -> None:
    done("add", write("rows.jsonl", {"prompt": "p", "completions": ["a", "b"]}))
    with FeedbackStore("feedback.db") as store:
        assert work(store, "ada", lambda task: Response({"choice": 0, "strength": 1})) == 1
        assert feedback("forget", "ada", *flags).exit_code != 0  # nobody there to ask
        output = done("forget", "ada", *flags, "--yes")
        assert f"1 answers and skips {'pseudonymised' if flags else 'deleted'}" in output
        assert "kept, and why" in output and "rows of the audit" in output and "out of reach: backups" in output
        assert "ada" not in {person.name for person in store.annotators()}
        assert len(store.judgements()) == len(flags)
    assert "there is no annotator 'ada': nothing was changed" in done("forget", "ada", *flags, "--yes")


def test_private_data_is_masked_as_a_file_is_added() -> None:
    pytest.importorskip("phonenumbers")
    Path("study.toml").write_text("mask_private = true\n")
    done("settings", "study.toml")
    done("add", write("rows.jsonl", {"prompt": "mail ann@x.org", "completions": ["a", "b"]}))
    with FeedbackStore("feedback.db") as store:
        assert store.items()[0].prompt == "mail [EMAIL]"
        assert store.audit()[0].after["masked"] == {"email": 1}
    assert "what came in before it was switched on stays" in done("settings", "study.toml")


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


def test_settings_come_from_a_file_and_go_into_one() -> None:
    Path("study.toml").write_text(
        'guidelines = {file = "g.md"}\n[[questions]]\nname = "helpful"\ntext = "Helpful?"\ntype = "rating"\n'
    )
    Path("g.md").write_text("Be kind.\n")
    output = done("settings", "study.toml", "--store", "study.db")
    assert output == 'study.db: guidelines: "" -> "Be kind.\\n"\nstudy.db: question \'helpful\': new\n'
    assert done("settings", "study.toml", "--store", "study.db") == "study.db: nothing has changed\n"
    Path("again.toml").write_text(done("settings", "--store", "study.db"))
    done("settings", "again.toml", "--store", "again.db")
    with FeedbackStore("study.db") as one, FeedbackStore("again.db") as two:
        assert one.settings == two.settings
        assert one.settings.questions[0].name == "helpful" and one.settings.guidelines == "Be kind.\n"


def test_a_wrong_settings_file_changes_nothing_and_makes_no_store() -> None:
    Path("study.toml").write_text('guidelines = "new"\npausd = true\n')
    result = feedback("settings", "study.toml", "--store", "study.db")
    assert result.exit_code == 2
    assert "study.toml: unknown setting 'pausd'; did you mean 'paused'?" in result.output
    assert not Path("study.db").exists()
    result = feedback("settings", "none.toml")
    assert result.exit_code == 2 and "there is no file none.toml" in result.output
    result = feedback("settings", "--store", "typo.db")
    assert result.exit_code == 2 and "there is no such file" in result.output


def test_suggestions_are_stored_and_people_are_compared_with_them() -> None:
    crowd(n=12)
    said = done("suggest", "--store", "feedback.db", "tiny-reward", "--version", "7")
    assert "13 suggestions by tiny-reward; 1 items left out that scores do not answer" in said
    assert 'annotators do not see them (setting suggestions = "off")' in said
    with FeedbackStore("feedback.db") as store:
        entry = store.audit()[0]
    assert entry.actor.endswith(" (command line)")
    after = {"source": "tiny-reward", "version": "7", "suggestions": 13}
    assert (entry.action, entry.after) == ("suggest", after)
    output = " ".join(done("status").split())
    assert re.search(r"tiny-reward \(7\), pairwise: people say the same in \d+% of 60 answers", output)


def test_pairs_are_scored_after_some_judgements() -> None:
    with FeedbackStore("feedback.db") as store:
        pair = (" was wonderful", " was awful")
        store.add_items([NewItem("pairwise", f"Film {i}", pair[:: (-1) ** i]) for i in range(40)])
        store.add_items([NewItem("rating", "r", ("c",))])
    said = done("prioritise", "--policy", "gain")
    assert "0 pairs scored by 0 judged ones; before 20 the order is random; 1 items of other kinds stay" in said
    with FeedbackStore("feedback.db") as store:
        assert store.settings.next_item == "gain"

        def know(task: Task) -> Response | None:
            if task.item.kind == "rating":
                return Response({"rating": 3})
            return Response({"choice": task.item.completions.index(" was wonderful"), "strength": 1})

        work(store, "ann", know, limit=25)
    assert "pairs scored by 2" in done("prioritise")
    Path("random.toml").write_text('next_item = "random"')
    done("settings", "random.toml")
    refused = feedback("prioritise")
    assert refused.exit_code == 2 and "needs no scores" in refused.output


STUDY = """
[[questions]]
name = "helpful"
text = "How helpful?"
type = "rating"
each = true

[[questions]]
name = "truer"
text = "Which is truer?"
type = "choice"
"""


def studied() -> None:
    """Twenty pairs judged by two simulated annotators; one of them goes by length where it is about the truth."""
    Path("study.toml").write_text(STUDY)
    done("settings", "study.toml")
    rows = [{"prompt": f"film {i}", "completions": [" was wonderful", f" was awful {i * 'x'}"]} for i in range(20)]
    done("add", write("rows.jsonl", *rows), "--overlap", "2")
    Path("by.py").write_text("def longer(prompts, completions):\n    return [len(text) / 9 for text in completions]\n")
    done("simulate", "-n", "2", "--random-share", "0", "--temperature", "0", "--by", "truer:./by.py:longer")


def test_a_forecast_reads_the_answers_to_a_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    studied()
    seen: list[int] = []

    def pretend(items: Any, judgements: Any, target: float, **options: Any) -> LabelForecast:
        texts = {item.id: item.completions for item in items}
        longer = [max(range(2), key=lambda i: len(texts[j.item_id][i])) for j in judgements]
        seen.append(sum(j.value["choice"] == i for j, i in zip(judgements, longer, strict=True)))
        return LabelForecast(
            target, Forecast([20], [0.6], [(0.5, 0.7)], 30.0, (25.0, 50.0), 0.9, ""), 40.0, (10.0, 90.0)
        )

    monkeypatch.setattr("rlhf_envs.preferences.forecasting.forecast_labels", pretend)
    said = done("forecast", "--target", "0.8", "--criterion", "truer")
    assert "0.8 needs about 30 pairs to fit (25 to 50, 95% interval)" in said
    assert "that is about 40 labels more" in said
    done("forecast", "--criterion", "helpful")
    assert seen[0] > 30 > seen[1], "one criterion goes by length, the other does not"
    wrong = feedback("forecast", "--criterion", "helpfull")
    assert wrong.exit_code == 2 and "did you mean 'helpful'" in wrong.output


def test_own_questions_are_exported_counted_and_fitted_by_criterion() -> None:
    studied()
    output = done("export", "helpful.jsonl", "--criterion", "helpful")
    assert "helpful.jsonl: 40 rows" in output
    exported = [json.loads(line) for line in Path("helpful.jsonl").read_text().splitlines()]
    assert {row["chosen"] for row in exported} == {" was wonderful"}
    done("export", "truer.jsonl", "--criterion", "truer", "--how", "majority")
    exported = [json.loads(line) for line in Path("truer.jsonl").read_text().splitlines()]
    assert all(len(row["chosen"]) > len(row["rejected"]) for row in exported)
    status = done("status")
    assert "question helpful (rating): 40 answers, Krippendorff's alpha 1.000" in status
    assert "question truer (choice): 40 answers" in status
    result = feedback("export", "x.jsonl", "--criterion", "helpfull")
    assert result.exit_code == 2 and "no criterion 'helpfull'; did you mean 'helpful'?" in result.output
    result = feedback("export", "x.jsonl", "--version", "1")
    assert result.exit_code == 2 and "--version is for the project's own questions" in result.output
    result = feedback("simulate", "--by", "truth:gold")
    assert "--by 'truth:gold': there is no question or harm 'truth'; did you mean 'truer'" in result.output


def test_reward_models_are_fitted_to_a_criterion_of_a_store_and_of_its_items() -> None:
    studied()
    done("export", "all.jsonl", "--format", "items")
    fit = ("--model", "tiny", "--train", "head", "--max-length", "16")
    for source, folder in (("feedback.db", "one"), ("all.jsonl", "two")):
        result = CliRunner().invoke(app, ["reward", "fit", source, folder, "--criterion", "helpful", *fit])
        assert result.exit_code == 0, result.output
        assert f"{source}: 40 pairs from answers to helpful" in result.output
    rows = [Path(folder, "held_out.jsonl").read_text() for folder in ("one", "two")]
    assert rows[0] == rows[1] and '"chosen": " was wonderful"' in rows[0]
    result = CliRunner().invoke(
        app, ["reward", "fit", "feedback.db", "rated", "--criterion", "helpful", "--loss", "mse", *fit]
    )
    assert result.exit_code == 0 and "80 ratings from answers to helpful" in result.output, result.output
    result = CliRunner().invoke(app, ["reward", "fit", "feedback.db", "main", *fit])
    assert "40 pairs from answers\n" in result.output
    assert "left out: 40 answers to the project's own questions" in result.output
    write("pairs.jsonl", PAIR)
    for arguments, words in (
        (
            ("pairs.jsonl", "x", "--criterion", "helpful"),
            "pairs.jsonl has rows without answers to a project's questions",
        ),
        (("feedback.db", "x", "--criterion", "helpfull"), "no criterion 'helpfull'; did you mean 'helpful'?"),
        (("feedback.db", "x", "--criterion", "truer", "--loss", "mse"), "rates no completion by itself"),
        (("feedback.db", "x", "--version", "2"), "--version is for the project's own questions"),
    ):
        result = CliRunner().invoke(app, ["reward", "fit", *arguments])
        assert result.exit_code == 2 and words in " ".join(result.output.split()), result.output


def test_settings_begin_with_a_file_that_explains_every_setting() -> None:
    printed = done("settings")
    assert "there is no feedback.db yet; these are the defaults" in printed
    assert not Path("feedback.db").exists()
    Path("study.toml").write_text(printed[printed.index("# ") :])
    assert done("settings", "study.toml") == "feedback.db: nothing has changed\n"
    result = feedback("settings", "typo.toml")
    assert result.exit_code == 2
    assert "there is no file typo.toml; `rlhf feedback settings > typo.toml` writes one" in " ".join(
        result.output.split()
    )


def test_settings_that_do_nothing_yet_are_noted() -> None:
    text = """
    render = "markdown"
    training = {n_items = 2}
    panel = {person = "PID"}
    [[questions]]
    name = "faults"
    text = "What is wrong?"
    type = "spans"
    labels = ["untrue"]
    """
    Path("study.toml").write_text(text)
    said = done("settings", "study.toml")
    assert (
        "note: training.n_items is 2, but there are 0 gold questions with an explanation, so nobody is trained" in said
    )
    assert "note: texts that faults marks are shown as they are" in said
    assert "note: panel: without completion_code" in said
    gold = [{"prompt": f"{i}", "completions": ["a", "b"], "choice": 0, "explanation": "so"} for i in range(2)]
    done("add", write("gold.jsonl", *gold), "--gold")
    Path("study.toml").write_text('panel = {person = "PID", completion_code = "C"}\nrender = "plain"')
    assert "note:" not in done("settings", "study.toml")
