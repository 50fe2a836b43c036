/** "Break it": stops Redis, goes on publishing, and shows what became of each event and what this page missed. */

import { byId, gapChip, icon, make, randomId, runOnce } from "./page.js";
import { csrf } from "./post.js";
import { OUTCOMES, publish } from "./outcomes.js";
import { tick } from "./start.js";

const EVERY_MS = 300; // between two events
const AFTER_MS = 900; // how long they go on after Redis has come back
const NEWS_MS = 15_000; // how long the page waits until it is live again
const RETRIES = 5;
const SHORT = { published: "Published", "not-published": "Not published", unknown: "Unknown" };

/** @typedef {import("../../realtime/static/realtime/client.js").Subscription} Subscription */
/** @typedef {import("../../realtime/static/realtime/client.js").Gap} Gap */
/** @typedef {import("./outcomes.js").Outcome} Outcome */
/** @typedef {import("./outcomes.js").Verdict} Verdict */

/**
 * @typedef {object} Place
 * @property {string} publishUrl
 * @property {string} apiKey
 * @property {any} live the connection
 * @property {Subscription} news the subscription on whose channel the events are published
 */

/** One event: its element, and what is known of it. */
class Attempt {
  /** @type {Outcome | null} */
  outcome = null;
  /** @type {any} */
  receipt = null;
  wasUnknown = false;
  #words = make("span", {}, "Sending…");
  #mark = make("span", { className: "attempt-mark" });

  constructor(/** @type {number} */ number, /** @type {Place} */ { publishUrl, apiKey, news }) {
    this.element = make("li", { className: "attempt" }, this.#mark, make("span", { className: "attempt-number" }, String(number)), this.#words);
    const data = { title: `Posted while Redis was stopped: ${number}`, level: "info" };
    // The same key in each attempt: however often it is sent, it is published at most once.
    const body = JSON.stringify({ channel: news.channel, event: "demo.break", data, idempotency_key: randomId() });
    this.#send = () => publish(publishUrl, body, { "X-API-Key": apiKey });
  }

  #send;

  async send() {
    const { outcome, result } = await this.#send();
    this.receipt = result;
    this.#show(outcome);
  }

  /** Ask again for an event whose outcome is unknown: this publishes it unless it was published. */
  async settle() {
    if (this.outcome !== "unknown") return;
    this.wasUnknown = true;
    for (let count = 0; count < RETRIES; count += 1) {
      const { outcome, result } = await this.#send();
      this.receipt = result;
      if (outcome === "published") return this.#show(outcome, result.repeated ? "Published before" : "Published on retry");
      await pause(500);
    }
  }

  #show(/** @type {Outcome} */ outcome, words = SHORT[outcome]) {
    this.outcome = outcome;
    this.element.dataset.outcome = outcome;
    this.element.dataset.level = OUTCOMES[outcome].level;
    this.#mark.replaceChildren(icon(OUTCOMES[outcome].icon));
    this.#words.textContent = words;
  }
}

/** Set up the button. */
export function breakByButton(/** @type {Place} */ place) {
  const form = byId("break-form");
  form.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    runOnce([byId("break")], () => run(form.dataset.url, place));
  });
  byId("break").disabled = false;
}

/**
 * @param {string} url
 * @param {Place} place
 */
async function run(url, place) {
  say("Stopping Redis…");
  byId("attempts").replaceChildren();
  const record = new Record(place);
  const answer = await stop(url);
  if (answer.problem) {
    record.end();
    return say(answer.problem);
  }
  say("Redis is stopped. This page posts an event every 0.3 s, and does not know yet what becomes of them.");
  const attempts = await postUntil(performance.now() + answer.ms + AFTER_MS, place);
  await record.isLive();
  await Promise.all(attempts.map((attempt) => attempt.settle()));
  await record.has(attempts.filter(({ receipt }) => receipt).map(({ receipt }) => receipt));
  record.end();
  byId("break-result").replaceChildren(...summary(attempts, record));
  tick("step-break", "Nothing was lost silently");
}

/** @returns {Promise<{ms: number, problem: string}>} */
async function stop(/** @type {string} */ url) {
  try {
    const response = await fetch(url, { method: "POST", headers: csrf() });
    const body = await response.json().catch(() => ({}));
    if (response.ok) return { ms: body.seconds * 1000, problem: "" };
    return { ms: 0, problem: body.error?.message ?? `The server refused it with status ${response.status}. Reload the page.` };
  } catch {
    return { ms: 0, problem: "The server did not respond." };
  }
}

/** @returns {Promise<Attempt[]>} */
async function postUntil(/** @type {number} */ end, /** @type {Place} */ place) {
  const attempts = [];
  const sent = [];
  while (performance.now() < end) {
    const attempt = new Attempt(attempts.length + 1, place);
    byId("attempts").append(attempt.element);
    attempts.push(attempt);
    sent.push(attempt.send());
    await pause(EVERY_MS);
  }
  await Promise.all(sent);
  return attempts;
}

/** What this page hears of the channel meanwhile: events, and gaps. */
class Record {
  /** @type {Set<string>} */
  heard = new Set();
  /** @type {Gap[]} */
  gaps = [];
  #place;
  #hear = (/** @type {any} */ { detail: { epoch, offset } }) => void this.heard.add(`${epoch} ${offset}`);
  #miss = (/** @type {any} */ { detail }) => void this.gaps.push(detail);

  constructor(/** @type {Place} */ place) {
    this.#place = place;
    place.news.addEventListener("publication", this.#hear);
    place.news.addEventListener("gap", this.#miss);
  }

  /** Wait until the page is live. */
  isLive() {
    return this.#until(() => this.#place.live.state.state === "live");
  }

  /** Wait until each of these was heard or reported as missed. */
  has(/** @type {{epoch: string, offset: number}[]} */ receipts) {
    return this.#until(() => receipts.every((receipt) => this.knows(receipt)));
  }

  knows(/** @type {{epoch: string, offset: number}} */ { epoch, offset }) {
    if (this.heard.has(`${epoch} ${offset}`)) return true;
    return this.gaps.some((gap) => gap.epoch === epoch && gap.from <= offset && (gap.to === null || offset <= gap.to));
  }

  async #until(/** @type {() => boolean} */ is) {
    for (const end = performance.now() + NEWS_MS; !is() && performance.now() < end; ) await pause(50);
  }

  end() {
    this.#place.news.removeEventListener("publication", this.#hear);
    this.#place.news.removeEventListener("gap", this.#miss);
  }
}

/**
 * @param {Attempt[]} attempts
 * @param {Record} record
 */
function summary(attempts, record) {
  const count = (/** @type {(each: Attempt) => boolean} */ is) => attempts.filter(is).length;
  const published = count(({ outcome }) => outcome === "published");
  const unknown = count(({ wasUnknown }) => wasUnknown);
  const settled = unknown ? ` The outcome of ${unknown} was unknown; each was sent again with its key, so that it is published once.` : "";
  const posted = `${attempts.length} events were posted: ${published} published, ${count(({ outcome }) => outcome === "not-published")} certainly not.${settled}`;
  const gaps = record.gaps.length
    ? ["This page was told what it missed, as each page is:", ...record.gaps.map((gap) => gapChip(gap))]
    : [`This page received all ${published} this time: it was back before it could miss one.`];
  return [posted, ...gaps].map((part) => (typeof part === "string" ? make("p", {}, part) : part));
}

function say(/** @type {string} */ words) {
  byId("break-result").replaceChildren(make("p", {}, words));
}

function pause(/** @type {number} */ ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
