/**
 * Finds sections, fields and messages of the API reference by their names, headings and texts (ARIA Authoring Practices,
 * "Combobox with listbox popup"). All of it is in the page, so nothing is sent anywhere.
 */

import { byId, make } from "./page.js";

const SHOWN = 12; // results
const AROUND = 40; // characters of text before a match

/**
 * @typedef {object} Entry
 * @property {string} id of the element that it leads to
 * @property {string} name
 * @property {string} heading of its section
 * @property {string} where
 * @property {string} text
 */

/** Make the search field of the page work. */
export function makeLookup() {
  const field = byId("lookup");
  const list = byId("lookup-results");
  /** @type {Entry[]} */
  let entries = [];
  let active = -1;

  const options = () => /** @type {HTMLElement[]} */ ([...list.children]);
  const close = () => {
    list.hidden = byId("lookup-nothing").hidden = true;
    field.ariaExpanded = "false";
    activate(-1);
  };
  const activate = (/** @type {number} */ index) => {
    active = index;
    for (const [at, option] of options().entries()) option.ariaSelected = String(at === index);
    field.setAttribute("aria-activedescendant", options()[index]?.id ?? "");
    options()[index]?.scrollIntoView({ block: "nearest" });
  };
  const show = () => {
    const words = wordsOf(field.value);
    if (words.length === 0) {
      byId("lookup-status").textContent = "";
      return close();
    }
    if (entries.length === 0) entries = readEntries();
    const found = search(entries, words);
    list.replaceChildren(...found.slice(0, SHOWN).map((entry, index) => makeOption(entry, words, index)));
    list.hidden = found.length === 0;
    list.scrollTop = 0;
    byId("lookup-nothing").hidden = found.length > 0;
    byId("lookup-nothing").textContent = `Nothing on this page matches “${field.value.trim()}”.`;
    field.ariaExpanded = String(found.length > 0);
    byId("lookup-status").textContent = found.length === 1 ? "1 result" : `${found.length || "No"} results`;
    activate(found.length > 0 ? 0 : -1);
  };
  const follow = (/** @type {HTMLElement | undefined} */ option) => {
    if (!option?.dataset.leads) return;
    close();
    goTo(option.dataset.leads);
  };

  field.addEventListener("input", show);
  field.addEventListener("focus", show);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const last = options().length - 1;
    if (event.key === "Escape") {
      if (list.hidden) field.value = "";
      close();
    } else if (event.key === "Enter") follow(list.hidden ? undefined : options()[active]);
    else if (event.key === "ArrowDown" && list.hidden) show();
    else if (event.key === "ArrowDown") activate(active === last ? 0 : active + 1);
    else if (event.key === "ArrowUp" && !list.hidden) activate(active <= 0 ? last : active - 1);
    else return;
    event.preventDefault();
  });
  // A click would take the focus from the field, which closes the list.
  list.addEventListener("mousedown", (/** @type {MouseEvent} */ event) => event.preventDefault());
  list.addEventListener("click", (/** @type {MouseEvent} */ { target }) => {
    follow(/** @type {HTMLElement | null} */ (/** @type {HTMLElement} */ (target).closest(".lookup-result")) ?? undefined);
  });
  document.addEventListener("keydown", (event) => {
    // Not a letter alone, which somebody who dictates may say (WCAG 2.2, 2.1.4).
    if (event.key !== "k" || !(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey) return;
    event.preventDefault();
    field.focus();
    field.select();
  });
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  open(location.hash.slice(1));
}

/** Show a part of the page, and move the focus there, so that the keyboard goes on from it. */
function goTo(/** @type {string} */ id) {
  open(id);
  if (location.hash === `#${id}`) byId(id).scrollIntoView();
  else location.hash = id;
  const section = /** @type {HTMLElement} */ (byId(id).closest(".method"));
  const summary = byId(id).querySelector("summary");
  (summary ?? section.querySelector("h2"))?.focus({ preventScroll: true });
}

/** Open what hides a part of the page. */
function open(/** @type {string} */ id) {
  const details = byId(id)?.closest("details");
  if (details) details.open = true;
}

