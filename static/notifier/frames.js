/** The list of frames on the console: what each one is, which ones are shown, and how many are kept. */

import { Announcer, byId, clock, clockTime, gapOffsets, gapWords, icon, make } from "./page.js";

/** @typedef {import("../../realtime/static/realtime/client.js").Frame} Frame */
/** @typedef {import("../../realtime/static/realtime/client.js").Gap} Gap */

const KEPT = 1_000; // entries, newest last
const KEPT_CHARACTERS = 8_000_000; // a publication may have 64 KiB
const SHORT = 300; // characters of a message that the list shows before it is opened
const DRAWN_AT_ONCE = 20; // rows per animation frame: a slow machine draws the newest ones, and the others when it can
const ROWS = 100; // in the document, and as many again for each time that the end of the list is reached
const NEAR_END = 400; // pixels
const FOLLOWED = " followed"; // no channel, whose name has no spaces
const MOST_ASKED = 1_000; // commands that wait for their reply

/**
 * @typedef {object} Entry
 * @property {string} group what the filter calls it
 * @property {string} kind
 * @property {string} channel "" if it is about none
 * @property {number | null} offset
 * @property {string} text
 * @property {number} characters
 * @property {() => HTMLElement} draw
 * @property {HTMLElement} [element] in the list, once it was drawn
 */

/** @type {Record<string, string>} kinds of pushes that do not belong to the group "others" */
const GROUPS = { publication: "publications", gap: "gaps", join: "presence", leave: "presence", presence: "presence" };

const encoder = new TextEncoder();

/** Tells what a message is: a command, a reply, a push or a heartbeat. */
class Reader {
  /** @type {Map<number, {method: string, channel: string}>} commands without a reply, by their id */
  #asked = new Map();

  /**
   * @param {"in" | "out"} direction
   * @param {string} text
   * @returns {{group: string, kind: string, channel: string, offset: number | null}}
   */
  read(direction, text) {
    const about = { group: "others", kind: "unreadable", channel: "", offset: null };
    /** @type {any} */
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return about; // the client closes the connection for that; here it is shown as it is
    }
    if (typeof message !== "object" || message === null) return about;
    if (message.push) return { ...about, ...readPush(message.push) };
    if (message.id === undefined) return { ...about, group: "heartbeats", kind: direction === "in" ? "ping" : "pong" };
    return { ...about, ...(direction === "out" ? this.#command(message) : this.#reply(message)) };
  }

  #command(/** @type {any} */ { id, ...rest }) {
    const [method = "command", body] = Object.entries(rest)[0] ?? [];
    const asked = { method, channel: textOf(body?.channel) };
    this.#asked.set(id, asked);
    if (this.#asked.size > MOST_ASKED) this.#asked.delete(/** @type {number} */ (this.#asked.keys().next().value));
    return { group: groupOf(method), kind: method, channel: asked.channel };
  }

  #reply(/** @type {any} */ { id, error, ...rest }) {
    const { method, channel } = this.#asked.get(id) ?? { method: Object.keys(rest)[0] ?? "command", channel: "" };
    this.#asked.delete(id);
    const kind = error ? `error of ${method}` : `reply to ${method}`;
    return { group: groupOf(method), kind, channel, offset: offsetOf(rest[method]?.offset) };
  }
}

function groupOf(/** @type {string} */ method) {
  return method === "ping" ? "heartbeats" : "commands";
}

function readPush(/** @type {any} */ { channel, ...rest }) {
  const [name = "push", body] = Object.entries(rest)[0] ?? [];
  const kind = name === "pub" ? "publication" : name;
  return { group: GROUPS[kind] ?? "others", kind, channel: textOf(channel), offset: offsetOf(body?.offset) };
}

function textOf(/** @type {unknown} */ value) {
  return typeof value === "string" ? value : "";
}

function offsetOf(/** @type {unknown} */ value) {
  return typeof value === "number" ? value : null;
}

/** The list, bounded in length, filtered, and drawn at most once per animation frame. */
export class FrameLog {
  #reader = new Reader();
  #announcer = new Announcer("frames");
  #list = byId("frames");
  /** @type {Entry[]} newest last */
  #entries = [];
  #characters = 0;
  #dropped = 0;
  /** @type {Entry[] | null} what came since the list was paused; null while it is not */
  #paused = null;
  #waiting = 0; // of those, how many match the filter
  #missedPause = 0; // what came since then and is not kept any more
  #scheduled = false;
  #scroll = byId("log");
  #rows = ROWS;
  #filter = { text: "", kind: "", channel: "" };
  /** @type {ReadonlySet<string>} */
  #followed = new Set();

