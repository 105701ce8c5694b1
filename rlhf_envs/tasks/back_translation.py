"""Translate translations back with a model, and tell how much of the source comes back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import lru_cache

from rlhf_envs.models import load_causal_lm, load_tokenizer, model_ends, model_positions
from rlhf_envs.rewards.chrf import fold, sentence_chrf
from rlhf_envs.tokens import encode_texts, keep_end

__all__ = ["BackTranslator", "load_back_translator"]

BATCH = 64  # texts that are written at once
logger = logging.getLogger(__name__)


class BackTranslator:
    """Translate texts back with a causal language model, the most probable token each time.

    What it has translated once it remembers: bootstrap samples have the same texts again.

    Args:
        model: a causal language model that translates in the task's form, by a name that `rlhf_envs.models.resolve`
            knows.
        form: returns the prompt of a text, given its language and the wanted one.
        max_new_tokens: the longest that it writes.

    Raises:
        ValueError: there is no such model, or it has too few positions.
    """

    def __init__(self, model: str, form: Callable[[str, str, str], str], max_new_tokens: int) -> None:
        self.tokenizer, self.model, self.form = load_tokenizer(model), load_causal_lm(model).eval(), form
        self.ends = model_ends(model) or [self.tokenizer.eos_token_id]
        self.max_new_tokens, self.room = max_new_tokens, (model_positions(model) or 2048) - max_new_tokens
        if self.room < 1:
            raise ValueError(
                f"the back-translator {model!r} has {self.room + max_new_tokens} positions, and it needs more than the "
                f"{max_new_tokens} tokens of a translation: give another model"
            )
        self._known: dict[str, str] = {}

    def share_that_returns(
        self, texts: Sequence[str], translations: Sequence[str], languages: Sequence[tuple[str, str]]
    ) -> list[float]:
        """Return the chrF of each translation, translated back, against its text, in [0, 1].

        A translation that is the text itself, or empty, has 0: a copy would come back whole.

        Args:
            texts: the sources.
            translations: what was made of them.
            languages: the languages of each text and of its translation.
        """
        copied = [fold(given) in ("", fold(text)) for text, given in zip(texts, translations, strict=True)]
        prompts = [
            "" if copy else self.form(given.strip(), target, source)
            for given, copy, (source, target) in zip(translations, copied, languages, strict=True)
        ]
        unknown = list(dict.fromkeys(prompt for prompt in prompts if prompt and prompt not in self._known))
        for at in range(0, len(unknown), BATCH):
            batch = unknown[at : at + BATCH]
            self._known |= dict(zip(batch, self._write(batch), strict=True))
        return [
            _chrf(self._known[prompt], text) if prompt else 0.0 for prompt, text in zip(prompts, texts, strict=True)
        ]

    def _write(self, prompts: Sequence[str]) -> list[str]:
        """Return the most probable completion of each prompt; a prompt that is too long loses its beginning."""
        import torch

        whole = encode_texts(self.tokenizer, prompts)
        rows = [keep_end(self.tokenizer, ids, self.room) for ids in whole]
        if n := sum(len(row) < len(ids) for row, ids in zip(rows, whole, strict=True)):
            logger.warning(
                "%d of %d texts are too long for the back-translator, and lose their beginning", n, len(rows)
            )
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        pad = self.ends[0] if pad is None else pad
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])  # (n, width), padded on the left
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
        with torch.inference_mode():
            found = self.model.generate(
                ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=self.ends,
                pad_token_id=pad,
            )
        texts = self.tokenizer.batch_decode(found[:, width:], skip_special_tokens=True)
        return [str(text).strip() for text in texts]


_chrf = lru_cache(maxsize=8192)(sentence_chrf)
load_back_translator = lru_cache(maxsize=2)(BackTranslator)  # once per process, and in no pickle of a task
