/** What notifications are, how they look, and how they are shown as toasts and by the browser. The list is in feed.js. */

import { notify } from "./install.js";
import { byId, icon, isVisible, keepFocus, longText, make, relativeTime } from "./page.js";

const TITLE = 160; // characters; a longer title is shortened. The field of the form accepts as many.
const TOASTS = matchMedia("(min-width: 60rem) and (min-height: 64rem)").matches ? 3 : 1; // more would cover the form
const TOAST_MS = 4_000;
const REPLACED_AFTER_MS = 1_000;
const SEVERITIES = ["data", "info", "success", "warning", "error"];

/** @type {Record<string, string>} */
export const LEVELS = { info: "Info", success: "Success", warning: "Warning", error: "Error" };

/**
 * Convert a publication for display. Data of our own form has a title, text and level; other JSON is shown unchanged.
 *
 * @param {import("../../realtime/static/realtime/client.js").Publication} publication
 */
export function readNotification(publication) {
  const { channel, data, event, offset, epoch } = publication;
  const common = { publication, channel, event, offset, epoch, at: new Date(), own: channel === byId("main").dataset.ownChannel };
  if (!isNotification(data)) return { ...common, level: "data", title: titleOf(data, event), text: "", json: pretty(data) };
  const { title, text = "", level, ...rest } = data;
  const json = Object.keys(rest).length > 0 ? pretty(rest) : "";
  return { ...common, level: LEVELS[level] && Object.hasOwn(LEVELS, level) ? level : "info", title: isVisible(title) ? title : (event ?? "Untitled"), text, json };
}

/** @typedef {ReturnType<typeof readNotification>} Notice */

function isNotification(/** @type {any} */ data) {
  const isObject = typeof data === "object" && data !== null && !Array.isArray(data);
  return isObject && typeof data.title === "string" && ["string", "undefined"].includes(typeof data.text);
}

function titleOf(/** @type {any} */ data, /** @type {string | null} */ event) {
  if (event) return event;
  if (Array.isArray(data)) return "List";
  return data !== null && typeof data === "object" ? "Data" : "Value";
}

function pretty(/** @type {any} */ data) {
  return JSON.stringify(data, null, 2);
}

/** Build the elements of a notification, the same ones for the list and a toast. */
export function body(/** @type {Notice} */ { level, title, text, json, event, channel, offset, at, own }) {
  const meta = make("p", { className: "notification-meta" }, make("span", { className: "level-word" }, LEVELS[level] ?? "JSON"));
  if (own) meta.append(make("span", { className: "own-word" }, icon("lock"), "Only you"));
  if (event && event !== title) meta.append(make("span", { className: "mono event-name" }, event));
  meta.append(make("span", { className: "mono channel-name" }, place({ channel, offset })));
  const [shown, ...showAll] = longText(title, { tag: "h3", className: "notification-title", limit: TITLE, show: "Show whole title" });
  const content = [make("div", { className: "notification-head" }, shown, relativeTime(at)), ...showAll];
  if (text) content.push(...longText(text, { className: "notification-text" }));
  if (json) content.push(...longText(json, { tag: "pre", className: "notification-json" }));
  return [make("span", { className: "badge" }, icon(level)), make("div", { className: "notification-body" }, ...content, meta)];
}

/** "public:news · 7", or "public:news · 5–7" of several in a row */
export function place(/** @type {{channel: string, offset: number | null}} */ { channel, offset }, /** @type {number | null} */ first = offset) {
  if (offset === null) return channel;
  return `${channel} · ${first === offset ? offset : `${first}–${offset}`}`;
}

function severity(/** @type {string} */ level) {
  return SEVERITIES.indexOf(level);
}

/** Return the index of the least severe level; of several, the first. */
function weakest(/** @type {string[]} */ levels) {
  const severities = levels.map(severity);
  return severities.indexOf(Math.min(...severities));
}

/**
 * The toasts: one, or up to three in a large window; four seconds each, longer while hovered. Escape dismisses one.
 *
 * In a burst, the most severe notifications are shown, and the newest of equally severe ones. They replace others: more
 * severe ones at once, equally severe ones after a second, and never while a toast has the pointer or the focus.
 */
export class Toasts {
  #holder = byId("toasts");
  /** @type {Notice[]} the best of those that have no place yet, oldest first */
  #waiting = [];
  #scheduled = false;
  /** @type {HTMLElement | null} "and 12 more in the list" */
  #more = null;
  #passed = 0;

  constructor() {
    document.addEventListener("keydown", (event) => {
      const newest = this.#holder.querySelector(".toast:last-of-type");
      if (event.key !== "Escape" || !newest || event.defaultPrevented) return;
      this.#dismiss(newest, { byUser: true });
    });
  }

