// Shows texts by models as text, never as markup, and marks the characters that cannot be seen.

import { t } from "./words.js";

const CHUNK = 20000; // characters shown at a time, so that 1 MB of text does not stop the page

// Joiners and selectors within an emoji stay. Other characters without a picture get a mark: controls, formats (except
// the Arabic and other signs among them that have a picture), default ignorables, lone surrogates and private use.
const SPECIAL = /(\p{RGI_Emoji})|\r\n|([[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]--[\n\t\u0600-\u0605\u06DD\u070F\u0890\u0891\u08E2\u{110BD}\u{110CD}]])\2*/gv;

const NAMED = new Set([
  0x00, 0x08, 0x0d, 0x1b, 0xad, 0x061c, 0x200b, 0x200c, 0x200d, 0x200e, 0x200f, 0x2028, 0x2029, 0x202a, 0x202b, 0x202c,
  0x202d, 0x202e, 0x2060, 0x2066, 0x2067, 0x2068, 0x2069, 0xfeff,
]); // characters with a name of their own in the table of words: char_200b

/** Make a mark in place of `length` characters (UTF-16 units) of the source. */
function mark(text, title, length = 0) {
  const span = document.createElement("span");
  span.className = "mark";
  span.sourceLength = length;
  span.textContent = text;
  span.title = title;
  return span;
}

/** Return the text as nodes, with a mark such as [U+202E] in place of each character that cannot be seen. */
export function visible(text) {
  const fragment = document.createDocumentFragment();
  let from = 0;
  for (const match of text.matchAll(SPECIAL)) {
    const [found, , hidden] = match;
    if (!hidden && found !== "\r\n") continue; // an emoji stays in the text
    fragment.append(text.slice(from, match.index));
    from = match.index + found.length;
    if (!hidden) {
      const end = document.createTextNode("\n");
      end.sourceLength = 2;
      fragment.append(end);
      continue;
    }
    const code = hidden.codePointAt(0);
    const times = found.length / hidden.length;
    const digits = code.toString(16).padStart(4, "0");
    const label = `U+${digits.toUpperCase()}`;
    const name = t(NAMED.has(code) ? `char_${digits}` : "char_other");
    fragment.append(mark(times > 1 ? `[${label} ×${times}]` : `[${label}]`, name, found.length));
  }
  fragment.append(text.slice(from));
  return fragment;
}

export const hidesSomething = (text) =>
  [...text.matchAll(SPECIAL)].some((match) => match[2] !== undefined);

/** Put a text into an element. Return a function that shows more of a long text, or null. */
export function showText(element, text) {
  element.replaceChildren();
  element.scrollTop = 0;
  if (text === "") {
    element.append(mark(t("text_empty"), t("text_empty_title")));
    return null;
  }
  if (text.trim() === "") {
    element.append(mark(t("white_space_only", { n: text.length }), t("white_space_title")));
  }
  let end = 0;
  const more = document.createElement("button");
  more.type = "button";
  more.className = "more";
  const grow = () => {
    const from = end;
    end = Math.min(text.length, end + CHUNK);
    const last = text.charCodeAt(end - 1);
    if (last >= 0xd800 && last < 0xdc00 && end < text.length) end += 1; // do not cut a character in half
    more.remove();
    element.append(visible(text.slice(from, end)));
    if (end < text.length) {
      more.textContent = t("show_more", { shown: end, n: text.length });
      element.append(more);
    }
    return end < text.length;
  };
  more.addEventListener("click", grow);
  return grow() ? grow : null;
}
