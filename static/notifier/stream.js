/**
 * What HTMX has no words for: whether the stream is there, how much a gap is, and that a form got no answer. All that
 * the page shows of the orders comes from the server, without a line of this.
 */

import { byId } from "./page.js";

const SHOWN = 50; // lines of what has happened

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
  if (source.knowsState) return; // the same one, which has come back by itself
  source.knowsState = true;
  source.addEventListener("realtime.state", (/** @type {MessageEvent} */ { data }) => {
    if (JSON.parse(data).live) say("live", "Live");
    else say("not-live", "Not live: the broker is away");
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
  byId("send-error").textContent = "The server did not answer, so nobody knows whether it was saved. Look at the board.";
});
main.addEventListener("htmx:beforeRequest", () => {
  byId("send-error").textContent = "";
});

main.addEventListener("htmx:afterSwap", () => {
  for (const line of [...byId("happened").children].slice(SHOWN)) line.remove();
});
