"""Run the commands `rlhf serve RUN` and `rlhf serve keys`: a trained model behind OpenAI's API, and who may use it."""

from __future__ import annotations

import os
import tempfile
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console

from rlhf_envs.api_keys import read_api_key
from rlhf_envs.feedback.web.listening import is_loopback

from ..serving.keys import ApiKey, KeyFile, Scope
from ..training.fields import option
from .options import Flags, OneLineErrors, add_command, argument, fail
from .tables import make_table

__all__ = ["ServeConfig", "serve", "serve_app"]

KEYS = "serve-keys.json"
# Flags would be seen in the list of processes.
UPSTREAM_KEY = "RLHF_UPSTREAM_KEY"
WEBHOOK_SECRET = "RLHF_WEBHOOK_SECRET"


class RunByDefault(OneLineErrors):
    """Take `rlhf serve RUN` as `rlhf serve run RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words, with the name of the command before them."""
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().parse_args(ctx, args)


HELP = "Serve a trained model behind OpenAI's API, and give out the keys for it."
serve_app = typer.Typer(help=HELP, no_args_is_help=True, cls=RunByDefault)
keys_app = typer.Typer(help="Add, list and revoke the keys of a served model's clients.", no_args_is_help=True)
serve_app.add_typer(keys_app, name="keys")


class ServeConfig(Flags):
    """Hold the flags of `rlhf serve`."""

    boxes = False

    run: str = argument("Folder of a run, a bundle, an export or a Hugging Face model, or a model's name.")
    host: str = option("127.0.0.1", "Address to listen at.")
    port: int = option(8000, "Port; 0 takes a free one.", ge=0, le=65535)
    name: str | None = option(None, "The model's name for clients; the folder's by default.")
    keys: str = option(KEYS, "File of the clients' keys, see rlhf serve keys.")
    no_keys: bool = option(False, "Let everybody in, on this machine alone.")
    upstream: str | None = option(
        None,
        "Address of a server of this model that speaks OpenAI's API, such as vLLM or llama.cpp, instead of "
        f"transformers serve. Its key, if it wants one, is in {UPSTREAM_KEY}.",
    )
    upstream_model: str | None = option(None, "The model's name at the upstream; by default the only one it has.")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Device of transformers serve.")
    per_minute: int = option(600, "Requests per minute of a key that has no limit of its own.", gt=0)
    at_once: int = option(64, "Requests at once of such a key.", gt=0)
    places: int | None = option(
        None,
        "Requests that the engine answers at once. By default 1 by transformers serve, 64 by an upstream, 4 by "
        "llama-server; always 1 by llama-cpp-python.",
        gt=0,
    )
    waiting: int = option(128, "Requests that may wait for a place.", ge=0)
    patience: float = option(30.0, "Seconds that a request waits for a place at most.", gt=0)
    timeout: float = option(
        120.0, "Seconds that the engine may be silent; a completion that is no stream comes in one piece.", gt=0
    )
    longest: float = option(600.0, "Seconds that a completion may take.", gt=0)
    max_body: int = option(2**20, "Bytes of a request's body.", gt=0)
    store: str | None = option(
        None,
        "Feedback store for what users say of completions (POST /v1/feedback) and for reviews: a file, or "
        "postgresql://user@host/name. Without it nothing is kept.",
    )
    review_share: float = option(
        0.0, "Share of the completions that go into the store's queue, of those whose users agree.", ge=0, le=1
    )
    mask_private: bool = option(
        False, "Replace private data, such as e-mail addresses, in the completions and in what the store keeps."
    )
    watch: bool = option(False, "Test the traffic for drift. The following flags turn it on as well.")
    score: list[str] | None = option(
        None, "Reward, or folder of a reward model, that scores a sample of the answers in the background; repeat."
    )
    score_share: float = option(0.1, "Share of the answers that are scored.", ge=0, le=1)
    topics: str | None = option(None, "YAML file that maps topics to lists of words; texts with them raise alerts.")
    reference: str | None = option(
        None, "File of the reference window: read if it is there, else written from the first answers. It has no text."
    )
    reference_size: int = option(1000, "Answers in the reference.", ge=20)
    window: int = option(200, "Answers in a window, which is tested against the reference.", ge=20)
    false_alarms: float = option(0.01, "Chance of a false alarm of drift in any of so many --windows.", gt=0, lt=1)
    windows: int = option(1, "Successive windows that --false-alarms is for.", gt=0)
    webhook: str | None = option(
        None,
        f"Address that alerts are posted to, beside the log; signed with what is in {WEBHOOK_SECRET}, if it is set.",
    )
    drain: float = option(30.0, "Seconds that requests have to end after SIGTERM.", gt=0)


@serve_app.callback()
def main() -> None:
    """Serve a trained model behind OpenAI's API, and give out the keys for it."""


