#!/bin/sh
# Markdown 3.11.3 (Python-Markdown): a bar in a table's code cell is shown with its backslash.
#
# Expected: "`x \| y`" in a cell shows the code "x | y", as GitHub's Markdown and markdown-it do: the backslash only says
# that no new cell begins.
# What happens: the code is "x \| y". Without the backslash the row gets another cell, so no spelling shows a bar in
# code; `<code>x &#124; y</code>` does. Outside of code the bar is right, but `\~`, `\:` and `\$` keep their backslashes
# too, which CommonMark takes away. TensorBoard shows texts by this library.
# Source: markdown/extensions/tables.py, `_split`; markdown/core.py, `ESCAPED_CHARS`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check markdown==3.11.3 markdown-it-py==4.3.0
venv/bin/python - <<'PY'
import re
from importlib.metadata import version

from markdown import markdown
from markdown_it import MarkdownIt

print(*(f"{name} {version(name)}" for name in ("markdown", "markdown-it-py")))
other = MarkdownIt("commonmark").enable("table")
cells = {"`x \\| y`": "x | y", "x \\| y": "x | y", "x \\~ y": "x ~ y", "x \\: y": "x : y"}
seen = {}
for cell, meant in cells.items():
    table = f"| a |\n|---|\n| {cell} |\n"
    pages = markdown(table, extensions=["tables"]), other.render(table)
    shown = [re.sub("<.*?>", "", re.search("<td>(.*?)</td>", page)[1]) for page in pages]
    print(f"{cell:10} Python-Markdown: {shown[0]:8} markdown-it: {shown[1]}")
    seen[cell] = shown[0]
    assert shown[1] == meant
assert seen == {"`x \\| y`": "x \\| y", "x \\| y": "x | y", "x \\~ y": "x \\~ y", "x \\: y": "x \\: y"}
assert "<code>x &#124; y</code>" in markdown("| a |\n|---|\n| <code>x &#124; y</code> |\n", extensions=["tables"])
PY