/** @returns {Entry[]} */
function readEntries() {
  const found = [];
  for (const section of document.querySelectorAll(".method")) {
    const heading = textOf(section.querySelector("h2"));
    const where = textOf(section.querySelector(".method-line"));
    const name = section.id.replace(/^stream-/, "");
    const about = [...section.querySelectorAll(".method-text > p, .guides li")].map(textOf).join(" ");
    found.push({ id: section.id, name: heading, heading: `${name} ${where}`, where, text: about });
    for (const field of section.querySelectorAll(".fields > [id]")) {
      const text = [...field.querySelectorAll("dd > span")].map(textOf).join(" · ");
      found.push({ id: field.id, name: textOf(field.querySelector("dt .mono")), heading: "", where: heading, text });
    }
    for (const message of section.querySelectorAll("details[id]")) {
      const text = textOf(message.querySelector("summary .help"));
      found.push({ id: message.id, name: textOf(message.querySelector("summary .mono")), heading: "", where: heading, text });
    }
  }
  return found;
}

function textOf(/** @type {Element | null} */ element) {
  return (element?.textContent ?? "").replace(/\s+/g, " ").trim();
}

function wordsOf(/** @type {string} */ text) {
  return text.toLowerCase().split(/\s+/).filter(Boolean);
}

/**
 * Return the entries that have all words, the best first.
 *
 * @param {Entry[]} entries
 * @param {string[]} words
 */
function search(entries, words) {
  return entries
    .map((entry) => ({ entry, rank: Math.min(...words.map((word) => rankOf(entry, word))) }))
    .filter(({ rank }) => rank > 0)
    .sort((one, other) => other.rank - one.rank)
    .map(({ entry }) => entry);
}

function rankOf(/** @type {Entry} */ { name, heading, where, text }, /** @type {string} */ word) {
  const names = name.toLowerCase();
  if (names === word || heading.toLowerCase().split(" ").includes(word)) return 6;
  if (names.startsWith(word)) return 5;
  if (names.includes(word)) return 4;
  if (heading.toLowerCase().includes(word)) return 3;
  if (where.toLowerCase().includes(word)) return 2;
  return text.toLowerCase().includes(word) ? 1 : 0;
}

/**
 * @param {Entry} entry
 * @param {string[]} words
 * @param {number} index
 */
function makeOption({ id, name, where, text }, words, index) {
  const option = make(
    "div",
    { className: "lookup-result", id: `lookup-${index}`, data: { leads: id } },
    make("span", { className: "lookup-name" }, ...marked(name, words)),
    make("span", { className: "lookup-where" }, ...marked(where, words)),
  );
  const excerpt = excerptOf(text, words);
  if (excerpt) option.append(make("span", { className: "lookup-where" }, ...marked(excerpt, words)));
  option.setAttribute("role", "option");
  return option;
}

/** Return the part of a text around its first match, or nothing. */
function excerptOf(/** @type {string} */ text, /** @type {string[]} */ words) {
  const places = words.map((word) => text.toLowerCase().indexOf(word)).filter((place) => place >= 0);
  if (places.length === 0) return "";
  const start = Math.max(0, Math.min(...places) - AROUND);
  const end = start + 3 * AROUND;
  return `${start > 0 ? "…" : ""}${text.slice(start, end)}${end < text.length ? "…" : ""}`;
}

/** Divide a text into what matches, which is marked, and the rest. */
function marked(/** @type {string} */ text, /** @type {string[]} */ words) {
  const lower = text.toLowerCase();
  const parts = [];
  let plainFrom = 0;
  for (let at = 0; at < text.length; ) {
    const word = words.filter((one) => lower.startsWith(one, at)).sort((one, other) => other.length - one.length)[0];
    if (word) {
      parts.push(text.slice(plainFrom, at), make("mark", {}, text.slice(at, at + word.length)));
      plainFrom = at + word.length;
    }
    at += word?.length ?? 1;
  }
  return [...parts, text.slice(plainFrom)];
}
