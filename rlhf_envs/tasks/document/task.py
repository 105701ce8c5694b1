"""Define the document task: fill a template from facts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlhf_envs.tasks.base import Task
from rlhf_envs.tasks.document.scoring import DocumentReward, edit_similarity, keeps_form, read_document
from rlhf_envs.tasks.document.templates import fill, generate_documents, slots_of

__all__ = ["Document"]


class Document(Task):
    """Fill the slots of a letter, a bill or a notice with the facts that belong there, and keep its form.

    ## Description
    The prompt has a template with slots in brackets and a list of facts, one or two of which are not needed. The agent
    writes the document. There are 2,000 generated prompts for training, 200 for validation and 400 for tests. Test
    templates are of sentences whose form no training template has. `rlhf sft rlhf/Document-v0 start
    --epochs 1.5 --learning-rate 1e-3` teaches the form.

    ## Observation space
    `input_ids` and `attention_mask`, (200,) each: a prompt of up to 136 tokens and up to 64 new ones.

    ## Action space
    `Discrete(V)` with the vocabulary of the `model`, by default the embedded "tiny".

    ## Reward
    The share of slots that are right, times how much of the form is kept. The words are aligned with those of the right
    document; a slot is right if its fact stands between its neighbours and nothing else does. The form kept is the
    Dice coefficient of the template's own words. So the template itself earns 0, and a fact in the wrong place nothing.
    Case and space do not count.

    Evaluations report `exact_slots` (whether all slots are right), `form_kept` (whether the text is the template with
    something in every slot) and `edit_similarity` (1 less the share of characters to change) beside it.

    ## Episode end
    EOS, or 64 new tokens.

    ## Arguments
    `gymnasium.make("rlhf/Document-v0")` needs none. `data` takes templates of your own: `prompt`, the template, such as
    "dear [name], ...", and `facts`, an object such as `{"name": "john"}` (in a table as JSON). It takes the other
    arguments of `TextGenerationEnv`.

    ## Version history
    v0: the first version.
    """

    name = "document"
    start = "--epochs 1.5 --learning-rate 1e-3"
    max_prompt_tokens, max_new_tokens = 136, 64

    def rows(self, split: str, data: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
        """Return the rows of a split, or of `data`, with the facts in the prompt.

        Raises:
            ValueError: there is no such split; or a template has no slot, or a slot no fact.
        """
        if data is None:
            return [self._row(row) for row in generate_documents(split)]
        return [self._row(self._read(row, number)) for number, row in enumerate(data)]

    def _row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        facts = ", ".join(f"{slot} = {value}" for slot, value in row["facts"].items())
        prompt = f"Template: {row['template']}\nFacts: {facts}\nText:"
        return {**row, "prompt": prompt, "reference": f" {fill(row['template'], row['facts'])}"}

    def _read(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        """Return a user's row with `template` and `facts`, after checking both."""
        where = f"task {self.name!r}: row {number}"
        template, facts = str(row.get("template") or row["prompt"]), row.get("facts")
        if "facts" not in row:
            raise ValueError(
                f"{where} has no column 'facts': it has {', '.join(map(repr, row))}; rename one, "
                "columns={'facts': 'fields'} (--column facts:fields)"
            )
        if isinstance(facts, str):
            try:
                facts = json.loads(facts)
            except ValueError as error:
                raise ValueError(f"{where}: facts is {row['facts']!r}, which is no JSON: {error}") from None
        if not isinstance(facts, Mapping):
            raise ValueError(f"{where}: facts is {facts!r}; it must be an object such as {{'name': 'john'}}")
        facts = {str(slot): str(value) for slot, value in facts.items() if value is not None}
        if not (slots := slots_of(template)):
            raise ValueError(f"{where}: the template {template[:60]!r} has no slot, such as [name]")
        if missing := [slot for slot in slots if not facts.get(slot, "").strip()]:
            raise ValueError(f"{where}: the slot [{missing[0]}] has no fact; there are {', '.join(facts) or 'none'}")
        return {**row, "template": template, "facts": facts}

    def reward(self, max_new_tokens: int) -> Callable[..., Any]:
        """Return the share of right slots times the form kept."""
        return DocumentReward()

    def metrics(
        self, prompts: list[str], completions: list[str], columns: Mapping[str, list[Any]]
    ) -> dict[str, Sequence[float]]:
        """Return `exact_slots`, `form_kept` and `edit_similarity`."""
        rows = list(zip(completions, columns["template"], columns["facts"], strict=True))
        return {
            "exact_slots": [float(read_document(text, template, facts).slots == 1) for text, template, facts in rows],
            "form_kept": [float(keeps_form(text, template)) for text, template, _ in rows],
            "edit_similarity": [*map(edit_similarity, completions, columns["reference"])],
        }
