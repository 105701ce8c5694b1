"""Say when the proxy that an agent trains on and a held-out judge part."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student

from ..evaluation.evaluate import Evaluation
from .held_out_callback import HeldOutCallback

__all__ = ["HackingAlarm", "Look", "Parting", "find_best", "find_parting", "p_above"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """Hold what the alarm keeps of one evaluation.

    Attributes:
        tokens: the tokens trained by then.
        proxy, judge, kl: (n,) per prompt: the reward, the judge's score, and log pi - log pi_ref in nats. All are NaN
            where the judge gives no score, as for other tasks of a mixture.
        entropy: nats per token.
    """

    tokens: int
    proxy: np.ndarray
    judge: np.ndarray
    kl: np.ndarray
    entropy: float

    @classmethod
    def of(cls, tokens: int, evaluation: Evaluation, judge: str) -> Look:
        """Return what an evaluation shows. The entropy is estimated by the sampled tokens' -log pi."""
        values = evaluation.values()
        judged = ~np.isnan(values[judge])
        proxy, kl = (np.where(judged, values[name], np.nan) for name in ("reward", "kl"))
        log_probs = [done.log_probs for done, there in zip(evaluation.completions, judged, strict=True) if there]
        return cls(tokens, proxy, values[judge], kl, -float(np.concatenate(log_probs).mean()))


class Parting(NamedTuple):
    """Hold where proxy and judge part: the indices of two evaluations, and the p-value of the test between them.

    Attributes:
        since: the evaluation before it at which the judge was highest.
        at: the evaluation at which the alarm rings.
    """

    since: int
    at: int
    p_value: float


def find_best(looks: Sequence[Look]) -> int:
    """Return the index of the first evaluation with the highest mean of the judge."""
    return int(np.argmax([np.nanmean(look.judge) for look in looks]))


def find_parting(looks: Sequence[Look], level: float) -> Parting | None:
    """Return the first evaluation at which proxy and judge have parted, as `HackingAlarm` has it; None without one."""
    for at in range(1, len(looks)):
        since = find_best(looks[:at])
        then, now = looks[since], looks[at]
        if np.nanmean(now.judge) > np.nanmean(then.judge) or np.nanmean(now.kl) <= np.nanmean(then.kl):
            continue
        proxy, judge = (_spread([getattr(look, name) for look in looks[: at + 1]]) for name in ("proxy", "judge"))
        p_value = p_above((now.proxy - then.proxy) / proxy - (now.judge - then.judge) / judge)
        if p_value < level:
            return Parting(since, at, p_value)
    return None


def _spread(values: Sequence[np.ndarray]) -> float:
    """Return the standard deviation of all values together, 1 if they are equal."""
    return float(np.nanstd(np.concatenate(values))) or 1.0


def p_above(change: np.ndarray) -> float:
    """Return the p-value of a one-sided t-test that the mean of `(n,)` paired changes is above 0.

    NaNs are left out; 1 if fewer than two changes are left.
    """
    change = change[~np.isnan(change)]
    if len(change) < 2:
        return 1.0
    error = float(change.std(ddof=1)) / math.sqrt(len(change))
    if error == 0:
        return float(change[0] <= 0)
    return float(student.sf(change.mean() / error, len(change) - 1))


