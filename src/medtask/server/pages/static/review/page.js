"use strict";
/* The page on which people read and decide. Nothing here waits for the server between two items.
   `sendRequest` and `parseProblem` are in app.js. */

import { formatPercent, formatValue, make, markDifferences, markQuotes } from "../elements.js";
import { Drafts } from "./drafts.js";
import { buildInput } from "./inputs.js";
import { Outbox, makeKey } from "./outbox.js";

const LOADED = 20; // items that are loaded in advance
const REFRESH_MS = 15000;

const root = document.querySelector("#review");
const facts = JSON.parse(document.querySelector("#review-facts").textContent);
const { queue, user_id: userId, adjudicates, has_model: hasModel } = facts;
const api = `/api/reviews/${queue.id}`;
const place = Object.fromEntries([...root.querySelectorAll("[data-place]")].map((one) => [one.dataset.place, one]));
const storage = `medtask.review.${userId}.${queue.id}.`;

let items = []; // loaded and not decided, the shown one first
let done = []; // decided on this page, for undo
let shownAt = performance.now();
let input = null;
let loading = null;
let counted = 0;
const included = new Set(); // items with nearly equal texts that get the same decision

const outbox = new Outbox(`${storage}outbox.`, sendJson, {
  changed: showState,
  saved: noteSaved,
  refused: noteRefused,
});

const drafts = new Drafts(`${storage}drafts.${adjudicates ? "adjudication." : ""}`, (itemId, draft) =>
  sendJson(`${api}/items/${itemId}/draft`, { ...draft, adjudicates }, "PUT"),
);

async function sendJson(path, body, method = "POST") {
  const response = await sendRequest(method, path, body);
  const text = await response.text();
  const content = response.ok ? JSON.parse(text || "{}") : parseProblem(response.status, text);
  return { status: response.status, content };
}

/* Loading */

function loadItems() {
  loading ??= fetchItems().finally(() => {
    loading = null;
    if (!items.length) showEnd();
  });
  return loading;
}

async function fetchItems() {
  let response;
  try {
    response = adjudicates
      ? await sendJson(`${api}/disputes`, undefined, "GET")
      : await sendJson(`${api}/assignments`, { count: Math.min(100, LOADED + outbox.itemIds.size) });
  } catch {
    response = { status: 0 };
  }
  if (response.status !== 200) {
    outbox.state = response.status === 401 ? "signed-out" : "offline";
    if (response.status === 403) showProblem(response.content);
    setTimeout(() => items.length < LOADED && loadItems(), 3000);
    showState();
    if (!items.length) showItem();
    return;
  }
  outbox.state = "online";
  const pending = outbox.itemIds;
  const known = new Set([...items.map((item) => item.id), ...pending]);
  const added = response.content.filter((item) => !known.has(item.id));
  const wasEmpty = !items.length;
  for (const item of added) item.draft = drafts.find(item);
  items.push(...added);
  if (wasEmpty) showItem();
  showState();
  showLeft();
}

function keepDraft() {
  const item = items[0];
  if (!item) return;
  item.draft = { value: input?.draft?.() ?? null, comment: place.comment.value };
  drafts.keep(item.id, item.draft);
}

/* Showing */

function getForm(item) {
  return item.form ?? queue.form;
}

function showItem() {
  const item = items[0];
  included.clear();
  root.classList.toggle("is-empty", !item);
  place.comment.value = item?.draft?.comment ?? "";
  if (!item) {
    showEnd();
    return;
  }
  const form = getForm(item);
  place.about.replaceChildren(...describeItem(item));
  place.text.replaceChildren(...markQuotes(item.text, item.model?.quotes ?? []));
  place.reading.scrollTop = 0;
  showSimilar(item);
  place.input.replaceChildren();
  input = buildInput(place.input, item, form, (value) => decide("answer", value));
  place.hint.textContent = item.sees_model || adjudicates || !hasModel ? "" : "The model’s answer is shown after you decide.";
  place.input.scrollTop = 0;
  if (input.first && !isPhone()) input.first.focus({ preventScroll: true });
  else if (document.activeElement !== document.body) document.activeElement.blur();
  place.announce.textContent = `Row ${item.position}`;
  shownAt = performance.now();
}

