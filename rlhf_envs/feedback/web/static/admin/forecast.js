// While a forecast is being made, say how far it is, and show the page anew once it is done.

const root = document.querySelector("meta[name=root]").content;
const fits = document.querySelector("[data-forecast=running] [data-fits]");

async function look() {
  const answer = await fetch(`${root}/api/admin/forecast`).catch(() => null); // the network fails: ask again
  const now = answer?.ok ? await answer.json() : { state: "running", of: 0 };
  if (now.state !== "running") return location.reload();
  if (now.of) fits.textContent = `fit ${now.fit} of ${now.of}`;
  setTimeout(look, 2000);
}

if (fits) setTimeout(look, 1000);
