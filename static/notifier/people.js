/** Who is on a channel, and the connections of a user, which the staff may close. */

import { byId, clockTime, isolated, make, runOnce } from "./page.js";
import { csrf } from "./post.js";

/** @typedef {import("../../realtime/static/realtime/client.js").Subscription} Subscription */

const SHOWN = 100; // users of a channel
const { disconnectUrl, connectionsUrl } = byId("main").dataset;

// --- presence -----------------------------------------------------------------------------------------------------------

/** Ask who is on a channel, as the user of this page, and show the answer in an element. */
export async function showPresence(/** @type {Subscription} */ subscription, /** @type {HTMLElement} */ element) {
  try {
    const members = [...(await subscription.presence()).values()];
    element.replaceChildren(...presenceRows(members));
  } catch (error) {
    const { code = "", message = String(error) } = /** @type {{code?: string | number, message?: string}} */ (error);
    element.replaceChildren(make("p", { className: "outcome outcome-bad" }, `The server does not show who is here: ${message}${code && ` (${code})`}.`));
  }
}

function presenceRows(/** @type {import("../../realtime/static/realtime/client.js").Sender[]} */ members) {
  /** @type {Map<string, typeof members>} */
  const users = new Map();
  for (const member of members) users.set(member.user, [...(users.get(member.user) ?? []), member]);
  const rows = [...users].slice(0, SHOWN).map(([user, connections]) => {
    const name = connections[0]?.info?.name;
    const words = [user ? make("bdi", { className: "mono" }, user) : "Anonymous", ...(typeof name === "string" ? [" ", isolated(name)] : []), `, ${count(connections.length, "connection")}`];
    return make("li", { className: "person-row", data: { user } }, make("p", {}, ...words), ...(user ? [disconnectButton(user)] : []));
  });
  const more = users.size > SHOWN ? ` The first ${SHOWN} are listed.` : "";
  return [make("p", { className: "help" }, `${count(members.length, "connection")} of ${count(users.size, "user")}; all anonymous ones count as one.${more}`), make("ul", {}, ...rows)];
}

function count(/** @type {number} */ number, /** @type {string} */ noun) {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}

// --- the connections of a user ------------------------------------------------------------------------------------------

/**
 * @typedef {object} Connections
 * @property {any[]} connections sorted by client ID
 * @property {boolean} has_more
 * @property {number} silent_nodes
 */

/** The ID in the form; "" and a message of the browser without one. */
export function wantedUser() {
  return byId("user-form").reportValidity() ? byId("user-id").value.trim() : "";
}

/** Set up the form. */
export function peopleForm() {
  byId("user-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  byId("user-disconnect").addEventListener("click", () => wantedUser() && confirmDisconnect(wantedUser(), ""));
  byId("user-show").addEventListener("click", () => wantedUser() && runOnce([byId("user-show")], () => showConnections(wantedUser(), "")));
  byId("user-disconnect").disabled = byId("user-show").disabled = false;
}

/**
 * Ask for connections of a user, behind the one of the ID `after`. Throws an Error with words for people.
 *
 * @returns {Promise<Connections>}
 */
export async function findConnections(/** @type {string} */ user, /** @type {string} */ after) {
  let response;
  try {
    response = await post(connectionsUrl, new URLSearchParams({ user, after }));
  } catch {
    throw new Error("The server did not respond.");
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error?.message ?? `The server answered ${response.status}.`);
  return body;
}

async function showConnections(/** @type {string} */ user, /** @type {string} */ after) {
  say("", "");
  const list = byId("connections");
  try {
    const { connections, has_more: hasMore, silent_nodes: silent } = await findConnections(user, after);
    if (after) list.lastElementChild?.remove(); // the button for more
    else list.replaceChildren();
    list.append(...connections.map((one) => connectionRow(user, one)));
    const shown = list.childElementCount;
    if (hasMore) list.append(moreButton(user, connections[connections.length - 1].client));
    if (after) /** @type {HTMLElement} */ (list.children[shown - connections.length])?.focus();
    const parts = [`${count(shown, "connection")}${hasMore ? ", and more" : ""}.`];
    if (silent) parts.push(`${count(silent, "node")} did not answer in time; what is connected there is missing.`);
    say(parts.join(" "), "");
  } catch (error) {
    if (!after) list.replaceChildren();
    say("", error instanceof Error ? error.message : String(error));
  }
}

function moreButton(/** @type {string} */ user, /** @type {string} */ last) {
  const button = make("button", { type: "button", className: "button button-quiet" }, "Show more");
  button.addEventListener("click", () => runOnce([button], () => showConnections(user, last)));
  return make("li", {}, button);
}

/**
 * @param {string} user
 * @param {any} connection
 */
function connectionRow(user, { client, transport, node_name: node, connected_at: at, num_channels: channels, is_congested: isCongested }) {
  const words = [make("bdi", { className: "mono" }, client), `, ${transport} at `, isolated(String(node)), ", since ", clockTime(new Date(at * 1000))];
  words.push(`, ${count(channels, "channel")}`);
  if (isCongested) words.push(", too slow");
  return make("li", { className: "person-row", tabIndex: -1, data: { client } }, make("p", {}, ...words), disconnectButton(user, client));
}

// --- disconnecting ------------------------------------------------------------------------------------------------------

function disconnectButton(/** @type {string} */ user, client = "") {
  const button = make("button", { type: "button", className: "button button-quiet" }, "Disconnect…");
  button.ariaLabel = client ? `Disconnect the connection ${client}…` : `Disconnect ${user}…`;
  button.addEventListener("click", () => confirmDisconnect(user, client));
  return button;
}

function confirmDisconnect(/** @type {string} */ user, /** @type {string} */ client) {
  const dialog = byId("disconnect-dialog");
  const what = client ? ["the connection ", make("bdi", { className: "mono" }, client), " of user "] : ["all connections of user "];
  byId("disconnect-words").replaceChildren("Close ", ...what, make("bdi", { className: "mono" }, user), "? Their pages do not reconnect until they are reloaded.");
  dialog.returnValue = "";
  const decided = () => {
    if (dialog.returnValue === "yes") disconnect(user, client);
  };
  dialog.addEventListener("close", decided, { once: true });
  dialog.showModal();
}

async function disconnect(/** @type {string} */ user, /** @type {string} */ client) {
  say("", "");
  try {
    const response = await post(disconnectUrl, new URLSearchParams({ user, client }));
    const { error } = await response.json().catch(() => ({}));
    if (response.ok) say(`The command was sent to all nodes: ${user} is disconnected${client && ` (${client})`}.`, "");
    else say("", error?.message ?? `Not disconnected: the server answered ${response.status}.`);
  } catch {
    say("", "The server did not respond, so the user may or may not be disconnected. It is safe to try again.");
  }
}

function post(/** @type {string} */ url, /** @type {URLSearchParams} */ body) {
  return fetch(url, { method: "POST", headers: csrf(), body, credentials: "same-origin" });
}

/**
 * @param {string} good
 * @param {string} bad
 */
function say(good, bad) {
  byId("user-result").textContent = good;
  byId("user-error").textContent = bad;
}
