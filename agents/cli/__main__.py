"""Run the command line: `python -m agents.cli`."""

from . import app

app(prog_name="rlhf")
