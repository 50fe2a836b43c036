/** The fallback queue on the page `/monitor/`: its numbers, and its dead entries with what can be done about them. */

import { counted, factList, longDuration, size, whole } from "./measures.js";
import { byId, icon, keepFocus, make, relativeTime, runOnce } from "./page.js";

/**
 * @typedef {object} QueueStats see `Stats` in brokers/__init__.py
 * @property {number} waiting
 * @property {number} in_hand
 * @property {number} later
 * @property {number} dead
 * @property {number} hands
 * @property {number} oldest_seconds
 * @property {number} handled
 * @property {number} retried
 * @property {number} taken_over
 * @property {number} given_up
 * @property {number} bytes
 */

/**
 * @typedef {object} Letter
 * @property {string} key
 * @property {string} id
 * @property {string} channel
 * @property {string} fallback
 * @property {number | null} failed_at
 * @property {number} attempts
 * @property {string} reason
 * @property {boolean} is_readable
 */

const LATE_SECONDS = 60; // workers take an entry within milliseconds, unless all hands are full

/** @returns {HTMLElement[]} */
export function queueFacts(/** @type {QueueStats | null} */ queue) {
  if (!queue) return [make("p", { className: "help" }, "Redis does not answer.")];
  const { waiting, in_hand, later, dead, hands, oldest_seconds, handled, bytes } = queue;
  const isLate = waiting > 0 && oldest_seconds > LATE_SECONDS;
  return [
    factList([
      ["Waiting", waiting ? `${whole(waiting)}, for ${longDuration(oldest_seconds)}` : "0", isLate ? "warning" : ""],
      ["In hand", whole(in_hand)],
      ["To be retried", whole(later)],
      ["Dead", whole(dead), dead ? "warning" : ""],
      ["Workers can handle", hands ? `${whole(hands)} at once` : "none runs", !hands && waiting ? "error" : ""],
      ["Handled so far", whole(handled)],
      ["Size", size(bytes)],
    ]),
  ];
}

/** The list of dead entries, and their buttons. */
export class DeadLetters {
  #changed;
  #state = "";
  /** @type {Letter[]} */
  #letters = [];
  /** @type {Map<string, HTMLElement>} */
  #rows = new Map();

