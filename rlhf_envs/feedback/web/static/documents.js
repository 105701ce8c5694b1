// Shows the guidelines and the consent, which the server renders as trees of nodes.

import { call } from "./api.js";
import { build } from "./nodes.js";

/** Fill an element with a document. Return the document. */
export async function showDocument(element, name) {
  const found = await call("GET", `/api/documents/${name}`, undefined, () => {});
  element.replaceChildren(build(found.nodes, 2));
  element.setAttribute("aria-busy", "false");
  return found;
}

for (const element of document.querySelectorAll("[data-document]")) {
  const found = await showDocument(element, element.dataset.document);
  // What is agreed to is what is shown.
  for (const field of document.querySelectorAll("input[name=digest]")) field.value = found.digest;
}
