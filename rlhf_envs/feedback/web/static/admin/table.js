// Keys for the admin's tables: j and k move, x ticks, o or Enter opens, / searches, n and p turn the page.

const table = document.querySelector("table[data-rows]");
const rows = table ? [...table.querySelectorAll("tbody tr")].filter((row) => row.querySelector("a[href]")) : [];
let here = -1;

function move(step) {
  if (!rows.length) return;
  if (here >= 0) rows[here].removeAttribute("data-here");
  here = Math.min(rows.length - 1, Math.max(0, here + step));
  rows[here].setAttribute("data-here", "");
  rows[here].querySelector("a[href]").focus({ preventScroll: true });
  rows[here].scrollIntoView({ block: "nearest" });
}

function tick() {
  const box = rows[here]?.querySelector("input[type=checkbox]");
  if (!box) return;
  box.checked = !box.checked;
  box.dispatchEvent(new Event("change", { bubbles: true }));
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  x: tick,
  o: () => rows[here]?.querySelector("a[href]").click(),
  n: () => document.querySelector("a[rel=next]")?.click(),
  p: () => document.querySelector("a[rel=prev]")?.click(),
  "/": () => document.querySelector("[data-key='/']")?.focus(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input:not([type=checkbox]), textarea, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (!act || !document.querySelector("table[data-rows]")) return;
  event.preventDefault();
  act();
});

const all = document.querySelector("input[data-all]");
all?.addEventListener("change", () => {
  for (const box of table.querySelectorAll("tbody input[name=id]")) box.checked = all.checked;
});
