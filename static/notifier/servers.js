/** What the page `/monitor/` shows of Redis: a card for each server, or why there is none. */

import { factList, longDuration, size, whole } from "./measures.js";
import { icon, make } from "./page.js";

/** @typedef {import("./measures.js").Fact} Fact */

/**
 * @typedef {object} RedisFacts see `RedisFacts` in core/redis_facts.py
 * @property {string} address
 * @property {boolean} is_away
 * @property {string[]} refused
 * @property {string} version
 * @property {number | null} uptime
 * @property {number | null} used_bytes
 * @property {number | null} max_bytes
 * @property {string} policy
 * @property {boolean | null} has_aof
 * @property {boolean | null} is_saved
 * @property {number | null} saved_at
 * @property {string} role
 * @property {number | null} replicas
 * @property {number | null} replica_lag_seconds
 * @property {number | null} replica_lag_bytes
 */

const FULL = 0.9; // of the memory: from there on, publishing and queueing may soon fail
const LATE_SECONDS = 10; // replicas confirm every second

/** @returns {HTMLElement[]} */
export function serverCards(/** @type {RedisFacts[] | null} */ servers) {
  if (!servers) return [make("li", { className: "card problem", data: { level: "error" } }, icon("error"), "Redis does not answer.")];
  if (!servers.length) return [make("li", { className: "card" }, "There is no Redis: memory:// is a broker inside the process.")];
  return servers.map(card);
}

function card(/** @type {RedisFacts} */ server) {
  const { address, is_away, version, uptime, role, refused } = server;
  const isMaster = role === "master" || !role;
  const level = is_away || !isMaster ? "error" : "success";
  const words = is_away ? "Does not answer" : isMaster ? "Answers" : "Is a replica";
  const since = uptime === null ? "" : `, running for ${longDuration(uptime)}`;
  return make(
    "li",
    { className: "card node", data: { level } },
    make("h3", { className: "node-name", dir: "auto" }, address || "Redis"),
    make("p", { className: "node-state" }, icon(level), words),
    is_away ? "" : make("p", { className: "help node-facts" }, `${version || "Version unknown"}${since}.`),
    is_away ? "" : factList(factsOf(server)),
    refused.length ? make("p", { className: "help node-facts" }, `Not permitted to this user of Redis: ${refused.join(", ")}.`) : "",
  );
}

/** @returns {Fact[]} */
function factsOf(/** @type {RedisFacts} */ server) {
  const { policy, has_aof, is_saved, saved_at, replicas } = server;
  const unknown = server.refused.length ? "not permitted" : "unknown";
  return [
    memory(server, unknown),
    ["If memory is full", policy || unknown, policy && policy !== "noeviction" ? "warning" : ""],
    ["Append-only file", has_aof === null ? unknown : has_aof ? "on" : "off"],
    ["Latest write to disk", is_saved === null ? unknown : is_saved ? "succeeded" : "failed", is_saved === false ? "error" : ""],
    ["Latest snapshot, or start", saved_at === null ? unknown : new Date(saved_at * 1000).toLocaleString("sv-SE")],
    ["Replicas", replicas === null ? unknown : whole(replicas)],
    ...(replicas ? [lag(server)] : []),
  ];
}

/** @returns {Fact} */
function memory(/** @type {RedisFacts} */ { used_bytes, max_bytes }, /** @type {string} */ unknown) {
  if (used_bytes === null) return ["Memory", unknown];
  if (!max_bytes) return ["Memory", `${size(used_bytes)}, without a limit`];
  return ["Memory", `${size(used_bytes)} of ${size(max_bytes)}`, used_bytes > FULL * max_bytes ? "warning" : ""];
}

/** @returns {Fact} */
function lag(/** @type {RedisFacts} */ { replica_lag_seconds: seconds, replica_lag_bytes: bytes }) {
  const words = [seconds === null ? "" : `${whole(seconds)}\u00a0s`, bytes === null ? "" : size(bytes)].filter(Boolean);
  return ["Slowest replica behind by", words.join(", ") || "unknown", seconds !== null && seconds >= LATE_SECONDS ? "warning" : ""];
}
