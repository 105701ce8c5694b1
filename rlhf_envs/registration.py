"""Register the environments `rlhf/<Task>-v0` with Gymnasium, and look them up."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym

from rlhf_envs.models import EMBEDDED, resolve
from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.lookup import check_environment, task_of, text_environments

__all__ = [
    "ENVIRONMENTS",
    "Description",
    "check_environment",
    "describe",
    "register_task",
    "task_of",
    "text_environments",
]

ENVIRONMENTS: dict[str, str] = {
    "rlhf/Sentiment-v0": "rlhf_envs.tasks.sentiment:Sentiment",
    "rlhf/HumanSentiment-v0": "rlhf_envs.tasks.sentiment:HumanSentiment",
    "rlhf/SpamFilter-v0": "rlhf_envs.tasks.spam_filter:SpamFilter",
    "rlhf/Code-v0": "rlhf_envs.tasks.code.task:Code",
    "rlhf/Recommend-v0": "rlhf_envs.tasks.recommend.task:Recommend",
    "rlhf/ReasoningGym-v0": "rlhf_envs.tasks.reasoning:ReasoningGym",
    "rlhf/QuestionAnswering-v0": "rlhf_envs.tasks.question_answering:QuestionAnswering",
    "rlhf/Tutor-v0": "rlhf_envs.tasks.tutor:Tutor",
    "rlhf/Classify-v0": "rlhf_envs.tasks.classify:Classify",
    "rlhf/ClassifyNews-v0": "rlhf_envs.tasks.classify:ClassifyNews",
    "rlhf/Bias-v0": "rlhf_envs.tasks.bias:Bias",
    "rlhf/CustomerService-v0": "rlhf_envs.tasks.customer_service:CustomerService",
    "rlhf/Dialogue-v0": "rlhf_envs.tasks.dialogue:Dialogue",
    "rlhf/Document-v0": "rlhf_envs.tasks.document:Document",
    "rlhf/Summarize-v0": "rlhf_envs.tasks.summarize:Summarize",
    "rlhf/Translate-v0": "rlhf_envs.tasks.translate:Translate",
    "rlhf/ChineseReview-v0": "rlhf_envs.tasks.chinese_review:ChineseReview",
    "rlhf/ImageQA-v0": "rlhf_envs.tasks.images.questions:ImageQA",
    "rlhf/ImageCaption-v0": "rlhf_envs.tasks.images.captions:ImageCaption",
    "rlhf/IncreasingNumbers-v0": "rlhf_envs.tasks.increasing_numbers:IncreasingNumbers",
    "rlhf/TokenBandit-v0": "rlhf_envs.tasks.token_bandit:TokenBandit",
    "rlhf/DialogBandit-v0": "rlhf_envs.tasks.dialog_bandit:DialogBandit",
    "rlhf/Prompts-v0": "rlhf_envs.tasks.prompts:Prompts",
    "rlhf/Mixture-v0": "rlhf_envs.tasks.mixture:Mixture",
    "rlhf/OpenEnv-v0": "rlhf_envs.interop.openenv.task:OpenEnv",
}
NONDETERMINISTIC = {"rlhf/HumanSentiment-v0", "rlhf/OpenEnv-v0"}  # people and servers may answer differently each time


def register_task(env_id: str, task: str, nondeterministic: bool = False) -> None:
    """Register the single and the batched environment of a task.

    Args:
        env_id: an id such as "rlhf/Sentiment-v0".
        task: "module:Class" of a `rlhf_envs.tasks.Task`. The module is imported when the environment is made.
        nondeterministic: True if the same seed and actions may give other rewards, as people do.

    Raises:
        ValueError: the id belongs to something else already.
    """
    if env_id in gym.registry:
        if gym.registry[env_id].kwargs.get("task") == task:
            return
        raise ValueError(f"{env_id!r} is registered already, as {gym.registry[env_id]}: take another id or version")
    gym.register(
        id=env_id,
        entry_point="rlhf_envs.text_env:TextGenerationEnv",
        vector_entry_point="rlhf_envs.vector_env:TextGenerationVectorEnv",
        kwargs={"task": task},
        nondeterministic=nondeterministic,
    )


def register_all() -> None:
    """Register every environment of `ENVIRONMENTS`."""
    for env_id, task in ENVIRONMENTS.items():
        register_task(env_id, task, env_id in NONDETERMINISTIC)


@dataclass(frozen=True)
class Description:
    """Describe an environment that has not been made.

    Attributes:
        env_id: the registered id.
        task: the task's short name.
        summary: the first line of the task's docstring.
        reward: the name of the reward.
        model: the name of the model whose tokenizer is the action space; None if the task has its own tokenizer.
        vocab_size: the number of tokens; None if it is known only after loading the tokenizer.
        max_prompt_tokens: the longest prompt.
        max_new_tokens: the most tokens after the prompt.
    """

    env_id: str
    task: str
    summary: str
    reward: str
    model: str | None
    vocab_size: int | None
    max_prompt_tokens: int
    max_new_tokens: int


def describe(env_id: str) -> Description:
    """Describe a text environment without making it. Its vocabulary size comes from the model's config.json.

    Raises:
        ValueError: there is no such environment, or it has no task.
    """
    kwargs = gym.spec(check_environment(env_id)).kwargs
    task = task_of(env_id)
    if task is None:
        raise ValueError(f"{env_id!r} is no text environment: there are {', '.join(text_environments())}")
    model = kwargs.get("model", task.default_model)
    words = getattr(task, "words", None)
    return Description(
        env_id=env_id,
        task=task.name,
        summary=(type(task).__doc__ or "").strip().split("\n")[0],
        reward=kwargs.get("reward") or task.default_reward or _no_default(task),
        model=model,
        vocab_size=2 + len(words) if words else _vocab_size(model),
        max_prompt_tokens=kwargs.get("max_prompt_tokens") or task.max_prompt_tokens,
        max_new_tokens=kwargs.get("max_new_tokens") or task.max_new_tokens,
    )


def _no_default(task: Task) -> str:
    """Return what to say of a task that has no default reward."""
    if task.subtasks:
        return "by task"
    return "its own" if type(task).reward is not Task.reward else "by turn" if task.has_replies else ""


def _vocab_size(model: str | None) -> int | None:
    """Return the vocabulary size in a model's config.json; None if that file is not on this machine."""
    if model == "tiny-vision":  # made when it is first used: "tiny" and a token for pictures
        return (_vocab_size("tiny") or 0) + 1
    if model is None or (model not in EMBEDDED and not Path(model).is_dir()):
        return None
    config = Path(resolve(model)) / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("vocab_size") if config.is_file() else None
