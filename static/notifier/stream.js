/**
 * Handles what HTMX attributes cannot express: the state of the stream, the size of a gap, and a form without a
 * response. The server renders everything that the page shows about orders, without this script.
 */

import { byId } from "./page.js";

const SHOWN = 50; // lines in the list of changes

const main = byId("main");

function say(/** @type {string} */ state, /** @type {string} */ words) {
  byId("connection").dataset.state = state;
  if (byId("connection-text").textContent === words) return;
  byId("connection-text").textContent = words;
  byId("announcement").textContent = words;
}

main.addEventListener("htmx:sseOpen", (/** @type {any} */ { detail: { source } }) => {
  say("live", "Live");
  main.toggleAttribute("data-listening", true);
  if (source.knowsState) return; // the same source has reconnected
  source.knowsState = true;
  source.addEventListener("realtime.state", (/** @type {MessageEvent} */ { data }) => {
    if (JSON.parse(data).live) say("live", "Live");
    else say("not-live", "Paused: Redis is unreachable");
  });
});

main.addEventListener("htmx:sseError", () => say("reconnecting", "Reconnecting…"));

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
main.addEventListener("htmx:beforeRequest", () => {
  byId("send-error").textContent = "";
});

main.addEventListener("htmx:afterSwap", () => {
  for (const line of [...byId("happened").children].slice(SHOWN)) line.remove();
});
