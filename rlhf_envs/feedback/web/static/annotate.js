// The annotation page. It takes a task, shows it, sends the answer and takes the next.

import { ApiError, call, newKey, root } from "./api.js";
import { showDocument } from "./documents.js";
import { showExplanation } from "./explanation.js";
import { KINDS, panelName } from "./kinds.js";
import { atWork, showProgress } from "./progress.js";
import { buildQuestions, markedIn, placesOf } from "./questions.js";
import { suggestionWords } from "./suggestion.js";
import { answerTraining } from "./training.js";
import { asked, hideView, showView, viewKeys } from "./view.js";
import { keyName, t } from "./words.js";

const at = (id) => document.getElementById(id);
const me = document.querySelector("meta[name=annotator]").content;
const POLL = 3000; // ms between looks for new items when none is left
const IDLE = 10 * 60 * 1000; // ms without a key or a click after which the lease may run out

let task = null; // the task on the page
let key = null; // the answer's idempotency key, one per task shown, so that a double click is one answer
let kind = null; // the controls of the task's kind
let form = null; // the project's own questions about the task, null without any
let keys = {}; // key -> [words, function]
let busy = false; // whether an answer is on its way
let lost = false; // whether the lease is gone; typed text stays
let answered = null; // the task that was just answered, if its explanation may be seen now
let last = null; // the last answer, shown again on undo
let seconds = 0; // how long the task was looked at, before the page last became visible
let since = null; // when the page became visible
let leaseTimer = null;
let pollTimer = null;
let active = Date.now();

const say = (text) => { at("notice").textContent = text; };
const trouble = (text) => say(text === null ? t("connected_again") : t("trying_again", { reason: text }));

// ---- drafts: typed text survives a reload, a crash and a lost lease

const draftName = (item) => `rlhf-draft:${root}:${me}:${item}`;

const unsent = () => ({ kind: kind.draft(), form: form?.draft() ?? null, comment: at("comment").value });

function keepDraft() {
  if (task === null) return;
  const draft = unsent();
  try {
    if (draft.kind === null && draft.form === null && !draft.comment) localStorage.removeItem(draftName(task.item_id));
    else localStorage.setItem(draftName(task.item_id), JSON.stringify(draft));
  } catch { /* storage is full or forbidden: the page itself still holds the text */ }
}

function dropDraft(item) {
  try { localStorage.removeItem(draftName(item)); } catch { /* as above */ }
}

function takeDraft() {
  let draft = null;
  try { draft = JSON.parse(localStorage.getItem(draftName(task.item_id))); } catch { /* as above */ }
  draft ??= last?.item === task.item_id ? last.draft : null;
  if (!draft) return;
  at("comment").value = draft.comment;
  if (draft.kind) kind.restore(draft.kind);
  if (draft.form) form?.restore(draft.form);
}

// ---- time: only while the page is visible

const readClock = () => seconds + (since === null ? 0 : (performance.now() - since) / 1000);

function visibilityChanged() {
  if (document.hidden && since !== null) {
    seconds = readClock();
    since = null;
  } else if (!document.hidden && since === null) {
    since = performance.now();
  }
}

// ---- showing

function show(state) {
  clearTimeout(pollTimer);
  task = state.task;
  lost = false;
  at("trouble").hidden = true;
  if (state.step !== "work" && state.step !== "training") return location.assign(`${root}/annotate`); // which leads on
  showProgress(state);
  atWork(state.break_minutes);
  for (const id of ["controls", "panels", "questions"]) at(id).replaceChildren();
  at("comment").value = "";
  keys = {};
  form = null;
  offerExplanation();
  at("questions").hidden = !task?.questions.length;
  document.body.dataset.kind = task?.kind ?? "none";
  at("skip").disabled = at("comment").disabled = task === null;
  if (task === null) return showNothing(state);
  showTask(state);
  scrollTo(0, 0); // a phone scrolls the page as a whole: the new texts are to be read first
}

/** Return the task whose explanation may be looked at now, or null: the present one, or the one just answered. */
const explained = () => (task?.explanation ? task : answered);

function offerExplanation() {
  const button = at("open-explanation");
  button.hidden = explained() === null;
  at("explanation-words").textContent = t(task?.explanation ? "explanation" : "explanation_last");
}

function showNothing(state) {
  at("question").textContent = t(state.settings.paused ? "paused" : "nothing_left");
  at("prompt").hidden = true;
  hideView();
  const text = document.createElement("p");
  text.className = "empty";
  text.textContent = t(state.settings.paused ? "paused_text" : "nothing_left_text");
  at("panels").append(text);
  if (state.from_panel && !state.settings.paused) {
    const finish = Object.assign(document.createElement("a"), { className: "button primary", href: `${root}/finished` });
    finish.textContent = t("finish");
    text.append(document.createElement("br"), finish);
  }
  bindCommon();
  listKeys();
  lookAgain();
}

function lookAgain() {
  pollTimer = setTimeout(() => (document.hidden ? lookAgain() : next()), POLL);
}