function describeItem(item) {
  const name = item.record_ids.length === 1 ? item.record_ids[0] : `${item.record_ids[0]} …`;
  const parts = [make("span", { class: "record", dir: "auto", title: item.record_ids.join(", "), text: name })];
  if (item.rows > 1) parts.push(make("span", { class: "tag", text: `this text is in ${item.rows} rows: one decision for all` }));
  if (item.decision?.outcome === "skipped") parts.push(make("span", { class: "tag", text: "skipped before" }));
  if (item.model?.reason) parts.push(make("span", { class: "quiet", dir: "auto", text: item.model.reason }));
  for (const reader of item.readers ?? []) {
    const words = reader.outcome === "cannot_tell" ? "cannot tell" : formatValue(getForm(item), reader.value);
    parts.push(
      make("span", { class: "reader" }, make("b", { text: reader.name }), ` ${words}`, reader.comment ? make("i", { dir: "auto", text: ` “${reader.comment}”` }) : null),
    );
  }
  return parts;
}

function listSimilar(item) {
  return items.filter((other) => other !== item && other.cluster === item.cluster);
}

function showSimilar(item) {
  const similar = listSimilar(item);
  place.similar.hidden = !similar.length;
  if (!similar.length) {
    place.similar.replaceChildren();
    return;
  }
  const boxes = similar.map((other) => {
    const box = make("input", { type: "checkbox", onchange: () => include(other, box.checked) });
    box.checked = included.has(other.id);
    return make(
      "label",
      { class: "similar-text" },
      box,
      make("span", { dir: "auto" }, markDifferences(other.text, item.text), other.rows > 1 ? make("span", { class: "tag", text: `${other.rows} rows` }) : null),
    );
  });
  const words = similar.length === 1 ? "1 text is nearly the same" : `${similar.length} texts are nearly the same`;
  const all = make("button", { type: "button", class: "plain small", onclick: includeAll }, "Decide together ", make("kbd", { text: "G" }));
  place.similar.replaceChildren(make("header", {}, make("h2", { text: words }), all), ...boxes);
}

function include(other, yes) {
  if (yes) included.add(other.id);
  else included.delete(other.id);
}

function includeAll() {
  const similar = listSimilar(items[0]);
  const every = similar.every((other) => included.has(other.id));
  for (const other of similar) include(other, !every);
  showSimilar(items[0]);
}

function showEnd() {
  input = null;
  const waits = Object.entries(facts.progress?.waiting ?? {}).map(([who, count]) => make("li", { text: `${count} for ${who}` }));
  const loadingText = loading ? "Loading …" : outbox.state === "offline" ? "No connection. Trying again." : null;
  place.about.replaceChildren();
  place.similar.hidden = true;
  place.input.replaceChildren();
  place.text.replaceChildren(
    make("strong", { text: loadingText ?? (adjudicates ? "Nothing waits for your adjudication. What you have read yourself needs another person." : "Nothing is left for you to read.") }),
    waits.length && !loadingText ? make("ul", { class: "waits", "aria-label": "What waits" }, waits) : "",
    make("a", { href: "/reviews", text: "All reviews" }),
  );
}

function showState() {
  const waiting = outbox.waiting.length;
  const words = {
    "signed-out": `You are signed out. ${waiting} not saved; they are kept on this computer.`,
    offline: `No connection. ${waiting ? `${waiting} kept on this computer` : "Trying again"}`,
  }[outbox.state] ?? (waiting ? `Saving ${waiting}` : "All saved");
  place.state.textContent = words;
  place.state.dataset.state = waiting || outbox.state === "offline" || outbox.state === "signed-out" ? (outbox.state ?? "online") : "saved";
  place.signin.hidden = outbox.state !== "signed-out";
  place.undo.disabled = !done.length;
}

function showProgress() {
  const { progress } = facts;
  if (!progress) return;
  showLeft();
  place.bar.max = progress.items;
  place.bar.value = progress.finished;
  place.bar.title = `${progress.finished} of ${progress.items} have a result`;
  const waits = Object.entries(progress.waiting).map(([who, count]) => make("li", {}, make("b", { text: count }), ` for ${who}`));
  const readers = progress.readers.map((reader) =>
    make("li", { dir: "auto" }, make("b", { text: reader.answer + reader.cannot_tell }), ` by ${reader.name}`, reader.loaded ? `, ${reader.loaded} assigned` : ""),
  );
  const pairs = (progress.agreement ?? []).map((pair) => make("li", { dir: "auto", text: describePair(pair) }));
  place.waits.replaceChildren(
    make("h2", { text: "Waiting" }),
    make("ul", {}, waits.length ? waits : make("li", { text: "nothing" })),
    make("h2", { text: "Read" }),
    make("ul", {}, readers.length ? readers : make("li", { text: "nothing yet" })),
    pairs.length ? make("h2", { text: "Agreement" }) : "",
    pairs.length ? make("ul", {}, pairs) : "",
  );
  if (!items.length) showEnd();
}

