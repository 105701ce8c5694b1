// The training: after each answer, whether it was right and why.

import { call } from "./api.js";
import { build } from "./nodes.js";
import { ownAnswers } from "./questions.js";
import { keyName, t } from "./words.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** Say a gold question's answer in words, as it was shown. */
function inWords(task, expected) {
  const place = (index) => task.completions.findIndex((completion) => completion.index === index);
  switch (task.kind) {
    case "pairwise":
      return expected.choice === null ? t("tie_name") : t("is_better", { side: LETTERS[place(expected.choice)] });
    case "ranking":
      return expected.order.map((index) => place(index) + 1).join(" > ");
    case "rating":
      return String(expected.rating);
    case "thumbs":
      return t(expected.up ? "good" : "bad");
    case "flags":
      return expected.harms.length ? expected.harms.join(", ") : t("no_harm");
    default:
      return expected.text;
  }
}

function line(tag, text, className = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

/** Send an answer of the training and show what came of it. Return the dialog, which closes when the person has read it. */
export async function answerTraining(task, { value, seconds, answers, version }, trouble) {
  const path = `/api/training/${task.training.attempt}/${task.id}`;
  const result = await call("POST", path, { value, seconds, answers, version }, trouble);
  const dialog = document.createElement("dialog");
  dialog.id = "training-result";
  dialog.dataset.right = String(result.is_right);
  dialog.setAttribute("aria-labelledby", "training-title");
  const title = line("h2", t(result.is_right ? "training_right" : "training_wrong"));
  title.id = "training-title";
  const why = document.createElement("div");
  why.className = "document text rendered";
  why.dir = "auto";
  why.append(build(result.nodes, 3));
  dialog.append(title);
  if (!result.is_right) {
    if (task.kind !== "questions") dialog.append(line("p", t("training_expected", { answer: inWords(task, result.expected) })));
    const own = ownAnswers(task, result.expected.answers ?? {});
    if (own.length) {
      const list = document.createElement("ul");
      list.className = "expected";
      list.append(...own.map((words) => line("li", words)));
      dialog.append(line("p", t("training_expected_own")), list);
    }
  }
  dialog.append(why, line("p", t("training_score", { right: result.n_right, n: result.done }), "soft"));
  if (result.outcome) dialog.append(line("p", t(`training_${result.outcome}`), "outcome"));
  const go = line("button", t("next"), "primary");
  go.append(" ", line("kbd", keyName("Enter")));
  go.addEventListener("click", () => dialog.close());
  const form = document.createElement("form");
  form.method = "dialog";
  form.append(go);
  dialog.append(form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  go.focus();
  return dialog;
}
