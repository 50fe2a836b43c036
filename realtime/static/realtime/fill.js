/**
 * Gaps that are filled with what the site has kept. Loaded by client.js for a subscription with `fill`, and by nothing
 * else.
 *
 * This module does not load client.js, which may have another name on this site. Its types say what it needs of it.
 */

/**
 * @typedef {object} Publication see client.js
 * @property {string} channel
 * @property {any} data
 * @property {string | null} event
 * @property {Record<string, any>} tags
 * @property {any} sender
 * @property {number | null} offset
 * @property {string | null} epoch
 * @property {boolean} filled
 */

/**
 * @typedef {object} Gap see client.js
 * @property {string} epoch
 * @property {number} from
 * @property {number | null} to
 * @property {number | null} missed
 * @property {number} refetchAfterMs
 * @property {Date} since
 */

/**
 * @typedef {object} FillRequest see client.js
 * @property {string} channel
 * @property {string} epoch
 * @property {number} from
 * @property {number | null} to
 * @property {number | null} waiting
 * @property {number} age seconds since the page was complete
 * @property {AbortSignal} signal
 */

/** @typedef {any} FillAnswer see client.js; it is checked here */

const MOST_HELD = 1_000; // events that wait while the site is asked for what was missed
const FILL_TRIES = 10; // requests that bring nothing: a minute in all, so a site may restart
const ANSWER_MS = 10_000;
const FILL_FIRST_MS = 1_000;
const FILL_MOST_MS = 10_000;
const COPY_TAG = "outbox"; // names the row of the site's outbox: docs/howto/outbox.md
const ROW = /^[0-9a-f]{32}$/; // a host may have a tag of this name
const MOST_COPIES = 1_000; // rows remembered per channel

/**
 * Asks the site for what is in a gap, and emits it in the place of the gap, before anything newer.
 *
 * What arrives in the meantime waits. Nothing waits forever: if the site does not answer, or too much waits, the gap is
 * reported as it would have been, and what waited follows it.
 */
export class GapFiller {
  #channel;
  #ask;
  #emit;
  #onIdle;
  #wait;
  #answerMs;
  /** @type {(["publication", Publication] | ["gap", Gap])[]} what waits, the gap that is being filled first */
  #held = [];
  /** @type {Set<string>} rows of the site's outbox that were received */
  #copies = new Set();
  /** @type {AbortController | null} null: nothing waits */
  #filling = null;
  #isStopped = false;

  /**
   * @param {string} channel
   * @param {(request: FillRequest) => Promise<FillAnswer>} ask
   * @param {(type: "publication" | "gap", detail: any) => void} emit
   * @param {() => void} [onIdle] called when nothing waits any more
   * @param {(ms: number, signal: AbortSignal) => Promise<void>} [wait] waits for a time, or until the signal is aborted
   * @param {number} [answerMs] how long one request may take
   */
  constructor(channel, ask, emit, onIdle = ignore, wait = delay, answerMs = ANSWER_MS) {
    this.#channel = channel;
    this.#ask = ask;
    this.#emit = emit;
    this.#onIdle = onIdle;
    this.#wait = wait;
    this.#answerMs = answerMs;
  }

  /** Whether something waits. */
  get isFilling() {
    return this.#filling !== null;
  }

