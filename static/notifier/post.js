/** The form that posts an event, and the equivalent curl command. */

import { byId, copies, keepFocus, randomId, runOnce } from "./page.js";
import { publish, receiptWords } from "./outcomes.js";
import { curlSnippet } from "./snippets.js";
import { Timeline } from "./timeline.js";

const SEEN = 100; // arrivals that are remembered, to measure how long an event took

export const KEY_MS = 4.5 * 60_000; // the service remembers an idempotency key for five minutes

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
  504: "Redis did not respond, so the event may or may not have been published. Trying again publishes it at most once.",
});
export const NO_ANSWER = "The server did not respond, so the event may or may not have been published. Trying again publishes it at most once.";
export const STILL_UNKNOWN = "It is still unknown whether the event was published, because this attempt failed. Try again in a moment.";
export const TOO_LATE = "The first attempt was too long ago to try again safely. Check the list before you post the event again.";

/** The same for a user who publishes with the session instead of a key. */
export const ADVICE_FOR_STAFF = /** @type {Record<number, string>} */ ({
  ...ADVICE,
  401: "Your session has ended. Log in again.",
  403: "You do not have permission to publish, or this page is out of date. Reload it.",
});

/**
 * One event, and how it is sent. If its outcome is unknown, sending it again with the same key publishes it at most once.
 *
 * @typedef {object} Attempt
 * @property {string} apiKey "" to publish with the session
 * @property {string} body with an idempotency key
 * @property {number} began when it was sent for the first time
 */

/** Set up the form; call `arrived` with each publication, and `forgetOutage` when the page has become live. */
export function postForm(/** @type {Target} */ target) {
  const form = byId("post-form");
  const arrivals = new Arrivals();
  foldByButton();
  const buttons = [byId("post-submit"), byId("post-again")];
  const shownCurl = () => curl(target, command(form, target));
  let changed = () => {};
  const refresh = () => {
    byId("curl").textContent = shownCurl();
    byId("post-submit").textContent = `Post to ${chosen(form, target)}`;
    changed();
  };
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    runOnce(buttons, () => post(command(form, target), target, arrivals));
  });
  byId("post-again").addEventListener("click", () => {
    const attempt = unknown;
    if (attempt) runOnce(buttons, () => send(attempt, target, arrivals));
  });
  form.addEventListener("input", () => {
    if (unknown) return;
    say("", ""); // what is wrong may not be wrong any more
    timeline.clear();
  });
  copies(byId("copy-curl"), shownCurl);
  if (target.ownChannel) {
    byId("own-curl").textContent = curl(target, { ...command(form, target), channel: target.ownChannel });
    copies(byId("copy-own-curl"), () => byId("own-curl").textContent);
  }
  byId("post-submit").disabled = false;
  refresh();
  return {
    /** What the form would post now. */
    publication: () => command(form, target),
    /** Post an event that was there before. */
    postAgain: (/** @type {object} */ body) => runOnce(buttons, () => post(body, target, arrivals)),
    /** Call a function whenever that changes. */
    whenChanged: (/** @type {() => void} */ then) => {
      changed = then;
    },
    arrived: (/** @type {any} */ publication) => arrivals.add(publication),
    forgetOutage: () => {
      if ([ADVICE[503], ADVICE_FOR_STAFF[503]].includes(byId("post-error").textContent)) say("", "");
    },
  };
}

/** @type {Attempt | null} the latest event, while its outcome is unknown */
let unknown = null;
const timeline = new Timeline(byId("post-timeline"));

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
  return curlSnippet(new URL(publishUrl, location.href).href, JSON.stringify(body), apiKey);
}

/**
 * @param {object} event the body of the request
 * @param {Target} target
 * @param {Arrivals} arrivals
 */
async function post(event, target, arrivals) {
  const apiKey = target.byStaff ? "" : target.apiKey || byId("api-key").value.trim();
  if (!apiKey && !target.byStaff) return askForKey("Enter an API key first.");
  const body = JSON.stringify({ ...event, idempotency_key: randomId() });
  await send({ apiKey, body, began: performance.now() }, target, arrivals);
}

/**
 * @param {Attempt} attempt
 * @param {Target} target
 * @param {Arrivals} arrivals
 */
async function send(attempt, target, arrivals) {
  const isRetry = attempt === unknown;
  const started = performance.now();
  if (started - attempt.began > KEY_MS) return say("", TOO_LATE);
  write("", "");
  timeline.begin(isRetry);
  const { apiKey, body } = attempt;
  const verdict = await publish(target.publishUrl, body, apiKey ? { "X-API-Key": apiKey } : csrf());
  const { outcome, status, error, result } = verdict;
  const isOpen = isRetry && outcome === "not-published"; // this attempt is refused, and the first one is unknown
  timeline.answered(isOpen ? "unknown" : outcome);
  if (isOpen) return offerAgain(attempt, STILL_UNKNOWN);
  if (outcome === "unknown") return offerAgain(attempt, status === 504 ? ADVICE[504] : isRetry && status ? STILL_UNKNOWN : NO_ANSWER);
  if (outcome === "published") return tell(result, started, arrivals);
  const advice = apiKey ? ADVICE : ADVICE_FOR_STAFF;
  if (status === 401 && apiKey) return askForKey(advice[401]);
  say("", advice[status] ?? `Not published: ${error.message ?? `status ${status}`}`);
}

function offerAgain(/** @type {Attempt} */ attempt, /** @type {string} */ words) {
  write("", words);
  unknown = attempt;
  byId("post-again").hidden = false;
}

/** Return the header that proves that a page of this site sends the session cookie. */
export function csrf() {
  const field = /** @type {HTMLInputElement | null} */ (document.querySelector("[name=csrfmiddlewaretoken]"));
  return { "X-CSRFToken": field?.value ?? "" };
}

/**
 * @param {any} receipt
 * @param {number} started
 * @param {Arrivals} arrivals
 */
async function tell(receipt, started, arrivals) {
  const where = receiptWords(receipt);
  if (receipt.repeated) {
    say(`Published by the earlier attempt: ${where}.`, "");
    return timeline.arrived(await arrivals.of(receipt.epoch, receipt.offset));
  }
  say(`Published: ${where}.`, "");
  const arrived = await arrivals.of(receipt.epoch, receipt.offset);
  timeline.arrived(arrived);
  if (arrived === null) return;
  const took = Math.max(1, Math.round(arrived - started));
  say(`Received here after ${took}\u00a0ms: ${where}.`, "");
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
  unknown = null;
  keepFocus(byId("post-again"), () => (byId("post-again").hidden = true), byId("post-submit"));
  write(good, bad);
}

/**
 * @param {string} good
 * @param {string} bad
 */
function write(good, bad) {
  byId("post-result").textContent = good;
  byId("post-error").textContent = bad;
}

/**
 * Fold the form and unfold it, by its button alone: a page must not move under the finger of its reader. On a narrow
 * screen, where the form is above the list, it begins folded; beside the list, the style sheet keeps it open.
 */
function foldByButton() {
  const button = byId("post-fold");
  button.addEventListener("click", () => {
    const isFolded = byId("post").toggleAttribute("data-folded");
    button.ariaExpanded = String(!isFolded);
    button.textContent = isFolded ? "Show form" : "Hide form";
  });
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
