// How far the person is, how fast they go, and a break suggested now and then. Nothing here holds anybody up.

import { number, t } from "./words.js";

const PAUSE = 5 * 60 * 1000; // ms without a key or a click that count as a break
const at = (id) => document.getElementById(id);

/** Show the person's own share of the items; in the training, how far it is. */
export function showProgress({ progress, task }) {
  const training = task?.training;
  const done = training ? training.done : progress.mine;
  const all = training ? training.n : progress.mine + progress.left;
  at("bar").max = Math.max(1, all);
  at("bar").value = done;
  at("bar").setAttribute("aria-label", t(training ? "training_bar" : "own_bar"));
  at("count").textContent = training
    ? t("training_progress", { done, n: all })
    : t("own_progress", { done, left: progress.left });
  const pace = progress.per_hour === null || training;
  at("pace").textContent = pace ? "" : t("pace", { seconds: rounded(progress.median_seconds), n: Math.round(progress.per_hour) });
}

const rounded = (seconds) => (seconds < 10 ? number(Math.round(seconds * 10) / 10) : Math.round(seconds));

// ---- breaks: kept over a reload, in the tab

let began = Number(sessionStorage.getItem("rlhf-began")) || null;
let last = Number(sessionStorage.getItem("rlhf-last")) || 0;

/** Note that the person is at work. After so many minutes without a pause a break is suggested. */
export function atWork(minutes) {
  const now = Date.now();
  if (began === null || now - last > PAUSE) began = now;
  last = now;
  sessionStorage.setItem("rlhf-began", String(began));
  sessionStorage.setItem("rlhf-last", String(last));
  if (minutes > 0 && now - began >= minutes * 60000) suggestBreak((now - began) / 60000);
}

function suggestBreak(worked) {
  began = Date.now(); // the next one is suggested as much later
  at("break-text").textContent = t("break", { n: Math.max(1, Math.round(worked)) });
  at("break").hidden = false;
}

at("break-close").addEventListener("click", () => { at("break").hidden = true; });
