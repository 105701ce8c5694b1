"""TRL's GRPO trains on a served environment: the rewards are those of the Gymnasium environment for the same texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from rlhf_envs.tokens import encode_after
from tests.rlhf_envs.interop.openenv.serving import served
from tests.rlhf_envs.small_models import byte_level, save_model

pytest.importorskip("openenv", reason="needs the extra openenv")

from rlhf_envs.interop.openenv.server import create_app
from rlhf_envs.interop.openenv.trl import OVER, ServedEpisode, list_rows

pytestmark = pytest.mark.filterwarnings("ignore")
TEXTS = (" was a great film.", " is awful and dull", " was fine.", " is")


def test_an_episode_is_a_tool_and_a_reward() -> None:
    with served(create_app("rlhf/Tutor-v0")) as server:
        env: Any = gym.make("rlhf/Tutor-v0").unwrapped
        env.reset(seed=1, options={"index": 1})
        episode = ServedEpisode(server.url)
        assert episode.reset(**list_rows(server.url, n=2)[1]) == env.rows[1]["prompt"]
        total = 0.0
        for hint in (" Read it again.", " Add them.", " Take some away.", " Add 1."):
            for token in [*encode_after(env.tokenizer, hint), env.tokenizer.eos_token_id]:
                _, reward, ended, _, _ = env.step(token)
                total += float(reward)
            said = episode.say(hint)
            assert (said == OVER) == ended
            if ended:
                break
        assert ended and episode.get_reward() == pytest.approx(total)
        assert episode.say("more") == OVER and episode.get_reward() == pytest.approx(total)


def test_grpo_gets_the_rewards_of_the_gymnasium_environment(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from trl.chat_template_utils import qwen3_chat_template

    tokenizer = byte_level(eos="<|im_end|>")
    tokenizer.chat_template = qwen3_chat_template
    model = save_model(tmp_path / "model", tokenizer, max_position_embeddings=4096)
    found: list[tuple[int, float]] = []

    class Noted(ServedEpisode):
        def get_reward(self) -> float:
            found.append((self._client.state()["index"], super().get_reward()))
            return found[-1][1]

    class Scripted(trl.GRPOTrainer):  # type: ignore[misc, name-defined]
        """A small random model calls no tool, so what it samples is given: a call of `say`, and then "ok"."""

        def _generate_single_turn(self, prompt_ids: list[list[int]], *rest: Any, **kwargs: Any) -> Any:
            self.asked = [*getattr(self, "asked", []), [tokenizer.decode(ids) for ids in prompt_ids]]
            calls = [json.dumps({"name": "say", "arguments": {"message": text}}) for text in TEXTS]
            said = [f"<tool_call>\n{call}\n</tool_call><|im_end|>" for call in calls]
            said = said if len(self.asked) == 1 else ["ok<|im_end|>"] * len(prompt_ids)
            return [tokenizer(text)["input_ids"] for text in said], None

    with served(create_app("rlhf/Sentiment-v0", max_new_tokens=16)) as server:
        rows = list_rows(server.url, n=2)
        settings: dict[str, Any] = dict(max_steps=1, num_generations=2, per_device_train_batch_size=4, use_cpu=True)
        settings |= dict(max_completion_length=600, report_to=[], logging_steps=1, bf16=False, shuffle_dataset=False)
        settings |= dict(save_strategy="no", learning_rate=0.1, beta=0.0)
        trainer = Scripted(
            model=model,
            args=trl.GRPOConfig(str(tmp_path / "out"), **settings),
            train_dataset=Dataset.from_list(rows),
            environment_factory=lambda: Noted(server.url),
        )
        assert trainer.model is not None
        before = [value.clone() for value in trainer.model.parameters()]
        trainer.train()
        env: Any = gym.make("rlhf/Sentiment-v0", max_new_tokens=16).unwrapped
        expected = []
        for (index, _), text in zip(found, TEXTS, strict=True):
            env.reset(options={"index": index})
            for token in [*encode_after(env.tokenizer, text), env.tokenizer.eos_token_id]:
                _, reward, *_ = env.step(token)
            expected.append(float(reward))
        assert [reward for _, reward in found] == pytest.approx(expected, abs=1e-5) and len(set(expected)) == 4
        assert sorted(index for index, _ in found) == [0, 0, 1, 1]
        assert all(
            env.rows[index]["prompt"] in asked for (index, _), asked in zip(found, trainer.asked[0], strict=True)
        )
        logged = next(entry for entry in trainer.state.log_history if "reward" in entry)
        assert logged["reward"] == pytest.approx(sum(expected) / 4, abs=1e-4)
        now = trainer.model.parameters()
        assert not all(torch.equal(one, other) for one, other in zip(before, now, strict=True))