function showTask({ settings }) {
  key = newKey();
  seconds = 0;
  since = document.hidden ? null : performance.now();
  at("question").textContent = task.wording ?? t(`question_${task.kind}`);
  const panels = task.completions.map((_, i) => panel(panelName(task.kind, i, task.completions.length)));
  at("panels").append(...panels);
  at("panels").dataset.n = task.completions.length;
  if (task.questions.length) form = questionsOf(panels);
  const changed = () => { form?.refresh(); keepDraft(); };
  kind = KINDS[task.kind]({ task, settings, panels, extra: at("panels"), controls: form?.main ?? at("controls"), done: form?.setMain ?? done, changed, say });
  showView(task, panels, say, markedIn(task.questions), () => form?.redraw());
  if (form === null) bindAll();
  form?.attach(kind);
  takeDraft();
  clearInterval(leaseTimer);
  leaseTimer = setInterval(renew, Math.max(3000, (task.seconds_left * 1000) / 3));
}

function questionsOf(panels) {
  return buildQuestions({ task, place: at("questions"), controls: at("controls"), mainText: at("question").textContent, texts: placesOf(task, at("prompt"), panels), changed: keepDraft, rebind: bindAll, say, send: done });
}

function panel(name) {
  const made = document.createElement("section");
  made.className = "panel";
  const head = document.createElement("h2");
  const place = document.createElement("span");
  place.className = "place";
  const pick = document.createElement("button");
  pick.className = "pick";
  pick.type = "button";
  pick.hidden = true;
  head.append(name || t("completion"), place, pick);
  const body = document.createElement("div");
  body.className = "text";
  body.dir = "auto";
  body.tabIndex = 0; // so that keys can scroll it alone
  body.setAttribute("role", "region");
  body.setAttribute("aria-label", name ? t("completion_named", { name }) : t("completion"));
  made.append(head, body);
  return made;
}

// ---- keys: one table, in which each key may be used once

function bind(name, words, act) {
  if (name in keys) throw new Error(`the key ${name} is taken by "${keys[name][0]}"`);
  keys[name] = [words, act];
}

/** Bind the keys of the question that has the focus, and those that always apply. A taken key keeps its meaning. */
function bindAll() {
  keys = {};
  bindCommon();
  const own = form?.keys() ?? kind.keys;
  for (const [name, [words, act]] of Object.entries(own)) if (form === null || !(name in keys)) bind(name, words, act);
  listKeys();
}

function bindCommon() {
  if (task !== null) {
    bind("s", t("skip"), skip);
    bind("c", t("key_comment"), () => at("comment").focus());
    for (const [name, [words, act]] of Object.entries(viewKeys())) bind(name, words, act);
    const send = form?.submit ?? kind.send;
    if (send) bind("Enter", t("key_send"), send);
    bind("ArrowDown", t("key_scroll_down"), () => scroll(1));
    bind("ArrowUp", t("key_scroll_up"), () => scroll(-1));
  }
  if (explained() !== null) bind("Shift X", t("key_explanation"), openExplanation);
  if (lost) bind("n", t("key_next"), next);
  bind("u", t("key_undo"), undo);
  bind("g", t("key_guidelines"), showGuidelines);
  bind("?", t("key_keys"), showKeys);
}

function listKeys() {
  const all = Object.entries(keys).map(([name, [words]]) => [name, words]);
  const list = [...(form === null ? [] : [["Tab", t("key_questions")]]), ...all].flatMap(([name, words]) => {
    const term = document.createElement("dt");
    const shown = document.createElement("kbd");
    shown.textContent = keyName(name);
    term.append(shown);
    const meaning = document.createElement("dd");
    meaning.textContent = words;
    return [term, meaning];
  });
  at("keys-list").replaceChildren(...list);
}

function scroll(direction) {
  const texts = document.querySelectorAll("#panels .text, #panels textarea");
  texts.forEach((text) => text.scrollBy({ top: direction * 80 }));
  if (![...texts].some((text) => text.scrollHeight > text.clientHeight)) window.scrollBy({ top: direction * 80 });
}

const isField = (target) => target.matches("textarea, select, input:not([type=checkbox])");

function pressed(event) {
  active = Date.now();
  if (event.isComposing || event.defaultPrevented) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (event.target === at("comment")) at("comment").blur();
    if (!event.repeat) keys.Enter?.[1]();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (isField(event.target)) {
    if (event.key === "Escape" || (event.key === "Enter" && event.target === at("comment"))) {
      event.preventDefault();
      event.target.blur();
    }
    return;
  }
  if (document.querySelector("dialog[open]")) return;
  // Enter presses the button, link or menu that has the focus. To answer one of several questions takes the space bar: Enter sends.
  if (event.key === "Enter" && event.target.closest("button, a, summary") && !event.target.closest(".question .choices")) return;
  const digit = /^Digit(\d)$/.exec(event.code)?.[1]; // also on keyboards where digits need shift (AZERTY)
  const shifted = event.shiftKey ? `Shift ${event.key}` : event.key;
  const name = [shifted, event.key, event.key.toLowerCase(), digit].find((candidate) => candidate in keys);
  if (name === undefined) return;
  if (/^(Arrow|Page)(Up|Down)$/.test(name) && event.target.closest(".text")) return; // the text scrolls by itself
  event.preventDefault();
  if (!event.repeat || /Arrow|Page/.test(name)) keys[name][1]();
}

