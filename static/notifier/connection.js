/** The state of the connection in words: a short one in the corner, an explanation while all is not well. */

import { byId } from "./page.js";

/** @typedef {import("../../realtime/static/realtime/client.js").State} State */

const EXPLAIN_AFTER_MS = 700; // most breaks are over before anybody has read a sentence

/** @type {Record<string, string>} */
const AWAY = {
  broker: "Not live: the broker is away",
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
      byId("notice").hidden = true;
      announce("Live");
    } else if (wasLive || state.state !== "connecting") explaining = setTimeout(() => explain(state), EXPLAIN_AFTER_MS);
  };

  const explain = (/** @type {State} */ state) => {
    byId("notice-text").textContent = explanation(state);
    byId("retry-now").hidden = state.state !== "reconnecting" && state.state !== "closed";
    byId("retry-now").textContent = state.state === "closed" ? "Reload" : "Try now";
    byId("notice").hidden = false;
    announce(`${short(state, wasLive, 0)}. ${explanation(state)}`, state.state);
  };

  // Once per change of state: neither the latency nor the countdown is read out.
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
      return AWAY[reason] ?? "Not live";
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
    return "Redis, which carries what is published, is away. This page stays connected and will say what it missed.";
  }
  if (state === "closed") return `The server ended the connection: ${reason}. Reload the page to try again.`;
  if (reason === "offline") {
    return "This device is offline. The page comes back by itself with the network and will say what it missed.";
  }
  return "The server cannot be reached. This page tries again by itself and will say what it missed.";
}
