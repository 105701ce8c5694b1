// Where texts are cut and how they scroll: fades, the prompt's room, and two texts that scroll together.

const at = (id) => document.getElementById(id);
const NARROW = matchMedia("(max-width: 56rem)"); // as in style.css: there the page scrolls as a whole

export const isNarrow = () => NARROW.matches;

/** Say at which ends a text is cut, for the fades of render.css. */
function markCut(text) {
  const below = text.scrollHeight - text.clientHeight - text.scrollTop;
  text.classList.toggle("cut-above", text.scrollTop > 2);
  text.classList.toggle("cut-below", below > 2);
}

const height = (element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  return range.getBoundingClientRect().height;
};

/** Return the height that the answers would like to have. */
function wanted(panels) {
  const n = panels.length;
  const columns = document.body.dataset.kind === "ranking" ? (n === 2 || n === 4 ? 2 : 3) : 2;
  const tallest = Math.max(...panels.map((panel) => height(panel.querySelector(".text")) + 90)); // 90: its heading and padding
  return Math.ceil(n / columns) * (tallest + 16);
}

/** Give the prompt the room that the answers leave, mark cut texts, and let keys scroll wide formulas and tables. */
export function fit() {
  const panels = [...document.querySelectorAll("#panels > .panel")].filter((panel) => panel.querySelector(".text"));
  if (panels.length > 0) {
    const style = getComputedStyle(at("task"));
    const room = at("task").clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const least = document.body.dataset.kind === "correction" ? 300 : 150;
    const beside = at("questions") ?? at("said"); // below the texts on narrow screens only
    const below = beside === null || getComputedStyle(beside).position === "absolute" ? 0 : beside.offsetHeight;
    at("prompt").style.setProperty("--room", `${room - below - 70 - Math.max(least, wanted(panels))}px`); // 70: the question and gaps
  }
  document.querySelectorAll("#task .rendered :is(table, .md-formulas)").forEach((wide) => {
    if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
    else wide.removeAttribute("tabindex");
  });
  document.querySelectorAll("#task .text").forEach(markCut);
}

/** Scroll to the end of the prompt, or to the beginning of its last question if that is longer than the box. */
export function startPrompt() {
  const prompt = at("prompt");
  const asked = [...prompt.querySelectorAll(":scope > .bubble.user")].at(-1);
  const end = prompt.scrollHeight - prompt.clientHeight;
  prompt.scrollTop = asked ? Math.min(end, asked.offsetTop - prompt.offsetTop - 8) : end;
}

let together = false;
let follows = null; // the text that is being moved along, whose own scrolling moves nothing

export const scrollTogether = (value) => { together = value; };

function scrolled({ target }) {
  if (!(target instanceof Element) || !target.matches("#task .text")) return;
  markCut(target);
  if (follows === target) {
    follows = null;
    return;
  }
  if (!together || target.id === "prompt") return;
  const share = target.scrollTop / Math.max(1, target.scrollHeight - target.clientHeight);
  for (const other of document.querySelectorAll("#panels .text")) {
    const place = Math.round(share * (other.scrollHeight - other.clientHeight));
    if (other === target || Math.abs(other.scrollTop - place) < 2) continue;
    follows = other;
    other.scrollTop = place;
  }
}

document.addEventListener("scroll", scrolled, { capture: true, passive: true });
addEventListener("resize", fit);
