"use strict";
/* Making elements; texts are never read as HTML. */

/** An element with attributes and children; `class`, `text`, `on<event>` and boolean attributes. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function formatPercent(share) {
  return share >= 0.995 ? "99 %+" : `${Math.round(share * 100)} %`;
}

/** An answer as text, by the titles of its form. */
export function formatValue(form, value) {
  if (value === null || value === undefined) return "no answer";
  const title = (name) => form.choices.find((choice) => choice.value === name)?.title ?? name;
  const text = (name) => (title(name) === name ? name : `${name}. ${title(name)}`);
  if (Array.isArray(value)) return value.length ? value.map(text).join(", ") : "none";
  if (typeof value === "object") return JSON.stringify(value);
  return text(value);
}

/** The text with the quoted parts marked, each with the field that it is quoted for. */
export function markQuotes(text, quotes) {
  // Positions count characters, and JavaScript's strings count UTF-16 units.
  const characters = Array.from(text);
  const cuts = new Set([0, characters.length]);
  for (const { start, end } of quotes) cuts.add(start).add(end);
  const places = [...cuts].filter((place) => place >= 0 && place <= characters.length).sort((a, b) => a - b);
  const parts = [];
  for (let index = 0; index + 1 < places.length; index += 1) {
    const [left, right] = [places[index], places[index + 1]];
    const part = characters.slice(left, right).join("");
    const fields = quotes.filter(({ start, end }) => start <= left && right <= end).map(({ field }) => field);
    parts.push(fields.length ? make("mark", { title: fields.join(", "), text: part }) : part);
  }
  return parts;
}

/** The words of `text` with those marked that `other` does not have at this place. */
export function markDifferences(text, other) {
  const words = text.split(/(\s+)/);
  const known = other.split(/(\s+)/);
  const common = findCommonWords(words, known);
  return words.map((word, place) => (common.has(place) || !word.trim() ? word : make("ins", { text: word })));
}

/** Places in `words` of a longest common subsequence with `known`. */
function findCommonWords(words, known) {
  if (words.length * known.length > 1_000_000) {
    const vocabulary = new Set(known);
    return new Set(words.flatMap((word, place) => (vocabulary.has(word) ? [place] : [])));
  }
  const lengths = Array.from({ length: words.length + 1 }, () => new Uint16Array(known.length + 1));
  for (let one = words.length - 1; one >= 0; one -= 1)
    for (let two = known.length - 1; two >= 0; two -= 1)
      lengths[one][two] =
        words[one] === known[two] ? lengths[one + 1][two + 1] + 1 : Math.max(lengths[one + 1][two], lengths[one][two + 1]);
  const common = new Set();
  for (let one = 0, two = 0; one < words.length && two < known.length; ) {
    if (words[one] === known[two]) {
      common.add(one);
      one += 1;
      two += 1;
    } else if (lengths[one + 1][two] >= lengths[one][two + 1]) one += 1;
    else two += 1;
  }
  return common;
}
