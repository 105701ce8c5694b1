"""The documentation, followed to the letter: marked files are written, marked blocks are run, in order."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import pytest

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.registration import task_of, text_environments
from rlhf_envs.rewards.aspects import read_aspects
from tests.forked import run_python
from tests.rlhf_envs.chat_families import family_tokenizer
from tests.rlhf_envs.small_models import save_model

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
OWN_DATA = ROOT / "examples" / "own_data"
STUDY = ROOT / "examples" / "study"
MARK = r"(?:<!-- (?:file: (?P<file>\S+)|(?P<run>run)) -->\n)?"
BLOCK = re.compile(rf"^{MARK}```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
# The code of the Chinese pages is that of the English ones: tests/test_docs_zh.py.
PAGES = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix()
    for path in DOCS.rglob("*.md")
    if not path.is_relative_to(DOCS / "zh")
)
TUTORIALS = {f"tutorials/{name}" for name in ("reward", "data", "task", "people", "algorithm", "compare")}


class Block(NamedTuple):
    """A block of code of a page: the file it is saved as, or whether it is run."""

    file: str | None
    run: bool
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    found = BLOCK.finditer((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    return [Block(m["file"], m["run"] is not None, m["language"], m["text"]) for m in found]


def environment(*paths: Path) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *paths)))}


def bash(text: str, folder: Path, *paths: Path) -> str:
    """Run a block as a user would, stopping at its first error, and return what it printed."""
    script = text.replace("PYTHONPATH=. ", f"PYTHONPATH={os.pathsep.join(['.', str(ROOT)])} ")
    command = ["bash", "-euo", "pipefail", "-c", script]
    done = subprocess.run(
        command, cwd=folder, env=environment(*paths), capture_output=True, text=True, check=False, timeout=500
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def follow(page: str, folder: Path) -> list[str]:
    """Write the files of a page and run its blocks in order; return what each run printed."""
    printed = []
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")
        elif block.run:
            printed.append(bash(block.text, folder))
    return printed


def test_pages_with_marked_blocks_have_a_test_that_follows_them() -> None:
    assert {page for page in PAGES if any(block.run or block.file for block in blocks(page))} == {
        "start",
        "guides/aspects",
        "guides/cluster",
        "guides/export",
        "guides/explain",
        "guides/instruct",
        "guides/privacy",
        "guides/judges",
        "guides/self-training",
        "guides/ranks",
        "guides/serve",
        "guides/watch",
        "guides/workers",
        "guides/feedback/study",
        *TUTORIALS,
    }


def test_every_block_of_the_page_on_algorithms_is_followed() -> None:
    page = blocks("tutorials/algorithm")
    assert all(block.run or block.file for block in page)
    assert (DOCS / "tutorials" / "algorithm.md").read_text(encoding="utf-8").count("```") == 2 * len(page)
    files = {block.file for block in page if block.file is not None}
    assert files == {"clipped_rewards.py", "register.py", "pyproject.toml", "check.py", "train.py"}


def test_every_block_of_the_page_on_instruct_models_is_followed() -> None:
    assert all(block.run or block.file for block in blocks("guides/instruct"))


def test_the_pages_of_environments_link_to_their_files_and_make_the_start_that_is_measured() -> None:
    pytest.importorskip("mkdocs_gen_files")
    from scripts.docs import pages

    for env_id in filter(lambda name: name.startswith("rlhf/"), text_environments()):
        (path,) = re.findall(r"`(.+)`", pages.source_of(type(task_of(env_id))))
        assert f"class {env_id[5:-3]}(" in (ROOT / path).read_text(encoding="utf-8")
    assert pages.commands_of("rlhf/ChineseReview-v0").splitlines()[4:6] == [
        "rlhf pretrain chinese-reviews zh --n-embd 160 --block-size 200 --batch-size 5 --steps 1500",
        "rlhf sft rlhf/ChineseReview-v0 start --model zh --epochs 1 --learning-rate 0.001",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_python_compiles(page: str) -> None:
    for block in blocks(page):
        if block.language == "python":
            compile(block.text, f"docs/{page}.md", "exec")


@pytest.mark.slow
def test_the_start_trains_and_goes_on(tmp_path: Path) -> None:
    trained, stock, resumed = follow("start", tmp_path)
    assert "reward (proxy)" in trained
    assert (tmp_path / "logs" / "ppo" / "Sentiment-v0_1" / "curves.png").is_file()
    assert stock.count(" -> ") == 3
    assert resumed.split()[-1] == "1536"


@pytest.mark.slow
def test_a_reward_of_ones_own_is_learned(tmp_path: Path) -> None:
    trained, _ = follow("tutorials/reward", tmp_path)
    before, after = map(float, re.findall(r"^reward ([-\d.]+) -> ([-\d.]+)$", trained, re.M)[0])
    assert after > before + 0.1
    (progress,) = (tmp_path / "logs").rglob("progress.csv")
    assert "rlhf/reward_brevity" in progress.read_text().split("\n")[0]


@pytest.mark.slow
def test_ones_own_data_are_trained_on_and_evaluated(tmp_path: Path) -> None:
    trained, shown = follow("tutorials/data", tmp_path)
    assert "128 completions of 25 held-out prompts, mean" in trained
    assert shown.strip() == "i watched this for the ending | (96,)"
    report = json.loads((tmp_path / "logs" / "ppo" / "mine" / "report.json").read_text())
    assert report["after"]["split"] == "test"
    before, after = (report[when]["estimates"]["reward"] for when in ("before", "after"))
    assert after["mean"] - before["mean"] > 4 * after["sem"], "the page says that it learns"


@pytest.mark.slow
def test_tasks_of_ones_own_are_checked_and_trained_on(tmp_path: Path) -> None:
    checked, trained = follow("tutorials/task", tmp_path)
    assert checked.split() == ["my/Labels-v0", "my/NoWordTwice-v0", "my/SecondTry-v0", "my/Guessing-v0"]
    assert "my/Labels-v0 with tiny: 512 tokens" in trained and "mean ± standard error" in trained


def test_the_task_of_a_csv_has_13_lines() -> None:
    (task,) = [block.text for block in blocks("tutorials/task") if block.file == "label_task.py"]
    assert len([line for line in task.splitlines() if line.strip()]) == 13


@pytest.mark.slow
def test_the_readme_of_own_data_is_followed(tmp_path: Path) -> None:
    shutil.copytree(OWN_DATA, tmp_path / "own_data")
    commands = [m["text"] for m in BLOCK.finditer((OWN_DATA / "README.md").read_text(encoding="utf-8"))]
    trained, evaluated = [bash(command, tmp_path / "own_data") for command in commands]
    assert "128 completions of 20 held-out prompts, mean" in trained
    assert "256 completions of 20 held-out prompts, test split" in " ".join(evaluated.split())


def test_own_data_has_what_its_readme_names(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (OWN_DATA / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 45, "one screen"
    monkeypatch.syspath_prepend(OWN_DATA)
    (made,) = re.findall(r"`(gym\.make\(.*\))`", readme)
    env = eval(made.replace("my.jsonl", str(OWN_DATA / "my.jsonl")), {"gym": gym}).unwrapped
    assert len(env.rows) == 153
    assert env.reward_fn(["p", "p"], ["some music", "a story"], word=["music", "music"]) == [1.0, 0.0]


@pytest.mark.slow
def test_the_page_on_exports_is_followed(tmp_path: Path) -> None:
    plain, small, sparse = follow("guides/export", tmp_path)
    assert "+0.00%" in plain
    assert "Lowercase" in small
    assert "0.500" in sparse
    assert {path.name for path in tmp_path.iterdir()} == {"plain", "small", "sparse"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft's
def test_an_instruct_model_is_aligned_and_merged(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="the page needs the extra train")
    save_model(tmp_path / "my-model", family_tokenizer("chatml"), vocab_size=264)
    looked, learned, planned, trained, watched, measured, answered = follow("guides/instruct", tmp_path)
    assert "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n" in looked
    assert "<|im_end|>'] end an answer" in looked
    assert looked.count("\nUser: What is tea made of?\nAssistant:") == 2
    assert "started: 8 examples" in learned
    assert "memory" in planned and "bfloat16" in planned and trained.count("logs/ppo/mine") >= 2
    assert "Assistant&#58;" in watched and "16 completions of 3 held-out prompts" in " ".join(measured.split())
    assert answered.strip()
    _check_merged(tmp_path)


def _check_merged(folder: Path) -> None:
    """The merged model is what peft makes of the run's adapters, and ends where the template ends a turn."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    base, merged = (AutoModelForCausalLM.from_pretrained(folder / name) for name in ("started", "aligned"))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        before, now = base(ids).logits, merged(ids).logits
        expected = PeftModel.from_pretrained(base, str(folder / "logs/ppo/mine/model"))(ids).logits
    torch.testing.assert_close(now, expected, atol=1e-5, rtol=1e-4)
    assert (expected - before).abs().max() > 1e-4
    assert GenerationConfig.from_pretrained(folder / "aligned").eos_token_id == [2, 4]


