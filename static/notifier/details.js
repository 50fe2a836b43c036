/** The drawer with everything about one event: its JSON to copy, and a button that posts it again. */

import { byId, copies } from "./page.js";

/** @typedef {import("../../realtime/static/realtime/client.js").Publication} Publication */

/** @type {Publication | null} */
let shown = null;

/** Set up the drawer; `again` posts a publication anew. */
export function setUpDetails(/** @type {(body: object) => void} */ again) {
  copies(byId("copy-details"), () => byId("details-json").textContent);
  byId("details-close").addEventListener("click", () => byId("details").close());
  byId("details").addEventListener("click", (/** @type {Event} */ { target }) => {
    if (target === byId("details")) byId("details").close(); // beside the drawer
  });
  byId("details-again").addEventListener("click", () => {
    byId("details").close();
    if (shown) again(postable(shown));
  });
}

/** Open the drawer with a publication. */
export function showDetails(/** @type {Publication} */ publication) {
  const { channel, offset, epoch } = publication;
  shown = publication;
  byId("details-place").textContent = offset === null ? channel : `${channel}, offset ${offset}, epoch ${epoch}`;
  byId("details-json").textContent = JSON.stringify(postable(publication), null, 2);
  byId("details").showModal();
}

/** Return the body of the request that posts the same again. */
function postable(/** @type {Publication} */ { channel, event, tags, data }) {
  const others = Object.fromEntries(Object.entries(tags ?? {}).filter(([name]) => name !== "event"));
  return { channel, ...(event ? { event } : {}), data, ...(Object.keys(others).length ? { tags: others } : {}) };
}
