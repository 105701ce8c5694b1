#!/bin/sh
# reasoning-gym 0.1.25: `family_relationships` has the answer "mother-in-law" for somebody's daughter-in-law.
#
# Expected: "Edward is the son of Elizabeth, and is married to Sarah. What is Sarah to Elizabeth?" has the answer
# "daughter-in-law".
# What happens: the answer is "mother-in-law", what Elizabeth is to Sarah, and the verifier gives the right word 0.
# "daughter-in-law" and "son-in-law" are not among the answers that the dataset has.
# Source: reasoning_gym/graphs/family_relationships.py, `_get_relationship_question`, the branch for in-laws.
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/pip install --quiet --no-compile --disable-pip-version-check reasoning-gym==0.1.25
venv/bin/python - <<'PY'
import re

from reasoning_gym import create_dataset

dataset = create_dataset("family_relationships", seed=0, size=400)
asked = re.compile(r"What is (\w+) to (\w+)\?|How is (\w+) related to (\w+)\?|What relation is (\w+) to (\w+)\?")
seen = wrong = 0
for entry in dataset:
    if not entry["answer"].endswith("in-law"):
        continue
    who, whose = [name for name in asked.search(entry["question"]).groups() if name]
    # "A is married to B. They have a child called C.": the parents of each child.
    parents, couple = {}, ()
    for first, second, children in re.findall(
        r"(\w+) is married to (\w+)\.|They have (?:a child|children) called ([\w ,]+)\.", entry["question"]
    ):
        if first:
            couple = (first, second)
        else:
            parents |= dict.fromkeys(re.findall(r"[A-Z]\w+", children), couple)
    couples = re.findall(r"(\w+) is married to (\w+)\.", entry["question"])
    spouse = {a: b for pair in couples for a, b in (pair, pair[::-1])}
    seen += 1
    wrong += whose in parents.get(spouse.get(who), ())  # whose is the parent-in-law: who is the child-in-law
print(f"{seen} questions about in-laws; in {wrong} the person asked about is the child-in-law")
first = next(entry for entry in dataset if entry["answer"].endswith("in-law"))
print(first["question"], "->", first["answer"])
print("score of the right word:", dataset.score_answer("daughter-in-law", first))
assert seen > 20 and wrong == seen
PY
