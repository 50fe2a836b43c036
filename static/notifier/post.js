/** The form that posts an event, and the equivalent curl command. */

import { byId, copies, runOnce } from "./page.js";

const SEEN = 100; // arrivals that are remembered, to measure how long an event took

const FIELDS = "input, textarea";

/**
 * @typedef {object} Target
 * @property {string} channel the public channel
 * @property {string} ownChannel the personal channel of the user; "" if anonymous
 * @property {string} publishUrl
 * @property {string} apiKey
 * @property {boolean} byStaff whether the session permits the user to publish
 */

/** Advice for the user, by the status of a refusal. */
const ADVICE = /** @type {Record<number, string>} */ ({
  401: "The API key is missing or invalid. Enter it again.",
  403: "This key does not have permission to publish to this channel.",
  413: "The event is too large: its data is limited to 64 KiB.",
  429: "Too many requests. Wait a moment, then post again.",
  503: "Not published: Redis is unreachable. Post the event again when this page shows Live.",
  504: "Redis did not respond, so the event may or may not have been published. Check the list before you post it again.",
});

/** The same for a user who publishes with the session instead of a key. */
const ADVICE_FOR_STAFF = /** @type {Record<number, string>} */ ({
  ...ADVICE,
  401: "Your session has ended. Log in again.",
  403: "You do not have permission to publish, or this page is out of date. Reload it.",
});

/** Set up the form; call the returned function with each publication that arrives. */
export function postForm(/** @type {Target} */ target) {
  const form = byId("post-form");
  const arrivals = new Arrivals();
  const fold = new Fold();
  const shownCurl = () => curl(target, command(form, target));
  const refresh = () => {
    byId("curl").textContent = shownCurl();
    byId("post-submit").textContent = `Post to ${chosen(form, target)}`;
  };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    runOnce([byId("post-submit")], () => post(form, target, arrivals, fold));
  });
  copies(byId("copy-curl"), shownCurl);
  const shownCommand = command(form, target);
  byId("empty-curl").textContent = curl(target, shownCommand);
  copies(byId("copy-empty-curl"), () => byId("empty-curl").textContent);
  if (target.ownChannel) {
    byId("own-curl").textContent = curl(target, { ...shownCommand, channel: target.ownChannel });
    copies(byId("copy-own-curl"), () => byId("own-curl").textContent);
  }
  byId("post-submit").disabled = false;
  refresh();
  return (/** @type {any} */ publication) => {
    arrivals.add(publication);
    // Do not interrupt a user who is writing.
    if (!form.contains(document.activeElement) || !document.activeElement?.matches(FIELDS)) fold.once();
  };
}

/** Return the body of the request. */
function command(/** @type {HTMLFormElement} */ form, /** @type {Target} */ target) {
  const fields = new FormData(form);
  const channel = chosen(form, target);
  const event = String(fields.get("event")).trim();
  const data = { title: fields.get("title"), text: fields.get("text"), level: fields.get("level") };
  return event ? { channel, event, data } : { channel, data };
}

function chosen(/** @type {HTMLFormElement} */ form, /** @type {Target} */ { channel }) {
  return String(new FormData(form).get("channel") ?? channel);
}

/** Return a command for a POSIX shell. It has the key only if the server put it into the page (`make run`). */
function curl(/** @type {Target} */ { publishUrl, apiKey }, /** @type {object} */ body) {
  const key = apiKey ? `'X-API-Key: ${apiKey}'` : '"X-API-Key: $NOTIFIER_API_KEY"';
  return [
    `curl ${new URL(publishUrl, location.href)}`,
    `-H ${key}`,
    "-H 'Content-Type: application/json'",
    `-d ${quoted(JSON.stringify(body))}`,
  ].join(" \\\n  ");
}

