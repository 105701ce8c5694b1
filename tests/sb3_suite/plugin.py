"""A pytest plugin that runs the test-suites of Stable-Baselines3 and sb3-contrib against this project.

`MlpPolicy` and `MultiInputPolicy` of PPO, A2C and TRPO become `TokenPolicy`; the environments that the tests name
become token bandits. Every test runs twice: "stock" leaves SB3 its `DummyVecEnv` and `DictRolloutBuffer`, "ours" has
`TextVecEnv` and `SequenceRolloutBuffer` in their place. `reasons.py` lists the tests that cannot pass, and why: they
run all the same, and one that passes is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import TRPO
from sb3_suite import reasons  # run.py puts the folder above on the path
from stable_baselines3 import A2C, PPO
from stable_baselines3.common import base_class, env_util, envs, on_policy_algorithm, vec_env
from stable_baselines3.common.monitor import Monitor

from agents import SequenceRolloutBuffer, TokenPolicy
from agents.core import models
from agents.core.vec_env import TextVecEnv
from rlhf_envs import TextGenerationEnv, TextGenerationVectorEnv
from rlhf_envs.tasks.token_bandit import TokenBandit

FIXED_LENGTH = 16  # tokens of an episode where the tests think of Pendulum, below PPO's batch_size of 64
ALGORITHMS = (PPO, A2C, TRPO)

built: Counter[str] = Counter()  # what of ours the running test has made
outcomes: Counter[str] = Counter()  # passed tests, with and without that
failed_as_listed: Counter[str] = Counter()  # by reason
variant = "stock"


class EndlessBandit(TokenBandit):
    """A token bandit without EOS: every episode has the same length, as Pendulum's have."""

    def tokenizer(self, model: str | None) -> Any:
        tokenizer = super().tokenizer(model)
        tokenizer.eos_token = None
        return tokenizer


class SuiteEnv(TextGenerationEnv):
    """A text environment that is counted."""

    def __init__(self, **kwargs: Any) -> None:
        built["environment"] += 1
        super().__init__(**kwargs)


class SuitePolicy(TokenPolicy):
    """`TokenPolicy` that is counted and overlooks the sizes of an MLP."""

    def __init__(self, *args: Any, net_arch: Any = None, **kwargs: Any) -> None:
        built["policy"] += 1
        super().__init__(*args, **kwargs)


class Observations(dict[str, np.ndarray]):
    """Observations of n environments, which the tests may treat as the one array that CartPole would give."""

    @property
    def shape(self) -> tuple[int, ...]:
        return self["input_ids"].shape

    def __missing__(self, row: Any) -> dict[str, np.ndarray]:
        if not isinstance(row, int):
            raise KeyError(row)
        return {key: array[row] for key, array in self.items()}

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is not np.concatenate:
            return NotImplemented
        return Observations({key: np.concatenate([batch[key] for batch in args[0]], **kwargs) for key in self})


class SuiteVecEnv(TextVecEnv):
    """`TextVecEnv` with such observations."""

    def reset(self) -> Any:
        return Observations(super().reset())

    def step_wait(self) -> Any:
        observations, *rest = super().step_wait()
        return (Observations(observations), *rest)


class SuiteDummyVecEnv(vec_env.DummyVecEnv):
    """`DummyVecEnv` with such observations; in the variant "ours", a `TextVecEnv` where the rows are of text."""

    def __new__(cls, env_fns: list[Callable[[], gym.Env[Any, Any]]]) -> Any:
        if variant == "ours":
            made = [env_fn() for env_fn in env_fns]
            if all(is_plain(env) for env in made):
                text: Any = made[0].unwrapped
                return SuiteVecEnv(TextGenerationVectorEnv(len(made), text.task, max_new_tokens=text.max_new_tokens))
        return super().__new__(cls)

    def _obs_from_buf(self) -> Any:
        observations = super()._obs_from_buf()
        return Observations(observations) if isinstance(observations, dict) else observations


def is_plain(env: gym.Env[Any, Any]) -> bool:
    """Whether it is a text environment in no other wrapper than gym.make's own and Monitor."""
    usual = (Monitor, gym.wrappers.OrderEnforcing, gym.wrappers.PassiveEnvChecker)
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, usual):
            return False
        env = env.env
    return isinstance(env, SuiteEnv)


