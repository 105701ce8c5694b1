// The page for final answers: it shows an item with what people answered, takes the final answer and the next item.

import { call } from "../api.js";
import { KINDS, panelName } from "../kinds.js";
import { buildQuestions, markedIn, ownAnswers, placesOf } from "../questions.js";
import { visible } from "../text.js";
import { asked, hideView, showView, viewKeys } from "../view.js";
import { keyName, t } from "../words.js";

const at = (id) => document.getElementById(id);
const say = (text) => { at("notice").textContent = text; };
const trouble = (text) => say(text === null ? "Connected again." : `Trying again: ${text}`);
const STRENGTH = { 3: "much better", 2: "better", 1: "slightly better" };

let item = null;
let keys = {}; // key -> [words, function]
let kind = null;
let form = null; // the project's own questions about the item, null without any
let busy = false;
let names = false;
let place = ""; // the key after which the item on the page was taken
let wanted = new URLSearchParams(location.search).get("item"); // an item that an address asks for

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

/** Return an answer in words. A and B are the panels of this page. */
function inWords(value) {
  if (value === null) return "skipped";
  if ("choice" in value) return value.choice === null ? "tie" : `${"AB"[value.choice]} is ${STRENGTH[value.strength] ?? "better"}`;
  if ("order" in value) return value.order.map((index) => index + 1).join(" > ");
  if ("rating" in value) return String(value.rating);
  if ("up" in value) return value.up ? "good" : "bad";
  if ("harms" in value) return value.harms.join(", ") || "no harm";
  return value.text ?? JSON.stringify(value);
}

/** Return an answer to the question of the kind in words, in a list. Items that ask only the project's questions have none. */
const kindWords = (value) => (value !== null && item.kind === "questions" ? [] : [inWords(value)]);

async function load(after = "") {
  place = after;
  const query = new URLSearchParams(asked());
  query.set("names", names);
  if (wanted !== null) query.set("item", wanted);
  else if (after) query.set("after", after);
  try {
    const state = await call("GET", `/api/adjudication/next?${query}`, undefined, trouble);
    if (state.item === null && after) return load(); // the end: what was put off comes again
    show(state);
  } catch (error) {
    say(error.message);
  }
}

function show(state) {
  item = state.item;
  kind = form = null;
  for (const id of ["controls", "panels", "said", "questions"]) at(id).replaceChildren();
  at("questions").hidden = !item?.questions.length;
  at("comment").value = "";
  at("count").textContent = `${state.left.toLocaleString("en")} items with differing answers wait`;
  document.body.dataset.kind = item?.kind ?? "none";
  at("later").disabled = at("comment").disabled = item === null;
  at("said").hidden = item === null;
  if (item === null) {
    at("question").textContent = "Nothing to adjudicate";
    at("prompt").hidden = true;
    hideView();
    at("panels").append(element("p", "empty", "Answers that differ appear here by themselves when you open the page again."));
  } else {
    at("question").textContent = `Item ${item.id}: which answer is right?`;
    showSaid();
    showPanels(state.settings);
  }
  bindAll();
  form?.attach(kind);
  at("task").setAttribute("aria-busy", "false");
}

/** Bind the keys of the page, of the texts and of the kind, each once, and list them. Labels of a project may have the key b. */
function bindAll() {
  const own = form?.keys() ?? kind?.keys;
  keys = {
    ...(item === null ? {} : { s: ["Leave the item for later", later], c: [t("key_comment"), () => at("comment").focus()] }),
    ...(at("names") && !("b" in (own ?? {})) ? { b: ["Show the names of those who answered, or hide them", toggleNames] } : {}),
    "?": [t("key_keys"), showKeys],
  };
  const submit = form?.submit ?? kind?.send;
  const send = submit ? { Enter: [t("key_send"), submit] } : {};
  for (const [name, [words, act]] of Object.entries({ ...viewKeys(), ...own, ...send })) {
    if (name in keys && form !== null) continue; // as on the annotators' page: a taken key keeps its meaning
    if (name in keys) throw new Error(`the key ${name} is taken by "${keys[name][0]}"`);
    keys[name] = [words, act];
  }
  const tab = form === null ? [] : [["Tab", [t("key_questions")]]];
  at("keys-list").replaceChildren(...[...tab, ...Object.entries(keys)].flatMap(([name, [words]]) =>
    [element("dt", "", element("kbd", "", keyName(name))), element("dd", "", words)]));
}

