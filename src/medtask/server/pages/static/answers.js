"use strict";
/* Shows answers of the API: the value, bars of the probabilities, analysis and status. Forms and
   requests are in app.js. */

import { make } from "./elements.js";

const answerPlace = document.querySelector("#answer");
const svgSpace = "http://www.w3.org/2000/svg";
const maxBars = 12;

function drawBar(share, name) {
  const svg = document.createElementNS(svgSpace, "svg");
  svg.setAttribute("class", "bar");
  svg.setAttribute("role", "img");
  const title = document.createElementNS(svgSpace, "title");
  title.textContent = name;
  const bar = document.createElementNS(svgSpace, "rect");
  for (const [key, value] of Object.entries({ class: "blue", width: `${(100 * share).toFixed(2)}%`, height: "100%", rx: "2" })) {
    bar.setAttribute(key, value);
  }
  svg.append(title, bar);
  return svg;
}

function drawProbabilities(probabilities, names) {
  const ranked = Object.entries(probabilities).sort((left, right) => right[1] - left[1]);
  const rows = ranked.slice(0, maxBars).map(([name, share], place) => {
    const shown = names[name] ? `${name} ${names[name]}` : name;
    return make(
      "tr",
      { class: place ? null : "top" },
      make("th", { scope: "row", dir: "auto" }, shown),
      make("td", { class: "b" }, drawBar(share, shown)),
      make("td", { class: "n" }, share.toFixed(3)),
    );
  });
  const table = make("table", { class: "bars" }, make("tbody", {}, ...rows));
  table.setAttribute("aria-label", "Probabilities");
  const rest = ranked.slice(maxBars).reduce((sum, [, share]) => sum + share, 0);
  return ranked.length > maxBars
    ? [table, make("p", { class: "quiet small" }, `${ranked.length - maxBars} more share ${rest.toFixed(3)}.`)]
    : [table];
}

function writeValue(value) {
  if (Array.isArray(value)) return value.map(String).join("; ");
  return typeof value === "string" ? value : JSON.stringify(value, null, 1);
}

function showAnswer(answer, names) {
  const parts = [];
  const value = answer.answer;
  const isObject = value !== null && typeof value === "object" && !Array.isArray(value);
  const isText = !answer.probabilities && typeof value === "string";
  if (isObject) {
    const list = make("dl");
    for (const [name, item] of Object.entries(value)) {
      list.append(
        make("dt", { dir: "auto" }, name),
        make("dd", { dir: "auto" }, item === null ? "–" : writeValue(item)),
      );
    }
    parts.push(list);
  } else if (value === null) {
    parts.push(make("p", { class: "answer-value" }, "No answer"));
  } else if (isText) {
    parts.push(make("p", { class: "answer-text", dir: "auto" }, value));
  } else {
    const shown = answer.option ? `${value} ${answer.option}` : writeValue(value) || "none of the labels";
    parts.push(make("p", { class: "answer-value", dir: "auto" }, shown));
  }
  const facts = [];
  if (answer.status !== "ok") facts.push(answer.status.replace("_", " "));
  if (answer.reason) facts.push(answer.reason);
  if (answer.confidence !== null && answer.confidence !== undefined) facts.push(`confidence ${answer.confidence.toFixed(3)}`);
  if (facts.length) parts.push(make("p", { class: "quiet", dir: "auto" }, facts.join(" · ")));
  if (answer.probabilities) parts.push(...drawProbabilities(answer.probabilities, names));
  if (answer.analysis) {
    const words = make("p", { class: "answer-text", dir: "auto" }, answer.analysis);
    parts.push(make("details", { open: !answerPlace.dataset.brief }, make("summary", {}, "Analysis"), words));
  }
  if (answer.model) parts.push(make("p", { class: "quiet small" }, `Answered by ${answer.model}`));
  answerPlace.replaceChildren(...parts);
}

/** The options of a question by letter: one per line. Letters or numbers before them, as in "A) ", are left out
    if each line has that of its place: "E. coli" is a name. */
function readOptions(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  const marks = lines.map((line) => /^[(]?([A-Za-z]|\d+)[).:]\s+/.exec(line));
  const areMarked = marks.every((mark, place) => mark && [letters[place], `${place + 1}`].includes(mark[1].toUpperCase()));
  const options = areMarked ? lines.map((line, place) => line.slice(marks[place][0].length)) : lines;
  return Object.fromEntries(options.map((option, place) => [letters[place] ?? `${place + 1}`, option]));
}

/** Reads server-sent events of a response; calls `onEvent(name, data)` for each. They end if the connection
    does. */
async function readEvents(response, onEvent) {
  const decoder = new TextDecoder();
  const reader = response.body.getReader(); // Safari cannot iterate over a body
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(() => ({ done: true }));
    if (done) return;
    rest += decoder.decode(value, { stream: true });
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = block.split(/\r?\n/).map((line) => /^(\w+): ?(.*)$/.exec(line)).filter(Boolean);
      const name = fields.find(([, key]) => key === "event")?.[2] ?? "message";
      const data = fields.filter(([, key]) => key === "data").map(([, , value]) => value).join("\n");
      if (data) onEvent(name, JSON.parse(data));
    }
  }
}

async function streamAnswer(body, names) {
  const response = await requestApi("POST", "/ask", { ...body, stream: true }, "text/event-stream");
  const thought = make("p", { class: "answer-text quiet", dir: "auto" });
  const text = make("p", { class: "answer-text", dir: "auto" });
  answerPlace.replaceChildren(thought, text);
  let problem = null;
  let last = null;
  await readEvents(response, (name, data) => {
    if (name === "thought") thought.textContent += data.text;
    else if (name === "text") text.textContent += data.text;
    else if (name === "answer") last = data;
    else if (name === "problem") problem = data;
  });
  if (problem) throw problem;
  if (!last) throw { detail: "The answer was interrupted", fix: "ask again" };
  showAnswer(last, names);
}

/** As a list of one row, because a column can have the name of a field of the request. */
async function classifyRow(body, row) {
  const { answers, model } = await callApi("POST", "/classify", { ...body, rows: [row] });
  showAnswer({ ...answers[0], model }, {});
}

document.querySelector("#question")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const form = event.target;
  const body = readForm(form);
  const columns = body.columns;
  const names = body.options ? readOptions(body.options) : {};
  if (body.options) body.options = names;
  delete body.columns;
  whileBusy(form.querySelector("button:not([type=button])"), form.querySelector(".problem"), async () => {
    answerPlace.setAttribute("aria-busy", "true");
    answerPlace.replaceChildren(make("p", { class: "quiet" }, "The model reads the text."));
    try {
      if (form.dataset.question === "ask") await streamAnswer(body, names);
      else await classifyRow(body, columns);
    } catch (problem) {
      answerPlace.replaceChildren();
      throw problem;
    } finally {
      answerPlace.removeAttribute("aria-busy");
    }
  });
});
