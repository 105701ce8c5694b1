// A question that is answered by marking pieces of texts. Marks are drawn by the CSS Custom Highlight API, so the texts
// stay as they are. Offsets are in UTF-16 units here, and in characters (code points) in the answer.

import { element, keyed, placeKey } from "./kinds.js";
import { t } from "./words.js";

const COLOURS = 6; // in questions.css: ::highlight(mark-0) to ::highlight(mark-5)
const supported = typeof Highlight === "function" && CSS.highlights !== undefined;
const highlights = supported
  ? Object.fromEntries([...Array(COLOURS).keys(), "cursor"].map((name) => [name, new Highlight()]))
  : {};
for (const [name, highlight] of Object.entries(highlights)) CSS.highlights.set(`mark-${name}`, highlight);
if (supported) highlights.cursor.priority = 1;

/** Remove what earlier tasks have drawn. */
export const clearMarks = () => Object.values(highlights).forEach((highlight) => highlight.clear());

/** Return how many units of its source a node of a shown text stands for. */
const lengthOf = (node) => node.sourceLength ?? (node.nodeType === Node.TEXT_NODE ? node.length : 0);

/** Return how many units of its source an element shows. */
const shownLength = (body) => [...body.childNodes].reduce((sum, node) => sum + lengthOf(node), 0);

/** Return the place in the source of a place in the document, or null outside of the element. */
function sourceOffset(body, container, offset) {
  if (container === body) return [...body.childNodes].slice(0, offset).reduce((sum, node) => sum + lengthOf(node), 0);
  let child = container;
  while (child && child.parentNode !== body) child = child.parentNode;
  if (!child) return null;
  let before = 0;
  for (let node = body.firstChild; node !== child; node = node.nextSibling) before += lengthOf(node);
  const inside = child === container && child.sourceLength === undefined ? offset : offset > 0 ? lengthOf(child) : 0;
  return before + Math.min(inside, lengthOf(child));
}

/** Return the range of the document that shows a piece of the source. */
function rangeOf(body, start, end) {
  const range = document.createRange();
  const place = (offset, isEnd) => {
    let before = 0;
    for (const node of body.childNodes) {
      const length = lengthOf(node);
      if (length > 0 && (offset < before + length || (isEnd && offset === before + length))) {
        if (node.nodeType === Node.TEXT_NODE && node.sourceLength === undefined) return [node, offset - before];
        const index = [...body.childNodes].indexOf(node);
        return [body, offset > before ? index + 1 : index];
      }
      before += length;
    }
    return [body, body.childNodes.length];
  };
  range.setStart(...place(start, false));
  range.setEnd(...place(end, true));
  return range;
}

const characters = (source, units) => [...source.slice(0, units)].length;
const units = (source, count) => [...source].slice(0, count).join("").length;

/**
 * Build the controls of a question of the type "spans".
 *   texts    [{ body, source, index }]: where marks may stand; index null is the prompt
 *   changed  is called after each change, active(element) when a selection begins here
 */
