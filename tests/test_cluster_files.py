"""The files of `examples/cluster` are what KubeRay and SLURM read, and their commands are ours."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents.experiments.compare.config import CompareConfig
from agents.training.config import TrainConfig

ROOT = Path(__file__).parent.parent
CLUSTER = ROOT / "examples" / "cluster"
SCHEMA = ROOT / "tests" / "kuberay_rayjob.schema.json"
SCRIPTS = sorted(CLUSTER.glob("*.sbatch"))
# Of sbatch (SLURM 24.05, slurm.schedmd.com/sbatch.html), with what a value looks like.
SBATCH = {
    "job-name": r"[\w-]+",
    "nodes": r"\d+(-\d+)?",
    "ntasks-per-node": r"\d+",
    "cpus-per-task": r"\d+",
    "gpus-per-node": r"(\w+:)?\d+",
    "mem": r"\d+[KMGT]?",
    "time": r"(\d+-)?\d+(:\d\d){0,2}",
    "signal": r"([BR]:)?\w+(@\d+)?",
    "requeue": "",
    "output": r"[\w%./-]+",
}
# What SLURM sets for a job: sbatch's and srun's output environment variables.
VARIABLES = {"SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "SLURM_SUBMIT_DIR"}
VARIABLES |= {"SLURM_NNODES", "SLURM_NODEID"}


def manifest() -> dict[str, Any]:
    job: dict[str, Any] = next(yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text(encoding="utf-8")))
    return job


def problems(job: Mapping[str, Any]) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema")
    checker = jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    return [f"{error.json_path}: {error.message}" for error in checker.iter_errors(job)]


def check_command(command: str) -> None:
    """Raise ValidationError, or fail, for a flag or a value that a verb of `rlhf` does not take."""
    _, verb, *words = shlex.split(command)
    model: Any = {"compare": CompareConfig, "train": TrainConfig}[verb]
    of_flag = {"-f": "folder" if verb == "compare" else "log_folder", "-n": "n_timesteps"}
    given: dict[str, Any] = {}
    while words:
        flag = words.pop(0)
        name = of_flag.get(flag, flag.removeprefix("--").replace("-", "_"))
        assert name in model.model_fields, f"{verb} has no {flag}"
        value = words.pop(0) if words and not words[0].startswith("-") else True
        given[name] = {"1M": 10**6}.get(str(value), value)
    model(**given)


def test_the_manifest_is_a_rayjob_whose_workers_are_elastic() -> None:
    job = manifest()
    assert problems(job) == []
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["minReplicas"] < group["maxReplicas"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert (
        job["spec"]["entrypoint"].partition(" -f ")[2].startswith(head["containers"][0]["volumeMounts"][0]["mountPath"])
    )
    check_command(job["spec"]["entrypoint"])


def test_the_schema_finds_what_kubernetes_would_drop_or_refuse() -> None:
    def change(job: dict[str, Any], **changes: Any) -> dict[str, Any]:
        group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
        group.update({name: value for name, value in changes.items() if value is not None})
        for name in (name for name, value in changes.items() if value is None):
            del group[name]
        return job

    for changes, message in [
        ({"maxReplica": 3}, "'maxReplica' was unexpected"),
        ({"maxReplicas": "16"}, "'16' is not of type 'integer'"),
        ({"groupName": None}, "'groupName' is a required property"),
        ({"rayStartParams": {"num-cpus": 4}}, "4 is not of type 'string'"),
        ({"template": {"spec": {"containers": []}}}, "[] should be non-empty"),
    ]:
        (problem,) = problems(change(manifest(), **changes))
        assert message in problem, problem


def test_image_and_manifest_have_the_version_of_ray_that_is_tested() -> None:
    (pinned,) = re.findall(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert manifest()["spec"]["rayClusterSpec"]["rayVersion"] == pinned
    assert f"FROM rayproject/ray:{pinned}-py311\n" in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_scripts_for_slurm_are_read_by_bash_and_ask_for_what_sbatch_knows(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/bash\n#SBATCH ")
    header = re.match(r"#!/bin/bash\n((?:#SBATCH .*\n)+)", text)
    assert header is not None and text.count("#SBATCH") == header[1].count("#SBATCH"), "SLURM reads no later ones"
    for line in header[1].splitlines():
        option, _, value = line.removeprefix("#SBATCH --").partition("=")
        assert re.fullmatch(SBATCH[option], value), line
    assert set(re.findall(r"SLURM_\w+", text)) <= VARIABLES
    for command in re.findall(r"^rlhf (?:.*\\\n)*.*(?= &$)", text, re.M):
        check_command(command.replace("\\\n", " "))


def test_the_ranks_of_the_script_are_as_many_as_its_gpus() -> None:
    text = (CLUSTER / "torchrun.sbatch").read_text(encoding="utf-8")
    assert re.findall(r"gpus-per-node=(\d+)", text) == re.findall(r"--nproc-per-node (\d+)", text) == ["4"]
    (flags,) = re.findall(r"set -- (.*)", text)
    check_command(f"rlhf train {flags}")
