#!/bin/sh
# mdit-py-plugins 0.7.0: a `$$` block that may end a list or a quotation stands in the page up to four times.
#
# Expected: once. markdown-it asks a block rule with `silent=True` whether it would end the list or quotation above;
# a rule that is asked so leaves nothing behind. A code fence does so, and `texmath` of the same package looks at `silent`.
# What happens: `dollarmath` registers its block rule without `alt`, so that it is never asked, and a formula on the line
# below a paragraph, list or quotation is text of that paragraph. Give the rule the `alt` of a code fence: the
# formula is added each time the rule is asked, inside of the list, and again when it is run, behind it, since the
# rule looks at `silent` nowhere.
# Source: mdit_py_plugins/dollarmath/index.py, `math_block_dollar` and `dollarmath_plugin`.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check markdown-it-py==4.3.0 mdit-py-plugins==0.7.0
venv/bin/python - <<'PY'
from importlib.metadata import version

from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.dollarmath.index import math_block_dollar

print(*(f"{name} {version(name)}" for name in ("markdown-it-py", "mdit-py-plugins")))
stock, may_interrupt = (MarkdownIt("commonmark").use(dollarmath_plugin) for _ in range(2))
alt = ["paragraph", "reference", "blockquote", "list"]
may_interrupt.block.ruler.at("math_block", math_block_dollar(), {"alt": alt})

blocks = {"math_block": "$$\nx\n$$\n", "fence": "```\nx\n```\n"}
seen = {}
for above in ("", "a\n", "- a\n", "> a\n"):
    for name, md in (("stock", stock), ("with alt", may_interrupt)):
        n = {kind: [token.type for token in md.parse(above + text)].count(kind) for kind, text in blocks.items()}
        print(f"below {above!r:7} {name:8}: {n['math_block']} formulas, {n['fence']} code blocks")
        assert n["fence"] == 1
        seen[above, name] = n["math_block"]
assert [seen[above, "stock"] for above in ("", "a\n", "- a\n", "> a\n")] == [1, 0, 0, 0]
assert [seen[above, "with alt"] for above in ("", "a\n", "- a\n", "> a\n")] == [1, 3, 4, 2]
PY
