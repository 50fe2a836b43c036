/**
 * What `{% realtime_client "public:news" %}` loads: it listens to the channels that the template names, and to those of
 * the user, and tells the document. A page needs no module and no import to hear it:
 *
 *     document.addEventListener("realtime:publication", (e) => console.log(e.detail.channel, e.detail.data));
 *
 * With HTMX: `hx-trigger="realtime:publication from:document"`.
 */

import { connect } from "./client.js";

/** The connection of this page, for whoever wants more of it. */
export const live = connect();

/** @param {import("./client.js").Subscription} subscription */
function forward(subscription) {
  const { channel } = subscription;
  for (const name of ["subscribed", "publication", "gap"]) {
    subscription.addEventListener(name, (/** @type {any} */ event) => tell(name, { channel, ...event.detail }));
  }
}

function tell(/** @type {string} */ name, /** @type {object} */ detail) {
  document.dispatchEvent(new CustomEvent(`realtime:${name}`, { detail }));
}

const configured = document.getElementById("realtime-config");
for (const channel of JSON.parse(configured?.textContent ?? "{}").channels ?? []) forward(live.subscribe(channel));
live.addEventListener("subscription", (/** @type {any} */ event) => forward(event.detail.subscription));
live.addEventListener("state", (/** @type {any} */ event) => tell("state", event.detail));
