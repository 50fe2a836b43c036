/**
 * Helpers for all pages: elements, times, the text of a gap, a copy button. External data becomes text here, never
 * markup.
 */

import { showUnread } from "./badge.js";

/**
 * @param {string} tag
 * @param {Record<string, any>} [properties] of the element; `data` sets data attributes
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function make(tag, { data = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(data)) if (value !== null) element.dataset[name] = value;
  element.append(...children);
  return element;
}

/**
 * Isolate external text inside a sentence: right-to-left text would reorder the words around it. An element that has only
 * external text gets `dir: "auto"` instead.
 */
export function isolated(/** @type {string} */ text) {
  return make("bdi", {}, text);
}

export function icon(/** @type {string} */ name) {
  const element = make("span", { className: `icon icon-${name}` });
  element.setAttribute("aria-hidden", "true");
  return element;
}

/** @returns {any} */
export function byId(/** @type {string} */ id) {
  return document.getElementById(id);
}

// All times are in the zone of the browser, and in the format of ISO 8601, which is that of this locale.
const DATE_AND_TIME = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

/** 2026-11-30 12:04:05 */
function exactTime(/** @type {Date} */ date) {
  return DATE_AND_TIME.format(date);
}

/** 12:04:05 */
export function clock(/** @type {Date} */ date) {
  return exactTime(date).slice(-8);
}

/** The time of day, with the date on hover. */
export function clockTime(/** @type {Date} */ date) {
  return make("time", { dateTime: date.toISOString(), title: exactTime(date) }, clock(date));
}

/** A relative time that is kept up to date, with the exact time on hover. */
export function relativeTime(/** @type {Date} */ date) {
  return make("time", { dateTime: date.toISOString(), title: exactTime(date), data: { relative: "" } }, ago(date));
}

/** @returns {string} */
export function ago(/** @type {Date} */ date, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - date.getTime()) / 1000));
  if (seconds < 10) return "just now";
  if (seconds < 60) return `${Math.floor(seconds / 10) * 10} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  return exactTime(date).slice(0, 10);
}

setInterval(() => {
  if (document.hidden) return;
  for (const time of document.querySelectorAll("time[data-relative]")) {
    const words = ago(new Date(/** @type {HTMLTimeElement} */ (time).dateTime));
    if (time.textContent !== words) time.textContent = words;
  }
}, 5_000);

/** @type {Record<string, string>} */
const WHILE = {
  broker: "while Redis was unreachable",
  broker_lost: "while Redis was unreachable",
  slow: "because this connection was too slow",
  reconnect: "while disconnected",
};

/** "3 missed while Redis was unreachable" */
export function gapWords(/** @type {{missed: number | null, reason: string}} */ { missed, reason }) {
  const what = missed === null ? "Some may be missing" : `${missed.toLocaleString("en")} missed`;
  return WHILE[reason] ? `${what} ${WHILE[reason]}` : what;
}

/** "offsets 5 to 7" */
export function gapOffsets(/** @type {{from: number, to: number | null}} */ { from, to }) {
  if (to === null) return `from offset ${from}`;
  return from === to ? `offset ${from}` : `offsets ${from} to ${to}`;
}

/**
 * Say in a line how many publications are missing, why, and which.
 *
 * @param {import("../../realtime/static/realtime/client.js").Gap} gap
 * @param {string} [channel] for a list with several channels
 */
export function gapChip(gap, channel = "") {
  const { since, until } = gap;
  const range = clock(since) === clock(until) ? clock(until) : `${clock(since)}–${clock(until)}`;
  return make(
    "p",
    { className: "gap-chip" },
    icon("gap"),
    make("span", { className: "gap-words" }, gapWords(gap)),
    ...(channel ? [" ", make("span", {}, "on ", make("span", { className: "mono" }, channel))] : []),
    " ",
    make("span", { className: "gap-offsets" }, gapOffsets(gap)),
    " ",
    make("span", { className: "gap-times" }, range),
  );
}

/**
 * Make the line of a list that stands for missing publications.
 *
 * @param {import("../../realtime/static/realtime/client.js").Gap} gap
 * @param {string} [channel] for a list with several channels
 */
export function gapLine(gap, channel = "") {
  const { epoch, from, to, missed, reason } = gap;
  const why = make("details", { className: "gap-why" }, make("summary", {}, "What is this?"), make("p", {}, explained(gap)));
  return make("li", { className: "gap", title: `epoch ${epoch}`, data: { reason, epoch, from, to, missed, channel: channel || null } }, gapChip(gap, channel), why);
}

/** Say what a gap is to somebody who has never seen one. */
function explained(/** @type {{missed: number | null}} */ { missed }) {
  const counted = "Every publication of a channel has a number, its offset, so a page notices each one that it did not receive.";
  if (missed === null) return `${counted} Here the numbers began anew, so nobody knows how many there were. A page of your own would now fetch its data again.`;
  return `${counted} Those of these numbers were published, but did not reach this page. They are not stored, so they do not come later. A page of your own would now fetch its data again.`;
}

/** Tell whether a text has a character that can be seen: spaces and zero-width characters cannot. */
export function isVisible(/** @type {string} */ text) {
  return /[\p{L}\p{N}\p{P}\p{S}]/u.test(text);
}

const LONG = 1_200; // in characters; about one screen of a phone

/** Make an element for text. The style sheet shortens a long text until the user expands it. */
export function longText(/** @type {string} */ text, { tag = "p", className = "", limit = LONG, show = "Show all" } = {}) {
  const body = make(tag, { className: `${className} wraps`, dir: tag === "pre" ? "ltr" : "auto" }, text);
  if (text.length <= limit && text.split("\n", 20).length < 20) return [body];
  body.classList.add("shortened");
  const button = make("button", { type: "button", className: "button button-quiet show-all" }, show);
  button.addEventListener("click", () => {
    const short = body.classList.toggle("shortened");
    button.textContent = short ? show : "Show less";
  });
  return [body, button];
}

/**
 * Run the action of some buttons, unless it is already running. Meanwhile the buttons are `aria-disabled`, not
 * `disabled`: a disabled button loses focus, so keyboard users would lose their place in the page.
 *
 * @param {HTMLElement[]} buttons
 * @param {() => Promise<void>} work
 */
export async function runOnce(buttons, work) {
  if (buttons.some((button) => button.ariaDisabled === "true")) return;
  for (const button of buttons) button.ariaDisabled = "true";
  try {
    await work();
  } finally {
    for (const button of buttons) button.ariaDisabled = null;
  }
}

/** Return an id that nobody can guess: 24 hexadecimal digits. */
export function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * Do something that may hide or remove the focused element. If it does, move the focus to a place nearby: it would fall to
 * the top of the page, and keyboard users would start again from there.
 *
 * @param {HTMLElement} within
 * @param {() => void} change
 * @param {HTMLElement} next
 */
export function keepFocus(within, change, next) {
  const hadFocus = within.contains(document.activeElement);
  change();
  // An element that was hidden has the focus until the page is drawn.
  if (hadFocus && (document.activeElement === document.body || !document.activeElement?.checkVisibility())) {
    next.focus({ preventScroll: true });
  }
}

const ANNOUNCED_EVERY_MS = 5_000;

/**
 * Tells screen readers what is new in a list: the first entry at once, those of the next five seconds in one sentence. A
 * live region would read each of them, long after the next hundred have come.
 */
export class Announcer {
  #element = byId("news");
  #noun;
  #count = 0;
  #latest = "";
  #isPausing = false;

  /** @param {string} noun what the entries are: "notifications" */
  constructor(noun) {
    this.#noun = noun;
  }

  add(/** @type {string} */ words) {
    this.#count += 1;
    this.#latest = words.slice(0, 200);
    if (!this.#isPausing) this.#say();
  }

  #say() {
    this.#isPausing = this.#count > 0;
    if (!this.#isPausing) return;
    this.#element.textContent = this.#count === 1 ? this.#latest : `${this.#count.toLocaleString("en")} new ${this.#noun}. The latest: ${this.#latest}`;
    this.#count = 0;
    setTimeout(() => this.#say(), ANNOUNCED_EVERY_MS);
  }
}

