"use strict";
/* The input of an answer, by the form of the task: one or several choices, a text, or an object. */

import { formatPercent, make } from "../elements.js";

const MANY_CHOICES = 9; // more get a box that filters them

/** Builds the input of an item. `submit(value)` saves; the result has `press`, `read` and `focus`. */
export function buildInput(place, item, form, submit) {
  const builders = { one: buildChoices, several: buildChoices, text: buildText, object: buildObject };
  return builders[form.input](place, item, form, submit);
}

function buildChoices(place, item, form, submit) {
  const several = form.input === "several";
  const shares = item.model?.probabilities ?? {};
  const suggested = new Set([item.model?.value ?? []].flat());
  const chosen = new Set(several ? (item.draft?.value ?? item.decision?.value ?? item.model?.value ?? []) : []);
  const readers = item.readers ?? [];
  const ordered = [...form.choices].sort((one, other) => (shares[other.value] ?? 0) - (shares[one.value] ?? 0));
  const list = make("div", { class: "choices", role: several ? "group" : undefined, "aria-label": "Answers" });
  const state = { shown: ordered };

  const buttons = new Map(
    ordered.map((choice) => {
      const by = readers.filter((reader) => [reader.value ?? []].flat().includes(choice.value));
      const share = shares[choice.value];
      const bar = make("span", { class: "share", "aria-hidden": "true" });
      if (share !== undefined) bar.style.setProperty("--share", `${Math.round(share * 100)}%`);
      const button = make(
        "button",
        {
          type: "button",
          class: `choice${suggested.has(choice.value) ? " suggested" : ""}`,
          "aria-pressed": several ? String(chosen.has(choice.value)) : undefined,
          onclick: () => choose(choice.value),
        },
        make("kbd", { "aria-hidden": "true" }),
        make(
          "span",
          { class: "choice-name", dir: "auto" },
          choice.title === choice.value ? choice.title : `${choice.value}. ${choice.title}`,
          by.map((reader) => make("span", { class: "tag", text: reader.name })),
        ),
        make("span", { class: "choice-share", text: share === undefined ? "" : formatPercent(share) }),
        choice.definition ? make("span", { class: "definition", dir: "auto", text: choice.definition }) : null,
        bar,
      );
      return [choice.value, button];
    }),
  );

  function choose(value) {
    if (!several) {
      submit(value);
      return;
    }
    if (chosen.has(value)) chosen.delete(value);
    else chosen.add(value);
    buttons.get(value).setAttribute("aria-pressed", String(chosen.has(value)));
    showSave();
    list.dispatchEvent(new Event("input", { bubbles: true }));
  }

  function show(choices) {
    state.shown = choices;
    choices.forEach((choice, index) => {
      buttons.get(choice.value).querySelector("kbd").textContent = index < 9 ? index + 1 : "";
    });
    list.replaceChildren(...choices.map((choice) => buttons.get(choice.value)));
  }

  let filter = null;
  if (form.choices.length > MANY_CHOICES) {
    filter = make("input", {
      type: "search",
      class: "filter",
      placeholder: `Filter ${form.choices.length} labels  ( / )`,
      "aria-label": "Filter the labels",
      autocomplete: "off",
      oninput: () => show(filterChoices(ordered, filter.value)),
      onkeydown: (event) => {
        if (event.key === "Enter" && !event.isComposing && state.shown.length) {
          event.preventDefault();
          event.stopPropagation();
          choose(state.shown[0].value);
          if (several) {
            filter.value = "";
            show(ordered);
          }
        }
      },
    });
    place.append(filter);
  }
  place.append(list);
  const save = several ? make("button", { type: "button", class: "save", onclick: () => submit(read()) }) : null;
  const read = () => form.choices.map((choice) => choice.value).filter((value) => chosen.has(value));
  function showSave() {
    if (!save) return;
    const count = chosen.size;
    const words = count ? `Save ${count} ${count === 1 ? "label" : "labels"}` : "None of these applies";
    save.replaceChildren(words, make("kbd", { text: "Enter" }));
    save.disabled = form.at_least_one && !count;
  }
  if (save) {
    place.append(save);
    showSave();
  }
  show(ordered);
  return {
    press(digit) {
      const choice = state.shown[digit - 1];
      if (choice) choose(choice.value);
      return Boolean(choice);
    },
    enter: several ? () => save.disabled || submit(read()) : null,
    draft: several ? read : undefined,
    filter,
  };
}

/** Choices whose title, value or definition has all words; those that begin with the text first. */
function filterChoices(choices, text) {
  const words = text.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  const found = choices.filter((choice) => {
    const content = `${choice.value} ${choice.title} ${choice.definition}`.toLocaleLowerCase();
    return words.every((word) => content.includes(word));
  });
  const begins = (choice) => choice.title.toLocaleLowerCase().startsWith(words.join(" "));
  return [...found.filter(begins), ...found.filter((choice) => !begins(choice))];
}

function noteSuggestion(item) {
  if (item.decision?.value !== undefined && item.decision?.value !== null) return null;
  if (item.model?.value === undefined || item.model?.value === null) return null;
  return make("p", { class: "suggestion", text: "Filled in by the model. It counts only when you save it." });
}

function makeSave(submit) {
  return make(
    "button",
    { type: "button", class: "save", onclick: submit },
    "Save",
    make("kbd", { text: "Ctrl" }),
    make("kbd", { text: "Enter" }),
  );
}

