/**
 * The list of the first page: newest first, bounded, and drawn in parts, so that no frame takes long, however many events
 * come. It can be paused and filtered; equal ones in a row are one entry. Gaps are always shown.
 */

import { showDetails } from "./details.js";
import { LEVELS, body, place } from "./notifications.js";
import { Announcer, byId, gapLine, gapWords, make } from "./page.js";

const LISTED = 500; // entries; older ones are removed
const DRAWN_AT_ONCE = 40; // more than a window shows
const REST_MS = 100; // until more are drawn: at 2,000 events a second, most are replaced before anybody could see them
const MOST_EVENTS = 100; // names in the filter
const HIDDEN_DRAW_MS = 250; // a hidden tab gets no animation frames

/** @typedef {import("./notifications.js").Notice} Notice */

/**
 * One entry: a gap, or equal notifications in a row.
 *
 * @typedef {object} Entry
 * @property {Notice | null} notice the latest one
 * @property {number | null} first the offset of the first one
 * @property {number} times how many there are
 * @property {string} key what makes them equal
 * @property {HTMLElement | null} element once it is drawn
 * @property {() => HTMLElement} draw
 */

export class Feed {
  #announcer = new Announcer("notifications");
  #list = byId("notifications");
  #filter = new Filter(() => this.#applyFilter());
  /** @type {WeakMap<Element, Entry>} */
  #entries = new WeakMap();
  /** @type {Entry[]} what came since the list was drawn, newest last; while it is paused, all that came since */
  #waiting = [];
  /** @type {Entry[]} what the list has, newest last; older ones may not be drawn yet */
  #kept = [];
  /** @type {Entry | null} the newest one, if an equal one may join it */
  #latest = null;
  /** @type {Set<Entry>} entries that are drawn, and came again since */
  #repeated = new Set();
  #isScheduled = false;
  #isPaused = false;
  #letGo = 0;
  /** @type {Element | null} the newest entry when the tab was hidden */
  #seenLast = null;
  #sinceLeft = 0;
  #sinceScrolled = 0;

  constructor() {
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#leave();
      else this.#return();
    });
    byId("pause").addEventListener("click", () => this.#pause());
    byId("filter-button").addEventListener("click", () => {
      byId("feed-filter").hidden = !byId("feed-filter").hidden;
      byId("filter-button").ariaExpanded = String(!byId("feed-filter").hidden);
    });
    this.#list.addEventListener("click", (/** @type {any} */ { target }) => {
      const entry = target.closest?.(".details-button") && this.#entries.get(target.closest("li"));
      if (entry?.notice) showDetails(entry.notice.publication);
    });
    const jump = byId("jump");
    jump.addEventListener("click", () => byId("feed-top").scrollIntoView({ block: "center" }));
    // What is below the window counts as inside: only a top that was scrolled past changes anything.
    const rootMargin = "0px 0px 1000000px 0px";
    new IntersectionObserver(
      ([{ isIntersecting }]) => {
        if (isIntersecting) this.#sinceScrolled = 0;
        jump.hidden = isIntersecting;
        this.#showNew();
      },
      { rootMargin },
    ).observe(byId("feed-top"));
  }

  addNotification(/** @type {Notice} */ notice) {
    this.#announcer.add(`${LEVELS[notice.level] ?? "JSON"}: ${notice.title}`);
    const { level, title, text, json, event, channel, epoch } = notice;
    const key = JSON.stringify([level, title, text, json, event, channel, epoch]);
    this.#sinceLeft += 1;
    this.#sinceScrolled += 1;
    if (this.#latest?.key === key) return this.#repeat(this.#latest, notice);
    /** @type {Entry} */
    const entry = { notice, key, first: notice.offset, times: 1, element: null, draw: () => listEntry(entry) };
    this.#add(entry);
    this.#latest = entry;
  }

  addGap(/** @type {any} */ gap, /** @type {string} */ channel) {
    this.#announcer.add(`${gapWords(gap)} on ${channel}`);
    this.#latest = null;
    this.#add({ notice: null, key: "", first: null, times: 1, element: null, draw: () => gapLine(gap, channel) });
  }

  #repeat(/** @type {Entry} */ entry, /** @type {Notice} */ notice) {
    entry.times += 1;
    entry.notice = notice;
    if (entry.element) this.#repeated.add(entry);
    this.#schedule();
  }

  #add(/** @type {Entry} */ entry) {
    this.#waiting.push(entry);
    if (this.#waiting.length > LISTED) this.#letGo += this.#waiting.shift()?.times ?? 0;
    this.#schedule();
  }

  #schedule(delayMs = document.hidden ? HIDDEN_DRAW_MS : 0) {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    if (delayMs) setTimeout(() => this.#draw(), delayMs);
    else requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#isScheduled = false;
    if (this.#isPaused) this.#showPause();
    else this.#takeWaiting();
    if (!this.#drawNewest()) this.#schedule(REST_MS);
    if (this.#filter.isOn) this.#countShown();
    this.#showNew();
  }

  #takeWaiting() {
    for (const entry of this.#repeated) countRepeats(entry);
    this.#repeated.clear();
    if (this.#waiting.length > 0) {
      byId("empty").hidden = true;
      byId("feed-tools").hidden = false;
    }
    this.#kept.push(...this.#waiting.splice(0));
    this.#dropOldest();
  }

  #dropOldest() {
    for (const { times, element } of this.#kept.splice(0, Math.max(0, this.#kept.length - LISTED))) {
      this.#letGo += times;
      element?.remove();
    }
    byId("let-go").hidden = this.#letGo === 0;
    byId("let-go").textContent = `This page keeps the newest ${LISTED} notifications; ${this.#letGo.toLocaleString("en")} older ones were removed.`;
  }

  /** Draw the newest of those that are not drawn, each behind the next newer one; return whether that was all. */
  #drawNewest() {
    /** @type {HTMLElement | null} */
    let newer = null;
    /** @type {HTMLElement[]} */
    let drawn = [];
    let left = DRAWN_AT_ONCE;
    const insert = () => {
      if (newer) newer.after(...drawn);
      else this.#list.prepend(...drawn);
      drawn = [];
    };
    for (const entry of [...this.#kept].reverse()) {
      if (entry.element) {
        insert();
        newer = entry.element;
      } else if (left > 0) {
        left -= 1;
        drawn.push(this.#drawEntry(entry));
      } else {
        insert();
        return false;
      }
    }
    insert();
    return true;
  }

  #drawEntry(/** @type {Entry} */ entry) {
    const element = (entry.element = entry.draw());
    countRepeats(entry);
    this.#entries.set(element, entry);
    element.hidden = !this.#filter.shows(entry.notice);
    return element;
  }

  // --- pause ------------------------------------------------------------------------------------------------------------

  #pause() {
    this.#isPaused = !this.#isPaused;
    this.#latest = null; // what comes now waits, and changes nothing that is shown
    if (!this.#isPaused) this.#draw();
    this.#showPause();
  }

  #showPause() {
    const count = this.#waiting.reduce((sum, { times }) => sum + times, 0);
    byId("pause").ariaPressed = String(this.#isPaused);
    byId("pause").textContent = this.#isPaused ? `Resume: ${count.toLocaleString("en")} waiting` : "Pause";
  }

  // --- filter -----------------------------------------------------------------------------------------------------------

  #applyFilter() {
    for (const element of this.#list.children) {
      const entry = this.#entries.get(element);
      if (entry) element.hidden = !this.#filter.shows(entry.notice);
    }
    this.#countShown();
  }

  #countShown() {
    const all = this.#list.querySelectorAll(".notification").length;
    const shown = this.#list.querySelectorAll(".notification:not([hidden])").length;
    byId("filter-shown").textContent = this.#filter.isOn ? `${shown} of ${all} shown` : "";
  }

  // --- what is new ------------------------------------------------------------------------------------------------------

  #leave() {
    this.#seenLast = this.#list.firstElementChild;
    this.#sinceLeft = 0;
  }

  #return() {
    this.#draw();
    this.#list.querySelector(".since")?.remove();
    if (this.#sinceLeft === 0 || !this.#seenLast?.isConnected) return;
    this.#seenLast.before(make("li", { className: "since" }, `${this.#sinceLeft.toLocaleString("en")} new since you left`));
  }

  #showNew() {
    byId("jump-words").textContent = this.#sinceScrolled ? `${this.#sinceScrolled.toLocaleString("en")} new` : "Newest";
  }
}

