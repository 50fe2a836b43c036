/**
 * Handles what HTMX attributes cannot express: the state of the stream, the size of a gap, and a form without a
 * response. The server renders everything that the page shows about orders, without this script.
 */

import { showConnection, whenLive } from "./connection.js";
import { Announcer, byId, clockTime } from "./page.js";

/** @typedef {import("../../realtime/static/realtime/client.js").State} State */

const SHOWN = 50; // lines in the list of changes

const main = byId("main");

/** The state of HTMX's event stream, in the form that `client.js` has for its connection. */
class Stream extends EventTarget {
  /** @type {State} */
  state = { state: "connecting", reason: "", retryInMs: null, latencyMs: null };

  change(/** @type {Partial<State>} */ facts) {
    this.state = { state: "live", reason: "", retryInMs: null, latencyMs: null, ...facts };
    this.dispatchEvent(new CustomEvent("state", { detail: this.state }));
  }
}

const stream = new Stream();
showConnection(stream);
whenLive(stream, () => forgetProblem("[data-until=live]"));
/** @type {Set<string>} channels that the server does not receive, although it receives others */
const lost = new Set();
let retries = 0; // as the SSE extension counts them

main.addEventListener("htmx:sseOpen", (/** @type {any} */ { detail: { source } }) => {
  retries = 0;
  lost.clear();
  stream.change({ state: "live" });
  main.toggleAttribute("data-listening", true);
  if (source.isHeard) return; // the same source has reconnected
  source.isHeard = true;
  for (const name of ["order", "realtime.gap", "realtime.state"]) source.addEventListener(name, keepPositions);
  source.addEventListener("realtime.state", (/** @type {MessageEvent} */ { data }) => {
    const { channel, live } = JSON.parse(data);
    if (channel === undefined) lost.clear();
    if (channel !== undefined && !live) lost.add(channel);
    else lost.delete(channel);
    const isLive = lost.size === 0 && (live || channel !== undefined);
    stream.change(isLive ? { state: "live" } : { state: "not-live", reason: "broker" });
  });
});

main.addEventListener("htmx:sseError", (/** @type {any} */ { detail: { source } }) => {
  if (source.readyState === EventSource.CLOSED) {
    // The server answered, but not with a stream. The extension opens another one, each time after twice as long.
    retries = Math.max(1, Math.min(2 * retries, 128));
    stream.change({ state: "reconnecting", retryInMs: 500 * retries });
  } else if (stream.state.state !== "reconnecting") {
    stream.change({ state: "reconnecting" }); // the browser retries every few seconds, and says so each time
  }
});

/**
 * Let a stream that the extension opens begin with the gap since the last event. Only the browser's own reconnects send
 * the id of that event (docs/event-stream.md).
 */
function keepPositions(/** @type {MessageEvent} */ { lastEventId }) {
  const url = new URL(main.getAttribute("sse-connect") ?? "", location.href);
  url.searchParams.delete("since");
  for (const position of lastEventId.split("&").filter(Boolean)) url.searchParams.append("since", position);
  main.setAttribute("sse-connect", url.href);
}

main.addEventListener("htmx:configRequest", (/** @type {any} */ { detail }) => {
  if (detail.elt === byId("happened")) {
    detail.parameters.after = /** @type {HTMLElement | null} */ (detail.elt.querySelector("[data-change]"))?.dataset.change ?? detail.elt.dataset.after;
    return;
  }
  const { type, detail: message } = detail.triggeringEvent ?? {};
  if (type !== "sse:realtime.gap") return;
  const { from, to } = JSON.parse(message.data);
  if (to !== null) detail.parameters.missed = to - from + 1;
});

main.addEventListener("htmx:sendError", () => {
  byId("send-error").textContent = "The server did not respond, so the order may or may not have been saved. Check the board.";
});
main.addEventListener("input", () => forgetProblem("#order-problem"));

/** Remove the error in the form, which does not hold any more. */
function forgetProblem(/** @type {string} */ selector) {
  const problem = main.querySelector(selector);
  if (!problem) return;
  problem.remove();
  for (const name of ["aria-describedby", "aria-invalid"]) byId("what").removeAttribute(name);
}

main.addEventListener("htmx:beforeRequest", () => {
  byId("send-error").textContent = "";
});

// The button of an order that has been shipped is gone. HTMX restores the focus only to an element with the same id.
let focused = ""; // the order whose button has the focus while the board is replaced
main.addEventListener("htmx:beforeSwap", () => {
  focused = document.activeElement?.closest(".order")?.id ?? "";
});
main.addEventListener("htmx:afterSwap", () => {
  if (focused && document.activeElement === document.body) (byId(focused) ?? main).focus({ preventScroll: true });
  for (const line of [...byId("happened").children].slice(SHOWN)) line.remove();
  // The server writes its own zone, for browsers that run no script.
  for (const time of /** @type {NodeListOf<HTMLTimeElement>} */ (byId("happened").querySelectorAll("time:not([title])"))) {
    time.replaceWith(clockTime(new Date(time.dateTime)));
  }
});

const announcer = new Announcer("changes");
new MutationObserver((records) => {
  for (const line of records.flatMap(({ addedNodes }) => [...addedNodes].reverse())) {
    if (line instanceof HTMLElement) announcer.add(line.innerText);
  }
}).observe(byId("happened"), { childList: true });
