/**
 * Loaded by `{% realtime_client "public:news" %}`. It subscribes to the channels that the template names, and forwards
 * their events and those of server-side subscriptions to the page, as DOM events. A page needs no module to listen:
 *
 *     document.addEventListener("realtime:publication", (e) => console.log(e.detail.channel, e.detail.data));
 *
 * With HTMX: `hx-trigger="realtime:publication from:document"`.
 */

// Deferred scripts below this one have not run yet, and would not hear of the gap since the page's data was read. The
// load event is for a page that loads this module later; both may pass while client.js is fetched.
const parsed = new Promise((resolve) => {
  if (document.readyState === "complete") resolve(undefined);
  document.addEventListener("DOMContentLoaded", resolve, { once: true });
  addEventListener("load", resolve, { once: true });
});

// Where names have hashes but statements that load modules are not rewritten, the template tag puts the URL of client.js
// into the fragment of this file's URL. Not into the page's data: markup that is injected must not choose the code.
const named = decodeURIComponent(new URL(import.meta.url).hash.slice(1));
const { connect, warnOfRefusal } = named
  ? await import(new URL(named, import.meta.url).href)
  : await import("./client.js");

/** The connection of this page, for scripts that load this module. */
export const live = connect();

const tags = () => document.querySelectorAll('script#realtime-config[type="application/json"]');
const configured = tags()[0];
const MOST_WAITING = 1000; // events before the page is parsed

/** @type {WeakSet<object>} the subscriptions whose events are forwarded */
const forwarded = new WeakSet();
/** @type {(() => void)[] | null} what waits until the page is parsed; null from then on */
let waiting = [];

/** @param {any} subscription */
function forward(subscription) {
  if (forwarded.has(subscription)) return;
  forwarded.add(subscription);
  const { channel } = subscription;
  for (const name of ["subscribed", "publication", "gap", "unsubscribed"]) {
    subscription.addEventListener(name, (/** @type {any} */ event) => {
      whenParsed(() => tell(name, { channel, ...event.detail }));
    });
  }
  subscription.addEventListener("error", (/** @type {any} */ { detail: error }) => {
    const { code, message } = error;
    // Whether anybody listens on the page cannot be known, so a listener has to say that it handles the error.
    whenParsed(() => {
      if (tell("error", { channel, code, message })) warnOfRefusal(channel, error);
    });
  });
}

/**
 * Do something now, or after all deferred scripts have run: the server may start subscriptions before.
 *
 * @param {() => void} task
 */
function whenParsed(task) {
  if (waiting === null) return task();
  waiting.push(task);
  if (waiting.length >= MOST_WAITING) goOn(); // a page that is never completely parsed
}

function goOn() {
  const tasks = waiting ?? [];
  waiting = null;
  for (const task of tasks) task();
}

/**
 * Dispatch a DOM event on the element of the template tag; it bubbles to the document.
 *
 * @param {string} name
 * @param {object} detail
 * @returns {boolean} whether no listener has called `preventDefault`
 */
function tell(name, detail) {
  // A page that replaces its body may have removed the element: the document hears the event all the same.
  const target = configured?.isConnected ? configured : document;
  return target.dispatchEvent(new CustomEvent(`realtime:${name}`, { detail, bubbles: true, cancelable: name === "error" }));
}

function start() {
  goOn();
  // A page may have a tag of its own besides that of the template that it extends.
  const channels = [...tags()].flatMap((tag) => JSON.parse(tag.textContent ?? "{}").channels ?? []);
  for (const channel of new Set(channels)) {
    if (live.state.state !== "closed") forward(live.subscribe(channel));
  }
}

parsed.then(start);
live.addEventListener("subscription", (/** @type {any} */ event) => forward(event.detail.subscription));
live.addEventListener("state", (/** @type {any} */ event) => whenParsed(() => tell("state", event.detail)));