function listEntry(/** @type {Entry} */ { notice }) {
  const { level, event, epoch, channel, text, json, title } = /** @type {Notice} */ (notice);
  // Routine is one line: what is more severe, or says more, has more room.
  const isShort = level === "info" && !text && !json;
  const element = make("li", { className: `notification card${isShort ? " in-one-line" : ""}`, data: { level, event, epoch, channel } }, ...body(/** @type {Notice} */ (notice)));
  const details = make("button", { type: "button", className: "details-button" }, "Details");
  details.setAttribute("aria-label", `Details of ${title.slice(0, 80)}`);
  element.querySelector(".notification-meta").append(make("span", { className: "repeats" }), details);
  return element;
}

/** Write how often an entry came, and where the last one is. */
function countRepeats(/** @type {Entry} */ { element, notice, first, times }) {
  if (!element || !notice) return;
  element.dataset.offset = String(notice.offset);
  element.dataset.times = String(times);
  if (times === 1) return;
  const find = (/** @type {string} */ name) => /** @type {HTMLElement} */ (element.querySelector(name));
  find(".repeats").textContent = `${times.toLocaleString("en")} times`;
  find(".channel-name").textContent = place(notice, first);
}

/** The form above the list. */
class Filter {
  #form = byId("feed-filter");
  /** @type {Set<string>} */
  #events = new Set();
  isOn = false;
  #levels = new Set();
  #event = "";
  #text = "";

  constructor(/** @type {() => void} */ changed) {
    this.#form.addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
    this.#form.addEventListener("input", () => {
      this.#read();
      changed();
    });
    this.#form.addEventListener("reset", () => {
      setTimeout(() => {
        this.#read();
        changed();
      });
    });
    this.#read();
  }

  #read() {
    const fields = new FormData(this.#form);
    this.#levels = new Set(fields.getAll("level"));
    this.#event = String(fields.get("event"));
    this.#text = String(fields.get("text")).trim().toLocaleLowerCase();
    this.isOn = this.#levels.size > 0 || this.#event !== "" || this.#text !== "";
  }

  /** Tell whether an entry is shown; a gap always is. */
  shows(/** @type {Notice | null} */ notice) {
    if (!notice) return true;
    this.#learn(notice.event);
    if (!this.isOn) return true;
    const { level, event, title, text, json } = notice;
    if (this.#levels.size > 0 && !this.#levels.has(level)) return false;
    if (this.#event && event !== this.#event) return false;
    return [title, text, json, event ?? ""].some((part) => part.toLocaleLowerCase().includes(this.#text));
  }

  /** Offer the name of an event. */
  #learn(/** @type {string | null} */ event) {
    if (!event || this.#events.has(event) || this.#events.size >= MOST_EVENTS) return;
    this.#events.add(event);
    byId("filter-event").append(make("option", { value: event }, event));
  }
}
