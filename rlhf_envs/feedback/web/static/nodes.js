// Builds the page from the trees that the server makes of Markdown (web/nodes.py): element by element, by an allow-list.
// No text is parsed as HTML, nothing is loaded, and links are no links.

import { visible } from "./text.js";
import { t } from "./words.js";

const MATHML = "http://www.w3.org/1998/Math/MathML";
const names = (text) => new Set(text.split(" "));

const HTML = names("p span strong em s code pre blockquote ul ol li table thead tbody tr th td hr br div mark");
const CLASSES = names("md-tight md-left md-center md-right md-link md-address md-picture md-code md-language md-formula md-formulas differs code-keyword code-string code-comment code-number code-name code-builtin code-operator md-level-1 md-level-2 md-level-3 md-level-4 md-level-5 md-level-6");
const MATH = names("math mrow mi mn mo mtext mspace ms mfrac msqrt mroot msub msup msubsup munder mover munderover mmultiscripts mprescripts none mtable mtr mlabeledtr mtd mstyle mpadded mphantom menclose");
const MATH_ATTRIBUTES = names("display displaystyle scriptlevel mathvariant mathsize stretchy fence separator form lspace rspace accent accentunder movablelimits largeop symmetric minsize maxsize linethickness width height depth voffset columnalign rowalign columnspacing rowspacing columnlines rowlines notation");
const VALUE = /^[\w .%+-]{1,60}$/;

function mathElement(tag, attributes) {
  const made = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (MATH_ATTRIBUTES.has(name) && VALUE.test(value)) made.setAttribute(name, value);
  }
  return made;
}

function htmlElement(tag, attributes, base) {
  const isHeading = tag === "h";
  if (!isHeading && !HTML.has(tag)) throw new Error(`a rendered text has the tag ${tag}`);
  const made = document.createElement(isHeading ? `h${Math.min(6, base + Number(attributes.depth) - 1)}` : tag);
  if (CLASSES.has(attributes.class)) made.className = attributes.class;
  if (tag === "ol" && Number.isInteger(attributes.start)) made.start = attributes.start;

  if (made.className === "md-formula") made.title = t("formula_source");
  return made;
}

/** Return the nodes as a fragment. `base` is the level of the first heading, so that the page's outline has no gap. */
export function build(nodes, base = 3) {
  const fragment = document.createDocumentFragment();
  for (const node of nodes) {
    if (typeof node === "string") {
      fragment.append(visible(node));
      continue;
    }
    const [tag, attributes, ...children] = node;
    const made = MATH.has(tag) ? mathElement(tag, attributes) : htmlElement(tag, attributes, base);
    made.append(build(children, base));
    fragment.append(made);
  }
  return fragment;
}
