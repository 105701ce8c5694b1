// The texts on the admin's page of an item: turns and pictures as annotators see them, rendered or as they are stored.

import { call } from "../api.js";
import { showTurns } from "../conversation.js";

const button = document.getElementById("show-rendered");
const completions = document.querySelectorAll(".text.completion");
const id = document.querySelector("meta[name=item]").content;
let shown = null; // "markdown" or "plain"

/** Draw the texts. Without `render` as the project shows them. */
async function show(render = null) {
  const query = render === null ? "" : `&render=${render}`;
  const { item } = await call("GET", `/api/adjudication/next?item=${id}${query}`);
  shown = item.view.render;
  const options = { render: shown, open: true, base: 3 };
  showTurns(document.getElementById("prompt"), item.view.prompt, item.prompt, options);
  completions.forEach((text, i) => showTurns(text, item.view.completions[i], item.completions[i], options));
  button.hidden = false;
  button.setAttribute("aria-pressed", String(shown === "markdown"));
}

const turn = () => show(shown === "markdown" ? "plain" : "markdown");

button.addEventListener("click", turn);
document.addEventListener("keydown", (event) => {
  if (event.key !== "r" || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.closest("input:not([type=checkbox]), textarea, select") || shown === null) return;
  event.preventDefault();
  turn();
});
show();
