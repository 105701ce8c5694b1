"""Take every kind of feedback to Argilla's records and back, with Argilla's SDK itself, and print what went both ways.

    python -m scripts.checks.argilla_sdk [--venv FOLDER]

It installs the SDK into an environment of its own (from PyPI, once; `--venv` keeps it). For each kind of feedback it
exports a store as Argilla's table, and the SDK makes `rg.Record`s of the rows, as the guide "Files of feedback" does
(`records_of` stands there). They are turned into the models that the SDK sends to a server, checked by what the source
of its server asks of answers, read back as the SDK reads a server's, and exported by
`to_list(flatten=True)`, which an empty store imports. It fails if an answer differs (of a skip without a comment
the SDK reads nothing back). No server runs, so what a server
stores is not tried. CI does not run it.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import venv
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

PACKAGES = ("argilla==2.8.0", "requests==2.34.2")  # argilla imports requests and does not declare it
HOSTILE = '=1+1, "quoted"\nsecond line <b>&amp;</b> é 你好 \\n'
# Each kind: completions, and what people said of them. None is a skip.
KINDS: dict[str, tuple[tuple[str, ...], list[Any]]] = {
    "pairwise": (
        ("Blue.", HOSTILE),
        [
            {"choice": 1, "strength": 3, "margin": 1.5, "probability": 0.75},
            {"choice": 0, "strength": 1},
            {"choice": None, "strength": 0},
            None,
        ],
    ),
    "ranking": (("Blue.", "Red.", HOSTILE), [{"order": [2, 0, 1]}, {"order": [0, 1, 2]}, None]),
    "rating": ((HOSTILE,), [{"rating": 5}, {"rating": 1}, None]),
    "thumbs": ((HOSTILE,), [{"up": True}, {"up": False}, None]),
    "correction": (("Bleu.",), [{"text": HOSTILE}, {"text": "[1, 2]"}, None]),
    "flags": ((HOSTILE,), [{"harms": ["hate", "violence"]}, {"harms": []}, None]),
}


def questions_of(rg: Any, kind: str, n: int, **more: Any) -> list[Any]:
    """Return the questions of Argilla that ask what a kind of feedback asks, about n completions."""
    names = [f"response{i + 1}" for i in range(n)]
    comment = rg.TextQuestion("comment", required=False, **more)
    if kind == "pairwise":
        numbers = [rg.TextQuestion(name, required=False, **more) for name in ("margin", "probability")]
        strength = rg.RatingQuestion("strength", [0, 1, 2, 3], required=False, **more)
        return [rg.LabelQuestion("preference", [*names, "tie"], **more), strength, *numbers, comment]
    harms = ["hate", "harassment", "violence", "sexual", "self-harm", "dangerous", "privacy", "none"]
    question = {
        "ranking": lambda: rg.RankingQuestion("ranking", names, **more),
        "rating": lambda: rg.RatingQuestion("rating", [1, 2, 3, 4, 5], **more),
        "thumbs": lambda: rg.LabelQuestion("thumbs", ["up", "down"], **more),
        "correction": lambda: rg.TextQuestion("correction", **more),
        "flags": lambda: rg.MultiLabelQuestion("harms", harms, **more),
    }[kind]
    return [question(), comment]


def records_of(rg: Any, path: Path, settings: Any, users: dict[str, UUID]) -> list[Any]:
    """Return the records of a table that `rlhf feedback export --format argilla` wrote.

    Args:
        rg: the module argilla.
        path: the table.
        settings: the settings of the dataset that takes the records.
        users: the ids of Argilla's users, by the names of our annotators.
    """
    records = []
    for row in csv.DictReader(path.open(encoding="utf-8", newline="")):
        responses = []
        for question in settings.questions:
            columns = [f"{question.name}.responses{part}" for part in ("", ".users", ".status")]
            for value, user, status in zip(*(json.loads(row.get(name) or "[]") for name in columns), strict=True):
                if isinstance(question, rg.TextQuestion) and value is not None:
                    value = str(value)
                responses.append(rg.Response(question.name, value, user_id=users[user], status=status))
        fields = {field.name: row[field.name] for field in settings.fields}
        records.append(rg.Record(id=row["id"], fields=fields, responses=responses))
    return records


def inside(kind: str, n: int, table: Path, back: Path) -> None:
    """Make records of a table with the SDK, send them nowhere, and export what it would read. Runs in its environment.

    Raises:
        AssertionError: an answer is none that Argilla's server takes.
    """
    import argilla as rg  # type: ignore[import-not-found]  # in the environment that `install` makes
    from argilla._models import RecordModel  # type: ignore[import-not-found]
    from argilla.records import Record  # type: ignore[import-not-found]
    from argilla.records._io import GenericIO  # type: ignore[import-not-found]

    warnings.filterwarnings("ignore", "`user_id` not provided")  # of skips without a comment, which the SDK forgets
    client = SimpleNamespace(api=SimpleNamespace(fields=None, questions=None))  # in the place of a server
    names = ["response"] if n == 1 else [f"response{i + 1}" for i in range(n)]
    settings = rg.Settings(
        fields=[rg.TextField(name, client=client) for name in ("prompt", *names)],
        questions=questions_of(rg, kind, n, client=client),
    )
    dataset = SimpleNamespace(settings=settings, name="demo", _client=None)
    users = {f"user{i}": UUID(int=i) for i in range(1, 9)}
    read = []
    for record in records_of(rg, table, settings, users):
        record.dataset = dataset
        sent = json.loads(record.api_model().model_dump_json(include={"external_id", "fields", "responses"}))
        for response in sent["responses"]:
            for name, answer in response["values"].items():
                check_answer(rg, settings.questions[name], answer["value"], response["status"])
        read.append(Record.from_model(RecordModel(**sent), dataset))
    back.write_text(json.dumps(GenericIO.to_list(read, flatten=True)))


def check_answer(rg: Any, question: Any, value: Any, status: str) -> None:
    """Check an answer by what Argilla's server asks of one.

    Raises:
        AssertionError: the server would refuse it.
    """
    about = f"{question.name}: {value!r}"
    if isinstance(question, rg.RankingQuestion):
        assert {place["value"] for place in value} <= set(question.values), about
        assert status != "submitted" or sorted(place["rank"] for place in value) == [*range(1, len(value) + 1)], about
    elif isinstance(question, rg.MultiLabelQuestion):
        assert value, f"{about}: at least one label is asked for"
        assert set(value) <= set(question.labels), about
    elif isinstance(question, rg.LabelQuestion):
        assert value in question.labels, about
    elif isinstance(question, rg.RatingQuestion):
        assert value in question.values, about
    else:
        assert isinstance(value, str), about


def check(python: Path, kind: str, folder: Path) -> None:
    """Take a kind there and back.

    Raises:
        SystemExit: something differs.
    """
    from rlhf_envs.feedback import FeedbackStore, NewItem
    from rlhf_envs.feedback.annotating import Response, work
    from rlhf_envs.feedback.formats.exporting import export_file
    from rlhf_envs.feedback.formats.importing import import_file

    completions, said = KINDS[kind]
    table, back = folder / f"{kind}.csv", folder / f"{kind}.json"
    with FeedbackStore(folder / f"{kind}.db") as store:
        store.add_items([NewItem(kind, f"{kind} {i}\n{HOSTILE}", completions, overlap=2) for i in range(len(said) + 1)])
        for name in ("user1", "user2"):
            remaining = iter(said)
            comment = HOSTILE if name == "user1" else ""
            work(
                store,
                name,
                lambda task, left=remaining, why=comment: Response(next(left), comment=why),
                limit=len(said),
            )
        expected = answers(store)
        done = export_file(store, table, "argilla")
        assert not done.dropped, done.dropped
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, __file__, "--inside", kind, str(len(completions)), str(table), str(back)]
    subprocess.run(command, check=True, env=env, cwd=folder)
    with FeedbackStore(folder / f"{kind}-back.db") as store:
        came = import_file(store, back)
        names = {str(UUID(int=i)): f"user{i}" for i in (1, 2)}
        found = {(prompt, names[user]): answer for (prompt, user), answer in answers(store).items()}
        items = len(store.items())
    bare = (None, "")  # a skip without a comment has no value, and the SDK reads no answer without one
    whole = {key: answer for key, answer in expected.items() if answer != bare}
    if came.bad or found != whole or items != len(said) + 1:
        lines = [f"{kind}: differs", *(f"  {bad.where}: {bad.reason}" for bad in came.bad)]
        lines += [f"  {key}: {found.get(key)} where {whole.get(key)} is expected" for key in {*found, *whole}
                  if found.get(key) != whole.get(key)]  # fmt: skip
        sys.exit("\n".join(lines))
    lost = len(expected) - len(whole)
    print(
        f"{kind}: {len(found)} answers and skips went both ways; of {lost} skip without a comment the SDK reads nothing"
    )


def answers(store: Any) -> dict[tuple[str, str], tuple[Any, str]]:
    """Return what each annotator said of each prompt: the value and the comment."""
    prompts = {item.id: item.prompt for item in store.items()}
    found = store.judgements(include_skips=True)
    return {(prompts[j.item_id], j.annotator): (j.value, j.comment) for j in found}


def install(folder: Path) -> Path:
    """Make an environment with Argilla's SDK, unless it is there, and return its Python."""
    python = folder / "bin" / "python"
    if not (folder / "bin" / "argilla").exists() and not any(folder.glob("lib/python*/site-packages/argilla")):
        print(f"installing {', '.join(PACKAGES)} into {folder}")
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", *PACKAGES], check=True)
    return python


def main() -> None:
    """Check every kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--venv", type=Path, help="folder of the environment with the SDK, made if it is missing")
    parser.add_argument("--inside", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        kind, n, table, back = given.inside
        inside(kind, int(n), Path(table), Path(back))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        python = install(given.venv.absolute() if given.venv else folder / "venv")
        for kind in KINDS:
            check(python, kind, folder)


if __name__ == "__main__":
    main()