function quoted(/** @type {string} */ text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/**
 * @param {HTMLFormElement} form
 * @param {Target} target
 * @param {Arrivals} arrivals
 * @param {Fold} fold
 */
async function post(form, target, arrivals, fold) {
  const key = target.byStaff ? "" : target.apiKey || byId("api-key").value.trim();
  say("", "");
  if (!key && !target.byStaff) return askForKey("Enter an API key first.");
  const started = performance.now();
  try {
    const response = await fetch(target.publishUrl, {
      method: "POST",
      headers: { ...(key ? { "X-API-Key": key } : csrf()), "Content-Type": "application/json" },
      body: JSON.stringify(command(form, target)),
      credentials: key ? "omit" : "same-origin",
    });
    await tell(response, started, arrivals, fold, key ? ADVICE : ADVICE_FOR_STAFF);
  } catch {
    say("", "The server did not respond, so the event may or may not have been published. Check the list before you post it again.");
  }
}

/** Return the header that proves that a page of this site sends the session cookie. */
function csrf() {
  const field = /** @type {HTMLInputElement | null} */ (document.querySelector("[name=csrfmiddlewaretoken]"));
  return { "X-CSRFToken": field?.value ?? "" };
}

/**
 * @param {Response} response
 * @param {number} started
 * @param {Arrivals} arrivals
 * @param {Fold} fold
 * @param {Record<number, string>} advice
 */
async function tell(response, started, arrivals, fold, advice) {
  const body = await response.json().catch(() => ({}));
  if (response.status === 401 && advice === ADVICE) return askForKey(advice[401]);
  if (!response.ok) {
    return say("", advice[response.status] ?? `Not published: ${body.error?.message ?? `status ${response.status}`}`);
  }
  const { offset, epoch, nodes } = body.result;
  const where = `offset ${offset}, ${nodes === 1 ? "1 node" : `${nodes} nodes`} listening`;
  say(`Published: ${where}.`, "");
  const arrived = await arrivals.of(epoch, offset);
  if (arrived === null) return;
  const took = Math.max(1, Math.round(arrived - started));
  say(`Received here after ${took}\u00a0ms: ${where}.`, "");
  fold.once();
}

function askForKey(/** @type {string} */ words) {
  byId("api-key-field").hidden = false;
  say("", words);
  byId("api-key").focus();
}

/**
 * @param {string} good
 * @param {string} bad
 */
function say(good, bad) {
  byId("post-result").textContent = good;
  byId("post-error").textContent = bad;
}

/**
 * Folds the form, which is above the list on a narrow screen. It folds automatically once, when the first publication
 * arrives; after that, only by its button. If the list is beside it, the style sheet keeps it open.
 */
class Fold {
  #section = byId("post");
  #button = byId("post-fold");
  #decided = false;

  constructor() {
    this.#button.addEventListener("click", () => this.#set(this.#button.ariaExpanded === "true"));
  }

  once() {
    if (this.#decided) return;
    const inside = byId("post-form").contains(document.activeElement);
    this.#set(true);
    if (inside) this.#button.focus({ preventScroll: true }); // does nothing if the button is hidden
    if (this.#button.checkVisibility()) this.#section.scrollIntoView({ block: "nearest" });
  }

  #set(/** @type {boolean} */ folded) {
    this.#decided = true;
    this.#section.toggleAttribute("data-folded", folded);
    this.#button.ariaExpanded = String(!folded);
    this.#button.textContent = folded ? "Show form" : "Hide form";
  }
}

/** The arrival times of publications, which callers may request before or after the arrival. */
class Arrivals {
  /** @type {Map<string, number>} */
  #seen = new Map();
  /** @type {Map<string, (at: number | null) => void>} */
  #wanted = new Map();

  add(/** @type {{epoch: string | null, offset: number | null}} */ { epoch, offset }) {
    const key = `${epoch} ${offset}`;
    const now = performance.now();
    this.#wanted.get(key)?.(now);
    this.#wanted.delete(key);
    this.#seen.set(key, now);
    if (this.#seen.size > SEEN) this.#seen.delete(/** @type {string} */ (this.#seen.keys().next().value));
  }

  /**
   * @param {string} epoch
   * @param {number} offset
   * @returns {Promise<number | null>} null if it does not arrive within five seconds
   */
  of(epoch, offset) {
    const key = `${epoch} ${offset}`;
    const seen = this.#seen.get(key);
    if (seen !== undefined) return Promise.resolve(seen);
    return new Promise((resolve) => {
      this.#wanted.set(key, resolve);
      setTimeout(() => {
        this.#wanted.delete(key);
        resolve(null);
      }, 5_000);
    });
  }
}
