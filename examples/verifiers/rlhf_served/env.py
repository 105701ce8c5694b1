"""Let an agent play a row: what it says reaches the server as it is, and the server gives the reward."""

from __future__ import annotations

import asyncio

import verifiers.v1 as vf
from pydantic import TypeAdapter

from rlhf_served.client import find_field, play

__all__ = ["ServedEnv", "ServedEnvConfig"]

MESSAGES = TypeAdapter(vf.Messages)


class ServedEnvConfig(vf.EnvConfig):
    player: vf.AgentConfig = vf.AgentConfig(runtime=vf.SubprocessConfig())
    """The model that is evaluated, on this machine: it runs no code."""


class ServedEnv(vf.Env[ServedEnvConfig]):
    """Play one episode of the server per task.

    verifiers' own `openenv` taskset shows a model the observation as JSON, and strips what it answers. Here the model
    gets the prompt's messages, and not a space of its answer is lost, so the reward is that of the same completion in
    the Gymnasium environment.
    """

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Play until the server or the agent has ended the episode, and record its reward, parts and metrics."""
        data, total, turns = task.data, 0.0, 0
        field = await asyncio.to_thread(find_field, data.base_url)
        async with play(data.base_url, field) as episode:
            seen = await episode.reset(seed=data.index, split=data.split, index=data.index)
            opened = task.with_data(prompt=MESSAGES.validate_python(seen["messages"]))
            done = False
            async with agents.player.interaction(opened) as talk:
                segment = await talk.turn()
                while not segment.terminated:
                    seen, reward, done = await episode.step(last_said(segment))
                    total, turns = total + reward, turns + 1
                    if done:
                        break
                    segment = await talk.turn(seen["text"])
        trace = talk.trace
        trace.record_reward("served_reward", total)
        trace.record_metrics({"turns": float(turns), "unfinished": float(not done)})
        trace.record_metrics({**seen["components"], **seen["metrics"]} if done else {})


def last_said(segment: vf.Segment) -> str:
    """Return the agent's last message of a segment, with its spaces: `Segment.last_reply` strips them."""
    for message in reversed(segment.messages):
        if isinstance(message, vf.AssistantMessage):
            return message.content or ""
    return ""
