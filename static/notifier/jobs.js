/**
 * The page of background jobs. Progress is published and not replayed, so the states are also fetched: at the start,
 * after each gap and after each reconnect. The newer state of a job is shown.
 */

import { connect } from "../realtime/client.js";
import { showConnection, whenLive } from "./connection.js";
import { Announcer, byId, icon, isolated, keepFocus, longText, make, relativeTime, runOnce } from "./page.js";

const { channel, stateUrl, startUrl } = byId("main").dataset;
const SHOWN = 20;

/**
 * @typedef {object} State the latest state of a job that its worker has published
 * @property {string} task
 * @property {string} state
 * @property {number} at seconds since 1970
 * @property {number} [done]
 * @property {number} [total]
 * @property {string} [message]
 * @property {number} [run] how often the job has started, if more than once
 */

/** @type {Record<string, {word: string, level: string, icon: string}>} */
const STATES = {
  waiting: { word: "Waiting for a worker", level: "", icon: "info" },
  started: { word: "Running", level: "info", icon: "info" },
  progress: { word: "Running", level: "info", icon: "info" },
  retried: { word: "Failed, will be retried", level: "warning", icon: "warning" },
  succeeded: { word: "Done", level: "success", icon: "success" },
  failed: { word: "Failed", level: "error", icon: "error" },
  cancelled: { word: "Cancelled", level: "warning", icon: "close" },
};
const UNKNOWN = { word: "Status expired", level: "", icon: "info" };
const ENDS = new Set(["succeeded", "failed", "cancelled"]);

const announcer = new Announcer("results");

/** One job in the list. */
class Row {
  /** @type {State | null} */
  #state = null;
  #isAsked = false;
  #isMine = false;
  #word = make("p", { className: "job-word" });
  #bar = make("progress", { className: "job-bar", max: 1 });
  #message = make("div", { className: "job-message" });
  #shownMessage = "";
  #figure = make("p", { className: "job-figure" });
  #cancel = make("button", { type: "button", className: "button button-quiet" }, "Cancel");