  /** @param {() => void} changed called after entries were moved */
  constructor(changed) {
    this.#changed = changed;
    byId("retry-all").addEventListener("click", () => this.#ask("retry", this.#letters));
    byId("purge-all").addEventListener("click", () => this.#ask("purge", this.#letters));
  }

  /** Fetch the list if the numbers say that it has changed. */
  async update(/** @type {QueueStats | null} */ queue) {
    if (!queue) return;
    const state = `${queue.dead} ${queue.given_up}`;
    if (state === this.#state) return;
    this.#state = state;
    await this.#fetch(queue.dead);
  }

  async #fetch(/** @type {number} */ dead) {
    try {
      const response = await fetch(byId("main").dataset.lettersUrl);
      const body = await response.json();
      if (!response.ok) throw new Error(body.error.message);
      this.#letters = body.letters;
    } catch {
      this.#state = ""; // the next numbers try again
      return;
    }
    const more = dead - this.#letters.length;
    byId("dead-more").hidden = more <= 0;
    byId("dead-more").textContent = `The oldest ${whole(this.#letters.length)} are shown; manage.py fallback list shows ${whole(more)} more.`;
    keepFocus(byId("dead"), () => this.#draw(), byId("queue-heading"));
  }

  #draw() {
    const letters = this.#letters;
    byId("dead").hidden = letters.length === 0;
    byId("retry-all").hidden = !letters.some(({ is_readable }) => is_readable);
    const keys = new Set(letters.map(({ key }) => key));
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    for (const letter of letters) {
      if (this.#rows.has(letter.key)) continue; // the row stays, and with it the focus
      const row = this.#row(letter);
      this.#rows.set(letter.key, row);
      byId("letters").append(row); // new ones are the last in the queue, too
    }
  }

  #row(/** @type {Letter} */ letter) {
    const { id, channel, fallback, failed_at, attempts, reason, is_readable } = letter;
    const retry = make("button", { type: "button", className: "button button-quiet", ariaLabel: `Retry ${id}` }, "Retry");
    const purge = make("button", { type: "button", className: "button button-quiet", ariaLabel: `Purge ${id}` }, "Purge");
    retry.addEventListener("click", () => this.#ask("retry", [letter]));
    purge.addEventListener("click", () => this.#ask("purge", [letter]));
    const about = [fallback, channel, attempts ? counted(attempts, "attempt") : ""].filter(Boolean).join(" · ");
    return make(
      "li",
      { className: "letter", data: { level: "warning" } },
      icon("warning"),
      make(
        "div",
        { className: "letter-body" },
        make("p", { className: "letter-reason", dir: "auto" }, reason || "The worker stopped during each attempt."),
        make("p", { className: "help", dir: "auto" }, make("span", { className: "mono" }, id), about ? ` · ${about}` : "", failed_at ? " · " : "", failed_at ? relativeTime(new Date(failed_at * 1000)) : ""),
      ),
      make("div", { className: "dead-buttons" }, is_readable ? retry : "", purge),
    );
  }

  async #ask(/** @type {"retry" | "purge"} */ action, /** @type {Letter[]} */ chosen) {
    const letters = action === "retry" ? chosen.filter(({ is_readable }) => is_readable) : chosen;
    if (letters.length === 0 || !(await isConfirmed(action, letters.length))) return;
    await runOnce([byId("retry-all"), byId("purge-all")], () => this.#move(action, letters));
  }

  async #move(/** @type {"retry" | "purge"} */ action, /** @type {Letter[]} */ letters) {
    const { retryUrl, purgeUrl } = byId("main").dataset;
    const token = /** @type {HTMLInputElement} */ (document.querySelector("[name=csrfmiddlewaretoken]")).value;
    say("", "");
    try {
      const response = await fetch(action === "retry" ? retryUrl : purgeUrl, {
        method: "POST",
        headers: { "X-CSRFToken": token },
        body: new URLSearchParams(letters.map(({ key }) => ["key", key])),
      });
      const body = await response.json().catch(() => ({}));
      if (response.ok) say(outcome(action, body), "");
      else say("", body.error?.message ?? "The request was refused because this page is out of date. Reload it.");
    } catch {
      say("", "The server did not respond, so the outcome is unknown. Look at the list before you try again.");
    }
    this.#state = ""; // fetch the list again, whatever the numbers say
    this.#changed();
  }
}

function outcome(/** @type {"retry" | "purge"} */ action, /** @type {{moved: number, absent: number}} */ { moved, absent }) {
  const gone = absent ? ` ${entries(absent)} had been moved by somebody else.` : "";
  return `${entries(moved)} ${moved === 1 ? "was" : "were"} ${action === "retry" ? "queued again" : "deleted"}.${gone}`;
}

function entries(/** @type {number} */ count) {
  return `${whole(count)} ${count === 1 ? "entry" : "entries"}`;
}

function say(/** @type {string} */ good, /** @type {string} */ bad) {
  byId("dead-result").textContent = good;
  byId("dead-error").textContent = bad;
}

/** @returns {Promise<boolean>} */
function isConfirmed(/** @type {"retry" | "purge"} */ action, /** @type {number} */ count) {
  const dialog = /** @type {HTMLDialogElement} */ (byId("confirm"));
  const which = count === 1 ? "this dead entry" : `these ${entries(count).replace(" ", " dead ")}`;
  byId("confirm-words").textContent = action === "retry" ? `Queue ${which} again? The workers will try ${count === 1 ? "it" : "them"} as if for the first time.` : `Delete ${which} permanently?`;
  byId("confirm-yes").textContent = action === "retry" ? "Retry" : "Purge";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}
