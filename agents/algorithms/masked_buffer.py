"""`MaskableSequenceRolloutBuffer`: a `SequenceRolloutBuffer` that keeps action masks, a bit a token."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer, MaskableDictRolloutBufferSamples

from ..core.rollout_buffer import SequenceRolloutBuffer, _SegmentSamples

__all__ = ["MaskableSequenceRolloutBuffer"]


class MaskableSequenceRolloutBuffer(SequenceRolloutBuffer):
    """A `SequenceRolloutBuffer` for `sb3_contrib.MaskablePPO` with `MaskableTokenPolicy`.

    The masks of a rollout are kept as bits, `(n_steps, n_envs, ceil(V / 8))` uint8, and handed out so: the policy
    unpacks them where it computes the logits. The reference's log-probabilities are those under the masks too.

    The arguments are those of `SequenceRolloutBuffer`.
    """

    def reset(self) -> None:
        """Empty the buffer; every token is allowed where no mask is added."""
        super().reset()
        self.mask_dims = int(self.action_space.n)  # type: ignore[attr-defined]
        self.action_masks = np.full((self.buffer_size, self.n_envs, -(-self.mask_dims // 8)), 255, dtype=np.uint8)

    def add(self, *args: Any, action_masks: np.ndarray | None = None, **kwargs: Any) -> None:
        """Store one step of all environments, and their masks `(n_envs, V)`, True (or not 0) where allowed."""
        if action_masks is not None:
            masks = np.asarray(action_masks).reshape(self.n_envs, self.mask_dims)
            self.action_masks[self.pos] = np.packbits(masks.astype(np.bool_), axis=1)
        super().add(*args, **kwargs)

    def get(  # type: ignore[override]
        self, batch_size: int | None = None
    ) -> Generator[MaskableDictRolloutBufferSamples, None, None]:
        """As `SequenceRolloutBuffer.get`, with the packed masks of the actions, `(n, ceil(V / 8))` uint8."""
        for samples in super().get(batch_size):
            yield MaskableDictRolloutBufferSamples(*samples, action_masks=samples.observations["action_masks"])

    def _segment_samples(self, chosen: np.ndarray) -> _SegmentSamples:
        samples = super()._segment_samples(chosen)
        samples.observations["action_masks"] = torch.as_tensor(self.action_masks[samples.steps], device=self.device)
        return samples


MaskableDictRolloutBuffer.register(MaskableSequenceRolloutBuffer)  # what MaskablePPO asks for; it keeps floats
