// The editor of a template: what stands in the form is previewed while it is typed.
"use strict";

const form = document.getElementById("editor");
const said = document.getElementById("said");
const paper = form.querySelector(".paper");
const split = form.querySelector(".split");
let changed = form.dataset.changed === "1";
let turn = 0;
let timer = 0;

for (const each of document.querySelectorAll(".scripted")) each.hidden = false;
for (const each of form.querySelectorAll(".unscripted")) each.remove();

const fields = () => new URLSearchParams(new FormData(form));

function element(name, text, kind) {
  const made = document.createElement(name);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

// The place that a mistake names.
function show(place, line) {
  const lines = place.value.split("\n");
  const begin = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  place.focus();
  place.setSelectionRange(begin, begin + (lines[line - 1] || "").length);
  place.scrollTop = place.scrollHeight * (line - 4) / lines.length;
}

function tell(found) {
  said.replaceChildren();
  split.classList.toggle("stale", Boolean(found.mistake));
  if (found.mistake) {
    const problem = element("p", found.mistake.words, "problem");
    const place = form.elements[found.mistake.field];
    if (found.mistake.line && place) {
      const button = element("button", `Go to line ${found.mistake.line}`);
      button.type = "button";
      button.addEventListener("click", () => show(place, found.mistake.line));
      problem.append(button);
    }
    said.append(problem);
    return;
  }
  if (found.undefined.length) {
    const warning = element("p", "", "warning");
    warning.append(element("strong", "Undefined:"), " ");
    for (const name of found.undefined) warning.append(element("code", name), " ");
    warning.append(element("span", "They are empty in the HTML, and stay as they stand in the subject and the sender.", "small"));
    said.append(warning);
  }
  document.getElementById("shown-subject").textContent = found.subject || "The message’s own subject";
  document.getElementById("shown-from").textContent = `${found.fromname} ${found.fromemail || "the message’s own sender"}`.trim();
}

// The form is posted into a new frame, which then takes the place of the old one: what a frame shows first makes no
// entry in the browser's history, and nothing flickers.
function render(number) {
  const [old] = paper.children;
  const frame = old.cloneNode();
  frame.removeAttribute("src");
  frame.name = `preview-${number}`;
  frame.classList.add("waiting");
  const place = form.getAttribute("action");
  form.setAttribute("action", `${place}/preview`);
  form.setAttribute("target", frame.name);
  paper.append(frame);
  form.submit();
  form.setAttribute("action", place);
  form.removeAttribute("target");
  frame.addEventListener("load", () => {
    if (number !== turn) { frame.remove(); return; }
    for (const each of [...paper.children]) if (each !== frame) each.remove();
    frame.classList.remove("waiting");
  });
}

async function refresh() {
  const number = ++turn;
  let found;
  try {
    const answer = await fetch(`${form.getAttribute("action")}/check`, { method: "POST", body: fields() });
    if (!answer.ok || answer.redirected) throw new Error(answer.status);
    found = await answer.json();
  } catch {
    found = { mistake: { words: "The preview cannot be made now. Are you still signed in?" } };
  }
  if (number !== turn) return;
  tell(found);
  if (!found.mistake) render(number);
}

form.addEventListener("input", (event) => {
  if (event.target.name === "width") return;
  changed = changed || event.target.name !== "to";
  clearTimeout(timer);
  timer = setTimeout(refresh, 400);
});
form.addEventListener("submit", () => { changed = false; });
addEventListener("beforeunload", (event) => { if (changed) event.preventDefault(); });
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.key !== "s") return;
  event.preventDefault();
  form.requestSubmit();
});
if (changed) refresh();
