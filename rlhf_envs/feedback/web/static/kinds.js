// The kinds of feedback. Each builds its controls and returns
//   keys      key -> [description, function]
//   send      the function behind Enter, for kinds where one key is no complete answer
//   draft     returns the unfinished answer, to be kept; restore shows it again
// `done(value)` submits the answer.

import { hidesSomething, visible } from "./text.js";
import { keyName, t } from "./words.js";

export const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

/** Return the heading of the i-th panel. A single completion has none. */
export function panelName(kind, i, n) {
  if (n === 1) return "";
  return kind === "ranking" ? String(i + 1) : LETTERS[i];
}

export function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export function keyed(key, label, onClick, className = "") {
  const button = element("button", `choice ${className}`);
  button.type = "button";
  if (key) button.append(element("kbd", "", key));
  button.append(element("span", "", label));
  button.addEventListener("click", onClick);
  return button;
}

function sendButton(label, onClick, key = "Enter") {
  const button = element("button", "primary send", label, " ", element("kbd", "", keyName(key)));
  button.type = "button";
  button.addEventListener("click", onClick);
  return button;
}

/** Return the key of the i-th choice: 1 to 9, then 0. Further choices have none. */
export const placeKey = (i) => (i < 10 ? String((i + 1) % 10) : null);

const NOTHING = { draft: () => null, restore: () => {}, send: null };

function pairwise({ task, controls, done }) {
  const keys = {};
  const words = { 3: "much_better", 2: "better", 1: "slightly_better" };
  const row = element("div", "choices pairwise");
  const add = (key, side, strength) => {
    const choice = side === null ? null : task.completions[side].index;
    const label = t(side === null ? "tie" : words[strength]);
    const name = side === null ? t("tie_name") : t(`is_${words[strength]}`, { side: LETTERS[side] });
    const act = () => done(choice === null ? { choice } : { choice, strength }, name);
    const button = keyed(key, label, act, side === null ? "tie" : `side-${"ab"[side]} strength-${strength}`);
    button.title = name; // a description: the name is what one sees, so that it can be spoken
    button.dataset.value = JSON.stringify(choice === null ? { choice } : { choice, strength });
    row.append(button);
    keys[key] = [name, act];
  };
  const caption = (side) => element("span", `caption side-${"ab"[side]}`, t("side_caption", { side: LETTERS[side] }));
  row.append(caption(0), element("span", "caption"), caption(1));
  [3, 2, 1].forEach((strength, i) => add(String(i + 1), 0, strength));
  add("4", null, 0);
  [1, 2, 3].forEach((strength, i) => add(String(i + 5), 1, strength));
  controls.append(row);
  return { ...NOTHING, keys };
}

function ranking({ task, panels, controls, done, changed, say }) {
  const order = []; // indices of the panels, best first
  const keys = {};
  const n = task.completions.length;
  const line = element("div", "order");
  const shown = () => order.map((i) => i + 1).join(" > ");
  const show = () => {
    panels.forEach((panel, i) => {
      const place = order.indexOf(i);
      panel.dataset.place = place < 0 ? "" : String(place + 1);
      panel.querySelector(".place").textContent = place < 0 ? "" : t("place", { n: place + 1 });
      panel.querySelector(".pick span").textContent = t(place < 0 ? "pick" : "unpick");
    });
    line.textContent = order.length ? t("best_first", { order: shown() }) : t("pick_best");
    send.disabled = order.length < n;
  };
  const pick = (i) => {
    const place = order.indexOf(i);
    if (place >= 0) order.splice(place, 1);
    else order.push(i);
    if (order.length === n - 1 && place < 0) order.push([...Array(n).keys()].find((j) => !order.includes(j)));
    show();
    changed();
  };
  const submit = () => {
    if (order.length < n) return say(t("rank_all", { n }));
    done({ order: order.map((i) => task.completions[i].index) }, t("ranked", { order: shown() }));
  };
  const send = sendButton(t("send"), submit);
  panels.forEach((panel, i) => {
    const key = placeKey(i);
    const button = panel.querySelector(".pick");
    button.hidden = false;
    button.append(element("span"));
    if (key) button.append(element("kbd", "", key));
    button.addEventListener("click", () => pick(i));
    if (key) keys[key] = [t("key_pick", { n: i + 1 }), () => pick(i)];
  });
  keys.Backspace = [t("key_unpick_last"), () => { order.splice(order.length === n ? n - 2 : -1); show(); changed(); }];
  controls.append(element("div", "choices sendable", line, send));
  show();
  return {
    keys,
    send: submit,
    draft: () => (order.length ? { order: [...order] } : null),
    restore: (draft) => { order.splice(0, n, ...draft.order); show(); },
  };
}

