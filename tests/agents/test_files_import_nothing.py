"""No file has code imported: every verb and public function that takes a path, on files that name a module."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import agents
from agents.cli import app
from agents.experiments.loop.config import LoopConfig
from agents.experiments.selftrain.config import SelfTrainConfig
from agents.training.config import TrainConfig
from agents.training.resume import prepare_resumed

ID, EVIL = "rlhf/TokenBandit-v0", "evil_module:evil"
RUN, BUNDLE, LOOP, ROUNDS, COMPARISON, SETTINGS, MODEL, ROWS = (
    "run",
    "bundle",
    "loop",
    "self-training",
    "comparison",
    "file.json",
    "model",
    "rows",
)

# What a file says of its environment: the id, and arguments.
FORGERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "id": (f"evil_module:{ID}", {}),
    "file": (f"./evil_module.py:{ID}", {}),
    "reward": (ID, {"reward": EVIL}),
    "reward file": (ID, {"reward": "./evil_module.py:evil"}),
    "reward_fn": (ID, {"reward_fn": EVIL}),
    "task": (ID, {"task": EVIL}),
    "reward_kwargs": (ID, {"reward": "pessimistic", "reward_kwargs": {"ensemble": EVIL}}),
    "nested": (ID, {"reward": "clipped", "reward_kwargs": {"reward": {"of": [EVIL]}}}),
    "store": (ID, {"reward": "human", "reward_kwargs": {"store": "a:b", "fallback": EVIL}}),
    "wrappers": (ID, {"additional_wrappers": [{"entry_point": EVIL}]}),
}
# Every verb that reads such files, with its arguments; words in capitals above stand for their paths.
VERBS: dict[str, list[list[str]]] = {
    "train": [
        ["--resume", RUN],
        ["--config", f"{RUN}/config.json"],
        ["--env", ID, "-n", "8", "--settings", SETTINGS],
        ["--model", MODEL, "-n", "8"],
    ],
    "evaluate": [[RUN, "-n", "2"], [BUNDLE, "-n", "2"], [MODEL, "-n", "2"]],
    "attack": [[RUN, "-n", "2"], [BUNDLE, "-n", "2"], [MODEL, "-n", "2"]],
    "export": [[name, f"exported-{name}", "-n", "2"] for name in (RUN, BUNDLE, MODEL)],
    "explain": [[name, "--text", "a"] for name in (RUN, BUNDLE, MODEL)],
    "generate": [[RUN, "a"], [BUNDLE, "a"], [MODEL, "a"]],
    "chat": [[RUN], [BUNDLE], [MODEL]],
    "serve run": [
        [name, "--no-keys", "--upstream", "http://127.0.0.1:9", "--store", "/no/such/folder/x.db"]
        for name in (RUN, BUNDLE, MODEL)
    ],
    "compare": [["-f", COMPARISON, "--algos", "ppo"], ["--config", SETTINGS]],
    "transfer": [[RUN, RUN], ["--config", SETTINGS]],
    "tune": [["--env", ID, "--settings", SETTINGS], ["--env", "rlhf/Prompts-v0", "--env-kwargs", f"reward:{MODEL}"]],
    "loop": [["--resume", LOOP]],
    "self-train": [
        ["--resume", ROUNDS],
        *(
            [name, "--rounds", "1", "--prompts", "2", "-n", "2", "--test-episodes", "2"]
            for name in (RUN, BUNDLE, MODEL)
        ),
    ],
    "feedback add": [[RUN], [BUNDLE], ["tiny", "--env", ID, "--against", RUN], [MODEL]],
    "feedback simulate": [["--scorer", MODEL]],
    "feedback explain": [[MODEL]],
    "feedback suggest": [[MODEL]],
    "feedback prioritise": [["--model", MODEL]],
    "feedback forecast": [["--model", MODEL]],
    "feedback judge": [["--judge", SETTINGS]],
    "reward fit": [[ROWS, "fitted", "--model", MODEL]],
    "reward eval": [[MODEL, ROWS], [RUN, ROWS], [BUNDLE, ROWS]],
    "pretrain": [[ROWS, "out", "--model", MODEL]],
    "sft": [[ROWS, "out", "--model", MODEL]],
}
# These read rows of data or a feedback store, and nothing that describes an environment or a model.
OTHER_VERBS = {"envs new", "algos", "rewards", "models", "serve-env", "mask"}  # serve-env makes what its flags name
OTHER_VERBS |= {f"serve keys {verb}" for verb in ("add", "list", "revoke")} | {
    f"feedback {verb}"
    for verb in (
        *("account", "archive", "audit", "backup", "drop", "export", "forget", "import", "invite", "label", "panel"),
        *("restore", "serve", "settings", "status", "webhook-secret", "winrate"),
    )
}

FUNCTIONS: dict[str, list[Callable[[dict[str, Path]], Any]]] = {
    "load": [lambda at: agents.load(at[BUNDLE])],
    "load_policy": [lambda at: agents.load_policy(at[BUNDLE])],
    "Checkpoints": [lambda at: agents.Checkpoints(at[RUN] / "checkpoints").load()],
    "evaluate": [lambda at, name=name: agents.evaluate(at[name], ID, 2) for name in (RUN, BUNDLE, MODEL)],
    "evaluate_robustness": [lambda at, n=n: agents.evaluate_robustness(at[n], ID, 2) for n in (RUN, BUNDLE, MODEL)],
    "export": [
        lambda at, name=name: agents.export(at[name], at[ROWS].parent / f"exported-{name}")
        for name in (RUN, BUNDLE, MODEL)
    ],
    "explain": [lambda at, name=name: agents.explain(at[name], "a", "b") for name in (RUN, BUNDLE, MODEL)],
    "explain_reward": [lambda at: agents.explain_reward(str(at[MODEL]), "a", "b")],
    "generate": [lambda at, name=name: agents.generate(at[name], ID, 2) for name in (RUN, BUNDLE, MODEL)],
    "TrainConfig": [lambda at: TrainConfig.of_folder(at[RUN]), lambda at: prepare_resumed(at[RUN])],
    "LoopConfig": [lambda at: LoopConfig.of_folder(at[LOOP])],
    "SelfTrainConfig": [lambda at: SelfTrainConfig.of_folder(at[ROUNDS])],
    "self_train": [
        lambda at, name=name: agents.self_train(SelfTrainConfig(model=str(at[name]), rounds=1, prompts=2, n=2))
        for name in (RUN, BUNDLE, MODEL)
    ],
    "compare": [lambda at: agents.compare(agents.CompareConfig(folder=str(at[COMPARISON])))],
    "transfer": [lambda at: agents.transfer(agents.TransferConfig(runs=[str(at[RUN])] * 2))],
    "Chat": [lambda at, name=name: agents.Chat(at[name]) for name in (RUN, BUNDLE, MODEL)],
    "plot": [lambda at: agents.plot(at[RUN])],
    "make": [lambda at: agents.make("ppo", ID, model=str(at[MODEL]))],
    "make_vec_env": [lambda at: agents.make_vec_env("rlhf/Sentiment-v0", reward=str(at[MODEL]))],
    "pretrain": [lambda at: agents.pretrain(str(at[ROWS]), at[ROWS].parent / "out", model=str(at[MODEL]))],
    "TokenPolicy": [lambda at: agents.make("ppo", ID, policy_kwargs={"model": str(at[MODEL])})],
}
OTHER_FUNCTIONS = {  # they write files, or take objects and names that the caller gives
    *("CheckpointCallback", "CompareConfig", "Comparison", "EarlyStopping", "HackingAlarm", "HumanFeedback"),
    "LagrangeMultiplier",
    *(
        "SequenceRolloutBuffer",
        "TellTrainerState",
        "TextMetrics",
        "TextVecEnv",
        "available",
        "get_algorithm",
        "register",
        "run_loop",
    ),
    *("Transfer", "TransferConfig", "save", "train"),
}


def leaves(command: Any, name: str = "") -> Iterator[str]:
    """The names of all verbs, as they are typed."""
    if not hasattr(command, "commands"):
        yield name
    for part, inner in getattr(command, "commands", {}).items():
        yield from leaves(inner, f"{name} {part}".strip())


def test_no_verb_and_no_public_name_is_left_out() -> None:
    """A new one belongs into the lists above: with its cases, or among the others if it reads no such file."""
    assert {*leaves(typer.main.get_command(app))} == VERBS.keys() | OTHER_VERBS
    assert {*agents.__all__} == FUNCTIONS.keys() | OTHER_FUNCTIONS


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    agent = agents.make("ppo", agents.make_vec_env(ID, 2), device="cpu", n_steps=4, batch_size=8)
    agents.save(agent, folder / "bundle")
    agent.policy.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def forge(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], Any]:
    """Return a function that writes files of every kind, whose environment has this id and these arguments."""
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef evil(*a, **k): pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def write(env: str, kwargs: dict[str, Any]) -> dict[str, Path]:
        at = {name: tmp_path / name for name in (RUN, BUNDLE, LOOP, ROUNDS, COMPARISON, SETTINGS, MODEL)}
        shutil.copytree(saved / "bundle", at[BUNDLE])
        described = json.loads((at[BUNDLE] / "agent.json").read_text())
        described["env"] |= {"id": env, "kwargs": kwargs}
        (at[BUNDLE] / "agent.json").write_text(json.dumps(described))
        manifest = json.loads((at[BUNDLE] / "manifest.json").read_text())
        digest = hashlib.sha256((at[BUNDLE] / "agent.json").read_bytes()).hexdigest()
        manifest["files"]["agent.json"]["sha256"] = digest
        (at[BUNDLE] / "manifest.json").write_text(json.dumps(manifest))
        shutil.copytree(at[BUNDLE], at[RUN] / "checkpoints" / "8")
        shutil.copytree(saved / "model", at[RUN] / "model")
        shutil.copytree(saved / "model", at[MODEL])
        config = json.loads((at[MODEL] / "config.json").read_text())
        code = {f"Auto{name}": EVIL.replace(":", ".") for name in ("Config", "Model", "ModelForCausalLM", "Tokenizer")}
        code["AutoModelForSequenceClassification"] = code["AutoModel"]
        (at[MODEL] / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": code}))
        shutil.copy(tmp_path / "evil_module.py", at[MODEL])
        same = {"env": env, "env_kwargs": kwargs}
        run = {**same, "algo": "ppo", "n_timesteps": 16, "n_envs": 2, "hyperparams": {"n_steps": 4, "batch_size": 8}}
        loop = {**run, "rounds": 1, "scorer": EVIL, "judge": [EVIL]}
        files = {at[RUN] / "config.json": run, at[LOOP] / "config.json": loop, at[SETTINGS]: {**same, "algos": ["ppo"]}}
        files[at[ROUNDS] / "config.json"] = {**same, "model": str(at[MODEL]), "keep": "best", "judge": [EVIL]}
        files[at[COMPARISON] / "config.json"] = {**same, "algos": ["ppo"], "seeds": 1, "tokens": 16}
        for file, content in files.items():
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(content))
        at[ROWS] = tmp_path / "rows.jsonl"
        at[ROWS].write_text('{"prompt": "a", "chosen": "b", "rejected": "c", "completion": "b"}\n' * 20)
        return at

    return write


def pairs(cases: dict[str, Any]) -> list[Any]:
    """Every case with every forgery, most of them slow; what reads only a model with one of them."""
    alone = {"make", "make_vec_env", "pretrain", "TokenPolicy", "feedback simulate", "reward fit", "sft"}
    return [
        pytest.param(name, forgery, marks=() if forgery in ("id", "reward", "task") else pytest.mark.slow)
        for name in cases
        for forgery in FORGERIES
        if forgery == "id" or name not in alone
    ]


@pytest.mark.parametrize(("verb", "forgery"), pairs(VERBS))
def test_a_verb_imports_nothing_that_a_file_names(verb: str, forgery: str, forge: Any, tmp_path: Path) -> None:
    at = forge(*FORGERIES[forgery])
    for arguments in VERBS[verb]:
        if forgery != "id" and MODEL in " ".join(arguments):
            continue
        words = [str(at.get(word, word)).replace(f"reward:{MODEL}", f"reward:{at[MODEL]}") for word in arguments]
        result = CliRunner().invoke(app, [*verb.split(), *words], env={"COLUMNS": "400"})
        assert not (tmp_path / "ran").exists(), (arguments, result.output)
        assert "evil_module" not in sys.modules
        writes = verb in ("generate", "chat", "export", "explain")  # they take no more than the id without the module
        assert result.exit_code == 2 or (writes and result.exit_code == 0), (arguments, result.output)


@pytest.mark.parametrize(("name", "forgery"), pairs(FUNCTIONS))
def test_a_function_imports_nothing_that_a_file_names(name: str, forgery: str, forge: Any, tmp_path: Path) -> None:
    at = forge(*FORGERIES[forgery])
    for call in FUNCTIONS[name]:
        with suppress(ValueError):  # most refuse; agents.evaluate needs nothing of a forged id, since it is given one
            call(at)
        assert not (tmp_path / "ran").exists()
        assert "evil_module" not in sys.modules