@pytest.mark.slow
def test_people_in_the_loop_end_in_a_trained_agent(tmp_path: Path) -> None:
    pytest.importorskip("crowdkit", reason="the page needs the extra agreement")
    follow("tutorials/people", tmp_path)
    assert (tmp_path / "my-reward" / "model.safetensors").is_file()
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) > 30
    assert (tmp_path / "logs" / "ppo" / "Sentiment-v0_1" / "report.json").is_file()


def test_the_study_is_five_commands_and_its_file_is_read(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="the page needs the extra web")
    from rlhf_envs.feedback import FeedbackStore
    from rlhf_envs.feedback.settings_file import parse_settings, read_settings_file

    (commands,) = [block.text for block in blocks("guides/feedback/study") if block.run]
    assert len(commands.strip().splitlines()) == 5
    with FeedbackStore(tmp_path / "feedback.db") as store:
        settings = store.update_settings(**read_settings_file(STUDY / "study.toml"))
    assert settings.guidelines.startswith("# What to look at")
    (shown,) = [block.text for block in blocks("guides/feedback/study") if block.language == "toml"]
    (praise,) = parse_settings(shown)["questions"]
    assert praise in settings.questions, "the page shows what stands in the example"


@pytest.mark.slow
def test_a_study_ends_in_reward_models_of_two_criteria(tmp_path: Path) -> None:
    shutil.copytree(STUDY, tmp_path, dirs_exist_ok=True)
    (printed,) = follow("guides/feedback/study", tmp_path)
    assert "question 'praise': new" in printed and "pairs from answers to praise" in printed
    held_out = {}
    for name in ("praise", "fresh"):
        assert (tmp_path / f"{name}-reward" / "model.safetensors").is_file()
        rows = (tmp_path / f"{name}-reward" / "held_out.jsonl").read_text().splitlines()
        held_out[name] = {(row["prompt"], row["chosen"]) for row in map(json.loads, rows)}
    assert held_out["praise"] and held_out["praise"] != held_out["fresh"]


