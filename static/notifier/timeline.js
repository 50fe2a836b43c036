/** The way of one event: posted, accepted by the service, and live in this page. */

import { clock, icon, make } from "./page.js";
import { OUTCOMES } from "./outcomes.js";

/** @typedef {import("./outcomes.js").Outcome} Outcome */

export class Timeline {
  #element;
  #began = 0;

  constructor(/** @type {HTMLElement} */ element) {
    this.#element = element;
  }

  /** An event is sent now, or sent again. */
  begin(isRetry = false) {
    this.#began = performance.now();
    const sent = step(isRetry ? "Sent again" : "Posted", clock(new Date()), "published");
    this.#element.replaceChildren(sent, step("Accepted"), step("Live here"));
    this.#element.hidden = false;
  }

  /** The answer has come, or nothing has. */
  answered(/** @type {Outcome} */ outcome) {
    const { word } = OUTCOMES[outcome];
    if (outcome === "published") this.#change(1, "Accepted", this.#since());
    else this.#change(1, word, this.#since(), outcome);
    if (outcome === "not-published") this.#element.children[2]?.remove();
  }

  /** The event has arrived in this page, or has not within five seconds. */
  arrived(/** @type {number | null} */ at) {
    if (at === null) this.#change(2, "Not here within 5 s", "", "unknown");
    else this.#change(2, "Live here", `${Math.max(1, Math.round(at - this.#began))}\u00a0ms`);
  }

  /** Nothing is known of an event any more. */
  clear() {
    this.#element.replaceChildren();
    this.#element.hidden = true;
  }

  #since() {
    return `${Math.max(1, Math.round(performance.now() - this.#began))}\u00a0ms`;
  }

  /**
   * @param {number} index
   * @param {string} word
   * @param {string} when
   * @param {Outcome} outcome
   */
  #change(index, word, when, outcome = "published") {
    this.#element.children[index]?.replaceWith(step(word, when, outcome));
  }
}

/**
 * @param {string} word
 * @param {string} [when]
 * @param {Outcome} [outcome] missing while it is awaited
 */
function step(word, when = "", outcome) {
  const { icon: name = "", level = "" } = outcome ? OUTCOMES[outcome] : {};
  const mark = make("span", { className: "timeline-mark" }, ...(name ? [icon(name)] : []));
  return make("li", { className: "timeline-step", data: { level, outcome: outcome ?? "awaited" } }, mark, make("span", {}, word), make("span", { className: "timeline-when" }, when));
}
