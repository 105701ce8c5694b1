"""Run the command line: `python -m agents` is `rlhf`."""

from .cli import app

app(prog_name="rlhf")