def make_vec_env(*args: Any, env_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """SB3's, where the limit of an episode is a text environment's own argument."""
    env_kwargs = dict(env_kwargs or {})
    if "max_episode_steps" in env_kwargs:
        env_kwargs["max_new_tokens"] = env_kwargs.pop("max_episode_steps")
    return sb3_make_vec_env(*args, env_kwargs=env_kwargs, **kwargs)


def small_model(vocab_size: int, length: int, **sizes: Any) -> Any:
    """The fresh model of a policy that is given none, smaller: TRPO's cost grows with the square of its depth."""
    return build_model(vocab_size, length, n_layer=1, n_embd=16, n_head=2)


sb3_make_vec_env = env_util.make_vec_env
build_model = models.build_model


def pytest_configure() -> None:
    """Put what is ours in the places that the test modules import from."""
    module = __name__
    for env_id, kwargs in {
        "CartPole-v1": {"task": "rlhf_envs.tasks.token_bandit:TokenBandit"},
        "Pendulum-v1": {"task": f"{module}:EndlessBandit", "max_new_tokens": FIXED_LENGTH},
    }.items():
        del gym.registry[env_id]
        gym.register(env_id, entry_point=f"{module}:SuiteEnv", kwargs=kwargs)
    envs.IdentityEnvBox = lambda *_, **__: gym.make("CartPole-v1")
    env_util.make_vec_env = make_vec_env
    models.build_model = small_model
    for user in (vec_env, base_class, env_util):
        user.DummyVecEnv = SuiteDummyVecEnv
    start = base_class.BaseAlgorithm.__init__

    def init(self: Any, policy: Any, *args: Any, **kwargs: Any) -> None:
        if isinstance(self, ALGORITHMS) and policy in ("MlpPolicy", "MultiInputPolicy"):
            policy = SuitePolicy
        start(self, policy, *args, **kwargs)

    base_class.BaseAlgorithm.__init__ = init


@pytest.fixture(autouse=True, params=["stock", "ours"])
def _variant(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    global variant
    variant = request.param
    built.clear()
    if variant == "ours":
        monkeypatch.setattr(on_policy_algorithm, "DictRolloutBuffer", SequenceRolloutBuffer)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sb3-suite", choices=sorted(reasons.REASONS), required=True, help="whose tests these are")


@pytest.hookimpl(tryfirst=True)  # before -k and -m thin the tests out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Expect the listed tests to fail, and complain of lines that stand for no test."""
    table = reasons.REASONS[config.getoption("--sb3-suite")]
    whole_files = not any("::" in argument for argument in config.args)
    if whole_files and (stale := reasons.unmatched(map(node_id, items), table)):
        raise pytest.UsageError(f"reasons.py lists tests that do not exist: {', '.join(stale)}")
    for item in items:
        if (reason := reasons.find_reason(node_id(item), table)) is not None:
            item.add_marker(pytest.mark.xfail(reason=reason, strict=True))


def node_id(item: pytest.Item) -> str:
    """The id of a test without the folder."""
    return f"{item.path.name}::{item.name}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    report.user_properties.append(("ours", bool(built)))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count; with xdist this runs where the summary is written, and the tests elsewhere."""
    if report.when == "call" and report.passed:
        outcomes["with ours" if ("ours", True) in report.user_properties else "without"] += 1
    elif hasattr(report, "wasxfail") and report.skipped:
        failed_as_listed[report.wasxfail] += 1


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print how many of the passed tests tell anything, and every reason with the number of its tests."""
    write = terminalreporter.write_line
    write("")
    write(f"{outcomes['with ours']} tests passed with a policy or an environment of ours;", bold=True)
    write(f"{outcomes['without']} more passed that have neither, and say nothing of this project.")
    write(f"{sum(failed_as_listed.values())} failed as reasons.py says they would:", bold=True)
    for reason, count in failed_as_listed.most_common():
        write(f"{count:5}  {reason}")
    skipped = Counter(report.longrepr for report in terminalreporter.stats.get("skipped", ()))
    for (path, line, reason), count in skipped.most_common():
        where = f"{Path(path).name}:{line}"
        write(f"{count:5}  skipped by the suite itself, at {where}: {reason.removeprefix('Skipped: ')}")
    if deselected := len(terminalreporter.stats.get("deselected", ())):
        write(f"{deselected:5}  deselected: marked `expensive` (a TD3 of more than 2 GB), or by your -k and -m")