export function spans({ question, texts, changed, chosen, say }) {
  const marks = []; // { text, start, end, label, note }, in the order in which they were made
  let cursor = null; // { text, start, end, anchor }: what a label will mark
  let cut = []; // the words of the texts: [{ text, start, end }]
  let cutLength = -1;
  const colour = (label) => question.labels.indexOf(label) % COLOURS;
  const list = element("ul", "marks");
  const row = element("div", "choices labels");
  const hint = element("p", "soft hint", t("q_mark_hint"));
  const keys = {};

  question.labels.forEach((label, i) => {
    const key = question.keys[i] ?? placeKey(i);
    const act = () => mark(label);
    const button = keyed(key, label, act, `mark-${colour(label)}`);
    button.addEventListener("mousedown", (event) => event.preventDefault()); // the selection stays
    row.append(button);
    if (key) keys[key] = [t("key_label", { label }), act];
  });
  keys.ArrowRight = [t("key_word_next"), () => step(1, false)];
  keys.ArrowLeft = [t("key_word_before"), () => step(-1, false)];
  keys["Shift ArrowRight"] = [t("key_extend"), () => step(1, true)];
  keys["Shift ArrowLeft"] = [t("key_shrink"), () => step(-1, true)];
  keys.Backspace = [t("key_unmark"), () => remove(marks.length - 1)];
  keys.w = [t("key_note"), () => list.querySelector("li:last-child input")?.focus()];

  function words() {
    const length = texts.reduce((sum, { body }) => sum + shownLength(body), 0);
    if (length === cutLength) return cut;
    cutLength = length;
    const segmenter = new Intl.Segmenter(undefined, { granularity: "word" });
    cut = texts.flatMap((text) =>
      [...segmenter.segment(text.source.slice(0, shownLength(text.body)))]
        .filter(({ segment }) => segment.trim() !== "")
        .map(({ index, segment }) => ({ text, start: index, end: index + segment.length })));
    return cut;
  }

  function step(by, extends_) {
    const all = words();
    if (!all.length) return;
    if (cursor === null) {
      cursor = { ...all[by > 0 ? 0 : all.length - 1] };
    } else if (!extends_) {
      const edge = by > 0 ? cursor.end : cursor.start;
      const order = texts.indexOf(cursor.text);
      const after = ({ text, start }) => texts.indexOf(text) > order || (text === cursor.text && start >= edge);
      const before = ({ text, end }) => texts.indexOf(text) < order || (text === cursor.text && end <= edge);
      const found = by > 0 ? all.find(after) : all.findLast(before);
      if (found) cursor = { ...found };
    } else {
      const inside = all.filter(({ text }) => text === cursor.text);
      const next = by > 0 ? inside.find(({ end }) => end > cursor.end) : inside.findLast(({ end }) => end < cursor.end);
      if (next && next.end > cursor.start) cursor = { ...cursor, end: next.end };
    }
    document.getSelection()?.removeAllRanges();
    draw();
    reveal();
  }

  function reveal() {
    const { text } = cursor;
    const box = rangeOf(text.body, cursor.start, cursor.end).getBoundingClientRect();
    const frame = text.body.getBoundingClientRect();
    if (box.top < frame.top + 8) text.body.scrollBy({ top: box.top - frame.top - 40 });
    else if (box.bottom > frame.bottom - 8) text.body.scrollBy({ top: box.bottom - frame.bottom + 40 });
  }

  function mark(label) {
    if (cursor === null) return say(t("q_select_first"));
    const { text, start, end } = cursor;
    if (!marks.some((known) => known.text === text && known.start === start && known.end === end && known.label === label)) {
      marks.push({ text, start, end, label, note: "" });
    }
    document.getSelection()?.removeAllRanges();
    say(t("q_marked", { label }));
    show();
    changed();
  }

  function remove(index) {
    if (index < 0) return;
    marks.splice(index, 1);
    show();
    changed();
  }

  function draw() {
    if (!supported) return;
    for (const range of drawn.splice(0)) Object.values(highlights).forEach((highlight) => highlight.delete(range));
    const add = (name, { text, start, end }) => {
      const range = rangeOf(text.body, start, end);
      highlights[name].add(range);
      drawn.push(range);
    };
    marks.forEach((found) => add(colour(found.label), found));
    if (cursor !== null) add("cursor", cursor);
  }
  const drawn = [];

  function show() {
    list.replaceChildren(...marks.map((found, i) => {
      const quoted = found.text.source.slice(found.start, found.end);
      const short = quoted.length > 60 ? `${quoted.slice(0, 60)}…` : quoted;
      const note = element("input");
      note.value = found.note;
      note.maxLength = 2000;
      note.placeholder = t("q_note");
      note.setAttribute("aria-label", `${t("q_note")}: ${short}`);
      note.addEventListener("input", () => { found.note = note.value; changed(); });
      const gone = element("button", "remove", "×");
      gone.type = "button";
      gone.setAttribute("aria-label", t("q_remove_mark", { text: short }));
      gone.addEventListener("click", () => remove(i));
      const words = element("span", "quoted", short);
      words.dir = "auto";
      return element("li", "", element("span", `label mark-${colour(found.label)}`, found.label), words, note, gone);
    }));
    hint.hidden = marks.length > 0;
    draw();
  }

  /** Take what is selected by mouse or finger, if it lies within one of the texts. */
  function selected() {
    const selection = document.getSelection();
    if (!row.isConnected || !selection || selection.isCollapsed) return;
    const range = selection.getRangeAt(0);
    for (const text of texts) {
      if (!text.body.contains(range.startContainer) || !text.body.contains(range.endContainer)) continue;
      const start = sourceOffset(text.body, range.startContainer, range.startOffset);
      const end = sourceOffset(text.body, range.endContainer, range.endOffset);
      if (start === null || end === null || end <= start) return;
      cursor = { text, start, end };
      draw();
      chosen();
    }
  }

  return {
    element: element("div", "spans", row, hint, list),
    keys,
    selected,
    redraw: draw,
    leave: () => { cursor = null; draw(); },
    value: () =>
      marks.map(({ text, start, end, label, note }) => ({
        completion: text.index,
        start: characters(text.source, start),
        end: characters(text.source, end),
        label,
        ...(note.trim() ? { note } : {}),
      })),
    restore: (value) => {
      for (const { completion, start, end, label, note } of value) {
        const text = texts.find(({ index }) => index === completion);
        if (!text || !question.labels.includes(label)) continue;
        marks.push({ text, start: units(text.source, start), end: units(text.source, end), label, note: note ?? "" });
      }
      show();
    },
  };
}
