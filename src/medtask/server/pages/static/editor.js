"use strict";
/* The editor of task files: line numbers, faults at their lines, and the draft's checks. */

const editor = document.querySelector(".editor textarea");
const gutter = document.querySelector(".editor pre");
const checks = document.querySelector("#checks");
let faultLines = new Set();

function drawGutter() {
  const count = editor.value.split("\n").length;
  const lines = Array.from({ length: count }, (_, place) => {
    const line = document.createElement("span");
    line.textContent = String(place + 1);
    if (faultLines.has(place + 1)) line.className = "fault";
    return line;
  });
  gutter.replaceChildren(...lines);
  gutter.scrollTop = editor.scrollTop;
}

function goToLine(number) {
  const lines = editor.value.split("\n");
  const start = lines.slice(0, number - 1).reduce((sum, line) => sum + line.length + 1, 0);
  editor.focus();
  editor.setSelectionRange(start, start + (lines[number - 1] ?? "").length);
  editor.scrollTop = Math.max(0, (number - 6) * (editor.scrollHeight / lines.length));
}

editor.addEventListener("input", drawGutter);
editor.addEventListener("scroll", () => {
  gutter.scrollTop = editor.scrollTop;
});
// A new line is indented as the line before, and one step more after a colon. Tab leaves the editor.
editor.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.ctrlKey && !event.metaKey && !event.isComposing) {
    const before = editor.value.slice(0, editor.selectionStart).split("\n").pop();
    const indent = /^ */.exec(before)[0] + (/:\s*$/.test(before) ? "  " : "");
    if (!indent) return;
    event.preventDefault();
    editor.setRangeText("\n" + indent, editor.selectionStart, editor.selectionEnd, "end");
    editor.dispatchEvent(new Event("input", { bubbles: true }));
  }
  if (event.key.toLowerCase() === "s" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    editor.form.requestSubmit();
  }
});

document.addEventListener("htmx:after:swap", () => {
  faultLines = new Set(Array.from(checks.querySelectorAll("[data-line]"), (one) => Number(one.dataset.line)));
  editor.setAttribute("aria-invalid", String(faultLines.size > 0 || checks.querySelector(".faults") !== null));
  drawGutter();
});
checks.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-line]");
  if (button) goToLine(Number(button.dataset.line));
});

let saved = editor.value;
let sent = saved;
editor.form.addEventListener("submit", () => {
  if (!editor.form.querySelector("[aria-busy=true]")) sent = editor.value;
});
editor.form.addEventListener("sent", () => {
  saved = sent;
});
addEventListener("beforeunload", (event) => {
  if (editor.value !== saved) event.preventDefault();
});
drawGutter();
