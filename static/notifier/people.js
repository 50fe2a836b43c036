/** Who is on a channel, and the connections of a user, which the staff may close. */

import { byId, clockTime, isolated, keepFocus, make, runOnce } from "./page.js";
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

/** Set up the form. The list needs a method of the API that not every version has. */
export function peopleForm() {
  const field = byId("user-id");
  const wanted = () => {
    if (!byId("user-form").reportValidity()) return "";
    return field.value.trim();
  };
  byId("user-form").addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  byId("user-disconnect").addEventListener("click", () => wanted() && confirmDisconnect(wanted(), ""));
  byId("user-show").addEventListener("click", () => wanted() && runOnce([byId("user-show")], () => showConnections(wanted())));
  byId("user-disconnect").disabled = byId("user-show").disabled = false;
}

async function showConnections(/** @type {string} */ user) {
  say("", "");
  byId("connections").replaceChildren();
  try {
    const response = await post(connectionsUrl, JSON.stringify({ user }), "application/json");
    const { result, error } = await response.json();
    if (error?.reason === "method_not_found") return hideConnections("This version of the service does not list connections.");
    if (response.status === 403) return hideConnections("Your login may not list connections; an API key with the method connections may.");
    if (!response.ok) return say("", `${response.status}: ${error?.message ?? "no answer of the API"}`);
    const { connections, has_more: hasMore, silent_nodes: silent } = result;
    byId("connections").replaceChildren(...connections.map((/** @type {any} */ one) => connectionRow(user, one)));
    const parts = [`${count(connections.length, "connection")}${hasMore ? ", and more" : ""}.`];
    if (silent) parts.push(`${count(silent, "node")} did not answer in time; what is connected there is missing.`);
    say(parts.join(" "), "");
  } catch {
    say("", "The server did not respond.");
  }
}

function hideConnections(/** @type {string} */ why) {
  keepFocus(byId("user-show"), () => (byId("user-show").hidden = true), byId("user-disconnect"));
  say("", why);
}

/**
 * @param {string} user
 * @param {any} connection
 */
function connectionRow(user, { client, transport, node_name: node, connected_at: at, num_channels: channels, congested }) {
  const words = [make("bdi", { className: "mono" }, client), `, ${transport} at `, isolated(String(node)), ", since ", clockTime(new Date(at * 1000))];
  if (channels !== undefined) words.push(`, ${count(channels, "channel")}`);
  if (congested) words.push(", too slow");
  return make("li", { className: "person-row", data: { client } }, make("p", {}, ...words), disconnectButton(user, client));
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
    const response = await post(disconnectUrl, new URLSearchParams({ user, client }), "application/x-www-form-urlencoded");
    const { error } = await response.json().catch(() => ({}));
    if (response.ok) say(`The command was sent to all nodes: ${user} is disconnected${client && ` (${client})`}.`, "");
    else say("", error?.message ?? `Not disconnected: the server answered ${response.status}.`);
  } catch {
    say("", "The server did not respond, so the user may or may not be disconnected. It is safe to try again.");
  }
}

/**
 * @param {string} url
 * @param {string | URLSearchParams} body
 * @param {string} type
 */
function post(url, body, type) {
  return fetch(url, { method: "POST", headers: { ...csrf(), "Content-Type": type }, body, credentials: "same-origin" });
}

/**
 * @param {string} good
 * @param {string} bad
 */
function say(good, bad) {
  byId("user-result").textContent = good;
  byId("user-error").textContent = bad;
}