/** Make a button copy the result of `text()`, and confirm it. */
export function copies(/** @type {HTMLElement} */ button, /** @type {() => string} */ text) {
  const word = /** @type {HTMLElement} */ (button.querySelector(".copy-word"));
  const before = word.textContent ?? "";
  button.addEventListener("click", async () => {
    word.textContent = (await copy(text())) ? "Copied" : "Select the text and copy it";
    setTimeout(() => {
      word.textContent = before;
    }, 2_000);
  });
}

async function copy(/** @type {string} */ text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyTheOldWay(text); // the clipboard API needs HTTPS or localhost
  }
}

function copyTheOldWay(/** @type {string} */ text) {
  const holder = make("textarea", { value: text, className: "for-ears" });
  const focused = /** @type {HTMLElement | null} */ (document.activeElement);
  document.body.append(holder);
  holder.select();
  const done = document.execCommand("copy");
  holder.remove();
  focused?.focus();
  return done;
}

/** Remember values for the next visit, if the browser allows it. */
export const memory = {
  /** @returns {string | null} */
  get(/** @type {string} */ key) {
    try {
      return localStorage.getItem(`notifier.${key}`);
    } catch {
      return null; // storage is blocked; the page works without it
    }
  },
  set(/** @type {string} */ key, /** @type {string} */ value) {
    try {
      localStorage.setItem(`notifier.${key}`, value);
    } catch {
      // blocked or full; the value is lost with this page
    }
  },
};

/** Counts what arrives while the tab is hidden, and shows the number in its title and on its icon. */
export class Unseen {
  #title = document.title;
  #count = 0;

  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this.#count = 0;
      document.title = this.#title;
    });
  }

  /** @returns {number} */
  add() {
    if (!document.hidden) return 0;
    this.#count += 1;
    showUnread(this.#count);
    document.title = `(${this.#count > 99 ? "99+" : this.#count}) ${this.#title}`;
    return this.#count;
  }
}