  show(/** @type {Notice} */ notice) {
    if (document.hidden) return;
    this.#waiting.push(notice);
    // Those to show in the next frame and those to wait after it: one frame may bring a whole burst.
    this.#keep(2 * TOASTS);
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      this.#place();
    });
  }

  #place() {
    this.#waiting = this.#waiting.filter((notice) => !this.#isPlaced(notice));
    this.#keep(TOASTS);
    this.#showMore();
  }

  /** Leave the best `count` of those that wait. */
  #keep(/** @type {number} */ count) {
    while (this.#waiting.length > count) {
      this.#waiting.splice(weakest(this.#waiting.map(({ level }) => level)), 1);
      this.#passed += 1;
    }
  }

  #isPlaced(/** @type {Notice} */ notice) {
    const toasts = [...this.#holder.querySelectorAll(".toast")];
    if (toasts.length >= TOASTS) {
      const other = toasts[weakest(toasts.map(({ dataset }) => dataset.level))];
      const more = severity(notice.level) - severity(other.dataset.level);
      const isOld = performance.now() - Number(other.dataset.since) > REPLACED_AFTER_MS;
      if (more < 0 || (more === 0 && !isOld) || this.#isInUse()) return false;
      other.remove();
      this.#passed += 1;
    }
    this.#add(notice);
    return true;
  }

  #add(/** @type {Notice} */ notice) {
    const data = { level: notice.level, since: String(performance.now()) };
    const toast = make("article", { className: "toast card", data }, ...body(notice));
    const close = make("button", { type: "button", className: "button button-quiet toast-close" }, icon("close"));
    close.setAttribute("aria-label", "Dismiss");
    close.addEventListener("click", () => this.#dismiss(toast, { byUser: true }));
    toast.append(close);
    this.#holder.append(toast); // `#showMore` comes after it, and stays last
    this.#expire(toast);
  }

  #isInUse() {
    return this.#holder.matches(":hover, :focus-within");
  }

  #showMore() {
    const count = this.#passed + this.#waiting.length;
    if (count === 0) return this.#more?.remove();
    this.#more ??= /** @type {HTMLElement} */ (make("p", { className: "toast-more" }));
    this.#more.textContent = `and ${count.toLocaleString("en")} more in the list`;
    this.#holder.append(this.#more);
  }

  /** Dismiss a toast after four seconds in which no toast had the pointer or the focus. */
  #expire(/** @type {HTMLElement} */ toast) {
    let left = TOAST_MS;
    let last = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      // A page that was held up for seconds has not shown the toast meanwhile.
      if (!this.#isInUse() && !document.hidden) left -= Math.min(now - last, 1_000);
      last = now;
      if (left > 0 && toast.isConnected) return this.#waiting.length > 0 ? this.#place() : undefined;
      clearInterval(timer);
      this.#dismiss(toast);
    }, 100);
  }

  #dismiss(/** @type {Element} */ toast, { byUser = false } = {}) {
    const inside = toast.contains(document.activeElement);
    toast.remove();
    if (byUser) this.#passed += this.#waiting.splice(0).length;
    this.#place();
    if (this.#holder.querySelector(".toast")) {
      // For keyboard users, move the focus to the next toast instead of losing it to the top of the page.
      if (inside) this.#holder.querySelector(".toast:last-of-type .toast-close").focus();
      return;
    }
    this.#passed = 0;
    this.#showMore();
    if (inside) byId("main").focus({ preventScroll: true });
  }
}

/** The notifications of the browser, shown while the tab is hidden if the user has allowed them. */
export class BackgroundNotifications {
  #button = byId("notify-button");
  #status = byId("notify-status");

  constructor() {
    if (!("Notification" in window) || !window.isSecureContext) return;
    this.#showPermission();
    this.#button.addEventListener("click", async () => {
      await Notification.requestPermission();
      this.#showPermission();
    });
  }

  #showPermission() {
    const { permission } = Notification;
    this.#status.hidden = permission === "default";
    keepFocus(this.#button, () => (this.#button.hidden = permission !== "default"), this.#status);
    this.#status.textContent =
      permission === "granted"
        ? "Your browser notifies you while this tab is in the background."
        : "Your browser blocks notifications from this site. You can allow them in its settings.";
  }

  /**
   * @param {Notice} notice
   * @param {number} unseen the number of notifications since the tab was hidden
   */
  show({ title, text, json, channel }, unseen) {
    if (!document.hidden) return;
    const more = unseen > 1 ? `\n${unseen} since you left` : "";
    // All have the same tag, so the newest replaces the previous one.
    notify(title.slice(0, 200), { body: (text || json).slice(0, 300) + more, tag: channel });
  }
}
