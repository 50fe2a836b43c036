/**
 * `<realtime-bell>`, as `{% realtime_bell %}` loads it; docs/bell.md documents it. A publication is data, and shown as
 * text. The only markup that it inserts is the fragment of the page's own host at the address `rows` (ADR-0044).
 */

const WORDS = {
  label: "Notifications",
  unread: "{n} unread",
  empty: "No notifications yet",
  new: "New: {title}|{n} new, the latest: {title}",
  gap: "{n} notification missed|{n} notifications missed",
  "gap-some": "Some notifications may have been missed",
  "gap-help": "Missed notifications are not sent again.",
  "gap-rows": "The list is fetched again and will have them.",
  broker: "Redis was unreachable",
  slow: "this page was too slow",
  reconnect: "the connection was interrupted",
  unknown: "for an unknown reason",
  live: "Live",
  connecting: "Connecting…",
  reconnecting: "Reconnecting…",
  "not-live": "Paused: Redis is unreachable",
  closed: "Disconnected; reload the page",
  refused: "Not allowed: {channel}",
  stale: "The list could not be fetched; retrying",
  desktop: "Desktop notifications",
  blocked: "Desktop notifications are blocked by the browser",
  dismiss: "Dismiss",
  info: "Information",
  success: "Success",
  warning: "Warning",
  error: "Error",
};
const LEVELS = ["info", "success", "warning", "error"]; // by severity
const PLURALS = ["zero", "one", "two", "few", "many", "other"]; // the order of a word's forms
const ROWS = 50;
const GAPS = 20;
const TOASTS = 3;
const DRAW_MS = 100;
const TOAST_MS = 4000;
const SAY_MS = 3000; // for one sentence to screen readers, and one desktop notification
const FETCH_MS = 2000; // for one request
const RETRY_MS = 60_000;
const SWITCH = "realtime-bell.desktop"; // in localStorage

const SHEET = new CSSStyleSheet();
SHEET.replaceSync(`
:host { display: inline-block; position: relative; font: 1rem/1.5 system-ui, sans-serif }
[hidden], :host([hidden]) { display: none !important }
* { box-sizing: border-box; border-radius: .5rem }
button { min-width: 2.75rem; min-height: 2.75rem; padding: .25rem .5rem; border: 0; background: none; font: inherit;
  color: inherit; text-align: start; cursor: pointer }
:focus-visible { outline: 2px solid; outline-offset: -2px }
ul { list-style: ""; margin: 0; padding: 0 }
li { padding: .5rem; border-top: 1px solid GrayText; border-radius: 0 }
.heading, .status, .empty { display: block; padding-inline: .5rem }
.dismiss { text-align: center }
.off svg { stroke-dasharray: 3 }
svg { width: 1.5rem; fill: none; stroke: currentColor; stroke-width: 2; vertical-align: middle }
.badge, .mark { position: absolute; top: 0; inset-inline-end: 0; min-width: 1.5em; border: 1px solid Canvas;
  border-radius: 1em; font: bold .75rem/1.3 system-ui; text-align: center;
  color: var(--realtime-bell-on-accent, #fff); background: var(--realtime-bell-accent, #b3261e) }
.mark { top: auto; bottom: 0 }
.gap { margin: .25rem 0; border-radius: .5rem }
.mark, .gap { border: 1px solid; color: var(--realtime-bell-on-gap, #4a2e00);
  background: var(--realtime-bell-gap, #ffdd9b) }
.panel, .toast { overflow-wrap: anywhere; border: 1px solid GrayText; box-shadow: 0 4px 16px #0004;
  color: var(--realtime-bell-text, CanvasText); background: var(--realtime-bell-surface, Canvas) }
.panel { position: absolute; z-index: 1000; top: 100%; inset-inline-end: 0; width: 22rem; padding: .5rem }
.turned { inset-inline: 0 auto }
.list { max-height: min(24rem, 60vh); overflow: auto }
.text, .status { font-size: .875rem }
.unread .title { font-weight: bold }
.title::before { content: "●"; display: inline-block; width: 1.5em }
.success > .title::before { content: "✓" }
.warning > .title::before { content: "▲" }
.error > .title::before { content: "✕" }
.switch::before { content: "☐ " }
[aria-checked=true]::before { content: "☑ " }
.toasts { position: fixed; z-index: 1001; inset-block: auto 1rem; inset-inline: auto 1rem;
  width: min(22rem, 100vw - 2rem) }
.toast { display: flex; justify-content: space-between; margin-top: .5rem; padding: .5rem }
.said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }
@media (width < 30rem) { .panel { position: fixed; top: auto; inset-inline: .5rem; width: auto } }
@media (prefers-reduced-motion: no-preference) { .toast { animation: in .2s } @keyframes in { 0% { opacity: 0 } } }
@media (forced-colors: active) { .badge, .mark { border-color: CanvasText } }`);