def serve(config: ServeConfig) -> None:
    """Serve a trained model behind OpenAI's API: /v1/chat/completions, /v1/completions and /v1/models.

    The engine is `transformers serve`, a child process that is watched and restarted, or the --upstream. In front of it
    is a gateway with keys, limits, time-outs and a queue. Make a key first: rlhf serve keys add NAME. Needs the extra
    serve. Stop it with SIGTERM or Ctrl-C: what runs is still answered.
    """
    keys = None if config.no_keys else KeyFile(config.keys)
    if keys is None and not is_loopback(config.host):
        fail(f"--no-keys with --host {config.host}: everybody in the network could use the model; make keys instead")
    if keys is not None and not any(key.is_live(datetime.now(UTC)) for key in keys.list()):
        what = f"no key in {config.keys} works any more" if keys.list() else f"there is no key in {config.keys}"
        fail(f"{what}: make one, rlhf serve keys add NAME, or give --no-keys")
    if config.review_share and config.store is None:
        fail(f"--review-share {config.review_share} needs a --store to put the completions into")
    console = Console(stderr=True)
    with console.status("loading"):
        start = _import("start")
    with tempfile.TemporaryDirectory(prefix="rlhf-serve-") as folder:
        start.serve(config, keys, Path(folder), read_api_key(UPSTREAM_KEY), os.environ.get(WEBHOOK_SECRET))


def _import(module: str) -> Any:
    """Import a module of `agents.serving`, or say what to install."""
    package = f"{__package__.rpartition('.')[0]}.serving"
    try:
        return import_module(f"{package}.{module}")
    except ImportError as error:
        missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__  # the feedback store names [web]
        if not isinstance(missing, ModuleNotFoundError) or (missing.name or "").startswith((package, "rlhf_envs")):
            raise
        fail(f"rlhf serve needs {missing.name}: pip install 'rlhf-envs[serve]'")


class AddKeyConfig(Flags):
    """Hold the flags of `rlhf serve keys add`."""

    boxes = False

    name: str = argument("Whose key it is.")
    keys: str = option(KEYS, "File of the keys.")
    scope: list[Scope] = option(
        ["completions", "feedback"], "What the key may do: completions, feedback, metrics or admin; repeat."
    )
    days: float | None = option(None, "Days after which it stops working; never by default.", gt=0)
    per_minute: int | None = option(None, "Requests per minute; the server's limit by default.", gt=0)
    at_once: int | None = option(None, "Requests at once; the server's limit by default.", gt=0)
    consent: bool = option(False, "This client's users agree that a sample of their requests is kept for review.")


def add_key(config: AddKeyConfig) -> None:
    """Make a key and print it. It is shown this once: the file has its hash alone.

    A server that runs knows it at once.
    """
    key, secret = KeyFile(config.keys).add(
        config.name,
        config.scope,
        days=config.days,
        per_minute=config.per_minute,
        at_once=config.at_once,
        consent=config.consent,
    )
    typer.echo(f"key {key.id} of {key.name}, for {', '.join(key.scopes)}, in {config.keys}", err=True)
    typer.echo(secret)


class ListKeysConfig(Flags):
    """Hold the flags of `rlhf serve keys list`."""

    boxes = False

    keys: str = option(KEYS, "File of the keys.")


def list_keys(config: ListKeysConfig) -> None:
    """List the keys: whose they are, what they may do, and whether they work."""
    rows = [
        [
            key.id,
            key.name,
            ", ".join(key.scopes),
            f"{key.created:%Y-%m-%d}",
            _state(key),
        ]
        for key in KeyFile(config.keys).list()
    ]
    table = make_table(["id", "name", "scopes", "made", "state"], rows, left=5, no_wrap=("id",), typed="name")
    Console().print(table, crop=False)


def _state(key: ApiKey) -> str:
    """Return whether a key works, and until when."""
    if key.revoked:
        return f"revoked {key.revoked:%Y-%m-%d}"
    if key.expires:
        return f"{'works until' if key.is_live(datetime.now(UTC)) else 'expired'} {key.expires:%Y-%m-%d %H:%M}"
    return "works"


class RevokeKeyConfig(Flags):
    """Hold the flags of `rlhf serve keys revoke`."""

    boxes = False

    name: str = argument("Id of a key, or the name whose keys are all revoked.")
    keys: str = option(KEYS, "File of the keys.")


def revoke_key(config: RevokeKeyConfig) -> None:
    """Revoke a key. A server that runs refuses the next request with it."""
    n = KeyFile(config.keys).revoke(config.name)
    typer.echo(f"revoked {n} key{'s' if n != 1 else ''} of {config.name}")


add_command(serve_app, ServeConfig, "run")(serve)
add_command(keys_app, AddKeyConfig, "add")(add_key)
add_command(keys_app, ListKeysConfig, "list")(list_keys)
add_command(keys_app, RevokeKeyConfig, "revoke")(revoke_key)
