"""Put engine, gateway and server together, as `rlhf serve` runs them."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rlhf_envs.feedback import FeedbackStore
from rlhf_envs.feedback.web.listening import keep_loaded, listen
from rlhf_envs.privacy import Masker
from rlhf_envs.rewards import get_reward
from rlhf_envs.rewards.base import evaluate_reward

from .alerts import Alerts, Webhook
from .app import create_gateway
from .engine import ChildEngine, Engine, RemoteEngine
from .gateway import Settings
from .keys import KeyFile
from .model_folder import prepare
from .served import Desk
from .server import ending_by_exit, run
from .telemetry import Telemetry
from .topics import Topics
from .watch import Watch, WatchSettings

__all__ = ["make_watch", "serve"]

SWITCH = 0.0005  # seconds that a thread which scores keeps Python's lock while a request wants it; 0.005 by default
# Each of these flags turns watching on.
WATCHING = {"watch", "score", "score_share", "topics", "reference", "reference_size", "window", "false_alarms"}
WATCHING |= {"windows", "webhook"}
LIMITS = ("per_minute", "at_once", "places", "waiting", "patience", "timeout", "longest", "max_body")


def serve(
    config: Any, keys: KeyFile | None, folder: Path, upstream_key: str | None = None, webhook_secret: str | None = None
) -> None:
    """Serve a model until SIGTERM or SIGINT.

    Args:
        config: the flags of `rlhf serve`.
        keys: the clients' keys; None lets everybody in.
        folder: an empty folder for the model, which is not needed afterwards.
        upstream_key: the key of `config.upstream`.
        webhook_secret: signs what goes to `config.webhook`.

    Raises:
        StoreError: the feedback store cannot be opened.
        ValueError: the model cannot be served, or the port is taken.
        ImportError: a package that the engine or the masks need is missing.
    """
    with ExitStack() as stack:
        stack.enter_context(ending_by_exit())
        masker = Masker() if config.mask_private else None  # first: it says what is missing
        listen(config.host, config.port).close()  # one that is taken is told before a store is made
        telemetry = Telemetry()
        watch = make_watch(config, telemetry, webhook_secret)
        if watch is not None:
            sys.setswitchinterval(SWITCH)
        model = prepare(config.run, folder, config.name, allow_gguf=config.upstream is not None)
        engine: Engine
        if config.upstream is None:
            engine = ChildEngine(model.folder, telemetry, config.device)
        else:
            upstream = config.upstream_model, upstream_key, model.folder
            engine = RemoteEngine(config.upstream, telemetry, *upstream)
        settings = Settings(model.name, **{name: getattr(config, name) for name in LIMITS})
        desk = None
        if config.store is not None:
            store = stack.enter_context(FeedbackStore(config.store))
            desk = Desk(store, model.version, config.review_share, None if masker is None else masker.mask)
        app = create_gateway(settings, engine, keys, telemetry, desk, masker, watch)
        keep_loaded()
        run(app, config.host, config.port, config.drain, model.name)


def make_watch(config: Any, telemetry: Telemetry, webhook_secret: str | None = None) -> Watch | None:
    """Return what watches the answers; None if no flag asks for it.

    Raises:
        ValueError: a scorer, the file of topics, the reference or the webhook is wrong.
        OSError: the file of topics cannot be read.
    """
    if not any(getattr(config, name) for name in WATCHING & config.model_fields_set):
        return None
    if "score_share" in config.model_fields_set and not config.score:
        raise ValueError(f"--score-share {config.score_share} needs a --score, which scores that share")
    settings = WatchSettings(
        share=config.score_share,
        reference=config.reference_size,
        window=config.window,
        false_alarms=config.false_alarms,
        windows=config.windows,
        file=None if config.reference is None else Path(config.reference),
    )
    webhook = None if config.webhook is None else Webhook(config.webhook, webhook_secret or "")
    names = config.score or []
    if "human" in names:
        raise ValueError("--score human: people would be waited for; --review-share asks them")
    scorers = {Path(name).name: get_reward(name) for name in names}
    if len(scorers) < len(names):
        raise ValueError(f"--score {' --score '.join(names)}: two of them have one name")
    for scorer in scorers.values():  # what it loads, and what is wrong with it, comes before the first request
        evaluate_reward(scorer, ["The film"], [" was good."], {})
    topics = None if config.topics is None else Topics.load(config.topics)
    return Watch(settings, telemetry, Alerts(telemetry, webhook), scorers, topics)
