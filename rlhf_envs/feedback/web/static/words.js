// What the page says, in the annotator's language. The server puts the table into the page (see words.py).

const TABLE = JSON.parse(document.querySelector("meta[name=words]")?.content ?? "{}");
export const language = document.documentElement.lang || "en";
const forms = new Intl.PluralRules(language);

/** Return a text with its gaps `{name}` filled in. Where it depends on a count, the count is `n`. */
export function t(key, values = {}) {
  let text = TABLE[key];
  if (text === undefined) {
    console.error(`no words for ${key}`);
    return key;
  }
  if (typeof text === "object") text = text[forms.select(values.n)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => (typeof values[name] === "number" ? number(values[name]) : values[name]));
}

/** Write a number as it is written in the language. */
export const number = (value) => value.toLocaleString(language);

/** Return what stands on a key: "Strg Enter" for "Ctrl Enter" in German. Letters and digits stay. */
export const keyName = (key) => {
  const arrows = { ArrowDown: "↓", ArrowUp: "↑", ArrowLeft: "←", ArrowRight: "→", "Shift ArrowLeft": "⇧ ←", "Shift ArrowRight": "⇧ →", "Shift X": "⇧ X" };
  return arrows[key] ?? (TABLE[`press_${key}`] || key);
};