function buildText(place, item, form, submit) {
  const area = make("textarea", { class: "answer-input", "aria-label": "Answer", dir: "auto", rows: 6 });
  area.value = item.draft?.value ?? item.decision?.value ?? item.model?.value ?? "";
  const send = () => submit(area.value);
  place.append(noteSuggestion(item) ?? "", area, makeSave(send));
  for (const reader of item.readers ?? []) place.append(makeReaderAnswer(reader, () => {
    area.value = reader.value ?? "";
    area.dispatchEvent(new Event("input", { bubbles: true }));
  }));
  return { enter: send, needsControl: true, first: area, draft: () => area.value };
}

function makeReaderAnswer(reader, use) {
  const text = typeof reader.value === "object" ? JSON.stringify(reader.value, null, 1) : reader.value;
  return make(
    "div",
    { class: "reader-answer" },
    make("header", {}, make("span", { class: "tag", text: reader.name }), make("button", { type: "button", class: "plain small", text: "Use", onclick: use })),
    make("p", { dir: "auto", text: reader.outcome === "cannot_tell" ? "cannot tell" : text }),
  );
}

function buildObject(place, item, form, submit) {
  const value = item.draft?.value ?? item.decision?.value ?? item.model?.value ?? {};
  const shares = item.model?.probabilities ?? {};
  let fields = buildFields(form.schema, value, shares, "");
  const holder = make("div", { class: "object" }, fields.elements);
  const send = () => submit(fields.read());
  const use = (chosen) => {
    fields = buildFields(form.schema, chosen ?? {}, shares, "");
    holder.replaceChildren(...fields.elements);
    holder.dispatchEvent(new Event("input", { bubbles: true }));
  };
  place.append(noteSuggestion(item) ?? "", holder, makeSave(send));
  for (const reader of item.readers ?? []) place.append(makeReaderAnswer(reader, () => use(reader.value)));
  return { enter: send, needsControl: true, first: holder.querySelector("input, select, textarea"), draft: () => fields.read() };
}

function buildFields(schema, value, shares, path) {
  const readers = {};
  const elements = Object.entries(schema.properties).map(([name, part]) => {
    const inner = path ? `${path}.${name}` : name;
    if (part.properties) {
      const nested = buildFields(part, value?.[name] ?? {}, shares, inner);
      readers[name] = nested.read;
      return make("fieldset", { class: "nested" }, make("legend", { text: name }), nested.elements);
    }
    const [element, read] = buildField(inner, part, value?.[name], shares);
    readers[name] = read;
    const label = make("span", { class: "label", id: `field-${inner}`, text: name });
    const note = part.description ? make("span", { class: "definition", text: part.description }) : "";
    return make("div", { class: "object-field" }, label, note, element);
  });
  const read = () => Object.fromEntries(Object.entries(readers).map(([name, one]) => [name, one()]));
  return { elements, read };
}

function buildField(path, part, value, shares) {
  const types = [part.type ?? []].flat();
  const values = part.enum ?? (types.includes("boolean") ? [true, false, ...(types.includes("null") ? [null] : [])] : null);
  const labelled = { "aria-labelledby": `field-${path}` };
  if (values) {
    const group = make("span", { class: "segments", role: "radiogroup", ...labelled });
    for (const one of values) {
      const share = shares[`${path}=${typeof one === "string" ? one : JSON.stringify(one)}`];
      const input = make("input", { type: "radio", name: `value-${path}` });
      input.checked = one === value || (one === null && value === undefined);
      input.answer = one;
      const text = one === null ? "not stated" : one === true ? "yes" : one === false ? "no" : String(one);
      const title = share === undefined ? undefined : `the model: ${formatPercent(share)}`;
      group.append(make("label", { class: "segment", title, dir: "auto" }, input, text));
    }
    return [group, () => group.querySelector("input:checked")?.answer ?? null];
  }
  if (types.includes("array")) {
    const plain = !part.items?.properties && !(value ?? []).some(hasLines);
    const area = make("textarea", { rows: 3, ...labelled, dir: "auto", placeholder: plain ? "one per line" : "a JSON list" });
    area.value = plain ? (value ?? []).join("\n") : value ? JSON.stringify(value, null, 1) : "";
    return [area, () => readList(area.value, plain, value)];
  }
  const isNumber = types.includes("number") || types.includes("integer");
  const long = !isNumber && (hasLines(value) || ((part.maxLength ?? 200) > 80 && String(value ?? "").length > 40));
  const input = long
    ? make("textarea", { rows: 3, ...labelled, dir: "auto" })
    : make("input", { type: part.format === "date" ? "date" : "text", inputmode: isNumber ? "decimal" : undefined, ...labelled, dir: "auto" });
  input.value = value ?? "";
  if (input.type === "date" && input.value !== (value ?? "")) {
    input.type = "text"; // not a date, which such an input would drop
    input.value = value;
  }
  return [input, () => (input.value.trim() === "" ? null : isNumber ? input.value.trim().replace(",", ".") : input.value)];
}

/** Whether a value is a text of several lines, which an input of one line would join. */
function hasLines(value) {
  return typeof value === "string" && /[\r\n]/.test(value);
}

function readList(text, plain, original) {
  if (text.trim() === "") return original === null || original === undefined ? null : [];
  if (plain) return text.split("\n").map((line) => line.trim()).filter(Boolean);
  try {
    return JSON.parse(text);
  } catch {
    return text; // the server says what is not valid
  }
}
