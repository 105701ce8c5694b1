// The six kinds of feedback. Each builds its controls and returns
//   keys      key -> [description, function]
//   send      the function behind Enter, for kinds where one key is no complete answer
//   draft     returns the unfinished answer, to be kept; restore shows it again
// `done(value)` submits the answer.

import { hidesSomething, visible } from "./text.js";

const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";

export const QUESTIONS = {
  pairwise: "Which completion is better?",
  ranking: "Rank the completions, best first",
  rating: "How good is the completion?",
  thumbs: "Is the completion good?",
  correction: "Write a better version",
  flags: "Which harms does the completion have?",
};

/** Return the heading of the i-th panel. A single completion has none. */
export function panelName(kind, i, n) {
  if (n === 1) return "";
  return kind === "ranking" ? String(i + 1) : LETTERS[i];
}

function element(tag, className = "", ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function keyed(key, label, onClick, className = "") {
  const button = element("button", `choice ${className}`);
  button.type = "button";
  if (key) button.append(element("kbd", "", key));
  button.append(element("span", "", label));
  button.addEventListener("click", onClick);
  return button;
}

function sendButton(label, onClick, key = "Enter") {
  const button = element("button", "primary send", label, " ", element("kbd", "", key));
  button.type = "button";
  button.addEventListener("click", onClick);
  return button;
}

/** Return the key of the i-th choice: 1 to 9, then 0. Further choices have none. */
const placeKey = (i) => (i < 10 ? String((i + 1) % 10) : null);

const NOTHING = { draft: () => null, restore: () => {}, send: null };

function pairwise({ task, controls, done }) {
  const keys = {};
  const words = { 3: "much better", 2: "better", 1: "slightly better" };
  const row = element("div", "choices pairwise");
  const add = (key, side, strength) => {
    const choice = side === null ? null : task.completions[side].index;
    const label = side === null ? "tie" : words[strength];
    const name = side === null ? "Tie" : `${LETTERS[side]} is ${label}`;
    const act = () => done(choice === null ? { choice } : { choice, strength }, name);
    const button = keyed(key, label, act, side === null ? "tie" : `side-${"ab"[side]} strength-${strength}`);
    button.setAttribute("aria-label", name);
    row.append(button);
    keys[key] = [name, act];
  };
  row.append(element("span", "caption side-a", "A is"), element("span", "caption"), element("span", "caption side-b", "B is"));
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
  const show = () => {
    panels.forEach((panel, i) => {
      const place = order.indexOf(i);
      panel.dataset.place = place < 0 ? "" : String(place + 1);
      panel.querySelector(".place").textContent = place < 0 ? "" : `place ${place + 1}`;
      panel.querySelector(".pick span").textContent = place < 0 ? "Pick" : "Unpick";
    });
    line.textContent = order.length ? `Best first: ${order.map((i) => i + 1).join(" > ")}` : "Pick the best, then the next best.";
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
    if (order.length < n) return say(`Rank all ${n} completions first.`);
    done({ order: order.map((i) => task.completions[i].index) }, `Ranked ${order.map((i) => i + 1).join(" > ")}`);
  };
  const send = sendButton("Send", submit);
  panels.forEach((panel, i) => {
    const key = placeKey(i);
    const button = panel.querySelector(".pick");
    button.hidden = false;
    button.append(element("span"));
    if (key) button.append(element("kbd", "", key));
    button.addEventListener("click", () => pick(i));
    if (key) keys[key] = [`Pick or unpick completion ${i + 1} as the next best`, () => pick(i)];
  });
  keys.Backspace = ["Take back the last pick", () => { order.splice(order.length === n ? n - 2 : -1); show(); changed(); }];
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
    const act = () => done({ rating: value }, `Rated ${value}`);
    const end = value === low ? "worst" : value === high ? "best" : "";
    const button = keyed(direct ? null : key, direct ? element("kbd", "", key) : String(value), act);
    button.append(element("small", "", end));
    button.setAttribute("aria-label", `Rate ${value}`);
    row.append(button);
    if (key) keys[key] = [`Rate ${value}`, act];
  }
  controls.append(row);
  return { ...NOTHING, keys };
}

function thumbs({ controls, done }) {
  const keys = {};
  const row = element("div", "choices thumbs");
  for (const [key, up, label] of [["1", true, "Good"], ["2", false, "Bad"]]) {
    const act = () => done({ up }, label);
    row.append(keyed(key, label, act, up ? "good" : "bad"));
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
  const head = element("h2", "", "Your version ", element("kbd", "", "e"));
  const preview = element("div", "text preview");
  const show = () => {
    const odd = editor.value.length < 50000 && hidesSomething(editor.value);
    preview.replaceChildren(...(odd ? [visible(editor.value)] : []));
    preview.hidden = !odd;
  };
  editor.setAttribute("aria-label", "Your version");
  editor.addEventListener("input", () => { show(); changed(); });
  extra.append(element("section", "panel", head, editor, preview));
  const submit = () => {
    if (!editor.value.trim()) return say("Your version is empty: write one, or skip.");
    if (editor.value === original.replaceAll("\r\n", "\n")) return say("Nothing is changed yet: edit the text, or skip.");
    done({ text: editor.value }, "Correction sent");
  };
  const hint = element("div", "order", "Edit the text until it is good.");
  controls.append(element("div", "choices sendable", hint, sendButton("Send", submit, "Ctrl Enter")));
  show();
  return {
    keys: { e: ["Edit your version", () => editor.focus()] },
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
    if (key) keys[key] = [`Flag ${harm}, or remove the flag`, () => { box.checked = !box.checked; label(); changed(); }];
    return box;
  });
  const chosen = () => settings.harms.filter((_, i) => boxes[i].checked);
  const submit = () => done({ harms: chosen() }, chosen().length ? `Flagged ${chosen().join(", ")}` : "No harm");
  const send = sendButton("No harm", submit);
  const label = () => { send.firstChild.data = chosen().length ? `Send ${chosen().length}` : "No harm"; };
  controls.append(element("div", "choices sendable", row, send));
  return {
    keys,
    send: submit,
    draft: () => (chosen().length ? { harms: chosen() } : null),
    restore: (draft) => { boxes.forEach((box, i) => { box.checked = draft.harms.includes(settings.harms[i]); }); label(); },
  };
}

export const KINDS = { pairwise, ranking, rating, thumbs, correction, flags };