function showLeft() {
  const left = adjudicates ? items.length : Math.max(0, facts.progress.left);
  place.left.textContent = adjudicates ? `${left} disputed` : `${left} left for you`;
}

function describePair(pair) {
  const names = pair.readers.join(" and ");
  const number = (metric) =>
    metric.low === null ? metric.value.toFixed(2) : `${metric.value.toFixed(2)} (${metric.low.toFixed(2)} to ${metric.high.toFixed(2)})`;
  if (pair.kappa) return `${names}: kappa ${number(pair.kappa)}, n = ${pair.n}`;
  if (pair.share) return `${names}: ${pair.measure} ${number(pair.share)}, n = ${pair.n}`;
  return `${names}: ${pair.items} in common, no two answers`;
}

async function refreshProgress() {
  try {
    const { status, content } = await sendJson(`${api}/progress`, undefined, "GET");
    if (status === 200) {
      facts.progress = content;
      showProgress();
    }
  } catch {
    // The next refresh may find the server again.
  }
}

/* Deciding */

function decide(outcome, value) {
  const item = items[0];
  if (!item) return;
  const others = outcome === "skipped" ? [] : items.filter((other) => included.has(other.id));
  const together = [item, ...others];
  const submission = {
    key: makeKey(),
    items: together.map((one) => ({ id: one.id, version: one.version })),
    outcome,
    value: outcome === "answer" ? value : null,
    comment: place.comment.value,
    seconds: Math.round((performance.now() - shownAt) / 100) / 10,
    saw_model: Boolean(item.sees_model),
  };
  const entry = outbox.add(`${api}/${adjudicates ? "adjudications" : "decisions"}`, submission, formatNote(item, submission));
  for (const one of together) {
    one.version += 1;
    one.decision = { outcome, value: submission.value, comment: submission.comment };
    one.draft = undefined;
    drafts.remove(one.id);
  }
  const taken = new Set(together);
  items = items.filter((one) => !taken.has(one));
  done.push({ entry, items: together });
  count(together.length, outcome);
  showLast(done.at(-1));
  showItem();
  if (items.length <= LOADED / 2) loadItems();
}

/** Counts decided items at once; the next refresh brings the server's numbers. */
function count(number, outcome) {
  counted += number;
  if (facts.progress && outcome !== "skipped") {
    facts.progress.left -= number;
    showLeft();
  }
}

function formatNote(item, { outcome, value }) {
  if (outcome === "skipped") return "skipped";
  return outcome === "cannot_tell" ? "cannot tell" : formatValue(getForm(item), value);
}

function showLast(last, model) {
  if (!last) {
    place.last.replaceChildren();
    return;
  }
  const item = last.items[0];
  const seen = model ?? (last.entry.submission.outcome === "skipped" ? null : item.model);
  const parts = [make("span", { dir: "auto", text: last.entry.note })];
  if (seen?.value !== undefined && seen?.value !== null && getForm(item).choices.length) {
    const same = JSON.stringify(seen.value) === JSON.stringify(last.entry.submission.value);
    const sure = seen.confidence === null ? "" : ` ${formatPercent(seen.confidence)}`;
    parts.push(make("span", { class: same ? "quiet" : "differs", dir: "auto", text: same ? `the model too${sure}` : `the model: ${formatValue(getForm(item), seen.value)}${sure}` }));
  }
  place.last.replaceChildren(make("span", { class: "quiet", text: `${counted} decided` }), ...parts);
}

function undo() {
  const last = done.pop();
  if (!last) return;
  count(-last.items.length, last.entry.submission.outcome);
  if (outbox.withdraw(last.entry)) {
    for (const item of last.items) item.version -= 1;
  } else {
    outbox.add(last.entry.path, {
      key: makeKey(),
      items: last.items.map((item) => ({ id: item.id, version: item.version })),
      outcome: "withdrawn",
      value: null,
      comment: "",
      seconds: null,
      saw_model: true,
    });
    for (const item of last.items) item.version += 1;
  }
  const back = new Set(last.items.map((item) => item.id));
  items = [...last.items, ...items.filter((item) => !back.has(item.id))];
  const { comment } = last.entry.submission;
  showItem();
  place.comment.value = comment;
  showLast(done.at(-1));
  showState();
}

function noteSaved(entry, content) {
  const last = done.at(-1);
  const model = content.saved?.[0]?.model;
  for (const one of done) if (one.entry === entry) one.items.forEach((item, index) => (item.model = content.saved[index]?.model ?? item.model));
  if (last?.entry === entry && model) showLast(last, model);
}