  constructor() {
    byId("pause").addEventListener("click", () => (this.#paused ? this.#resume() : this.#pause()));
    byId("clear").addEventListener("click", () => this.#clear());
    byId("filters").addEventListener("input", () => this.#refilter());
    byId("filters").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
    document.addEventListener("visibilitychange", () => this.#draw());
    this.#scroll.addEventListener("scroll", () => this.#onScroll(), { passive: true });
    this.#refilter(); // the browser may have kept what was entered before a reload
  }

  addFrame(/** @type {Readonly<Frame>} */ { direction, text, time }) {
    for (const line of text.split("\n")) {
      if (line === "") continue;
      const about = this.#reader.read(direction, line);
      this.#add({ ...about, text: line, characters: line.length, draw: () => frameRow(direction, time, line, about) });
      if (about.kind === "publication") this.#announcer.add(`Publication on ${about.channel}`);
    }
  }

  addGap(/** @type {Gap} */ gap) {
    const { channel } = gap;
    const words = `${gapWords(gap)}, ${gapOffsets(gap)}`;
    const entry = { group: "gaps", kind: "gap", channel, offset: null, text: `${words} ${gap.epoch}`, characters: 0 };
    const at = new Date();
    this.#add({ ...entry, draw: () => gapRow(gap, at) });
    this.#announcer.add(`${words} on ${channel}`);
  }

  /** Offer these channels together as a filter, and choose it when they are new; without channels it goes. */
  follow(/** @type {ReadonlySet<string>} */ channels) {
    const field = byId("filter-channel");
    const option = [...field.options].find(({ value }) => value === FOLLOWED);
    const isSame = channels.size === this.#followed.size && [...channels].every((channel) => this.#followed.has(channel));
    if (isSame && Boolean(option) === channels.size > 0) return;
    this.#followed = new Set(channels);
    if (!channels.size) option?.remove(); // if it was chosen, the browser chooses the first: all
    else if (!option) {
      field.options[0].after(make("option", { value: FOLLOWED }, "Channels of the followed user"));
      field.value = FOLLOWED;
    }
    this.#refilter();
  }

  // --- what is kept --------------------------------------------------------------------------------------------------

  #add(/** @type {Entry} */ entry) {
    if (this.#paused) {
      if (this.#matches(entry)) this.#waiting += 1;
      this.#paused.push(entry);
      if (this.#paused.length > KEPT) {
        this.#paused.shift();
        this.#missedPause += 1;
      }
    } else this.#keep(entry);
    this.#schedule();
  }

  #keep(/** @type {Entry} */ entry) {
    this.#entries.push(entry);
    this.#characters += entry.characters;
    while (this.#entries.length > KEPT || (this.#characters > KEPT_CHARACTERS && this.#entries.length > 1)) this.#dropOldest();
  }

  #dropOldest() {
    const oldest = /** @type {Entry} */ (this.#entries.shift());
    this.#characters -= oldest.characters;
    this.#dropped += 1;
    this.#erase(oldest);
  }

  #erase(/** @type {Entry} */ entry) {
    if (!entry.element) return;
    if (entry.element.contains(document.activeElement)) this.#scroll.focus({ preventScroll: true });
    entry.element.remove();
    delete entry.element;
  }

  #pause() {
    this.#draw();
    this.#paused = [];
    this.#waiting = this.#missedPause = 0;
    this.#showPause();
  }

  #resume() {
    const waited = this.#paused ?? [];
    this.#paused = null;
    this.#dropped += this.#missedPause;
    for (const entry of waited) this.#keep(entry);
    this.#showPause();
    this.#draw();
  }

  #showPause() {
    byId("pause").textContent = this.#paused ? "Resume" : "Pause";
    this.#showCount();
  }

  #clear() {
    this.#entries = [];
    this.#characters = this.#dropped = 0;
    if (this.#paused) this.#paused = [];
    this.#waiting = this.#missedPause = 0;
    this.#list.replaceChildren();
    this.#showCount();
  }

  // --- what is shown -------------------------------------------------------------------------------------------------

  #matches(/** @type {Entry} */ { group, channel, text }) {
    const { text: wanted, kind, channel: of } = this.#filter;
    if (kind ? group !== kind : group === "heartbeats") return false;
    const isWanted = of === FOLLOWED ? this.#followed.has(channel) : !of || channel === of;
    return isWanted && (!wanted || text.toLowerCase().includes(wanted));
  }

