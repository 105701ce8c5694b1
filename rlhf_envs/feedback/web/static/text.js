// Shows texts by models as text, never as markup, and marks the characters that cannot be seen.

const CHUNK = 20000; // characters shown at a time, so that 1 MB of text does not stop the page

// Joiners and selectors within an emoji stay. Other characters without a picture get a mark: controls, formats (except
// the Arabic and other signs among them that have a picture), default ignorables, lone surrogates and private use.
const SPECIAL = /(\p{RGI_Emoji})|\r\n|([[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]--[\n\t\u0600-\u0605\u06DD\u070F\u0890\u0891\u08E2\u{110BD}\u{110CD}]])\2*/gv;

const NAMES = {
  0x00: "null", 0x08: "backspace", 0x0d: "carriage return", 0x1b: "escape", 0xad: "soft hyphen",
  0x200b: "zero-width space", 0x200c: "zero-width non-joiner", 0x200d: "zero-width joiner",
  0x200e: "left-to-right mark", 0x200f: "right-to-left mark", 0x061c: "Arabic letter mark",
  0x202a: "left-to-right embedding", 0x202b: "right-to-left embedding", 0x202c: "end of embedding",
  0x202d: "left-to-right override", 0x202e: "right-to-left override", 0x2060: "word joiner",
  0x2066: "left-to-right isolate", 0x2067: "right-to-left isolate", 0x2068: "first-strong isolate",
  0x2069: "end of isolate", 0x2028: "line separator", 0x2029: "paragraph separator", 0xfeff: "byte order mark",
};

function mark(text, title) {
  const span = document.createElement("span");
  span.className = "mark";
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
      fragment.append("\n");
      continue;
    }
    const code = hidden.codePointAt(0);
    const times = found.length / hidden.length;
    const label = `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
    fragment.append(mark(times > 1 ? `[${label} ×${times}]` : `[${label}]`, NAMES[code] ?? "invisible character"));
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
    element.append(mark("empty", "there is no text here"));
    return null;
  }
  if (text.trim() === "") {
    element.append(mark(`white space only, ${text.length} characters`, "nothing here can be seen"));
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
      more.textContent = `${end.toLocaleString("en")} of ${text.length.toLocaleString("en")} characters: show more (m)`;
      element.append(more);
    }
    return end < text.length;
  };
  more.addEventListener("click", grow);
  return grow() ? grow : null;
}