function showKeys() {
  at("keys").showModal();
  at("keys").scrollTop = 0; // its focus is on the button at the end
}

function showSaid() {
  const list = element("ul", "");
  for (const one of item.said) {
    const words = element("span", "words");
    words.append(visible([...kindWords(one.value), ...ownAnswers(item, one.answers)].join("; ")));
    const line = element("li", one.value === null ? "soft" : "", element("b", "", visible(one.who)), ": ", words);
    if (one.comment) line.append(" “", visible(one.comment), "”");
    line.append(element("span", "soft", ` ${one.seconds.toFixed(1)} s`));
    list.append(line);
  }
  at("said").append(item.said.length ? list : element("p", "soft", "Nobody has answered yet."));
  if (item.final) at("said").append(element("p", "soft", `The final answer is: ${[...kindWords(item.final), ...ownAnswers(item, item.final_answers)].join("; ")}. A new one replaces it.`));
}

function showPanels(settings) {
  const n = item.completions.length;
  const panels = item.completions.map((_, i) => panel(panelName(item.kind, i, n)));
  at("panels").append(...panels);
  at("panels").dataset.n = n;
  const place = `/api/adjudication/${item.id}`;
  const task = { ...item, place, completions: item.completions.map((text, index) => ({ index, text })) };
  if (item.questions.length) form = formOf(task, panels);
  const parts = { task, settings, panels, extra: at("panels"), controls: form?.main ?? at("controls"), done: form?.setMain ?? done, changed: () => form?.refresh(), say };
  kind = KINDS[item.kind](parts);
  showView(task, panels, say, markedIn(task.questions), () => form?.redraw());
}

function formOf(task, panels) {
  const mainText = item.wording ?? t(`question_${item.kind}`);
  return buildQuestions({ task, place: at("questions"), controls: at("controls"), mainText, texts: placesOf(task, at("prompt"), panels), changed: () => {}, rebind: bindAll, say, send: done });
}

function panel(name) {
  const pick = element("button", "pick");
  pick.type = "button";
  pick.hidden = true;
  const body = element("div", "text");
  body.dir = "auto";
  body.tabIndex = 0;
  body.setAttribute("role", "region");
  body.setAttribute("aria-label", name ? `Completion ${name}` : "Completion");
  return element("section", "panel", element("h2", "", name || "Completion", element("span", "place"), pick), body);
}

async function done(value, words, answers = null) {
  if (busy || item === null) return;
  busy = true;
  at("task").setAttribute("aria-busy", "true");
  try {
    await call("POST", `/api/adjudication/${item.id}`, { value, answers, version: item.version, comment: at("comment").value }, trouble);
    say(`Item ${item.id}: ${words ?? "stored"}`);
    wanted = null;
    await load(place);
  } catch (error) {
    say(error.message);
  }
  busy = false;
  at("task").setAttribute("aria-busy", "false");
}

function later() {
  const after = wanted === null ? item?.key : place;
  wanted = null;
  load(after ?? "");
}

function toggleNames() {
  names = !names;
  at("names").setAttribute("aria-pressed", String(names));
  load(place);
}

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.defaultPrevented || document.querySelector("dialog[open]")) return;
  const typing = event.target.closest("input:not([type=checkbox]), textarea");
  if (event.key === "Escape" && typing) return event.target.blur();
  // Enter presses the button or link that has the focus. To answer one of several questions takes the space bar: Enter sends.
  const pressing = event.target.closest("button, a") && !event.target.closest(".question .choices");
  if (event.key === "Enter" && "Enter" in keys && !pressing && (event.ctrlKey || !typing)) {
    event.preventDefault();
    return event.repeat ? undefined : keys.Enter[1]();
  }
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" && event.target.closest("button, a")) return;
  const digit = /^Digit(\d)$/.exec(event.code)?.[1]; // also on keyboards where digits need shift (AZERTY)
  const name = [event.key, event.key.toLowerCase(), digit].find((candidate) => candidate in keys);
  if (name === undefined || (name.startsWith("Page") && event.target.closest(".text"))) return;
  event.preventDefault();
  if (!event.repeat || name.startsWith("Page")) keys[name][1]();
});
at("open-keys").addEventListener("click", showKeys);
at("later").addEventListener("click", later);
at("names")?.addEventListener("click", toggleNames);
load();