  /** @param {{id: string, owner: string, mine: boolean, at: number, state: State | null}} job */
  constructor({ id, owner, mine, at, state }) {
    this.id = id;
    this.#isMine = mine;
    this.#cancel.hidden = true;
    this.#cancel.addEventListener("click", () => this.#askToCancel());
    const who = owner ? [isolated(owner), ", "] : [];
    this.element = make(
      "li",
      { className: "card job", tabIndex: -1, data: { job: id } },
      make("div", { className: "job-head" }, this.#word, make("p", { className: "help" }, ...who, relativeTime(new Date(at * 1000)))),
      this.#bar,
      make("div", { className: "job-foot" }, this.#message, this.#figure, mine ? this.#cancel : ""),
    );
    this.#bar.setAttribute("aria-label", "Job progress");
    this.#draw();
    if (state) this.show(state);
  }

  /** Show a state, if it is not older than the one that is shown. */
  show(/** @type {State} */ state) {
    if (this.#state && state.at < this.#state.at) return;
    const isNews = ENDS.has(state.state) && this.#state && !ENDS.has(this.#state.state);
    this.#state = state;
    if (state.state === "started") this.#isAsked = false;
    this.#draw();
    if (isNews) announcer.add(`${STATES[state.state].word}. ${state.message ?? ""}`);
    if (isNews && this.#isMine) forgetStartError();
  }

  #draw() {
    const state = this.#state;
    const { word, level, icon: shape } = state ? (STATES[state.state] ?? UNKNOWN) : UNKNOWN;
    const isRunning = Boolean(state && !ENDS.has(state.state) && STATES[state.state]);
    const { done, total, message = "", run } = state ?? {};
    this.element.dataset.state = state?.state ?? "unknown";
    this.element.dataset.level = level;
    const again = isRunning && run ? ` (attempt ${run}: the previous worker was lost)` : "";
    this.#word.replaceChildren(icon(shape), `${this.#isAsked && isRunning ? "Cancelling" : word}${again}`);
    this.#bar.hidden = !isRunning;
    if (done !== undefined && total) this.#bar.value = Math.min(1, done / total);
    else this.#bar.removeAttribute("value"); // running, without known progress
    if (state?.state === "waiting") this.#bar.value = 0;
    this.#figure.textContent = isRunning && done !== undefined && total ? `${Math.floor((100 * done) / total)} %` : "";
    if (message !== this.#shownMessage) this.#message.replaceChildren(...(message ? longText(`${message}`) : []));
    this.#shownMessage = message;
    keepFocus(this.#cancel, () => (this.#cancel.hidden = !isRunning), this.element);
    this.#cancel.ariaDisabled = this.#isAsked ? "true" : null; // not `disabled`, which would lose focus
  }

  async #askToCancel() {
    if (this.#isAsked) return;
    this.#isAsked = true;
    this.#draw();
    const error = await post(`${new URL(`${this.id}/cancel`, location.href)}`);
    if (!error) return;
    this.#isAsked = false;
    this.#draw();
    byId("list-error").textContent = error;
  }
}

/** @type {Map<string, Row>} */
const rows = new Map();
let fetching = false;
let again = false;

/** Fetch the states of all jobs. Newer states that arrive during the request are kept. */
async function fetchStates() {
  if (fetching) {
    again = true; // the pending request may not include what was missed
    return;
  }
  fetching = true;
  try {
    const response = await fetch(stateUrl, { headers: { Accept: "application/json" } });
    const body = await response.json();
    byId("list-error").textContent = response.ok ? "" : body.error.message;
    if (response.ok) list(body.jobs);
  } catch {
    byId("list-error").textContent = "The server did not respond, so this list may be out of date. It is refreshed when the page is live again.";
  }
  fetching = false;
  if (again) {
    again = false;
    fetchStates();
  }
}

function list(/** @type {any[]} */ jobs) {
  const wanted = new Set(jobs.map(({ id }) => id));
  for (const id of rows.keys()) if (!wanted.has(id)) remove(id);
  for (const job of [...jobs].reverse()) {
    const row = rows.get(job.id);
    if (row) {
      if (job.state) row.show(job.state);
      continue;
    }
    const made = new Row(job);
    rows.set(job.id, made);
    byId("jobs").prepend(made.element);
  }
  for (const id of [...rows.keys()].slice(0, Math.max(0, rows.size - SHOWN))) remove(id);
  byId("empty").hidden = rows.size > 0;
}

function remove(/** @type {string} */ id) {
  const element = rows.get(id)?.element;
  keepFocus(element, () => element.remove(), byId("main"));
  rows.delete(id);
}

/** @returns {Promise<string>} an error message for the user; "" on success */
async function post(/** @type {string} */ url, fields = {}) {
  const token = /** @type {HTMLInputElement} */ (document.querySelector("[name=csrfmiddlewaretoken]")).value;
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { "X-CSRFToken": token },
      body: new URLSearchParams(fields),
    });
    if (response.ok) return "";
    const body = await response.json().catch(() => ({}));
    return body.error?.message ?? "The request was refused because this page is out of date. Reload it.";
  } catch {
    return "The server did not respond, so the outcome is unknown. Check the list before you try again.";
  }
}

const starts = [byId("start"), byId("start-broken")];

byId("start-form").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const broken = event.submitter?.id === "start-broken";
  runOnce(starts, async () => {
    byId("start-error").textContent = await post(startUrl, broken ? { broken: "1" } : {});
    fetchStates();
  });
});

/** Forget why a job was not started: that holds until one of the user's jobs ends, or Redis is reachable again. */
function forgetStartError() {
  byId("start-error").textContent = "";
}

const live = connect();
showConnection(live);
whenLive(live, forgetStartError);
const jobs = live.subscribe(channel);
jobs.addEventListener("subscribed", async () => {
  await fetchStates(); // after the subscription has started, so no state is missed in between
  byId("main").dataset.listening = "";
});
jobs.addEventListener("gap", () => fetchStates());
jobs.addEventListener("publication", (/** @type {any} */ { detail }) => {
  const row = rows.get(detail.data?.task); // anyone with a key may publish any data here
  if (row) row.show(detail.data);
  else if (detail.data?.state === "waiting") fetchStates(); // a new job
});
jobs.addEventListener("error", (/** @type {any} */ { detail }) => {
  byId("list-error").textContent = `The server refused the subscription: ${detail.message}.`;
});
for (const button of starts) button.disabled = false;