@pytest.mark.slow
def test_a_study_ends_in_an_agent_that_is_trained_by_two_aspects(tmp_path: Path) -> None:
    shutil.copytree(STUDY, tmp_path, dirs_exist_ok=True)
    fitted, printed, rounds = follow("guides/aspects", tmp_path)
    assert "praise, fresh" in fitted and "lowest weight" in fitted
    assert "reward_praise" in printed and "reward_fresh" in printed
    assert re.search(r"token .*praise .*fresh", printed), "explained by aspect"
    for name in ("praise", "fresh"):
        assert re.search(rf"^ 1 +{name} +weight 1 ", rounds, re.M), "each before and after the round"
    shown = next(block.text for block in blocks("guides/aspects") if block.language == "yaml")
    aspects = tmp_path / "models" / "aspects.yml"
    assert aspects.read_text().splitlines()[2:] == ["praise: {weight: 1}", "fresh: {weight: 1}"]
    for name in ("harm", "true"):
        shutil.copytree(tmp_path / "models" / "praise", tmp_path / "models" / name)
    aspects.write_text(shown)
    assert list(read_aspects(aspects)) == ["praise", "fresh", "harm", "true", "variety"]


def test_the_python_of_the_page_on_private_data_says_what_it_returns() -> None:
    pytest.importorskip("phonenumbers", reason="the page needs the extra privacy")
    (code,) = [block.text for block in blocks("guides/privacy") if block.language == "python"]
    names: dict[str, object] = {}
    exec(code, names)
    assert names["shown"] == "Mail [EMAIL] now"
    said = [line.split("  # ") for line in code.splitlines() if "  # " in line and not line.startswith("stream")]
    assert len(said) == 3
    for call, result in said:
        value = eval(call, names)
        assert (repr(value) if isinstance(value, list) else f'"{value}"') == result


