#!/bin/sh
# argilla 2.8.0: `import argilla` fails after `pip install argilla`, because it does not declare `requests`.
#
# Expected: what a package imports at its import is among its dependencies.
# What happens: nothing else in a fresh environment brings `requests` (huggingface-hub 2.4.0 does not):
# ModuleNotFoundError. `pip install requests` mends it.
# Source: argilla/settings/_field.py, line 18; Requires-Dist in the package's metadata.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check argilla==2.8.0 datasets==5.2.0 huggingface-hub==2.4.0
venv/bin/python - <<'PY'
import traceback
from importlib.metadata import requires, version

print("argilla", version("argilla"), "huggingface-hub", version("huggingface-hub"))
assert not [line for line in requires("argilla") if line.startswith("requests")]
try:
    import argilla
except ModuleNotFoundError as error:
    where = traceback.extract_tb(error.__traceback__)[-1]
    print(f"{where.filename.partition('site-packages/')[2]}:{where.lineno}: {error}")
    assert error.name == "requests"
else:
    raise AssertionError(f"argilla {argilla.__version__} was imported")
PY