function rating({ settings, controls, done }) {
  const keys = {};
  const [low, high] = settings.scale;
  const row = element("div", "choices rating");
  for (let value = low; value <= high; value += 1) {
    const direct = low >= 0 && high <= 9;
    const key = direct ? String(value) : placeKey(value - low);
    const act = () => done({ rating: value }, t("rated", { n: value }));
    const end = value === low ? t("worst") : value === high ? t("best") : "";
    const button = keyed(direct ? null : key, direct ? element("kbd", "", key) : String(value), act);
    button.append(element("small", "", end));
    button.title = t("rate", { n: value });
    button.dataset.value = JSON.stringify({ rating: value });
    row.append(button);
    if (key) keys[key] = [t("rate", { n: value }), act];
  }
  controls.append(row);
  return { ...NOTHING, keys };
}

function thumbs({ controls, done }) {
  const keys = {};
  const row = element("div", "choices thumbs");
  for (const [key, up, label] of [["1", true, t("good")], ["2", false, t("bad")]]) {
    const act = () => done({ up }, label);
    const button = keyed(key, label, act, up ? "good" : "bad");
    button.dataset.value = JSON.stringify({ up });
    row.append(button);
    keys[key] = [label, act];
  }
  controls.append(row);
  return { ...NOTHING, keys };
}

function correction({ task, extra, controls, done, changed, say }) {
  const original = task.completions[0].text;
  const editor = element("textarea");
  editor.id = "editor";
  editor.value = original;
  editor.spellcheck = true;
  editor.dir = "auto";
  const head = element("h2", "", t("your_version"), " ", element("kbd", "", "e"));
  const preview = element("div", "text preview");
  const show = () => {
    const odd = editor.value.length < 50000 && hidesSomething(editor.value);
    preview.replaceChildren(...(odd ? [visible(editor.value)] : []));
    preview.hidden = !odd;
  };
  editor.setAttribute("aria-label", t("your_version"));
  editor.addEventListener("input", () => { show(); changed(); });
  extra.append(element("section", "panel", head, editor, preview));
  const submit = () => {
    if (!editor.value.trim()) return say(t("version_empty"));
    if (editor.value === original.replaceAll("\r\n", "\n")) return say(t("version_unchanged"));
    done({ text: editor.value }, t("correction_sent"));
  };
  const hint = element("div", "order", t("edit_hint"));
  controls.append(element("div", "choices sendable", hint, sendButton(t("send"), submit, "Ctrl Enter")));
  show();
  return {
    keys: { e: [t("key_edit"), () => editor.focus()] },
    send: submit,
    draft: () => (editor.value === original ? null : { text: editor.value }),
    restore: (draft) => { editor.value = draft.text; show(); },
  };
}

function flags({ settings, controls, done, changed }) {
  const keys = {};
  const row = element("div", "choices flags");
  const boxes = settings.harms.map((harm, i) => {
    const key = placeKey(i);
    const box = element("input");
    box.type = "checkbox";
    box.addEventListener("change", () => { label(); changed(); });
    const chip = element("label", "choice", box);
    if (key) chip.append(element("kbd", "", key));
    chip.append(element("span", "", harm));
    row.append(chip);
    if (key) keys[key] = [t("key_flag", { harm }), () => { box.checked = !box.checked; label(); changed(); }];
    return box;
  });
  const chosen = () => settings.harms.filter((_, i) => boxes[i].checked);
  const submit = () => done({ harms: chosen() }, chosen().length ? t("flagged", { harms: chosen().join(", ") }) : t("no_harm"));
  const send = sendButton(t("no_harm"), submit);
  const label = () => { send.firstChild.data = chosen().length ? t("send_n", { n: chosen().length }) : t("no_harm"); };
  controls.append(element("div", "choices sendable", row, send));
  return {
    keys,
    send: submit,
    draft: () => (chosen().length ? { harms: chosen() } : null),
    restore: (draft) => { boxes.forEach((box, i) => { box.checked = draft.harms.includes(settings.harms[i]); }); label(); },
  };
}

const questions = () => ({ ...NOTHING, keys: {} }); // the project's own questions only

export const KINDS = { pairwise, ranking, rating, thumbs, correction, flags, questions };
