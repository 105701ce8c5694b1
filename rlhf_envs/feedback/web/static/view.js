// How the texts of the task are shown, and the keys that change it: rendered or not, differences, the whole prompt, tabs.

import { call } from "./api.js";
import { showTurns } from "./conversation.js";
import { fit, isNarrow, scrollTogether, startPrompt } from "./scrolling.js";
import { showText } from "./text.js";
import { t } from "./words.js";

const at = (id) => document.getElementById(id);

// What the annotator has chosen, for this item and the next.
const chosen = { render: null, differences: false };
try { Object.assign(chosen, JSON.parse(sessionStorage.getItem("rlhf-view"))); } catch { /* nothing is kept */ }

let task = null;
let view = null;
let panels = [];
let whole = false; // whether `view` has all that can be rendered
let open = false; // whether the whole prompt is shown
let growers = []; // functions that show more of long texts
let say = null; // tells the annotator something
let raw = {}; // which of "prompt" and "completion" are shown as they are, whatever else is wished
let drawn = null; // is called when the texts were drawn

/** Return the query with which a task is claimed, so that it comes as the annotator wants to see it. */
export const asked = () => (chosen.render ? `?render=${chosen.render}` : "");

/** Show the task's texts in the prompt and the panels: those in `newRaw` as they are. */
export function showView(newTask, newPanels, newSay, newRaw = {}, newDrawn = null) {
  [task, view, panels, say, whole, open] = [newTask, newTask.view, newPanels, newSay, false, false];
  [raw, drawn] = [newRaw, newDrawn];
  at("tools").hidden = false;
  at("show-rendered").hidden = Boolean(raw.prompt && raw.completion);
  at("show-differences").hidden = panels.length !== 2 || task.completions.length !== 2 || Boolean(raw.completion);
  at("prompt").hidden = task.prompt === "" && view.prompt.every((turn) => turn.pictures.length === 0 && !turn.text);
  makeTabs();
  draw();
  startPrompt();
  if ((chosen.differences && !at("show-differences").hidden) || view.completions.flat().some((turn) => turn.why === "later")) load();
}

export function hideView() {
  task = null;
  growers = [];
  at("tools").hidden = at("tabs").hidden = true;
}

function draw() {
  const options = { render: view.render, open, onOpen: openPrompt };
  growers = raw.prompt ? [showRaw(at("prompt"), task.prompt)] : showTurns(at("prompt"), view.prompt, task.prompt, { ...options, base: 2 });
  panels.forEach((panel, i) => {
    const [body, { text }] = [panel.querySelector(".text"), task.completions[i]];
    growers.push(...(raw.completion ? [showRaw(body, text)] : showTurns(body, view.completions[i], text, { ...options, open: true, base: 3 })));
  });
  drawn?.();
  document.body.dataset.prompt = open ? "open" : "closed";
  at("show-rendered").setAttribute("aria-pressed", String(view.render === "markdown"));
  at("show-differences").setAttribute("aria-pressed", String(chosen.differences));
  at("open-prompt").setAttribute("aria-pressed", String(open));
  fit();
  at("open-prompt").hidden = at("prompt").hidden || !(open || at("prompt").querySelector(".more") || at("prompt").matches(".cut-above, .cut-below"));
}

function showRaw(body, text) {
  body.classList.remove("conversation", "rendered");
  return showText(body, text);
}

/** Ask for all of the view, and draw it with every text where it stood. */
async function load() {
  const [mine, render] = [task, chosen.render ?? task.view.render];
  const differences = chosen.differences && !at("show-differences").hidden;
  const place = mine.place ?? (mine.training ? `/api/training/${mine.training.attempt}/${mine.id}` : `/api/tasks/${mine.id}`);
  let got;
  try {
    got = await call(mine.place ? "GET" : "POST", `${place}/view?render=${render}&differences=${differences}`);
  } catch {
    return; // the texts stay as they are; the next call that matters says what is wrong
  }
  if (task !== mine || render !== (chosen.render ?? task.view.render)) return; // meanwhile there is another task, or wish
  view = got;
  whole = true;
  redraw();
}

function redraw() {
  const texts = [at("prompt"), ...panels.map((panel) => panel.querySelector(".text"))];
  const shares = texts.map((text) => text.scrollTop / Math.max(1, text.scrollHeight - text.clientHeight));
  draw();
  texts.forEach((text, i) => { text.scrollTop = shares[i] * (text.scrollHeight - text.clientHeight); });
  fit();
}

function choose(changes) {
  Object.assign(chosen, changes);
  try { sessionStorage.setItem("rlhf-view", JSON.stringify(chosen)); } catch { /* it holds for this page */ }
  return load();
}

const switchRender = () => choose({ render: (chosen.render ?? view.render) === "markdown" ? "plain" : "markdown" });
const switchDifferences = () => choose({ differences: !chosen.differences });

let together = false;

function switchTogether() {
  together = !together;
  scrollTogether(together);
  say(t(together ? "together_on" : "together_off"));
}

function openPrompt() {
  const prompt = at("prompt");
  const below = prompt.scrollHeight - prompt.scrollTop;
  open = !open;
  draw();
  if (open) prompt.scrollTop = prompt.scrollHeight - below; // the same message stays in sight
  else startPrompt();
  fit();
  if (open && !whole && view.prompt.some((turn) => turn.why === "later")) load();
}

// ---- tabs: on a phone one of two completions is shown

function makeTabs() {
  const tabs = at("tabs");
  tabs.hidden = task.kind !== "pairwise";
  tabs.replaceChildren(...panels.map((panel, i) => {
    const tab = document.createElement("button");
    tab.type = "button";
    tab.textContent = "AB"[i];
    tab.addEventListener("click", () => showTab(i));
    return tab;
  }));
  if (!tabs.hidden) showTab(0);
  else delete at("panels").dataset.shown;
}

function showTab(i) {
  const moved = at("panels").dataset.shown !== String(i);
  at("panels").dataset.shown = i;
  [...at("tabs").children].forEach((tab, j) => tab.setAttribute("aria-pressed", String(i === j)));
  if (moved && isNarrow() && at("tabs").getBoundingClientRect().top <= 0) at("tabs").scrollIntoView();
}

// ---- keys

export function viewKeys() {
  if (task === null) return {};
  const page = (direction) => () => at("prompt").scrollBy({ top: direction * 0.8 * at("prompt").clientHeight });
  const two = !at("show-differences").hidden;
  return {
    ...(at("show-rendered").hidden ? {} : { r: [t("key_render"), switchRender] }),
    ...(two ? { d: [t("key_differences"), switchDifferences], l: [t("key_together"), switchTogether] } : {}),
    ...(task.kind === "pairwise" && isNarrow() ? { v: [t("key_other"), () => showTab(at("panels").dataset.shown === "0" ? 1 : 0)] } : {}),
    ...(at("prompt").hidden ? {} : { o: [t("key_open"), openPrompt], PageDown: [t("key_prompt_down"), page(1)], PageUp: [t("key_prompt_up"), page(-1)] }),
    ...(growers.some(Boolean) ? { m: [t("key_more"), () => { growers = growers.map((grow) => (grow?.() ? grow : null)); fit(); }] } : {}),
  };
}

at("show-rendered").addEventListener("click", switchRender);
at("show-differences").addEventListener("click", switchDifferences);
at("open-prompt").addEventListener("click", openPrompt);
