// Shows turns: a text alone, or a conversation in bubbles, each rendered or as it is, with its pictures.

import { root } from "./api.js";
import { build } from "./nodes.js";
import { showText, visible } from "./text.js";
import { t } from "./words.js";

const FEW = 12; // messages of a long conversation that are shown at first

const ROLES = new Set(["user", "assistant", "system", "tool", "developer"]);
const REASONS = new Set(["parts", "long", "slow", "characters"]);

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

function picture({ id, name, alt, width, height }) {
  const image = document.createElement("img");
  image.alt = alt || t("picture_undescribed", { name });
  if (width && height) [image.width, image.height] = [width, height]; // so that nothing moves when it arrives
  image.addEventListener("error", () => image.replaceWith(element("span", "mark", visible(t("no_picture", { name })))));
  image.src = `${root}/media/${encodeURIComponent(id)}`;
  return alt ? element("figure", "", image, element("figcaption", "", visible(alt))) : element("figure", "", image);
}

/** Put a turn into an element. Return a function that shows more of a long text, or null. */
function showTurn(body, turn, own, { render, base }) {
  const text = turn.text ?? own;
  let grow = null;
  if (turn.nodes === null || text.trim() === "") {
    if (text !== "" || turn.pictures.length === 0) grow = showText(body, text);
    else body.replaceChildren();
  } else {
    body.replaceChildren(build(turn.nodes, base));
    body.classList.toggle("rendered", render === "markdown");
  }
  if (render === "markdown" && REASONS.has(turn.why)) body.prepend(element("span", "note", t(`not_rendered_${turn.why}`)));
  body.append(...turn.pictures.map(picture));
  return grow;
}

function bubble(turn, own, options, growers) {
  const body = element("div", "body");
  body.dir = "auto";
  const role = ROLES.has(turn.role) ? t(`role_${turn.role}`) : turn.role;
  const made = element("div", "bubble", element("span", "role", visible(role)), body);
  if (ROLES.has(turn.role)) made.classList.add(turn.role);
  growers.push(showTurn(body, turn, own, options));
  return made;
}

/**
 * Put turns into an element. `own` is the text of a turn that has none. With `open`, no earlier message is left out.
 * Return functions that show more of long texts.
 */
export function showTurns(box, turns, own, options) {
  const growers = [];
  box.replaceChildren();
  box.scrollTop = 0;
  box.classList.remove("rendered");
  const talks = turns.length > 1 || turns[0].role !== "";
  box.classList.toggle("conversation", talks);
  if (!talks) return [showTurn(box, turns[0], own, options)];
  const hidden = options.open || turns.length <= FEW ? 0 : turns.length - FEW;
  if (hidden > 0) {
    const more = element("button", "more", `${t("earlier_messages", { n: hidden })} `, element("kbd", "", "o"));
    more.type = "button";
    more.addEventListener("click", options.onOpen);
    box.append(more);
  }
  box.append(...turns.slice(hidden).map((turn) => bubble(turn, own, options, growers)));
  return growers;
}