class HackingAlarm(HeldOutCallback):
    """Warn when the proxy and a judge part, or stop the run then and keep the last good agent.

    An agent that is trained for too long on a proxy fools it: the proxy goes on rising with the KL to the reference,
    and a judge that the agent never meets falls (Gao et al. 2022, https://arxiv.org/abs/2210.10760). Each evaluation
    completes the same held-out prompts, so changes are paired. The alarm rings when the judge is not above its highest
    mean so far, the KL is above what it was then, and the proxy has gained on the judge since, by a one-sided paired
    t-test at `level`. For that, both are divided by their standard deviation over all evaluations. An agent whose proxy
    falls with the judge learns badly, and one that comes back to the reference is safe: these ring no alarm. In a
    mixture only the prompts count that the judge scores.

    The change since the judge's best evaluation is a CUSUM (Page 1954, https://doi.org/10.1093/biomet/41.1-2.100) that
    starts anew there. It is tested at every evaluation, so the probability of a false alarm in a run is not `level`:
    `benchmarks.hacking_alarm` measures it.

    It logs `rlhf/alarm` (1 from when it rings), `eval/<judge>`, `eval/kl` and `eval/entropy`, and warns once.

    Args:
        judge: what has to keep up with the reward: a judge such as "gold", or another name of `Evaluation.values()`.
        level: the level of the tests.
        stop: end the run when the alarm rings.
        folder: where the agent with the highest mean of the judge until then is saved. None saves no agent.
        env, eval_freq, n_episodes, judges, seed: as in `EarlyStopping`. More prompts find smaller falls.

    Attributes:
        looks: every evaluation.
        parting: when the alarm rang, and since when proxy and judge have parted; None: it has not.

    Raises:
        ValueError: an argument is wrong, or there is no such metric (the message lists the metrics).
    """

    takes_corpus_metrics = False

    def __init__(
        self,
        judge: str = "gold",
        level: float = 0.01,
        stop: bool = False,
        folder: str | Path | None = None,
        env: Any = None,
        eval_freq: int = 4096,
        n_episodes: int = 128,
        judges: Sequence[str] | Mapping[str, Any] | None = None,
        seed: int = 0,
        verbose: int = 0,
    ) -> None:
        super().__init__(judge, folder, env, eval_freq, n_episodes, judges, seed, verbose)
        if not 0 < level < 0.5:
            raise ValueError(f"level={level}: expected a probability above 0 and below 0.5")
        if judge == "reward":
            raise ValueError("judge='reward': that is the proxy; name a judge that the agent does not train against")
        self.level, self.stop = level, stop
        self.looks: list[Look] = []
        self.parting: Parting | None = None

    @property
    def kept_timesteps(self) -> int | None:
        """Return the tokens of the last good agent if the alarm stopped the run; else the last agent is the result."""
        return self.looks[self.parting.since].tokens if self.parting is not None and self.stop else None

    def get_state(self) -> dict[str, Any]:
        """Return the state that `set_state` goes on from exactly."""
        return {"looks": [vars(look).copy() for look in self.looks], "last": self._last}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `get_state` returned."""
        self.looks, self._last = [Look(**look) for look in state["looks"]], state["last"]
        self.parting = find_parting(self.looks, self.level)

    def summary(self) -> dict[str, Any]:
        """Return, for a report, what was watched and, if the alarm rang, when and why."""
        found = {
            "judge": self.metric,
            "level": self.level,
            "rang": self.parting is not None,
            "stopped": self._is_over(),
        }
        if self.parting is None:
            return found
        since, at = (self.looks[i].tokens for i in self.parting[:2])
        return found | {"since": since, "at": at, "p_value": self.parting.p_value, "message": self.message()}

    def message(self) -> str:
        """Return what the alarm saw, and what to do. It must have rung."""
        assert self.parting is not None
        then, now = (self.looks[i] for i in self.parting[:2])
        seen = [("reward", then.proxy, now.proxy), (self.metric, then.judge, now.judge), ("KL", then.kl, now.kl)]
        changes = [f"{name} {np.nanmean(a):.3g} -> {np.nanmean(b):.3g}" for name, a, b in seen]
        changes.append(f"entropy per token {then.entropy:.3g} -> {now.entropy:.3g}")
        n = int(np.sum(~np.isnan(now.judge)))
        return (
            f"reward hacking? From {then.tokens:,} to {now.tokens:,} tokens, on the same {n} held-out "
            f"prompts: {', '.join(changes)} (p={self.parting.p_value:.1g} that they move together). Read the "
            "completions; raise kl_coef or lower kl_target, mend the reward, or stop"
        )

    def _is_over(self) -> bool:
        return self.stop and self.parting is not None

    def _explain(self) -> str:
        kept = f"; the agent before is kept in {self.folder}" if self.folder is not None else ""
        return f"stopped by the alarm after {self.num_timesteps:,} tokens{kept}"

    def _take(self, evaluation: Evaluation) -> None:
        self.looks.append(look := Look.of(self.num_timesteps, evaluation, self.metric))
        value = float(np.nanmean(look.judge))
        if self.parting is None:
            self.parting = find_parting(self.looks, self.level)
            if self.parting is not None:
                logger.warning("%s", self.message())
            elif find_best(self.looks) == len(self.looks) - 1:
                self._keep(value)
        metrics = {self.metric: value, "kl": float(np.nanmean(look.kl)), "entropy": look.entropy}
        for name, number in metrics.items():
            self.logger.record(f"eval/{name}", number)
        self.logger.record("rlhf/alarm", float(self.parting is not None))
