// What moves on the pages.  Everything works without it.
"use strict";

// A button with data-copy="ID" copies the text, or the value, of the element with that id.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const source = document.getElementById(button.dataset.copy);
  const text = "value" in source ? source.value : source.textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers have a clipboard on https and localhost only: select it for the keyboard.
    const range = document.createRange();
    range.selectNodeContents(source);
    getSelection().removeAllRanges();
    if (source.select) source.select(); else getSelection().addRange(range);
    document.execCommand("copy");
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
});

// On a phone the navigation is wider than the page: show where one is.
document.querySelector(".nav [aria-current]")?.scrollIntoView({ inline: "center", block: "nearest" });

// One menu at a time; a click elsewhere or Escape closes it.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details.menu[open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// A slash puts the cursor into the search, where there is one.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const search = document.querySelector("[data-search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
  search.select();
});

// The log goes on by itself: data-live on a table names where its new rows come from.
(() => {
  const log = document.querySelector("[data-live]");
  if (!log) return;
  const MOST = 500;
  const state = document.querySelector("[data-live-state]");
  const button = document.querySelector("[data-live-pause]");
  const first = log.hasAttribute("data-live-first");
  let source = null;
  let paused = false;
  let newest = new URL(log.dataset.live, location.href).searchParams.get("after") || "";

  const WORDS = { live: "Live", connecting: "Reconnecting…", paused: "Paused", ended: "Not connected" };
  const show = (name) => {
    state.dataset.state = name;
    state.textContent = WORDS[name];
  };

  const rows = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return [...template.content.querySelectorAll("tr")];
  };
  const known = (row) => log.querySelector(`tr[data-id="${CSS.escape(row.dataset.id)}"]`);

  const add = (event) => {
    newest = event.lastEventId || newest;
    if (first) { location.reload(); return; }
    const body = log.tBodies[0];
    for (const row of rows(event.data).reverse()) {
      if (known(row)) continue;
      row.classList.add("new");
      body.prepend(row);
    }
    while (body.rows.length > MOST) body.lastElementChild.remove();
    log.hidden = false;
    document.querySelector("[data-live-none]")?.remove();
  };
  const change = (event) => {
    for (const row of rows(event.data)) {
      const old = known(row);
      if (!old || old.contains(document.activeElement)) continue;
      old.replaceWith(row);
    }
  };

  const open = () => {
    if (source || paused || document.hidden) return;
    const url = new URL(log.dataset.live, location.href);
    url.searchParams.set("after", newest);
    show("connecting");
    source = new EventSource(url);
    source.onopen = () => show("live");
    source.onerror = () => {
      show("connecting");
      // A browser does not come back by itself after an answer that is no stream, as when one has signed out.
      if (source && source.readyState === EventSource.CLOSED) { close("ended"); setTimeout(open, 10000); }
    };
    source.addEventListener("rows", add);
    source.addEventListener("changed", change);
    source.addEventListener("many", (event) => {
      newest = event.lastEventId || newest;
      if (first) location.reload();
      document.querySelector("[data-live-many]").hidden = false;
    });
    source.addEventListener("end", () => close("ended"));
  };
  const close = (name) => {
    if (source) source.close();
    source = null;
    show(name);
  };

  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      button.textContent = paused ? "Go on" : "Pause";
      if (paused) close("paused"); else open();
    });
  }
  document.addEventListener("visibilitychange", () => {
    if (paused) return;
    if (document.hidden) close("connecting"); else open();
  });
  addEventListener("pagehide", () => close("connecting"));
  addEventListener("pageshow", (event) => { if (event.persisted) open(); });
  open();
})();

// "Waiting for your first message…" becomes a link when it arrives.
(() => {
  const first = document.querySelector("[data-first]");
  if (!first) return;
  const timer = setInterval(async () => {
    if (document.hidden) return;
    try {
      const newest = await (await fetch(first.dataset.first, { headers: { Accept: "application/json" } })).json();
      if (!newest.href) return;
      clearInterval(timer);
      const link = document.createElement("a");
      link.href = newest.href;
      link.textContent = newest.label;
      const dot = document.createElement("span");
      dot.className = "dot ok";
      first.replaceChildren(dot, "Your first message is here: ", link);
    } catch {
      // The relay restarts, or the session is over: try again.
    }
  }, 2000);
})();
