#!/bin/sh
# typer 0.29.2: its errors are not those of the installed click.
#
# Expected: `except click.ClickException` catches the usage errors of a command that runs with `standalone_mode=False`,
# as it does for click's own commands and as it did while typer was built on the click package.
# What happens: typer carries a click of its own, `typer._click`, and does not ask for the package. Its errors pass by
# such a handler and end the program with a traceback. So do its `Abort` and `Exit`.
# Source: typer/_click/exceptions.py; typer/core.py.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check typer==0.29.2 click==8.5.1
venv/bin/python - <<'PY'
from importlib.metadata import version

import click
import typer

print(*(f"{name} {version(name)}" for name in ("typer", "click")))
app = typer.Typer()


@app.command()
def double(number: int):
    print(2 * number)


@click.command()
@click.argument("number", type=int)
def clicks_double(number):
    print(2 * number)


def caught(command):
    try:
        command.main(["two"], standalone_mode=False)
    except click.ClickException:
        return True
    except Exception as failure:
        print("not caught:", type(failure).__module__, type(failure).__name__)
        return False


found = {"click": caught(clicks_double), "typer": caught(typer.main.get_command(app))}
print("caught by click.ClickException:", found)
assert found == {"click": True, "typer": False}
assert not issubclass(typer.Exit, click.exceptions.Exit) and not issubclass(typer.Abort, click.Abort)
PY
