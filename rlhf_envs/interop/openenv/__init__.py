"""Serve text environments over OpenEnv, and take its environments as tasks. Needs the extra `openenv`, when it is used.

- `server`: any `rlhf/<Task>-v0` as an OpenEnv server (`rlhf serve-env`).
- `task`: an OpenEnv server as `rlhf/OpenEnv-v0`, with `schema` and `sessions`.
- `trl`: a served environment as TRL's `environment_factory`.
"""