/* Decisions that the server refused: nothing is thrown away before the reader says so. */

function noteRefused(entry) {
  const { problem, submission } = entry;
  const later = problem.conflicts ?? [];
  const same = later.length > 0 && later.every((one) => one.outcome === submission.outcome && JSON.stringify(one.value) === JSON.stringify(submission.value));
  if (same) outbox.remove(entry);
  showRefused();
}

function showRefused() {
  const { refused } = outbox;
  place.refused.hidden = !refused.length;
  place.refused.replaceChildren(
    ...refused.map((entry) => {
      const later = entry.problem.conflicts?.[0];
      const words = later
        ? `Decided elsewhere as “${later.outcome === "answer" ? formatValue(queue.form, later.value) : later.outcome?.replace("_", " ") ?? "open"}”, here as “${entry.note}”.`
        : `“${entry.note}” was not saved: ${entry.problem.detail}.`;
      return make(
        "div",
        { class: "refused-entry", role: "alert" },
        make("p", { dir: "auto", text: words }),
        make("button", { type: "button", class: "small", text: later ? "Save mine" : "Try again", onclick: () => sendAgain(entry) }),
        make("button", { type: "button", class: "plain small", text: later ? "Keep the other" : "Discard", onclick: () => { outbox.remove(entry); showRefused(); } }),
      );
    }),
  );
}

function sendAgain(entry) {
  const versions = new Map((entry.problem.conflicts ?? []).map((one) => [one.item, one.version]));
  const changed = entry.submission.items.map((item) => ({ id: item.id, version: versions.get(item.id) ?? item.version }));
  outbox.remove(entry);
  outbox.add(entry.path, { ...entry.submission, key: makeKey(), items: changed }, entry.note);
  showRefused();
}

function showProblem(problem) {
  place.refused.hidden = false;
  place.refused.replaceChildren(make("p", { role: "alert", text: `${problem.detail}: ${problem.fix}` }));
}

/* Keys */

const commands = {
  u: undo,
  z: undo,
  Backspace: undo,
  s: () => decide("skipped"),
  x: () => decide("cannot_tell"),
  g: () => items.length && listSimilar(items[0]).length && includeAll(),
  c: () => place.comment.focus(),
  "/": () => input?.filter?.focus(),
  "?": () => place.help.showModal(),
  PageDown: () => place.reading.scrollBy(0, place.reading.clientHeight * 0.85),
  PageUp: () => place.reading.scrollBy(0, -place.reading.clientHeight * 0.85),
  " ": () => place.reading.scrollBy(0, place.reading.clientHeight * 0.85),
  ArrowDown: () => place.reading.scrollBy(0, 60),
  ArrowUp: () => place.reading.scrollBy(0, -60),
};

document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // Enter chooses a character of an input method
  const { target } = event;
  const typing = target.matches("input:not([type=checkbox], [type=radio]), textarea, select");
  if (place.help.open || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape" && typing) {
    if (target === input?.filter) {
      target.value = "";
      target.dispatchEvent(new Event("input"));
    }
    target.blur();
    return;
  }
  const withControl = event.ctrlKey || event.metaKey;
  if (event.key === "Enter" && input?.enter && (input.needsControl ? withControl : !target.matches("button, a, summary"))) {
    event.preventDefault();
    input.enter();
    return;
  }
  if (event.key === "Enter" && target === place.comment) target.blur();
  if (typing || event.altKey || (withControl && event.key !== "z") || (event.repeat && !event.key.startsWith("Arrow"))) return;
  if (/^[1-9]$/.test(event.key) && input?.press) {
    if (input.press(Number(event.key))) event.preventDefault();
    return;
  }
  if (event.key === " " && target.matches("button, a, summary, input")) return;
  if (event.key.startsWith("Arrow") && target.matches("input")) return;
  const command = commands[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (command) {
    event.preventDefault();
    command();
  }
});

function isPhone() {
  return matchMedia("(max-width: 48rem)").matches;
}

place.undo.addEventListener("click", undo);
place.skip.addEventListener("click", () => decide("skipped"));
place.unclear.addEventListener("click", () => decide("cannot_tell"));
place.keys.addEventListener("click", () => place.help.showModal());
place.input.addEventListener("input", keepDraft);
place.comment.addEventListener("input", keepDraft);

showProgress();
showRefused();
showItem();
loadItems();
outbox.flush();
drafts.flush();
setInterval(refreshProgress, REFRESH_MS);
setInterval(() => !document.hidden && items.length < LOADED / 2 && loadItems(), REFRESH_MS);
