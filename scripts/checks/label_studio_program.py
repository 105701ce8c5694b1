"""Take every kind of feedback to Label Studio and back, in the program itself, and print what went both ways.

    python -m scripts.checks.label_studio_program [--venv FOLDER]

It installs Label Studio into an environment of its own (from PyPI, once; `--venv` keeps it), starts it on loopback with
SQLite in a temporary folder, and for each kind of feedback: exports a store as tasks with the labeling interface, makes
a project of them, annotates what was not judged yet by the API, and imports Label Studio's JSON, JSON-MIN and CSV into
empty stores. It fails if an answer differs. CI does not run it.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_envs.feedback import FeedbackStore, NewItem
from rlhf_envs.feedback.annotating import Response, work
from rlhf_envs.feedback.formats.exporting import export_file, labeling_interface
from rlhf_envs.feedback.formats.importing import import_file

VERSION = "1.23.2"
TOKEN = secrets.token_hex(20)
EMAIL = "labeller@example.org"
HOSTILE = '=1+1, "quoted"\nsecond line <b>&amp;</b> é 你好 \\n'
# Each kind: completions, what people said before the export (None is a skip), and what is annotated in Label Studio:
# the results of its API, and the answer that they mean.
KINDS: dict[str, tuple[tuple[str, ...], list[Any], list[dict[str, Any]], dict[str, Any]]] = {
    "pairwise": (
        ("Blue.", HOSTILE),
        [{"choice": 1, "strength": 3}, {"choice": None, "strength": 0}, None],
        [
            {"from_name": "comparison", "to_name": "comparison", "type": "pairwise",
             "value": {"selected": "left"}},
            {"from_name": "strength", "to_name": "answer1", "type": "rating", "value": {"rating": 2}},
        ],
        {"choice": 0, "strength": 2},
    ),
    "ranking": (
        ("Blue.", "Red.", HOSTILE),
        [{"order": [2, 0, 1]}, {"order": [0, 1, 2]}, None],
        [{"from_name": "ranking", "to_name": "answers", "type": "ranker",
          "value": {"ranker": {"ranking": ["answer2", "answer3", "answer1"]}}}],
        {"order": [1, 2, 0]},
    ),
    "rating": (
        (HOSTILE,),
        [{"rating": 5}, {"rating": 1}, None],
        [{"from_name": "rating", "to_name": "answer", "type": "rating", "value": {"rating": 4}}],
        {"rating": 4},
    ),
    "thumbs": (
        (HOSTILE,),
        [{"up": True}, {"up": False}, None],
        [{"from_name": "thumbs", "to_name": "answer", "type": "choices", "value": {"choices": ["down"]}}],
        {"up": False},
    ),
    "correction": (
        ("Bleu.",),
        [{"text": HOSTILE}, {"text": "[1, 2]"}, None],
        [{"from_name": "correction", "to_name": "answer", "type": "textarea", "value": {"text": ["Blue."]}}],
        {"text": "Blue."},
    ),
    "flags": (
        (HOSTILE,),
        [{"harms": ["hate", "violence"]}, {"harms": []}, None],
        [{"from_name": "harms", "to_name": "answer", "type": "choices", "value": {"choices": ["privacy"]}}],
        {"harms": ["privacy"]},
    ),
}  # fmt: skip


def install(folder: Path) -> Path:
    """Make an environment with Label Studio, unless it is there, and return its program."""
    program = folder / "bin" / "label-studio"
    if not program.exists():
        print(f"installing label-studio {VERSION} into {folder}")
        venv.create(folder, with_pip=True)
        subprocess.run([folder / "bin" / "pip", "install", "-q", f"label-studio=={VERSION}"], check=True)
    return program


class Program:
    """Call the API of a running Label Studio."""

    def __init__(self, address: str) -> None:
        self.address = address

    def call(self, method: str, path: str, body: Any = None, file: Path | None = None) -> bytes:
        """Send a request, with a JSON body or a file, and return the answer.

        Raises:
            SystemExit: Label Studio refuses it. The message is its own.
        """
        headers, data = {"Authorization": f"Token {TOKEN}"}, None
        if file is not None:
            mark = secrets.token_hex(16)
            head = f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{file.name}"\r\n\r\n'
            data = head.encode() + file.read_bytes() + f"\r\n--{mark}--\r\n".encode()
            headers["Content-Type"] = f"multipart/form-data; boundary={mark}"
        elif body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(f"{self.address}{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            sys.exit(f"{method} {path}: {error.code} {error.read()[:2000].decode(errors='replace')}")

    def json(self, method: str, path: str, body: Any = None, file: Path | None = None) -> Any:
        """Send a request and return its answer, read as JSON."""
        return json.loads(self.call(method, path, body, file))


@contextmanager
def running(program: Path, folder: Path) -> Iterator[Program]:
    """Run Label Studio on a free port of loopback until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    quiet = {"LATEST_VERSION_CHECK": "0", "COLLECT_ANALYTICS": "0", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": ""}
    env = {**os.environ, "LABEL_STUDIO_BASE_DATA_DIR": str(folder), **quiet}
    env.pop("PYTHONPATH", None)
    command = [str(program), "start", "-b", "-p", str(port), "--internal-host", "127.0.0.1", "--username", EMAIL]
    command += ["--password", secrets.token_hex(8), "--user-token", TOKEN, "--enable-legacy-api-token"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=folder)
    try:
        end = time.monotonic() + 900  # on a busy machine its migrations take minutes
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    sys.exit(f"Label Studio did not start:\n{(folder / 'log').read_text()[-3000:]}")
                time.sleep(1)
        yield Program(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(30)


Answers = dict[str, tuple[dict[str, Any] | None, str]]


def answers(store: FeedbackStore) -> Answers:
    """Return what was said of each prompt: the value and the comment. Each is judged once here."""
    prompts = {item.id: item.prompt for item in store.items()}
    found = store.judgements(include_skips=True)
    assert len({judgement.item_id for judgement in found}) == len(found), "a prompt was judged twice"
    return {prompts[judgement.item_id]: (judgement.value, judgement.comment) for judgement in found}


def check(label_studio: Program, kind: str, folder: Path) -> None:
    """Take a kind there and back in all forms.

    Raises:
        SystemExit: something differs.
    """
    completions, said, results, means = KINDS[kind]
    with FeedbackStore(folder / "ours.db") as store:
        new = [NewItem(kind, f"{kind} {i}\n{HOSTILE}", completions) for i in range(len(said) + 1)]
        store.add_items(new)
        remaining = iter(said)
        work(store, "ada", lambda task: Response(next(remaining), comment=f"because {HOSTILE}"), limit=len(said))
        expected = answers(store)
        done = export_file(store, folder / "tasks.json", "label-studio")
        assert not done.dropped, done.dropped
    config = labeling_interface(folder / "tasks.json").read_text()
    project = label_studio.json("POST", "/api/projects", {"title": kind, "label_config": config})["id"]
    came = label_studio.json("POST", f"/api/projects/{project}/import", file=folder / "tasks.json")
    assert (came["task_count"], came["annotation_count"]) == (len(new), len(said)), came
    tasks = label_studio.json("GET", f"/api/tasks?project={project}&fields=all")["tasks"]
    (open_task,) = [task for task in tasks if not task["total_annotations"] and not task["cancelled_annotations"]]
    label_studio.json(
        "POST",
        f"/api/tasks/{open_task['id']}/annotations",
        {"result": results, "lead_time": 4.5, "was_cancelled": False},
    )
    expected[open_task["data"]["prompt"]] = (means, "")
    back(label_studio, project, "JSON", folder / "back.json", kind, expected)
    no_skips = {prompt: answer for prompt, answer in expected.items() if answer[0] is not None}  # Label Studio's choice
    for form, name in (("JSON_MIN", "min.json"), ("CSV", "csv")):
        back(label_studio, project, form, folder / f"back.{name}", kind, no_skips)
    own_table(label_studio, kind, config, folder, results, means)


def back(label_studio: Program, project: int, form: str, path: Path, kind: str, expected: Answers) -> None:
    """Import an export of Label Studio into an empty store, and compare.

    Raises:
        SystemExit: something differs.
    """
    path.write_bytes(label_studio.call("GET", f"/api/projects/{project}/export?exportType={form}"))
    with FeedbackStore(path.with_name(f"{path.name}.db")) as store:
        done = import_file(store, path)
        found = answers(store)
        people = sorted({judgement.annotator for judgement in store.judgements(include_skips=True)})
    if done.bad or found != expected:
        lines = [f"{kind} by {form}: differs, see {path}", *(f"  {bad.where}: {bad.reason}" for bad in done.bad)]
        lines += [
            f"  {prompt!r}: {found.get(prompt, 'missing')} where {expected.get(prompt, 'nothing')} is expected"
            for prompt in {*found, *expected}
            if found.get(prompt) != expected.get(prompt)
        ]
        sys.exit("\n".join(lines))
    skips = sum(value is None for value, _ in found.values())
    print(f"{kind} by {form}: {len(found)} answers ({skips} skips) went both ways, by {', '.join(people)}", flush=True)


def own_table(
    label_studio: Program, kind: str, config: str, folder: Path, results: list[dict[str, Any]], means: dict[str, Any]
) -> None:
    """Take our CSV of questions to Label Studio, which reads it as tasks, and its CSV back.

    Raises:
        SystemExit: something differs.
    """
    if kind == "ranking":
        return
    with FeedbackStore(folder / "questions.db") as store:
        store.add_items([NewItem(kind, f"question of a table {HOSTILE}", KINDS[kind][0])])
        export_file(store, folder / "questions.csv", "label-studio")
    columns = next(csv.reader(io.StringIO((folder / "questions.csv").read_text())))
    project = label_studio.json("POST", "/api/projects", {"title": f"{kind}, table", "label_config": config})["id"]
    label_studio.json("POST", f"/api/projects/{project}/import", file=folder / "questions.csv")
    (task,) = label_studio.json("GET", f"/api/tasks?project={project}&fields=all")["tasks"]
    assert set(task["data"]) == set(columns), task["data"]
    label_studio.json("POST", f"/api/tasks/{task['id']}/annotations", {"result": results, "lead_time": 4.5})
    back(label_studio, project, "CSV", folder / "table.csv", kind, {task["data"]["prompt"]: (means, "")})


def main() -> None:
    """Check every kind."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--venv", type=Path, help="folder of the environment with Label Studio, made if it is missing")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = install(given.venv.absolute() if given.venv else folder / "venv")
        (folder / "data").mkdir()
        with running(program, folder / "data") as label_studio:
            version = label_studio.json("GET", "/api/version")["release"]
            print(f"Label Studio {version}")
            for kind in KINDS:
                (folder / kind).mkdir()
                check(label_studio, kind, folder / kind)


if __name__ == "__main__":
    main()