// ---- doing

async function next() {
  at("task").setAttribute("aria-busy", "true");
  try {
    show(await call("POST", `/api/claim${asked()}`, undefined, trouble));
  } catch (error) {
    failed(error);
  }
  at("task").setAttribute("aria-busy", "false");
}

const skip = () => done(null, t("skipped"));

async function done(value, words, answers = {}) {
  if (busy || task === null || lost) return;
  busy = true;
  at("task").setAttribute("aria-busy", "true");
  const sent = { item: task.item_id, draft: unsent() };
  const answer = { value, key, seconds: readClock(), comment: at("comment").value, answers, version: task.version };
  try {
    if (task.training) {
      const result = await answerTraining(task, answer, trouble);
      dropDraft(sent.item);
      await new Promise((read) => result.addEventListener("close", read));
      return await next(); // only then do keys answer again
    }
    const saved = await call("POST", `/api/tasks/${task.id}/judgement`, answer, trouble);
    dropDraft(sent.item);
    last = sent;
    answered = saved.explanation ? task : null;
    busy = false;
    say(`${t("saved", { words })} ${suggestionWords(saved.suggestion, task)}`);
    await next();
  } catch (error) {
    failed(error);
  } finally {
    busy = false;
    at("task").setAttribute("aria-busy", "false");
  }
}

async function undo() {
  if (busy) return;
  busy = true;
  try {
    const state = await call("POST", `/api/undo${asked()}`);
    answered = null;
    show(state);
    say(t("taken_back"));
  } catch (error) {
    if (error instanceof ApiError && error.status === 409) say(t("no_answer_to_undo"));
    else if (error instanceof ApiError && error.status < 500) failed(error);
    else await next(); // the reply was lost on the way: ask which task is ours now
  } finally {
    busy = false;
  }
}

async function openExplanation() {
  const shown = explained();
  if (busy || shown === null || document.querySelector("dialog[open]")) return;
  busy = true;
  try {
    const dialog = await showExplanation(shown, trouble);
    if (shown === task || since === null) return;
    seconds = readClock(); // what is read of the last task is no time at this one
    since = null;
    dialog.addEventListener("close", () => { since = document.hidden ? null : performance.now(); });
  } catch (error) {
    if (error instanceof ApiError && (error.status === 404 || error.status === 409)) say(error.message);
    else failed(error);
  } finally {
    busy = false;
  }
}

function showKeys() {
  at("keys").showModal();
  at("keys").scrollTop = 0; // the button that takes the focus is below a long list
}

function showGuidelines() {
  at("guidelines").showModal();
  showDocument(at("guidelines-text"), "guidelines").catch((error) => { if (error.status !== 404) throw error; });
}

async function renew() {
  if (task === null || task.training || lost || document.hidden || Date.now() - active > IDLE) return;
  try {
    await call("POST", `/api/tasks/${task.id}/renew`);
  } catch (error) {
    if (error instanceof ApiError && error.status < 500 && !busy) failed(error);
  }
}

/** Say what went wrong and what to do. Typed text stays. */
function failed(error) {
  if (!(error instanceof ApiError)) throw error;
  keepDraft();
  const box = at("trouble");
  const text = document.createElement("p");
  const act = document.createElement("button");
  act.type = "button";
  act.className = "primary";
  box.replaceChildren(text, act);
  box.hidden = false;
  if (error.status === 409) {
    lost = true;
    text.textContent = t("lease_lost");
    act.append(t("next_item"), " ", Object.assign(document.createElement("kbd"), { textContent: "n" }));
    act.addEventListener("click", next);
    bindAll();
  } else if (error.status === 401 || error.status === 403) {
    text.textContent = t("signed_out");
    act.append(t("sign_in"));
    act.addEventListener("click", () => location.assign(`${root}/login`));
  } else {
    text.textContent = t("did_not_work", { reason: error.message });
    act.append(t("close"));
    act.addEventListener("click", () => { box.hidden = true; });
  }
}

document.addEventListener("keydown", pressed);
document.addEventListener("visibilitychange", visibilityChanged);
document.addEventListener("click", (event) => {
  active = Date.now();
  // A clicked button loses the focus, because the next Enter is meant for the page.
  if (event.detail > 0 && event.target.closest("button, label")) document.activeElement?.blur();
});
at("comment").addEventListener("input", keepDraft);
at("skip").addEventListener("click", skip);
at("undo").addEventListener("click", undo);
at("open-explanation").addEventListener("click", openExplanation);
at("open-guidelines").addEventListener("click", showGuidelines);
at("open-keys").addEventListener("click", showKeys);
next();
