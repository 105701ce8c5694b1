// Shows the guidelines and the consent: fetched as trees (web/documents.py) and built element by element, by an
// allow-list. No text is parsed as HTML, nothing is loaded, and links are no links.

import { call } from "./api.js";
import { visible } from "./text.js";

const TAGS = new Set("p ul ol li blockquote strong em s table thead tbody tr th td pre code br hr span".split(" "));

/** Return nodes as a fragment. Headings begin at h2. */
export function build(nodes) {
  const fragment = document.createDocumentFragment();
  for (const node of nodes) {
    if (typeof node === "string") {
      fragment.append(visible(node));
      continue;
    }
    const [tag, attributes, ...children] = node;
    if (tag !== "h" && !TAGS.has(tag)) throw new Error(`a text has the tag ${tag}`);
    const made = document.createElement(tag === "h" ? `h${Math.min(6, attributes.depth + 1)}` : tag);
    if (attributes.class === "address") made.className = "address";
    made.append(build(children));
    fragment.append(made);
  }
  return fragment;
}

/** Fill an element with a document. Return the document. */
export async function showDocument(element, name) {
  const found = await call("GET", `/api/documents/${name}`, undefined, () => {});
  element.replaceChildren(build(found.nodes));
  element.setAttribute("aria-busy", "false");
  return found;
}

for (const element of document.querySelectorAll("[data-document]")) {
  const found = await showDocument(element, element.dataset.document);
  // What is agreed to is what is shown.
  for (const field of document.querySelectorAll("input[name=digest]")) field.value = found.digest;
}
