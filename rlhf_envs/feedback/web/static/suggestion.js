// What a model would have answered, in words. It comes with the receipt of the annotator's own answer, never before.

import { panelName } from "./kinds.js";
import { t } from "./words.js";

/** Return the words for a suggestion about the task that was just answered, or "" without one. */
export function suggestionWords(suggestion, task) {
  if (!suggestion) return "";
  const { source, value } = suggestion;
  const name = (index) => panelName(task.kind, task.completions.findIndex((shown) => shown.index === index), task.completions.length);
  const answer = {
    pairwise: () => (value.choice === null ? t("suggestion_tie") : t("suggestion_better", { name: name(value.choice) })),
    ranking: () => value.order.map(name).join(" > "),
    rating: () => String(value.rating),
    thumbs: () => t(value.up ? "suggestion_good" : "suggestion_bad"),
    flags: () => value.harms.join(", ") || "–",
    correction: () => value.text.slice(0, 80),
  }[task.kind]();
  return t(suggestion.same ? "suggestion_same" : "suggestion_other", { source, answer });
}
