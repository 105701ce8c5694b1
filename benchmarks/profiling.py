"""Measure where the time of an iteration goes, by timing its calls from outside."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch

from .contenders import Ours
from .contenders.floor import Floor
from .work import Work
from .worker import Session

__all__ = ["ProfiledFloor", "ProfiledOurs", "watch_parts"]


class Stopwatch:
    """Count seconds by part. The time of an inner part does not count for the outer one."""

    def __init__(self, session: Session) -> None:
        self._seconds, self._open = session.profile, list[str]()
        self._synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
        self._since = 0.0

    def _charge(self) -> None:
        self._synchronize()
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] = self._seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return the same function, timed."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._open.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._open.pop()

        return wrapper

    def patch(self, owner: Any, name: str, part: str) -> None:
        """Replace a function or a method of `owner` by its timed version."""
        setattr(owner, name, self.timed(getattr(owner, name), part))

    def patch_generator(self, owner: Any, name: str, part: str) -> None:
        """Replace a generator method of `owner` by a version that times each item."""
        function = getattr(owner, name)

        def wrapper(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = function(*args, **kwargs)
            advance = self.timed(lambda: next(items, None), part)
            while (item := advance()) is not None:
                yield item

        setattr(owner, name, wrapper)


def watch_parts(ours: Ours) -> None:
    """Time what `Ours` does part by part, from here on."""
    from agents.core.kv_cache import SlottedTrunk

    watch, agent = Stopwatch(ours.session), cast(Any, ours.agent)
    watch.patch(agent, "learn", "rest")
    watch.patch(SlottedTrunk, "__call__", "prefill and decode")
    watch.patch(agent.policy, "forward", "head and sampling")
    watch.patch(agent.policy, "predict_values", "head and sampling")
    watch.patch(agent.env, "step_wait", "environment")
    watch.patch(agent.env.env, "reward_fn", "reward")
    watch.patch(agent.rollout_buffer, "add", "buffer")
    watch.patch_generator(agent.rollout_buffer, "get", "buffer")
    watch.patch(agent.rollout_buffer, "compute_returns_and_advantage", "reference KL")
    watch.patch(agent.policy, "evaluate_actions", "update: forward")
    watch.patch(torch.Tensor, "backward", "update: backward")
    watch.patch(torch.nn.utils, "clip_grad_norm_", "update: clipping")
    watch.patch(agent.policy.optimizer, "step", "update: optimiser")


class ProfiledOurs(Ours):
    """Run `Ours`, timed part by part."""

    def __init__(self, work: Work, session: Session) -> None:
        super().__init__(work, session)
        watch_parts(self)


class ProfiledFloor(Floor):
    """Run `Floor`, timed part by part."""

    def __init__(self, work: Work, session: Session) -> None:
        super().__init__(work, session)
        watch = Stopwatch(session)
        for name, part in {
            "iterate": "rest",
            "decode": "prefill and decode",
            "sample": "head and sampling",
            "reward": "reward",
            "trunk_outputs": "reference KL",
            "reference_log_prob": "reference KL",
            "forward": "update: forward",
            "backward": "update: backward",
            "step": "update: optimiser",
        }.items():
            watch.patch(self, name, part)
        watch.patch(self.model.get_output_embeddings(), "forward", "head and sampling")
        self._only_while_decoding()

    def _only_while_decoding(self) -> None:
        """Charge the head to sampling only while decoding; elsewhere it belongs to the passes."""
        head = self.model.get_output_embeddings()
        timed, plain = head.forward, functools.partial(type(head).forward, head)
        head.forward = lambda hidden: timed(hidden) if torch.is_inference_mode_enabled() else plain(hidden)
