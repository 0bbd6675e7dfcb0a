"use strict";
/* Forms and buttons that call the API, dialogs, uploads and the menu.

   data-api="/api/models"       address of the request; data-method is POST if it is not given
   data-next="/models/{id}"     page that follows; {id} is taken from the answer; "" reloads
   data-show="#secret"          template element that is filled with the answer instead
   data-confirm="Delete ...?"   question before the request                                      */

const noConnection = { detail: "The server does not answer", fix: "check that it is running, then try again" };
const readMeta = (page, name) => page.querySelector(`meta[name=${name}]`)?.content ?? "";
let csrfToken = readMeta(document, "csrf-token");

document.addEventListener("htmx:config:request", (event) => {
  event.detail.ctx.request.headers["X-CSRF-Token"] = csrfToken;
});
// A fragment of a page that has failed is kept as it is; the reason is shown above the content.
document.addEventListener("htmx:before:swap", (event) => {
  const { response, text } = event.detail.ctx;
  if (!response || response.status < 400) return;
  event.preventDefault();
  showProblem(document.querySelector("#page-problem"), parseProblem(response.status, text));
});
document.addEventListener("htmx:error", (event) => {
  if (event.detail.ctx) showProblem(document.querySelector("#page-problem"), noConnection);
});
document.addEventListener("htmx:after:swap", (event) => {
  const { response } = event.detail.ctx;
  if (response && response.status < 400) document.querySelector("#page-problem")?.replaceChildren();
});

/** Sends JSON to the API; rejects without a connection. */
async function sendRequest(method, path, body, accept = "application/json") {
  const send = () => {
    const headers = { Accept: accept, "X-CSRF-Token": csrfToken };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    return fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  };
  const token = csrfToken;
  const response = await send();
  if (response.status !== 403) return response;
  if (csrfToken === token) await renewToken();
  return csrfToken === token ? response : send();
}

/** Reads the CSRF token again: it is another one after a sign-in in another tab. That of another user is
    not used, because what is filled in here is not theirs. */
async function renewToken() {
  const response = await fetch("/account");
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (readMeta(page, "user-id") === readMeta(document, "user-id")) csrfToken = readMeta(page, "csrf-token");
}

/** Calls the API; returns the response, or throws a problem with `detail` and `fix`. */
async function requestApi(method, path, body, accept) {
  let response;
  try {
    response = await sendRequest(method, path, body, accept);
  } catch {
    throw noConnection;
  }
  if (response.ok) return response;
  throw parseProblem(response.status, await response.text());
}

/** Calls the API; returns the JSON of the response, or throws a problem. */
async function callApi(method, path, body) {
  const response = await requestApi(method, path, body);
  const text = await response.text();
  return text ? JSON.parse(text) : {};
}

function parseProblem(status, text) {
  try {
    const problem = JSON.parse(text);
    if (problem.detail) return problem;
  } catch {
    // Not JSON: the status says what is known.
  }
  return { detail: `The server answered with status ${status}`, fix: "reload the page" };
}

function showProblem(element, problem) {
  if (!element) return;
  const paragraphs = [problem.detail, problem.fix].filter(Boolean).map((sentence, place) => {
    const paragraph = document.createElement("p");
    const text = String(sentence);
    paragraph.textContent = text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");
    if (place) paragraph.className = "fix";
    return paragraph;
  });
  const shown = Array.from(element.children, (paragraph) => paragraph.textContent);
  // A part of the page that fails every second moves it once.
  if (String(shown) === String(paragraphs.map((paragraph) => paragraph.textContent))) return;
  element.replaceChildren(...paragraphs);
  element.scrollIntoView({ block: "nearest" });
}

/** The fields of a form as the JSON that the API expects. Empty fields are left out. */
function readForm(form) {
  const body = {};
  for (const field of form.elements) {
    if (!field.name || field.disabled || field.type === "file" || field.dataset.as === "none") continue;
    if ((field.type === "radio" || field.dataset.as === "list") && field.type !== "text" && !field.checked) continue;
    const value = readField(field);
    if (value === undefined) continue;
    const path = field.dataset.key === undefined ? field.name.split(".") : [field.name, field.dataset.key];
    const last = path.pop();
    const place = path.reduce((object, key) => (object[key] ??= {}), body);
    if (field.dataset.as === "list") (place[last] ??= []).push(value);
    else place[last] = value;
  }
  return body;
}

function readField(field) {
  if (field.type === "checkbox" && field.dataset.as !== "list") return field.checked;
  if (field.value === "") return undefined;
  if (field.dataset.as === "boolean") return field.value === "true";
  const isNumber = field.type === "number" || field.dataset.as === "number" || field.dataset.of === "number";
  return isNumber ? Number(field.value) : field.value;
}

/** Runs `action` with the control marked as busy, and shows a problem beside it. */
async function whileBusy(control, problemPlace, action) {
  if (control?.getAttribute("aria-busy") === "true") return;
  control?.setAttribute("aria-busy", "true");
  problemPlace?.replaceChildren();
  try {
    await action();
  } catch (problem) {
    if (problem instanceof Error) throw problem;
    showProblem(problemPlace, problem);
  } finally {
    control?.removeAttribute("aria-busy");
  }
}

