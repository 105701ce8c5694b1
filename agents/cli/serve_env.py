"""Run the command `rlhf serve-env`: an environment as an OpenEnv server."""

from __future__ import annotations

from typing import Literal

from rlhf_envs.interop.openenv.library import import_openenv
from rlhf_envs.names import import_attribute

from ..training.fields import Pairs, option
from .options import Flags, argument, fail

__all__ = ["ServeEnvConfig", "serve_env"]


class ServeEnvConfig(Flags):
    """Hold the flags of `rlhf serve-env`."""

    env: str = argument("Environment id.")
    host: str = option("127.0.0.1", "Address to listen at. There is no sign-in: whoever reaches it can use the server.")
    port: int = option(8000, "Port; 0 takes a free one.", ge=0, le=65535)
    split: Literal["train", "validation", "test"] = option("train", "Split of episodes that name none.")
    max_sessions: int = option(64, "Sessions that may be open at once.", gt=0)
    env_kwargs: Pairs = option({}, "Arguments of the environment; repeat the flag.")


def serve_env(config: ServeEnvConfig) -> None:
    """Serve an environment over OpenEnv, for its clients, TRL, verifiers and others: texts in, rewards out.

    An action is one string, a whole completion or a turn, and its rewards are those of the Gymnasium environment. Needs
    the extra openenv.
    """
    if twice := sorted(config.env_kwargs.keys() & ServeEnvConfig.model_fields.keys()):
        fail(f"--env-kwargs {twice[0]}:{config.env_kwargs[twice[0]]}: give it as --{twice[0].replace('_', '-')}")
    import_openenv("core.env_server")  # says what to install
    serve = import_attribute("rlhf_envs.interop.openenv.server:serve", "the OpenEnv server")
    serve(config.env, **config.model_dump(exclude={"env", "env_kwargs"}), **config.env_kwargs)