  /**
   * Take what the subscription has received.
   *
   * @param {"publication" | "gap"} type
   * @param {any} detail a `Publication` or a `Gap`
   */
  take(type, detail) {
    if (this.#filling === null && type === "publication") return this.#pass(detail);
    this.#held.push([type, detail]);
    if (this.#filling === null) this.#emitHeld();
    else if (this.#held.length > MOST_HELD) this.giveUp();
  }

  /** Emit what waits as it is. */
  giveUp() {
    this.#filling?.abort();
    this.#filling = null;
    for (const [type, detail] of this.#held.splice(0)) {
      if (this.#isStopped) return; // by a listener
      if (type === "gap") this.#emit("gap", detail);
      else this.#pass(detail);
    }
  }

  /** Drop what waits: the page has unsubscribed. */
  stop() {
    this.#isStopped = true;
    this.#held.length = 0;
    this.#filling?.abort();
  }

  /** @param {Publication} publication */
  #pass(publication) {
    const copy = publication.tags[COPY_TAG];
    if (ROW.test(copy)) {
      if (this.#copies.has(copy)) return;
      this.#copies.add(copy);
      if (this.#copies.size > MOST_COPIES) this.#copies.delete(firstOf(this.#copies));
    }
    this.#emit("publication", publication);
  }

  /** Emit what waits: fill one gap after the other. */
  async #emitHeld() {
    const filling = (this.#filling = new AbortController());
    while (this.#held.length > 0) {
      const [type, detail] = this.#held[0];
      if (type === "gap") await this.#fill(detail, filling.signal);
      if (filling.signal.aborted) return;
      const [, rest] = /** @type {[string, any]} */ (this.#held.shift());
      if (type === "publication") this.#pass(rest);
      else if (!isFilled(rest)) this.#emit("gap", rest);
      if (filling.signal.aborted) return; // by a listener
    }
    this.#filling = null;
    this.#onIdle();
  }

  /**
   * Emit what the site has kept of the first gap that waits. What is left of the gap waits in its place.
   *
   * @param {Gap} gap
   * @param {AbortSignal} signal
   */
  async #fill(gap, signal) {
    /** @type {number | null} */
    let waiting = null;
    await this.#wait(gap.refetchAfterMs, signal);
    for (let tries = FILL_TRIES; tries > 0 && !signal.aborted; ) {
      const { epoch, from, to } = /** @type {Gap} */ (this.#held[0][1]);
      const age = Math.ceil((Date.now() - gap.since.getTime()) / 1_000);
      const answer = await this.#answerTo({ channel: this.#channel, epoch, from, to, waiting, age, signal });
      if (signal.aborted || answer === "refused") return;
      if (answer) {
        waiting ??= answer.waiting;
        const mayCome = answer.waiting !== null && tries > 1;
        if (this.#take(gap, answer.publications, mayCome, signal) && answer.more) continue;
        if (signal.aborted || isFilled(this.#rest)) return;
        if (answer.waiting === null) {
          if (to === null && answer.complete) this.#rest = { ...this.#rest, to: this.#rest.from - 1 };
          return;
        }
      }
      tries -= 1;
      const ms = Math.min(FILL_MOST_MS, FILL_FIRST_MS * 2 ** (FILL_TRIES - tries - 1));
      if (tries > 0) await this.#wait(ms, signal);
    }
  }

  /** What is left of the gap that is being filled. */
  get #rest() {
    return /** @type {Gap} */ (this.#held[0][1]);
  }

  set #rest(gap) {
    this.#held[0] = ["gap", gap];
  }

  /**
   * @param {FillRequest} request
   * @returns {Promise<ReturnType<typeof asFillAnswer> | "refused" | null>} null: another attempt may succeed
   */
  async #answerTo(request) {
    try {
      return asFillAnswer(await this.#inTime(request));
    } catch (error) {
      const refusal = /** @type {{temporary?: boolean, message: string}} */ (error);
      if (refusal.temporary !== false) return null; // a network that is away does not say what it is
      console.warn(`realtime: what was missed on ${JSON.stringify(this.#channel)} cannot be fetched: ${refusal.message}`);
      return "refused";
    }
  }

  /**
   * Ask the site, for a limited time: it may accept a request and never answer.
   *
   * @param {FillRequest} request
   */
  async #inTime(request) {
    const asking = new AbortController();
    const stop = () => asking.abort();
    request.signal.addEventListener("abort", stop);
    const timer = setTimeout(stop, this.#answerMs);
    const late = new Promise((_, reject) => {
      asking.signal.addEventListener("abort", () => reject(new Error("no answer")));
    });
    try {
      return await Promise.race([this.#ask({ ...request, signal: asking.signal }), late]);
    } finally {
      clearTimeout(timer);
      request.signal.removeEventListener("abort", stop);
    }
  }

  /**
   * Emit publications, and what is missing between them.
   *
   * @param {Gap} gap
   * @param {ReturnType<typeof asFillAnswer>["publications"]} publications
   * @param {boolean} mayCome whether another attempt may find what is missing; then it is not reported yet
   * @param {AbortSignal} signal
   * @returns {boolean} whether all were emitted, and there was at least one
   */
  #take({ epoch, to }, publications, mayCome, signal) {
    for (const { offset, data, tags } of publications) {
      const rest = this.#rest;
      const missing = offset - rest.from;
      if (missing < 0 || (to !== null && offset > to)) return false; // not what was asked for
      if (missing > 0 && mayCome) return false;
      this.#rest = { ...rest, from: offset + 1, missed: to === null ? null : to - offset };
      if (missing > 0) this.#emit("gap", { ...rest, to: offset - 1, missed: missing });
      if (signal.aborted) return false; // by a listener
      const event = eventOf(tags);
      this.#pass({ channel: this.#channel, data, event, tags, sender: null, offset, epoch, filled: true });
      if (signal.aborted) return false;
    }
    return publications.length > 0;
  }
}

/** @param {Gap} gap */
function isFilled({ from, to }) {
  return to !== null && from > to;
}

/**
 * Return a function that asks the site's view for what is in a gap.
 *
 * @param {string} url
 * @param {(() => string | Promise<string>) | undefined} getToken
 * @returns {(request: FillRequest) => Promise<FillAnswer>}
 */
export function siteFill(url, getToken) {
  return async ({ channel, epoch, from, to, waiting, age, signal }) => {
    const address = new URL(url, globalThis.location?.href);
    const query = { channel, epoch, from, to, waiting, age };
    for (const [name, value] of Object.entries(query)) if (value !== null) address.searchParams.set(name, String(value));
    /** @type {Record<string, string>} */
    const headers = { Accept: "application/json" };
    if (getToken) headers.Authorization = `Bearer ${await getToken()}`;
    const answer = await fetch(address, { headers, cache: "no-store", signal });
    if (answer.ok) return answer.json();
    const temporary = answer.status >= 500 || answer.status === 429 || answer.status === 401; // another token may do
    throw Object.assign(new Error(`the site answered with status ${answer.status}`), { temporary });
  };
}

/**
 * @param {unknown} value
 * @returns {{
 *   publications: {offset: number, data: any, tags: Record<string, any>}[],
 *   more: boolean, complete: boolean, waiting: number | null,
 * }}
 */
function asFillAnswer(value) {
  const { publications, more, complete, waiting } = /** @type {any} */ (value);
  const kept = publications.map((/** @type {any} */ { offset, data, tags }) => {
    if (!Number.isSafeInteger(offset)) throw new TypeError("an offset is an integer");
    return { offset, data, tags: tags ?? {} };
  });
  return { publications: kept, more: more === true, complete: complete === true, waiting: waiting ?? null };
}

/**
 * @template V
 * @param {Set<V>} set
 * @returns {V}
 */
function firstOf(set) {
  return /** @type {V} */ (set.values().next().value);
}

/**
 * Wait for a time, or until the signal is aborted.
 *
 * @param {number} ms
 * @param {AbortSignal} signal
 * @returns {Promise<void>}
 */
function delay(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    });
  });
}

/** @param {Record<string, any>} tags */
function eventOf(tags) {
  return typeof tags.event === "string" ? tags.event : null;
}

function ignore() {}