function findValue(answer, path) {
  return path.split(".").reduce((object, key) => object?.[key], answer) ?? "";
}

function goOn(element, answer) {
  const next = element.dataset.next;
  if (next === undefined) return;
  if (next === "") location.reload();
  else location.assign(next.replace(/\{([\w.]+)\}/g, (_, path) => encodeURIComponent(findValue(answer, path))));
}

/** Fills [data-value=path] of an element with values of an answer, and shows it. */
function fillValues(element, answer) {
  for (const place of element.querySelectorAll("[data-value]")) {
    const value = findValue(answer, place.dataset.value);
    place.textContent = (place.dataset.prefix === "origin" ? location.origin : "") + value;
  }
  element.hidden = false;
  element.focus();
}

async function sendToApi(element, body) {
  const path = element.dataset.api;
  const answer = await callApi(element.dataset.method ?? "POST", path, body);
  element.dispatchEvent(new Event("sent")); // and accepted
  if (element.dataset.show) fillValues(document.querySelector(element.dataset.show), answer);
  goOn(element, answer);
}

/** Asks a question in a dialog; true if the user agrees. */
function confirmAction(question, verb) {
  const dialog = document.querySelector("#confirm");
  dialog.querySelector("p").textContent = question;
  dialog.querySelector("[value=yes]").textContent = verb;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  // A form that keys send has no submitter.
  const control = event.submitter ?? form.querySelector("button:not([type=button])");
  if (form.dataset.upload !== undefined) {
    event.preventDefault();
    whileBusy(control, form.querySelector(".problem"), () => uploadFile(form));
  } else if (form.dataset.api) {
    event.preventDefault();
    whileBusy(control, form.querySelector(".problem"), () => sendToApi(form, readForm(form)));
  }
});

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-api]");
  if (!button) return;
  const question = button.dataset.confirm;
  if (question && !(await confirmAction(question, button.dataset.verb ?? button.textContent.trim()))) return;
  const body = button.dataset.body === undefined ? undefined : JSON.parse(button.dataset.body);
  await whileBusy(button, document.querySelector("#page-problem"), () => sendToApi(button, body));
});

/** Sends a form with a file, and shows how much of it has arrived. */
function uploadFile(form) {
  const line = form.querySelector(".upload-progress");
  const bar = line.querySelector("progress");
  const words = line.querySelector("[role=status]");
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open("POST", form.action);
    request.setRequestHeader("X-CSRF-Token", csrfToken);
    request.setRequestHeader("Accept", "application/json");
    request.upload.addEventListener("progress", (event) => {
      if (!event.lengthComputable) return;
      bar.max = event.total;
      bar.value = event.loaded;
      const percent = Math.floor((100 * event.loaded) / event.total);
      words.textContent = percent < 100 ? `${percent} % sent` : "Sent. The server reads and checks the table.";
    });
    request.addEventListener("load", () => {
      if (request.status < 300) {
        goOn(form, JSON.parse(request.responseText));
        resolve();
      } else reject(parseProblem(request.status, request.responseText));
    });
    request.addEventListener("error", () => reject({ detail: "The upload was interrupted", fix: "try again" }));
    line.hidden = false;
    words.textContent = "Sending";
    const fields = new FormData(form);
    for (const [name, value] of [...fields]) if (value === "") fields.delete(name);
    request.send(fields);
  }).finally(() => {
    if (request.status >= 300 || request.status === 0) line.hidden = true;
  });
}

for (const place of document.querySelectorAll(".drop")) {
  const input = place.querySelector("input[type=file]");
  place.addEventListener("dragover", (event) => {
    event.preventDefault();
    place.classList.add("over");
  });
  place.addEventListener("dragleave", () => place.classList.remove("over"));
  place.addEventListener("drop", (event) => {
    event.preventDefault();
    place.classList.remove("over");
    if (!event.dataTransfer.files.length) return;
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });
}

document.querySelector(".menu-button")?.addEventListener("click", (event) => {
  const open = document.querySelector(".side").classList.toggle("open");
  event.currentTarget.setAttribute("aria-expanded", String(open));
});

// Ctrl+Enter in a text sends its form.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  event.target.closest?.("form[data-quick-send]")?.requestSubmit();
});

// Parts of a form that belong to one choice: data-when="field=value other".
function showChosenParts(form) {
  for (const part of form.querySelectorAll("[data-when]")) {
    const [name, values] = part.dataset.when.split("=");
    const shown = values.split(" ").includes(form.elements[name].value);
    part.hidden = !shown;
    for (const field of part.querySelectorAll("input, select, textarea")) field.disabled = !shown;
  }
}
for (const form of document.querySelectorAll("form:has([data-when])")) {
  form.addEventListener("change", () => showChosenParts(form));
  showChosenParts(form);
}
for (const select of document.querySelectorAll("select[data-go]")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
