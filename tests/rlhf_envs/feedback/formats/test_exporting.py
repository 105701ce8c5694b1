from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from rlhf_envs.feedback import Assignment, FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.formats.exporting import export_file, preference_rows
from rlhf_envs.feedback.formats.importing import import_file
from rlhf_envs.feedback.kinds import KINDS
from rlhf_envs.feedback.simulated import annotate, simulated_crowd

NASTY = [
    'comma, "quotes"',
    "lines\nand\r\nreturns\rhere",
    "👩‍👩‍👧 שלום \u202e",
    "=SUM(A1)",
    "'\\ [1, 2]",
    "",
    "\x00\x1b",
]
ASKED = tuple(kind for kind in KINDS if kind != "questions")


def choice(index: int | None, strength: int = 1) -> dict[str, Any]:
    return {"choice": index, "strength": 0 if index is None else strength}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("filled") / "filled.db"
    with FeedbackStore(path, seed=0) as store:
        fill(store)
    return path


def fill(store: FeedbackStore) -> None:
    """Items of every kind with nasty texts, judged by three, with skips, comments and an undone judgement."""
    new = [
        NewItem(kind, f"{text} {kind}", (text, f"{text}.", "z")[:n], "src", "tiny", {"n": n}, overlap=2, priority=n)
        for text in NASTY
        for kind, n in [("pairwise", 2), ("ranking", 3), ("rating", 1), ("thumbs", 1), ("correction", 1), ("flags", 1)]
    ]
    new.append(NewItem("thumbs", "gold", ("x",), gold={"up": True}))
    store.add_items([*new, new[0]])

    def scorer(prompts: list[str], completions: list[str]) -> list[float]:
        return [len(text) / 10 for text in completions]

    settings: dict[str, Any] = {"temperature": 1.0, "skip_rate": 0.2, "harms": store.settings.harms}
    crowd = simulated_crowd(scorer, 3, 0.4, rewriter=lambda prompt, text: f"[{text}]", **settings)
    annotate(store, crowd)
    task = store.undo(crowd[0].name)
    assert task is not None
    store.submit(task.id, crowd[0].name, None, key="again", comment='a\ncomment, with "quotes"', seconds=2.5)


def snapshot(
    store: FeedbackStore, *, with_sides: bool = True, kinds: tuple[str, ...] = (), ties: bool = True
) -> list[Any]:
    """Items with their judgements, without ids."""
    found = []
    for entry in store.items():
        if (kinds and entry.kind not in kinds) or (kinds and entry.gold is not None):
            continue
        judgements = [
            (j.annotator, j.value, j.comment, *((j.seconds, j.sides, j.key, j.created) if with_sides else ()))
            for j in store.judgements(item_ids=[entry.id], include_skips=True)
            if ties or j.value is None or j.value.get("choice", 0) is not None
        ]
        extra = (entry.source, entry.policy, entry.meta, entry.overlap, entry.gold, entry.priority, entry.created)
        found.append(
            (entry.kind, entry.prompt, entry.completions, sorted(judgements, key=repr), *(extra if with_sides else ()))
        )
    return found


def test_exporting_everything_and_importing_it_restores_the_store(filled: Path, tmp_path: Path) -> None:
    one, two = FeedbackStore(filled), FeedbackStore(tmp_path / "two.db")
    export = export_file(one, tmp_path / "all.jsonl.gz", "items")
    assert export.dropped == {"undone": 1} and len(export.rows) == len(one.items())
    done = import_file(two, tmp_path / "all.jsonl.gz")
    assert done.bad == () and done.items == len(one.items())
    assert snapshot(two) == snapshot(one)
    assert two.progress() == one.progress()
    again = import_file(two, tmp_path / "all.jsonl.gz")
    assert (again.items, again.judgements) == (0, 0)


