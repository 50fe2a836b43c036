/** Shows the state of the connection: a short text in the corner, and an explanation while it is not live. */

import { byId, keepFocus } from "./page.js";

/** @typedef {import("../../realtime/static/realtime/client.js").State} State */

const EXPLAIN_AFTER_MS = 700; // most interruptions end sooner

/** @type {Record<string, string>} */
const AWAY = {
  broker: "Paused: Redis is unreachable",
};

/** Show the state of a connection from now on. */
export function showConnection(/** @type {any} */ live) {
  let wasLive = false;
  let announced = "";
  /** @type {any} */
  let countdown;
  /** @type {any} */
  let explaining;

  const show = (/** @type {State} */ state) => {
    clearInterval(countdown);
    clearTimeout(explaining);
    const since = Date.now();
    const words = () => short(state, wasLive, Date.now() - since);
    byId("connection").dataset.state = state.state;
    byId("connection-text").textContent = words();
    if (state.state === "reconnecting") {
      countdown = setInterval(() => {
        byId("connection-text").textContent = words();
      }, 250);
    }
    if (state.state === "live") {
      wasLive = true;
      keepFocus(byId("notice"), () => (byId("notice").hidden = true), byId("main"));
      announce("Live");
    } else if (wasLive || state.state !== "connecting") explaining = setTimeout(() => explain(state), EXPLAIN_AFTER_MS);
  };

  const explain = (/** @type {State} */ state) => {
    byId("notice-text").textContent = explanation(state);
    // A stream is reconnected by the browser, which cannot be hurried.
    byId("retry-now").hidden = state.state !== "closed" && !(state.state === "reconnecting" && live.retryNow);
    byId("retry-now").textContent = state.state === "closed" ? "Reload" : "Retry now";
    byId("notice").hidden = false;
    announce(`${short(state, wasLive, 0)}. ${explanation(state)}`, state.state);
  };

  // Announce each change of state once to screen readers, but neither the latency nor the countdown.
  const announce = (/** @type {string} */ words, kind = words) => {
    if (announced !== kind && (announced !== "" || kind !== "Live")) byId("announcement").textContent = words;
    announced = kind;
  };

  byId("retry-now").addEventListener("click", () => {
    if (live.state.state === "closed") location.reload();
    else live.retryNow();
  });
  live.addEventListener("state", (/** @type {CustomEvent<State>} */ event) => show(event.detail));
  show(live.state);
}

/** Call a function each time a connection has become live. */
export function whenLive(/** @type {any} */ live, /** @type {() => void} */ action) {
  let isLive = false; // "state" is also dispatched when only the latency has changed
  live.addEventListener("state", (/** @type {CustomEvent<State>} */ { detail: { state } }) => {
    const wasLive = isLive;
    isLive = state === "live";
    if (isLive && !wasLive) action();
  });
}

/**
 * @param {State} state
 * @param {boolean} wasLive
 * @param {number} elapsedMs since the state began
 */
function short({ state, reason, retryInMs, latencyMs }, wasLive, elapsedMs) {
  switch (state) {
    case "live":
      return latencyMs === null ? "Live" : `Live · ${latencyMs < 1 ? "<\u00a01" : Math.round(latencyMs)}\u00a0ms`;
    case "not-live":
      return AWAY[reason] ?? "Paused";
    case "connecting":
      return wasLive ? "Reconnecting…" : "Connecting…";
    case "closed":
      return "Disconnected";
    case "reconnecting": {
      if (reason === "offline") return "Offline";
      const seconds = Math.ceil(((retryInMs ?? 0) - elapsedMs) / 1000);
      return seconds > 0 ? `Reconnecting in ${seconds}\u00a0s` : "Reconnecting…";
    }
  }
}

function explanation(/** @type {State} */ { state, reason }) {
  if (state === "not-live") {
    return "Events published meanwhile will be listed as missed. This page stays connected and resumes automatically.";
  }
  if (state === "closed") return `The server closed the connection: ${reason}. Reload the page to try again.`;
  if (reason === "offline") {
    return "This device is offline. The page reconnects when the network returns and will say what it missed.";
  }
  return "The server is unreachable. This page retries automatically and will say what it missed.";
}