/** @typedef {Record<string, any>} Facts */
/** @typedef {ReturnType<typeof toRow> & {isToast?: boolean}} Row */

// As in page.js: where names have hashes, the template tag puts the URL of page.js into the fragment of this one.
const named = decodeURIComponent(new URL(import.meta.url).hash.slice(1));
const shown = new WeakSet(); // publications that another bell of the page has shown as a toast

/**
 * @param {string} tag
 * @param {string} [name] its class, and its part
 * @param {Record<string, any>} [attributes]
 * @param {(Node | string)[]} children
 */
function make(tag, name = "", attributes = {}, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = element.part.value = name;
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  element.append(...children);
  return element;
}

function makeIcon() {
  const [svg, path] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.ariaHidden = "true";
  path.setAttribute("d", "M6 10a6 6 0 0 1 12 0c0 5 2 6 2 7H4c0-1 2-2 2-7M10 20a2 2 0 0 0 4 0");
  svg.append(path);
  return svg;
}

/** Return a URL of this origin, or undefined: neither a script nor another site. */
function ownUrl(/** @type {string} */ text) {
  const url = URL.canParse(text, document.baseURI) ? new URL(text, document.baseURI) : null;
  return url?.origin === location.origin ? url.href : undefined;
}

/** Read a row, without trusting it. */
function toRow(/** @type {any} */ data, instead = "") {
  const field = (/** @type {string} */ name) => (typeof data?.[name] === "string" ? data[name].slice(0, 500) : "");
  const time = new Date(field("time"));
  return {
    title: field("title") || field("text") || instead,
    text: field("title") && field("text"),
    level: Math.max(0, LEVELS.indexOf(data?.level)),
    href: field("href") && ownUrl(field("href")),
    time: isNaN(+time) ? new Date() : time,
    unread: data?.unread === true,
  };
}

