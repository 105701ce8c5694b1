"""Serve the tutor as an OpenEnv package: `uvicorn server.app:app --port 8000`, from the folder of `openenv.yaml`."""

from rlhf_envs.interop.openenv.server import create_app

app = create_app("rlhf/Tutor-v0")
