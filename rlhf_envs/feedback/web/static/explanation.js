// What a reward model's score of each completion rests on. It comes only when it is asked for, since the server keeps that it was seen.

import { call } from "./api.js";
import { element, panelName } from "./kinds.js";
import { visible } from "./text.js";
import { number, t } from "./words.js";

const MOST = 5; // words in the lists below a text

const signed = (value) => `${value > 0 ? "+" : "\u2212"}${number(Math.abs(value))}`;

/** Return a text with its marks. Offsets count characters (code points). */
function marked(text, marks, largest) {
  const characters = [...text];
  const body = element("div", "text explained");
  body.dir = "auto";
  body.tabIndex = 0; // so that keys can scroll it
  body.setAttribute("role", "region");
  let from = 0;
  for (const { start, end, value } of marks) {
    body.append(visible(characters.slice(from, start).join("")));
    const made = element("mark", value > 0 ? "raises" : "lowers", visible(characters.slice(start, end).join("")));
    made.dataset.strength = String(Math.max(1, Math.ceil(3 * (Math.abs(value) / largest))));
    made.title = signed(value);
    body.append(made);
    from = end;
  }
  body.append(visible(characters.slice(from).join("")));
  return body;
}

/** Say in words which pieces count most, for those who do not see the marks. */
function inWords(text, marks, raises) {
  const characters = [...text];
  const most = marks.filter(({ value }) => value > 0 === raises).sort((a, b) => Math.abs(b.value) - Math.abs(a.value)).slice(0, MOST);
  if (!most.length) return [];
  // Each word in an element of its own direction, so that its number stays beside it.
  const words = most.flatMap(({ start, end, value }, i) => [
    i ? ", " : "", element("bdi", "", visible(characters.slice(start, end).join("").trim())), ` (${signed(value)})`,
  ]);
  const [before, after] = t(raises ? "explanation_raised" : "explanation_lowered", { words: "\n" }).split("\n");
  return [element("p", "soft", before, ...words, after)];
}

/** Ask for the explanation of a task and show it. Return the dialog. */
export async function showExplanation(task, trouble) {
  const { source, completions } = await call("POST", `/api/tasks/${task.id}/explanation`, undefined, trouble);
  const largest = Math.max(...completions.flatMap(({ marks }) => marks.map(({ value }) => Math.abs(value))), 0);
  const dialog = element("dialog", "");
  dialog.id = "explanation";
  dialog.setAttribute("aria-labelledby", "explanation-title");
  const title = element("h2", "", visible(t("explanation_title", { source })));
  title.id = "explanation-title";
  dialog.append(title, element("p", "soft", t("explanation_legend")));
  completions.forEach(({ text, score, marks }, i) => {
    const name = panelName(task.kind, i, completions.length) || t("completion");
    const body = marked(text, marks, largest);
    body.setAttribute("aria-label", name);
    const said = [...inWords(text, marks, true), ...inWords(text, marks, false)];
    const head = element("h3", "", `${name} · ${t("explanation_score", { score: number(score).replace("-", "\u2212") })}`);
    dialog.append(head, body, ...(said.length ? said : [element("p", "soft", t("explanation_nothing"))]));
  });
  const close = element("button", "primary", t("close"), " ", element("kbd", "", t("press_Esc")));
  const form = element("form", "", close);
  form.method = "dialog";
  dialog.append(form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
  dialog.scrollTop = 0; // the button that takes the focus is below the texts
  return dialog;
}