class RealtimeBell extends HTMLElement {
  /** @type {any} */
  #connection = null;
  #life = new AbortController();
  /** @type {Map<any, {due: number, timer: number}>} by name or toast */
  #timers = new Map();
  /** @type {any[]} holds of client.js */
  #held = [];
  /** @type {Row[]} not drawn yet */
  #waiting = [];
  #unread = 0;
  #refused = ""; // a channel
  #news = 0; // rows of which screen readers have not heard
  #latest = "";
  #missed = "";
  #lastGap = "";
  #saidAt = -SAY_MS;
  #notifiedAt = -SAY_MS;
  /** @type {XMLHttpRequest | null} */
  #request = null;
  /** @type {string | null} */
  #etag = null;
  #fetchedAt = -FETCH_MS;
  #failures = 0;
  #told = ""; // by the last `change` event
  #badge = make("span", "badge", { "aria-hidden": "true" });
  #mark = make("span", "mark", { "aria-hidden": "true", hidden: "" }, "!");
  #button = make("button", "button", { type: "button", "aria-controls": "panel" }, makeIcon(), this.#badge, this.#mark);
  #heading = make("b", "heading", { dir: "auto" });
  #status = make("div", "status", { dir: "auto" });
  #gaps = make("ul", "gaps");
  #list = make("ul", "rows");
  #empty = make("p", "empty", { dir: "auto" });
  #scroll = make("div", "list", { role: "group", tabindex: "0" }, this.#gaps, this.#list, make("slot"), this.#empty);
  #desktop = make("button", "switch", { type: "button", role: "switch", dir: "auto" });
  #panel = make("div", "panel", { id: "panel", hidden: "" }, this.#heading, this.#status, this.#scroll, this.#desktop);
  #toasts = make("div", "toasts");
  #said = make("div", "said", { role: "status", dir: "auto" });

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [SHEET];
    root.append(this.#button, this.#panel, this.#toasts, this.#said);
    root.addEventListener("keydown", (event) => this.#onKey(/** @type {any} */ (event)));
    this.#button.onclick = () => (this.open = !this.open);
    this.#desktop.onclick = () => this.#switch();
    this.addEventListener("focusout", ({ relatedTarget: next }) => {
      if (next && !this.contains(/** @type {Node} */ (next))) this.open = false;
    });
  }

  connectedCallback() {
    const early = Object.getOwnPropertyDescriptor(this, "connection"); // set before this module was loaded
    if (early && Reflect.deleteProperty(this, "connection")) this.#connection = early.value;
    this.#start();
  }

  disconnectedCallback() {
    this.#life.abort();
    for (const { timer } of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#toasts.replaceChildren();
    const request = this.#request;
    this.#request = null;
    request?.abort();
    for (const { release } of this.#held.splice(0)) release();
  }

  get connection() {
    return this.#connection;
  }

  set connection(connection) {
    if (this.isConnected) this.disconnectedCallback();
    this.#connection = connection;
    if (this.isConnected) this.#start();
  }

  get unread() {
    return this.#unread;
  }

  get open() {
    return !this.#panel.hidden;
  }

  set open(isOpen) {
    if (isOpen === this.open) return;
    this.#panel.hidden = !isOpen;
    this.#panel.classList.remove("turned");
    const { left, right } = this.#panel.getBoundingClientRect();
    this.#panel.classList.toggle("turned", left < 0 || right > innerWidth);
    this.#mark.hidden ||= isOpen;
    if (isOpen) this.#toasts.replaceChildren(); // its list has them
    if (!this.#rows) {
      this.#unread = 0;
      if (!isOpen) for (const row of this.#list.children) row.classList.remove("unread");
    }
    this.#show();
  }

  get #rows() {
    return this.getAttribute("rows");
  }

  async #start() {
    const { signal } = (this.#life = new AbortController());
    const close = (/** @type {Event} */ event) => event.composedPath().includes(this) || (this.open = false);
    document.addEventListener("pointerdown", close, { signal });
    this.#show();
    this.#fetchAfter(0);
    if (!this.#connection && !this.hasAttribute("waits")) {
      const { live } = named ? await import(new URL(named, import.meta.url).href) : await import("./page.js");
      if (!signal.aborted) this.#connection ??= live;
    }
    const live = this.#connection;
    if (signal.aborted || !live) return;
    const names = this.getAttribute("channels")?.split(" ").filter(Boolean) ?? [];
    this.#held = names.map((/** @type {string} */ channel) => live.hold(channel));
    for (const { subscription } of this.#held) this.#listen(subscription, signal);
    const listen = (/** @type {any} */ subscription) => {
      if (subscription.served && !names.includes(subscription.channel)) this.#listen(subscription, signal);
    };
    if (!this.hasAttribute("only-channels")) {
      live.subscriptions.forEach(listen);
      live.addEventListener("subscription", (/** @type {any} */ { detail }) => listen(detail.subscription), { signal });
    }
    live.addEventListener("state", () => this.#show(), { signal });
    this.#show();
  }

  #listen(/** @type {any} */ subscription, /** @type {AbortSignal} */ signal) {
    const on = (/** @type {string} */ name, /** @type {(detail: any) => void} */ react) =>
      subscription.addEventListener(name, (/** @type {any} */ { detail }) => react(detail), { signal });
    on("publication", (detail) => this.#onPublication(detail));
    on("gap", (detail) => this.#onGap(detail));
    on("error", () => {
      this.#refused = subscription.channel;
      this.#show();
    });
    // Rows that are fetched now have what was published before; later, a gap tells what was missed.
    if (subscription.state === "subscribed") this.#fetchAfter(0);
    else subscription.addEventListener("subscribed", () => this.#fetchAfter(0), { signal, once: true });
  }

  #onPublication(/** @type {any} */ publication) {
    const { data, event, channel } = publication;
    const row = { ...toRow(data, this.#rows ? "" : event || channel), unread: true, isToast: !shown.has(publication) };
    shown.add(publication);
    this.#fetchAfter(Math.random() * 1000 * Number(this.getAttribute("spread")));
    if (!row.title) return; // only a reason to fetch the rows
    if (!this.#rows && !this.open) this.#unread += 1;
    this.#news += 1;
    this.#latest = row.title;
    this.#waiting = [...this.#waiting, row].slice(-ROWS);
    this.#after("draw", DRAW_MS, () => this.#draw());
    if (!row.isToast || !document.hidden) return;
    this.#after("notify", this.#notifiedAt + SAY_MS - performance.now(), () => this.#notify(row));
  }

  #onGap(/** @type {any} */ { channel, from, to, missed, reason, since, until, refetchAfterMs }) {
    this.#lastGap = this.#missed = missed === null ? this.#word("gap-some") : this.#word("gap", { n: missed });
    const facts = [channel, `${from}–${to ?? "…"}`, this.#word(reason), `${timeOf(since)}–${timeOf(until)}`];
    const line = make("div", "text", {}, ...facts.flatMap((fact) => [make("bdi", "", {}, fact), " · "]).slice(0, -1));
    const help = make("div", "text", { dir: "auto" }, this.#word(this.#rows ? "gap-rows" : "gap-help"));
    this.#gaps.prepend(make("li", "gap warning", {}, make("b", "title", { dir: "auto" }, this.#missed), line, help));
    if (this.#gaps.children.length > GAPS) this.#gaps.lastChild?.remove();
    this.#mark.hidden = this.open;
    this.#fetchAfter(refetchAfterMs);
    this.#say();
    this.#show();
  }

  // --- what people see and hear ---

  #show() {
    const { state } = this.#connection?.state ?? { state: "connecting" };
    const problem = (this.#refused && "refused") || (this.#failures && "stale") || "live";
    const status = this.#word(state === "live" ? problem : state, { channel: this.#refused });
    const isLive = state === "live" && problem === "live";
    this.#status.textContent = status;
    this.#button.classList.toggle("off", !isLive);
    const label = (this.#heading.textContent = this.#scroll.ariaLabel = this.#word("label"));
    const unread = this.#unread && this.#word("unread", { n: this.#unread });
    const parts = [label, unread, !this.#mark.hidden && this.#lastGap, !isLive && status];
    this.#button.ariaLabel = parts.filter(Boolean).join(", ");
    this.#button.ariaExpanded = `${this.open}`;
    this.#badge.hidden = !this.#unread;
    this.#badge.textContent = this.#unread > 99 ? "99+" : `${this.#unread}`;
    this.#empty.hidden = this.#list.children.length + this.children.length > 0;
    this.#empty.textContent = this.#word("empty");
    const permission = globalThis.Notification?.permission;
    this.#desktop.hidden = !permission;
    /** @type {HTMLButtonElement} */ (this.#desktop).disabled = permission === "denied";
    this.#desktop.ariaChecked = `${this.#isDesktop}`;
    this.#desktop.textContent = this.#word(permission === "denied" ? "blocked" : "desktop");
    const detail = { unread: this.#unread, open: this.open };
    if (this.#told === (this.#told = JSON.stringify(detail))) return;
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }

  #title(/** @type {any} */ { title, href, level }) {
    const word = level ? [" ", make("bdi", "", {}, `(${this.#word(LEVELS[level])})`)] : [];
    return make("div", "title", { dir: "auto" }, href ? make("a", "link", { href }, title) : title, ...word);
  }

  #row(/** @type {Row} */ row) {
    const name = `row ${LEVELS[row.level]}${row.unread ? " unread" : ""}`;
    const text = make("div", "text", { dir: "auto" }, row.text);
    const time = make("time", "text", { datetime: row.time.toJSON() }, timeOf(row.time));
    return make("li", name, {}, this.#title(row), text, time);
  }

  #draw() {
    const rows = this.#waiting.splice(0);
    if (!this.#rows) this.#list.prepend(...rows.map((row) => this.#row(row)).reverse());
    while (this.#list.children.length > ROWS) this.#list.lastChild?.remove();
    const first = document.querySelector("realtime-bell");
    const bell = first instanceof RealtimeBell ? first : this; // all toasts of a page are in one place
    if (!this.open && !this.hasAttribute("quiet")) bell.#toast(rows.filter((row) => row.isToast));
    this.#say();
    this.#show();
  }

  /** Show the most severe of the present toasts and some rows, and of those the newest; none moves while it is used. */
  #toast(/** @type {Row[]} */ rows) {
    const most = this.#isUsed ? TOASTS - this.#toasts.children.length : TOASTS;
    const chosen = rows.sort((one, other) => one.level - other.level).slice(-TOASTS).slice(0, most);
    for (const row of chosen) {
      const close = make("button", "dismiss", { type: "button", "aria-label": this.#word("dismiss") }, "✕");
      const toast = make("div", `toast ${LEVELS[row.level]}`, { "data-level": row.level }, this.#title(row), close);
      close.onclick = () => this.#dismiss(toast);
      this.#toasts.prepend(toast); // above the others, which stay where they are
      this.#expire(toast);
    }
    const levelOf = (/** @type {Element} */ toast) => Number(toast.getAttribute("data-level"));
    const toasts = [...this.#toasts.children].reverse().sort((one, other) => levelOf(one) - levelOf(other));
    for (const toast of toasts.slice(0, -TOASTS)) this.#dismiss(toast);
  }

  get #isUsed() {
    return this.#toasts.matches(":hover, :focus-within");
  }

  #expire(/** @type {any} */ toast) {
    this.#after(toast, TOAST_MS, () => (this.#isUsed ? this.#expire(toast) : this.#dismiss(toast)));
  }

  #dismiss(/** @type {any} */ toast) {
    const other = toast.nextSibling ?? toast.previousSibling;
    const next = toast.matches(":focus-within") ? (other?.lastChild ?? this.#button) : null;
    clearTimeout(this.#timers.get(toast)?.timer);
    this.#timers.delete(toast);
    toast.remove();
    next?.focus();
  }

  #say() {
    this.#after("say", this.#saidAt + SAY_MS - performance.now(), () => {
      this.#saidAt = performance.now();
      const news = this.#news ? this.#word("new", { n: this.#news, title: this.#latest }) : "";
      this.#said.textContent = [this.#missed, news].filter(Boolean).join(". ");
      this.#news = 0;
      this.#missed = "";
    });
  }

  get #isDesktop() {
    return globalThis.Notification?.permission === "granted" && localStorage[SWITCH] === "on";
  }

  async #switch() {
    localStorage[SWITCH] = this.#isDesktop ? "off" : "on";
    if (localStorage[SWITCH] === "on") await Notification.requestPermission();
    this.#show();
  }

  #notify(/** @type {Row} */ { title, text, href }) {
    this.#notifiedAt = performance.now();
    if (!this.#isDesktop) return;
    try {
      const notification = new Notification(title, { body: text, dir: "auto", tag: SWITCH });
      notification.onclick = () => {
        focus();
        if (href) location.assign(href);
        else this.open = true;
      };
    } catch {} // Android wants a service worker for it
  }

  #onKey(/** @type {any} */ event) {
    const toast = event.target.closest(".toast");
    /** @type {Record<string, number>} */
    const keys = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (event.key === "Escape" && toast) this.#dismiss(toast);
    else if (event.key === "Escape" && this.open) {
      this.open = false;
      this.#button.focus();
    } else if (event.key in keys && !toast && !event.target.matches("input, select, textarea")) {
      this.open = true;
      this.#focus(this.#at() + keys[event.key]);
    } else return;
    event.preventDefault();
  }

  /** The places for the arrow keys: the first link or button of each item, or the item itself. */
  get #stops() {
    const items = [...this.#gaps.children, ...this.#list.children, ...this.querySelectorAll("li")];
    return items.map((item) => /** @type {any} */ (item.querySelector("a[href], button") ?? item));
  }

  #at() {
    return this.#stops.findIndex((stop) => stop.matches(":focus, :focus-within"));
  }

  #focus(/** @type {number} */ at) {
    const stops = this.#stops;
    const stop = stops[Math.max(0, Math.min(at, stops.length - 1))] ?? this.#scroll;
    if (!stop.matches("a, button")) stop.tabIndex = -1;
    stop.focus();
  }

  #word(/** @type {string} */ name, /** @type {Facts} */ facts = {}) {
    const text = this.getAttribute(`text-${name}`) ?? /** @type {Facts} */ (WORDS)[name] ?? name;
    const rules = new Intl.PluralRules(language());
    const categories = /** @type {string[]} */ (rules.resolvedOptions().pluralCategories);
    const forms = text.split("|");
    const form = PLURALS.filter((each) => categories.includes(each)).indexOf(rules.select(facts.n ?? 1));
    const chosen = forms[form] ?? forms.at(-1);
    return chosen.replace(/\{([a-z]+)\}/g, (/** @type {string} */ _, /** @type {string} */ fact) => facts[fact] ?? "");
  }

  // --- time, and the rows of the host ---

  /**
   * Do something after some time; of two with the same name, the earlier.
   *
   * @param {any} name
   * @param {number} ms
   * @param {() => void} task
   */
  #after(name, ms, task) {
    const due = performance.now() + ms;
    const planned = this.#timers.get(name);
    if (planned && planned.due <= due) return;
    clearTimeout(planned?.timer);
    const run = () => {
      this.#timers.delete(name);
      task();
    };
    this.#timers.set(name, { due, timer: setTimeout(run, ms) });
  }

  #fetchAfter(/** @type {number} */ ms) {
    if (!this.#rows) return;
    const wait = Math.max(ms, this.#fetchedAt + FETCH_MS - performance.now());
    this.#after("fetch", wait, () => (this.#request ? this.#fetchAfter(FETCH_MS) : this.#fetch()));
  }

  #fetch() {
    const url = ownUrl(this.#rows ?? "");
    if (!url) return console.warn("realtime-bell: rows must be an address of this origin");
    this.#fetchedAt = performance.now();
    const request = (this.#request = new XMLHttpRequest()); // it parses a document without running its scripts
    request.open("GET", url);
    request.timeout = 10_000;
    if (this.#etag) request.setRequestHeader("If-None-Match", this.#etag);
    request.onreadystatechange = () => {
      const isMarkup = request.getResponseHeader("content-type")?.startsWith("text/html");
      if (request.readyState === 2) request.responseType = isMarkup ? "document" : "json";
    };
    request.onloadend = () => {
      if (this.#request !== request) return; // it was aborted
      this.#request = null;
      const { status, response, responseURL } = request;
      // A redirect leads to another page, such as the login.
      const isFresh = status === 200 && response && responseURL === url;
      if (isFresh) this.#take(response, request.getResponseHeader("etag"));
      this.#failures = isFresh || status === 304 ? 0 : this.#failures + 1;
      if (this.#failures) this.#fetchAfter(Math.random() * Math.min(RETRY_MS, FETCH_MS * 2 ** this.#failures));
      this.#show();
    };
    request.send();
  }

  #take(/** @type {any} */ response, /** @type {string | null} */ etag) {
    this.#etag = etag;
    const at = this.#at();
    if (response instanceof Document) {
      for (const script of response.querySelectorAll("script")) script.remove();
      this.#unread = Number(response.querySelector("[data-unread]")?.getAttribute("data-unread") ?? 0);
      this.replaceChildren(...response.body.childNodes);
    } else {
      this.#unread = +response.unread || 0;
      const rows = Array.isArray(response.rows) ? response.rows.slice(0, ROWS) : [];
      this.#list.replaceChildren(...rows.map((/** @type {any} */ data) => this.#row(toRow(data))));
    }
    if (at >= 0) this.#focus(at);
  }
}

function language() {
  try {
    return Intl.getCanonicalLocales(document.documentElement.lang)[0];
  } catch {
    return undefined; // that of the browser
  }
}

function timeOf(/** @type {Date} */ time) {
  return time.toLocaleTimeString(language());
}

customElements.define("realtime-bell", RealtimeBell);