def rated(store: FeedbackStore, scale: tuple[int, int], rating: int) -> None:
    store.update_settings(scale=scale, harms=("spam",), guidelines="Be kind.")
    store.add_items([NewItem("rating", "p", ("c",)), NewItem("flags", "p", ("c",))])
    work(store, "ada", lambda task: Response({"rating": rating} if task.item.kind == "rating" else {"harms": ["spam"]}))


def test_settings_move_with_the_items_to_a_new_store(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    one, two = stores
    rated(one, (1, 7), 7)
    export_file(one, tmp_path / "all.jsonl", "items")
    two.update_settings(lease_seconds=60.0)
    done = import_file(two, tmp_path / "all.jsonl")
    assert (done.bad, done.judgements, done.settings) == ((), 2, ("scale", "harms", "guidelines"))
    assert snapshot(two) == snapshot(one)
    assert (two.settings.scale, two.settings.harms, two.settings.guidelines) == ((1, 7), ("spam",), "Be kind.")
    assert two.settings.lease_seconds == 60.0
    assert import_file(two, tmp_path / "all.jsonl").settings == ()


def test_a_store_with_items_keeps_its_settings_and_takes_no_ratings_of_another_scale(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    one, two = stores
    rated(one, (1, 7), 3)  # on the scale 1 to 5 as well, where it means something else
    export_file(one, tmp_path / "all.jsonl", "items")
    two.update_settings(harms=("spam", "lies"))
    two.add_items([NewItem("thumbs", "p", ("c",))])
    done = import_file(two, tmp_path / "all.jsonl")
    (bad,) = done.bad
    assert "the file's ratings are on the scale 1 to 7, the store's on 1 to 5" in bad.reason
    assert (done.judgements, done.settings, two.settings.harms) == (1, (), ("spam", "lies"))


def test_settings_are_those_of_the_first_of_files_put_together(tmp_path: Path) -> None:
    texts = []
    for name, scale, rating in (("a", (1, 5), 4), ("b", (1, 9), 3), ("c", (1, 5), 2)):
        with FeedbackStore(tmp_path / f"{name}.db") as store:
            store.update_settings(scale=scale)
            store.add_items(
                [NewItem("rating", name, ("x",)), NewItem("rating", name, ("y",)), NewItem("thumbs", name, ("x",))]
            )
            say = {"rating": {"rating": rating}, "thumbs": {"up": True}}
            work(store, "ada", lambda task, say=say: Response(say[task.item.kind]))  # type: ignore[misc]
            export_file(store, tmp_path / "part.jsonl", "items")
        texts.append((tmp_path / "part.jsonl").read_text())
    (tmp_path / "all.jsonl").write_text("".join(texts))
    with FeedbackStore(tmp_path / "all.db") as store:
        done = import_file(store, tmp_path / "all.jsonl")
        kept = [j.value["rating"] for j in store.judgements() if j.kind == "rating" and j.value]
        assert (store.settings.scale, sorted(kept), done.judgements) == ((1, 5), [2, 2, 4, 4], 7)
    assert [bad.row["prompt"] for bad in done.bad] == ["b", "b"]
    assert all("on the scale 1 to 9, the store's on 1 to 5" in bad.reason for bad in done.bad)


def test_settings_after_the_first_item_change_nothing(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    answer = [{"annotator": "ada", "value": {"rating": 3}}]
    rows: list[dict[str, Any]] = [
        {"kind": "rating", "prompt": prompt, "completion": "c", "judgements": answer} for prompt in "pq"
    ]
    rows[1]["store_settings"] = {"scale": [1, 7]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = import_file(stores[0], path)
    assert ["on the scale 1 to 7" in bad.reason for bad in done.bad] == [True]
    assert (done.judgements, done.settings, stores[0].settings.scale) == (1, (), (1, 5))


def test_ratings_behind_settings_that_cannot_be_read_are_not_taken(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    answer = [{"annotator": "ada", "value": {"rating": 3}}]
    row = {"kind": "rating", "prompt": "p", "completion": "c", "judgements": answer}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(r)}\n" for r in [{**row, "store_settings": {"scale": [0, 5000]}}, row]))
    done = import_file(stores[0], path)
    assert "scale must lie within -1000 to 1000" in done.bad[0].reason and "is not known" in done.bad[1].reason
    assert (len(done.bad), done.items, stores[0].settings.scale) == (2, 0, (1, 5))


@pytest.mark.parametrize(
    "settings", ["x", {"colour": "blue"}, {"scale": [5]}, {"scale": None}, {"scale": [5, 1]}, {"harms": 3}]
)
def test_settings_that_make_no_sense_are_a_bad_row(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path, settings: Any
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "p", "completion": "c", "store_settings": settings}, {"prompt": "q", "completion": "c"}]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    done = import_file(stores[0], path)
    assert ["'store_settings'" in bad.reason for bad in done.bad] == [True] and done.items == 1


def test_judgements_of_annotators_who_are_left_out_are_counted(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    one, _ = stores
    one.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=2), NewItem("pairwise", "skipped", ("a", "b"))])
    one.add_items([NewItem("thumbs", "p", ("a",))])
    said: dict[str, dict[str, Any]] = {
        "ada": {"p": choice(0), "skipped": choice(0)},
        "bob": {"p": choice(1), "skipped": None},
    }

    def answer(task: Assignment) -> Response:
        return Response({"up": True} if task.item.kind == "thumbs" else said[task.annotator.name][task.item.prompt])

    for name in ("bob", "ada"):
        work(one, name, answer)
    export = export_file(one, tmp_path / "out.jsonl", "preference", without={"bob"}, kind="pairwise")
    assert [(row["chosen"], row["annotator"]) for row in export.rows] == [("a", "ada")] * 2
    assert export.dropped == {"of an annotator who was left out": 1}


def test_either_database_takes_judgements_back_in(filled: Path, store_url: str, tmp_path: Path) -> None:
    with FeedbackStore(filled) as one, FeedbackStore(store_url) as two:
        export_file(one, tmp_path / "all.jsonl", "items")
        assert import_file(two, tmp_path / "all.jsonl").bad == ()
        assert snapshot(two) == snapshot(one)


def test_a_restored_store_goes_on_where_the_other_stopped(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    one, two = stores
    one.add_items([NewItem("thumbs", str(i), ("x",), overlap=2) for i in range(3)])
    work(one, "ada", lambda task: Response({"up": True}), limit=2)
    export_file(one, tmp_path / "all.jsonl", "items")
    import_file(two, tmp_path / "all.jsonl")
    asked: list[str] = []

    def note(task: Any) -> Response:
        asked.append(task.item.prompt)
        return Response({"up": False})

    assert work(two, "ada", note) == 1 and asked == ["2"], "ada is not asked again"
    assert work(two, "bob", note) == 3
    assert two.progress().finished == 3


def test_argillas_table_comes_back_as_it_was(filled: Path, tmp_path: Path) -> None:
    one, two = FeedbackStore(filled), FeedbackStore(tmp_path / "two.db")
    export = export_file(one, tmp_path / "argilla.csv", "argilla")
    assert export.dropped == {"gold question (item)": 1, "undone": 1}
    done = import_file(two, tmp_path / "argilla.csv")
    kinds = ("pairwise", "ranking", "rating", "thumbs", "correction", "flags")
    assert done.bad == ()
    assert snapshot(two, with_sides=False) == snapshot(one, with_sides=False, kinds=kinds)


def test_label_studios_table_comes_back(filled: Path, tmp_path: Path) -> None:
    one, two = FeedbackStore(filled), FeedbackStore(tmp_path / "two.db")
    export = export_file(one, tmp_path / "ls.csv", "label-studio")
    assert export.dropped == {"gold question (item)": 1, "undone": 1}
    done = import_file(two, tmp_path / "ls.csv")
    assert done.bad == ()
    assert snapshot(two, with_sides=False) == snapshot(one, with_sides=False, kinds=ASKED)
    assert {j.created for j in two.judgements()} <= {j.created for j in one.judgements()}


@pytest.mark.parametrize("kind", ASKED)
def test_label_studios_tasks_come_back_with_their_annotators(filled: Path, tmp_path: Path, kind: str) -> None:
    """As Label Studio 1.23 exports what it has imported: our id as import_id, and an account of its own."""
    one, two = FeedbackStore(filled), FeedbackStore(tmp_path / "two.db")
    export_file(one, tmp_path / "ls.json", "label-studio", kind=kind)
    tasks = json.loads((tmp_path / "ls.json").read_text())
    for number, annotation in enumerate((a for task in tasks for a in task["annotations"]), start=1):
        annotation |= {"import_id": annotation["id"], "id": number, "completed_by": 1}
    (tmp_path / "back.json").write_text(json.dumps([{**task, "id": i} for i, task in enumerate(tasks, start=1)]))
    done = import_file(two, tmp_path / "back.json")
    assert (done.bad, done.format) == ((), "label-studio")
    assert snapshot(two, with_sides=False) == snapshot(one, with_sides=False, kinds=(kind,))


def test_tasks_that_were_never_in_label_studio_come_back_with_their_annotators(tmp_path: Path) -> None:
    one, two = FeedbackStore(tmp_path / "one.db"), FeedbackStore(tmp_path / "two.db")
    one.add_items([NewItem("pairwise", "p", ("a", "b"), overlap=2)])
    for place, name in enumerate(("ada", "bob")):
        work(one, name, lambda task, place=place: Response({"choice": place, "strength": 1}))
    export_file(one, tmp_path / "ls.json", "label-studio", kind="pairwise")
    assert import_file(two, tmp_path / "ls.json").bad == ()
    assert snapshot(two, with_sides=False) == snapshot(one, with_sides=False)


@pytest.mark.parametrize("name", ["a.csv", "a.json"])
def test_what_other_programs_have_no_form_for_is_counted(store: FeedbackStore, tmp_path: Path, name: str) -> None:
    store.update_settings(questions=[{"name": "why", "text": "Why?", "type": "text"}])
    store.add_items([NewItem("questions", "p", ("a",)), NewItem("thumbs", "p", ("a",))])
    work(store, "ada", lambda task: Response({} if task.item.kind == "questions" else {"up": True},
                                             answers={"why": "because"}), limit=2)  # fmt: skip
    dropped = export_file(store, tmp_path / name, "label-studio").dropped
    assert dropped == export_file(store, tmp_path / "argilla.csv", "argilla").dropped
    assert sorted(dropped.values()) == [1, 1] and all("only --format items" in reason for reason in dropped)


def test_tasks_for_label_studio_are_of_one_kind(filled: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"asks one kind of question, and the items are correction, flags.*give --kind"
    ):
        export_file(FeedbackStore(filled), tmp_path / "ls.json", "label-studio")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", [(1, 5), (0, 4), (1, 40)])
@pytest.mark.parametrize("kind", ASKED)
def test_every_result_of_a_task_has_its_control_in_the_labeling_interface(
    tmp_path: Path, kind: str, scale: tuple[int, int]
) -> None:
    with FeedbackStore(tmp_path / "one.db", seed=0) as store:
        store.update_settings(scale=scale)
        store.add_items([NewItem(kind, "p", ("a", "b", "c")[: {"pairwise": 2, "ranking": 3}.get(kind, 1)])] * 6)
        annotate(store, simulated_crowd(lambda prompts, texts: [1.0] * len(texts), 1, 0.0, scale=scale,
                                        rewriter=lambda prompt, text: "x"))  # fmt: skip
        tasks = export_file(store, tmp_path / "ls.json", "label-studio").rows
    view = ElementTree.parse(tmp_path / "ls.xml").getroot()
    tags = {tag.get("name"): tag for tag in view.iter() if tag.get("name")}
    results = [result for task in tasks for annotation in task["annotations"] for result in annotation["result"]]
    assert results or kind == "flags"
    for result in results:
        control = tags[result["from_name"]]
        to = "comparison" if result["type"] == "pairwise" else control.get("toName")  # as Label Studio's page does
        assert control.tag.lower() == result["type"] and to == result["to_name"]
    shown = {tag.get("value", "").removeprefix("$") for tag in view.iter() if tag.get("value", "").startswith("$")}
    assert shown <= set(tasks[0]["data"])


@pytest.mark.parametrize("conversational", [False, True])
@pytest.mark.parametrize("format", ["preference", "kto"])
def test_trls_files_come_back_as_the_same_rows(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path, format: str, conversational: bool
) -> None:
    one, two = stores
    one.add_items([NewItem("pairwise", f"p {text}", (text, f"{text}!"), overlap=2) for text in NASTY])
    one.add_items([NewItem("thumbs", f"p {text}", (text,), overlap=2) for text in NASTY])
    annotate(one, simulated_crowd(lambda prompts, texts: [len(text) for text in texts], 2, 0.0, temperature=1.0))
    kind = {"preference": "pairwise", "kto": "thumbs"}[format]
    first = export_file(one, tmp_path / "1.jsonl", format, kind=kind, conversational=conversational)
    assert import_file(two, tmp_path / "1.jsonl").bad == ()
    second = export_file(two, tmp_path / "2.jsonl", format, conversational=conversational)
    assert sorted(map(json.dumps, second.rows)) == sorted(map(json.dumps, first.rows)) and len(first.rows) == 14


@pytest.mark.parametrize("format", ["items", "preference", "argilla", "label-studio"])
def test_a_conversation_stays_one_through_every_format(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path, format: str
) -> None:
    one, two = stores
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": "Name a colour"}
    for messages in ([user], [system, user]):
        one.add_items([NewItem("pairwise", "shown", ("Blue", "Dog"), meta={"messages": messages})])
    work(one, "ada", lambda task: Response(choice(0)))
    path = tmp_path / ("rows.csv" if format in ("argilla", "label-studio") else "rows.jsonl")
    export_file(one, path, format, conversational=True)
    assert import_file(two, path).bad == ()
    rows = preference_rows(two.items(), two.judgements()).rows
    assert sorted(row["prompt"] + row["chosen"] for row in rows) == [
        "System: Be brief.\n\nUser: Name a colour\n\nAssistant: Blue", "User: Name a colour\n\nAssistant: Blue"
    ]  # fmt: skip


@pytest.mark.parametrize("format", ["preference", "kto"])
def test_a_store_of_conversations_is_exported_as_messages_whatever_else_was_not_judged(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path, format: str
) -> None:
    store, path, user = stores[0], tmp_path / "rows.jsonl", [{"role": "user", "content": "Name a colour"}]
    store.add_items([NewItem("pairwise", "shown", ("Blue", "Dog"), meta={"messages": user})])
    work(store, "ada", lambda task: Response(choice(0)))
    store.add_items([NewItem("pairwise", "gold", ("x", "y"), gold=choice(0)), NewItem("pairwise", "text", ("x", "y"))])
    work(store, "bob", lambda task: Response(choice(0)) if task.item.gold else Response(None))
    assert all(row["prompt"] == user for row in export_file(store, path, format).rows)
    work(store, "cat", lambda task: Response(choice(0)))
    prompts = [row["prompt"] for row in export_file(store, path, format).rows]
    assert set(prompts) == {"text", "User: Name a colour\n\nAssistant:"}, "one string, and all are strings"


def test_a_file_of_the_wrong_name_or_format_is_refused(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"argilla is written as \.csv"):
        export_file(stores[0], tmp_path / "out.jsonl", "argilla")
    with pytest.raises(ValueError, match="unknown format 'parquet'"):
        export_file(stores[0], tmp_path / "out.parquet", "parquet")
    with pytest.raises(OSError, match=r"cannot write .*gone/out\.jsonl: there is no folder .*gone: make it first"):
        export_file(stores[0], tmp_path / "gone" / "out.jsonl", "preference")
    assert list(tmp_path.glob("out*")) == []


def test_an_export_that_fails_leaves_the_older_file(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("older\n")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export_file(stores[0], path, "items")
    assert path.read_text() == "older\n" and list(tmp_path.glob(".out*")) == []


def test_text_that_utf8_cannot_hold_stays_in_json_and_is_counted_out_of_a_table(
    stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path
) -> None:
    one, two = stores
    one.add_items([NewItem("thumbs", "p", ("lone \ud800",))])
    export_file(one, tmp_path / "all.jsonl", "items")
    import_file(two, tmp_path / "all.jsonl")
    assert two.items()[0].completions == ("lone \ud800",)
    assert export_file(one, tmp_path / "a.csv", "argilla").dropped == {"text that UTF-8 cannot hold (row)": 1}


def test_one_annotator_alone_and_nobody_at_all(stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path) -> None:
    one, _ = stores
    assert export_file(one, tmp_path / "none.jsonl", "preference").rows == []
    assert (tmp_path / "none.jsonl").read_text() == ""
    one.add_items([NewItem("pairwise", "p", ("a", "b"))])
    work(one, "ada", lambda task: Response(choice(1)))
    assert [row["chosen"] for row in preference_rows(one.items(), one.judgements(), how="soft").rows] == ["b"]


def test_dates_survive_time_zones(stores: tuple[FeedbackStore, FeedbackStore], tmp_path: Path) -> None:
    one, _ = stores
    moment = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    row = {
        "prompt": "p",
        "completion": "a",
        "created": moment.isoformat(),
        "judgements": [{"value": {"rating": 1}, "created": "2026-01-01T10:00:00Z"}],
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    import_file(one, tmp_path / "rows.jsonl")
    assert one.items()[0].created == moment and one.judgements()[0].created == moment


def test_exports_say_what_an_admin_has_changed(tmp_path: Path) -> None:
    with FeedbackStore(tmp_path / "f.db") as store:
        store.update_settings(next_item="age")
        store.add_items([NewItem("rating", f"p{i}", ("c",)) for i in range(3)])
        store.add_annotator("ann")
        for i in range(3):
            task = store.claim("ann")
            assert task is not None
            store.submit(task.id, "ann", {"rating": 1}, key=f"key {i}")
        store.fix_judgement(1, {"rating": 2}, by="root", reason="a slip")
        store.fix_judgement(1, {"rating": 3}, by="root", reason="no, worse")
        store.drop_judgement(2, by="root", reason="a bot")
        ratings = export_file(store, tmp_path / "r.jsonl", "ratings")
        assert [row["label"] for row in ratings.rows] == [3, 1]
        assert (ratings.fixed, ratings.dropped["dropped by an admin"]) == (1, 1)
        export_file(store, tmp_path / "all.jsonl", "items")
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    fixes = rows[0]["judgements"][0]["fixed"]
    assert [(fix["by"], fix["before"]["value"], fix["reason"]) for fix in fixes] == [
        ("root", {"rating": 1}, "a slip"),
        ("root", {"rating": 2}, "no, worse"),
    ]
    assert "fixed" not in rows[2]["judgements"][0]
    with FeedbackStore(tmp_path / "copy.db") as copy:
        assert import_file(copy, tmp_path / "all.jsonl").bad == ()
        assert [judgement.value for judgement in copy.judgements()] == [{"rating": 3}, {"rating": 1}]