@pytest.mark.slow
def test_private_data_is_masked_and_a_person_forgotten(tmp_path: Path) -> None:
    pytest.importorskip("phonenumbers", reason="the page needs the extra privacy")
    masked, audit, forgotten = follow("guides/privacy", tmp_path)
    assert masked == "Mail [EMAIL] or call [PHONE].\n我的手机号是[PHONE]，张三。\n"
    assert '"masked": {"email": 1}' in audit
    assert "1 answers and skips deleted" in forgotten and "out of reach: backups" in forgotten


@pytest.mark.slow
def test_a_judge_is_checked_and_tells_which_model_wins(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy", reason="the page needs the extras web and agreement")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    for block in blocks("guides/judges"):
        text = block.text.replace("8123", port)
        if block.file is not None:
            (tmp_path / block.file).write_text(text, encoding="utf-8")
        elif block.run:
            printed = bash(text, tmp_path)
    assert "people's own alpha" in printed and "24 answers, 0 without a verdict" in printed
    assert len(re.findall(r"^ +win rate +", printed, re.M)) == 2, "by people and by judges"
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) >= 12


@pytest.mark.slow
def test_the_comparison_reports_every_run(tmp_path: Path) -> None:
    follow("tutorials/compare", tmp_path)
    runs = {path.relative_to(tmp_path / "lab").parts[:2] for path in (tmp_path / "lab").rglob("progress.csv")}
    assert runs >= {(algo, seed) for algo in ("ppo", "rloo") for seed in ("seed_00", "seed_01")}
    assert (tmp_path / "lab" / "report.html").is_file()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of the page on algorithms."""
    folder = tmp_path_factory.mktemp("page")
    for block in blocks("tutorials/algorithm"):
        if block.file is not None:
            (folder / block.file).write_text(block.text, encoding="utf-8")
    return folder


def test_the_algorithm_passes_the_checks(folder: Path) -> None:
    done = run_python("import runpy; runpy.run_path('check.py', run_name='__main__')", folder)
    assert "12 checks passed: " in done.stdout, done.stderr


@pytest.mark.slow
def test_the_algorithm_learns(folder: Path) -> None:
    before, after = map(float, bash("python train.py", folder).strip().split("\n")[-1].split(" -> "))
    assert after > before + 0.03


@pytest.mark.slow
def test_the_package_is_installed_and_the_commands_run(folder: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    bash(f"python -m pip install --quiet --no-index --no-deps --no-build-isolation --target {target} .", folder)
    (commands,) = [block.text for block in blocks("tutorials/algorithm") if block.run]
    assert "reward" in bash(commands, elsewhere, target)
    progress = elsewhere / "logs" / "clipped_a2c" / "TokenBandit-v0_1" / "progress.csv"
    assert "train/clipped" in progress.read_text().split("\n")[0]


@pytest.mark.slow
def test_a_drift_of_served_traffic_is_seen(tmp_path: Path) -> None:
    for package in ("openai", "prometheus_client", "sqlalchemy"):
        pytest.importorskip(package, reason="the page needs the extra serve")
    (printed,) = follow("guides/watch", tmp_path)
    alerts = [json.loads(line) for line in printed.splitlines()]
    assert {"kind": "topic", "subject": "crime"}.items() <= alerts[0].items() and alerts[0]["terms"] == ["murder"]
    (drift,) = [alert for alert in alerts if alert["kind"] == "drift"]
    assert {"prompts", "prompt length", "completion length"} <= set(drift["features"])
    assert (tmp_path / "reference.npz").is_file() and "nobody asks" not in (tmp_path / "serve.log").read_text()
    page = (tmp_path / "admin.html").read_text(encoding="utf-8")
    assert "score gold" in page and "drift" in page and "nobody asks" not in page


@pytest.mark.slow
def test_a_run_is_served_judged_and_trained_on(tmp_path: Path) -> None:
    for package in ("openai", "prometheus_client", "crowdkit"):
        pytest.importorskip(package, reason="the page needs the extras serve and agreement")
    trained, exported, asked, _ = follow("guides/serve", tmp_path)
    assert "512 tokens" in trained and "written to exported" in exported
    digest = hashlib.sha256(hashlib.sha256((tmp_path / "exported" / "model.safetensors").read_bytes()).digest())
    with FeedbackStore(tmp_path / "feedback.db") as store:
        assert {item.policy for item in store.items()} == {f"mine@{digest.hexdigest()[:12]}"}, "the export is judged"
    lines = asked.splitlines()
    assert sum("'stored': ['thumbs', 'correction']" in line for line in lines) == 6
    assert lines[-2 if not lines[-1] else -1] == "data: [DONE]" and asked.count("data: {") > 2
    log = [json.loads(line) for line in (tmp_path / "serve.log").read_text().splitlines() if line.startswith("{")]
    assert {"draining", "request", "engine"} <= {entry["event"] for entry in log}
    assert "is a joy" not in (tmp_path / "serve.log").read_text()
    assert (tmp_path / "logs" / "loop" / "next" / "model" / "model.safetensors").is_file()
    (_, metrics) = json.loads((tmp_path / "logs" / "loop" / "next" / "report.json").read_text())["rounds"]
    assert metrics["served"] >= 6 and metrics["asked"] == 0


@pytest.mark.slow
def test_a_model_learns_its_own_best_answers(tmp_path: Path) -> None:
    rounds, others = follow("guides/self-training", tmp_path)
    assert "round 2: reward" in rounds and "gold" in rounds
    assert "fine-tuned: " in others and "sft on rlhf/Prompts-v0 with tiny" in others
    assert (tmp_path / "logs" / "self-train" / "mine" / "model" / "model.safetensors").is_file()
    assert (tmp_path / "fine-tuned" / "model.safetensors").is_file()


@pytest.mark.slow
def test_experiments_run_on_a_cluster_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="the page needs the extra ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (printed,) = follow("guides/cluster", tmp_path)
    assert "2/2 " in printed and "trial 1: " in printed
    assert (tmp_path / "lab" / "ppo" / "seed_00" / "result.json").is_file()
    assert (tmp_path / "logs" / "tune" / "ppo" / "TokenBandit-v0" / "trials" / "001.log").is_file()


@pytest.mark.slow
def test_runs_with_workers_train(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the page needs the extra ray")
    for printed in follow("guides/workers", tmp_path):
        assert "960 tokens" in printed


@pytest.mark.slow
def test_scores_are_explained(tmp_path: Path) -> None:
    pytest.importorskip("captum")
    rewards, run = follow("guides/explain", tmp_path)
    english, chinese = (DOCS / place / "guides" / "explain.md" for place in ("", "zh"))
    for token, value in re.findall(r"^\| (\w+) \| ([+-]\d\.\d+) \|$", english.read_text(encoding="utf-8"), re.M):
        assert re.search(rf"completion +{token} +{re.escape(value)}", rewards)
        assert f"| {token} | {value} |" in chinese.read_text(encoding="utf-8")
    assert "token by token, in nats; against tiny" in run
    assert (tmp_path / "why.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))["completion"] == " a masterpiece."


@pytest.mark.slow
def test_runs_on_several_ranks_and_machines_train(tmp_path: Path) -> None:
    for printed in follow("guides/ranks", tmp_path):
        assert "960 tokens, " in printed and printed.count("Everything is in") == 1
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = [block.text for block in blocks("guides/ranks") if "--node-rank" in block.text]
    here = [text.replace("node-a", "127.0.0.1").replace("29511", str(port)) for text in machines]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda text: bash(text, tmp_path), here)
    assert "960 tokens, " in first
    assert not second
    assert len(list((tmp_path / "logs" / "ppo").iterdir())) == 4