  #refilter() {
    const fields = new FormData(byId("filters"));
    const field = (/** @type {string} */ name) => String(fields.get(name) ?? "");
    this.#filter = { text: field("text").toLowerCase(), kind: field("kind"), channel: field("channel") };
    this.#waiting = this.#paused?.filter((entry) => this.#matches(entry)).length ?? 0;
    this.#list.replaceChildren();
    for (const entry of this.#entries) delete entry.element;
    this.#rows = ROWS;
    this.#draw();
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    // A hidden tab gets no animation frames.
    if (document.hidden) setTimeout(() => this.#draw(), 250);
    else requestAnimationFrame(() => this.#draw());
  }

  #onScroll() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroll;
    if (scrollHeight - scrollTop - clientHeight > NEAR_END) return;
    this.#rows = this.#list.childElementCount + ROWS;
    this.#schedule();
  }

  /**
   * Draw what is not drawn yet, the newest first. A thousand rows would take the browser longer than a frame, so the
   * others are drawn when the user scrolls to them. None disappears while the user reads further down.
   */
  #draw() {
    this.#scheduled = false;
    const isAtStart = this.#scroll.scrollTop < 1;
    if (isAtStart) this.#rows = ROWS;
    let left = DRAWN_AT_ONCE;
    let rows = 0;
    /** @type {HTMLElement | null} */
    let newer = null;
    for (let index = this.#entries.length - 1; index >= 0; index -= 1) {
      const entry = /** @type {Entry} */ (this.#entries[index]);
      if (rows >= this.#rows) {
        if (isAtStart) this.#erase(entry);
        continue;
      }
      if (!entry.element) {
        if (!this.#matches(entry)) continue;
        if (left === 0) {
          this.#schedule();
          break;
        }
        left -= 1;
        entry.element = entry.draw();
        if (newer) newer.after(entry.element);
        else this.#list.prepend(entry.element);
      }
      newer = entry.element;
      rows += 1;
    }
    this.#showCount();
  }

  #showCount() {
    byId("empty").hidden = this.#list.childElementCount > 0;
    const parts = [];
    if (this.#paused) parts.push(`Paused: ${this.#waiting.toLocaleString("en")} waiting.`);
    if (this.#dropped) parts.push(`The newest ${KEPT.toLocaleString("en")} are kept; ${this.#dropped.toLocaleString("en")} older ones were dropped.`);
    const words = parts.join(" ");
    if (byId("frames-count").textContent !== words) byId("frames-count").textContent = words;
  }
}

// --- rows ---------------------------------------------------------------------------------------------------------------

/** The time of day, to the millisecond. */
function exactly(/** @type {Date} */ time) {
  const ms = String(time.getMilliseconds()).padStart(3, "0");
  return make("span", { className: "frame-time" }, clockTime(time), make("span", { className: "frame-ms" }, `.${ms}`));
}

/** A letter, not an icon: with the mask of an icon in each row, a busy list is drawn half as often. */
function arrow(/** @type {string} */ letter) {
  const element = make("span", { className: "frame-arrow" }, letter);
  element.setAttribute("aria-hidden", "true");
  return element;
}

/**
 * @param {"in" | "out"} direction
 * @param {Date} time
 * @param {string} text
 * @param {{kind: string, channel: string, offset: number | null}} about
 */
function frameRow(direction, time, text, { kind, channel, offset }) {
  const head = make("summary", {}, exactly(time), make("span", { className: "frame-way" }, arrow(direction === "in" ? "↓" : "↑"), direction === "in" ? "In" : "Out"));
  head.append(make("span", { className: "frame-kind" }, kind));
  if (channel) head.append(make("bdi", { className: "mono frame-channel" }, channel));
  if (offset !== null) head.append(make("span", { className: "frame-offset" }, `offset ${offset}`));
  head.append(make("span", { className: "frame-size" }, sizeWords(encoder.encode(text).length)));
  head.append(make("bdi", { className: "mono frame-text" }, text.length > SHORT ? `${text.slice(0, SHORT)}…` : text));
  const opened = make("details", {}, head);
  opened.addEventListener("toggle", () => opened.append(make("pre", { className: "frame-json", dir: "ltr" }, pretty(text))), { once: true });
  return make("li", { className: "frame", data: { direction, kind, channel: channel || null, offset } }, opened);
}

function gapRow(/** @type {Gap} */ gap, /** @type {Date} */ at) {
  const { channel, epoch, from, to, missed, reason, since, until } = gap;
  const chip = make("span", { className: "frame-chip" }, icon("warning"), "Gap");
  const line = make("p", { className: "frame-line" }, exactly(at), chip, make("bdi", { className: "mono frame-channel" }, channel));
  const range = clock(since) === clock(until) ? clock(until) : `${clock(since)}–${clock(until)}`;
  line.append(
    make("span", { className: "frame-offset" }, gapOffsets(gap)),
    make("span", { className: "frame-kind" }, gapWords(gap)),
    make("span", { className: "frame-size" }, `reason ${reason}, ${range}`),
  );
  return make("li", { className: "frame frame-gap", title: `epoch ${epoch}`, data: { kind: "gap", channel, from, to, missed, reason } }, line);
}

function sizeWords(/** @type {number} */ bytes) {
  return bytes < 10_000 ? `${bytes.toLocaleString("en")} B` : `${Math.round(bytes / 1024).toLocaleString("en")} KiB`;
}

function pretty(/** @type {string} */ text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
