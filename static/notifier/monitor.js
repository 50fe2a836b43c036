/**
 * The page `/monitor/`. The server sends news every two seconds. The page asks for the past when it opens, and after a
 * pause; and for everything while no news comes: its connection is broken, or Redis has been away since it began.
 */

import { connect } from "../realtime/client.js";
import { showConnection } from "./connection.js";
import { DeadLetters, queueFacts } from "./letters.js";
import { counted, duration, factList, longDuration, perSecond, replace, size, whole } from "./measures.js";
import { byId, clockTime, icon, isolated, make } from "./page.js";
import { Plot } from "./plots.js";
import { Delays, Past, total } from "./rates.js";
import { serverCards } from "./servers.js";

const { channel = "", stateUrl = "" } = byId("main").dataset;
const EVERY_MS = 2_000;
const NEWS_MS = 6_000; // after such a silence, the page asks
const PATIENCE_MS = 8_000; // a worker that hangs accepts no new connection, but may have the present one
const RECENT_MS = 15_000; // after a longer pause, the page asks for the whole past again
const CHANGES_SHOWN = 20;

/** @typedef {import("./rates.js").Snapshot} Snapshot */

/**
 * @typedef {object} MonitoredNode
 * @property {string} uid
 * @property {string} name
 * @property {string} version
 * @property {number} uptime
 * @property {boolean} live
 * @property {string} reason
 * @property {Snapshot} metrics
 * @property {import("./rates.js").Entry[]} history
 * @property {{at: number, live: boolean, reason: string}[]} changes
 */

/**
 * @typedef {object} ServiceState
 * @property {number} at
 * @property {boolean} is_complete whether all nodes could be asked
 * @property {number} silent_nodes
 * @property {number} hidden_nodes
 * @property {MonitoredNode[]} nodes
 * @property {Snapshot} sums
 * @property {import("./servers.js").RedisFacts[] | null} redis
 * @property {import("./letters.js").QueueStats | null} queue
 * @property {Record<string, number> | null} jobs
 */

const past = new Past();
const delays = new Delays();
const plots = {
  delivered: new Plot("Delivered per second", perSecond, "delivered"),
  published: new Plot("Published per second", perSecond, "published"),
  missed: new Plot("Missed per second", perSecond, "missed"),
  connections: new Plot("Connections", whole, "connections"),
  lag: new Plot("Round trip through Redis", duration, "lag"),
};
byId("plots").append(...Object.values(plots).map(({ element }) => element));

const letters = new DeadLetters(() => refresh());
let isAsking = false;
let isAskedAgain = false;
let answeredAt = -Infinity;
let newsAt = -Infinity;
/** @type {any} */
let timer;

async function refresh() {
  if (isAsking) {
    isAskedAgain = true; // the pending answer may be older than the event
    return;
  }
  isAsking = true;
  clearTimeout(timer);
  try {
    const isRecent = performance.now() - answeredAt < RECENT_MS;
    const response = await fetch(isRecent ? stateUrl : `${stateUrl}?past=1`, { signal: AbortSignal.timeout(PATIENCE_MS) });
    const body = await response.json();
    if (!response.ok) throw new Error(body.error.message);
    failure = "";
    show(body);
    answeredAt = performance.now();
  } catch (error) {
    const isRefusal = error instanceof Error && error.name === "Error";
    failure = isRefusal ? /** @type {Error} */ (error).message : "The server did not respond, so these numbers may be out of date.";
    showProblems();
  }
  isAsking = false;
  if (isAskedAgain) {
    isAskedAgain = false;
    refresh();
  } else askLater();
}

function askLater() {
  clearTimeout(timer);
  const hasNews = performance.now() - newsAt < NEWS_MS;
  if (!document.hidden) timer = setTimeout(refresh, hasNews ? NEWS_MS : EVERY_MS);
}

function showNews(/** @type {ServiceState} */ state) {
  if (document.hidden) return; // the past will be asked for
  if (performance.now() - answeredAt > RECENT_MS) return refresh();
  failure = "";
  show(state);
  answeredAt = newsAt = performance.now();
  if (!isAsking) askLater();
}

function show(/** @type {ServiceState} */ state) {
  latest = state;
  for (const { uid, metrics, history } of state.nodes) {
    past.add(uid, history);
    delays.add(uid, state.at, metrics);
  }
  past.forget(state.at);
  delays.forget(state.at);
  const points = past.points();
  for (const [name, plot] of /** @type {[keyof typeof plots, Plot][]} */ (Object.entries(plots))) {
    plot.show(points.map((point) => ({ at: point.at, value: point[name] })), state.at);
  }
  showSums(state);
  replace(byId("nodes"), state.nodes.map(nodeCard));
  replace(byId("servers"), serverCards(state.redis));
  showLosses(state.sums);
  replace(byId("queue"), queueFacts(state.queue));
  letters.update(state.queue);
  replace(byId("jobs-counts"), jobFacts(state.jobs));
  showChanges(state.nodes);
  showProblems();
  byId("main").dataset.shown = "";
}

function showSums(/** @type {ServiceState} */ { sums, nodes }) {
  const [half, most] = [0.5, 0.99].map((part) => delays.percentile(part));
  const live = total(sums, "realtime_nodes_live");
  const all = total(sums, "realtime_nodes");
  const facts = factList([
    ["Live nodes", `${whole(live)} of ${whole(all)}`, live < all ? "error" : ""],
    ["Connections", whole(total(sums, "realtime_connections"))],
    ["Users", whole(total(sums, "realtime_users"))],
    ["Channels", whole(total(sums, "realtime_channels"))],
    ["Subscriptions", whole(total(sums, "realtime_subscriptions"))],
    ["Delivery time, p50", half === null ? "–" : duration(half)],
    ["Delivery time, p99", most === null ? "–" : duration(most), most !== null && most > 1 ? "warning" : ""],
  ]);
  replace(byId("sums"), [facts]);
  const isQuiet = total(sums, "realtime_deliveries") + total(sums, "realtime_publishes", "published") === 0;
  byId("empty").hidden = !isQuiet || nodes.length === 0;
}

function nodeCard(/** @type {MonitoredNode} */ node) {
  const { uid, name, version, uptime, live, reason, metrics } = node;
  const value = (/** @type {string} */ metric) => total(metrics, `realtime_${metric}`);
  const rate = past.rateOf(uid);
  const lost = value("lost_channels");
  const facts = factList([
    ["Connections", whole(value("connections"))],
    ["Channels", whole(value("channels"))],
    ["Delivered per second", rate === null ? "–" : perSecond(rate)],
    ["Missed since its start", whole(value("missed_publications"))],
    ["Round trip through Redis", duration(value("broker_lag_seconds")), value("broker_lag_seconds") > 0.5 ? "warning" : ""],
    ["Event loop late by", duration(value("event_loop_lag_seconds")), value("event_loop_lag_seconds") > 0.25 ? "warning" : ""],
    ["Waiting for slow clients", size(value("outbox_bytes"))],
    ["Memory", value("process_resident_bytes") ? size(value("process_resident_bytes")) : "unknown"],
    ["Outages since its start", whole(value("outages"))],
    ...(lost ? [/** @type {import("./measures.js").Fact} */ (["Channels of a Redis that is away", whole(lost), "error"])] : []),
  ]);
  const sign = live ? "success" : "error";
  return make(
    "li",
    { className: "card node", data: { node: uid, level: sign } },
    make("h3", { className: "node-name", dir: "auto" }, name),
    make("p", { className: "node-state" }, icon(sign), live ? "Live" : "Not live"),
    make("p", { className: "help node-facts" }, `Version ${version}, running for ${longDuration(uptime)}`, live ? "." : `. ${sentence(reason)}`),
    facts,
  );
}

/** Make a sentence of a reason that a probe reports. */
function sentence(/** @type {string} */ reason) {
  return `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;
}

/** @type {Record<string, string>} */
const REASONS = {
  broker: "Redis was unreachable",
  slow: "The client read too slowly",
  reconnect: "Between two connections of the client",
};

function showLosses(/** @type {Snapshot} */ sums) {
  const rows = Object.entries(REASONS).map(([reason, words]) => {
    const open = (sums.realtime_gaps ?? []).filter(([labels]) => labels.includes(reason) && labels.includes("open"));
    const cells = [
      total(sums, "realtime_missed_publications", reason),
      total(sums, "realtime_gaps", reason),
      open.reduce((all, [, value]) => all + value, 0),
    ];
    return make("tr", {}, make("th", { scope: "row" }, words), ...cells.map((value) => make("td", {}, whole(value))));
  });
  replace(byId("losses"), rows);
}

const JOB_STATES = ["waiting", "started", "progress", "retried", "succeeded", "failed", "cancelled"];

function jobFacts(/** @type {Record<string, number> | null} */ jobs) {
  if (!jobs) return [make("p", { className: "help" }, "Jobs are disabled, or Redis does not answer.")];
  const running = (jobs.started ?? 0) + (jobs.progress ?? 0);
  if (!JOB_STATES.some((state) => jobs[state])) return [make("p", { className: "help" }, "There are no jobs.")];
  return [
    factList([
      ["Waiting", whole(jobs.waiting ?? 0)],
      ["Running", whole(running)],
      ["To be retried", whole(jobs.retried ?? 0), jobs.retried ? "warning" : ""],
      ["Done", whole(jobs.succeeded ?? 0)],
      ["Failed", whole(jobs.failed ?? 0), jobs.failed ? "warning" : ""],
      ["Cancelled", whole(jobs.cancelled ?? 0)],
    ]),
  ];
}

function showChanges(/** @type {MonitoredNode[]} */ nodes) {
  const changes = nodes.flatMap(({ name, changes: some }) => some.map((change) => ({ ...change, name })));
  changes.sort((one, other) => other.at - one.at);
  const entries = changes.slice(0, CHANGES_SHOWN).map(({ at, live, reason, name }) =>
    make(
      "li",
      { className: "change", data: { level: live ? "success" : "error" } },
      icon(live ? "success" : "error"),
      make("span", {}, make("b", {}, live ? "Live" : "Not live"), " · ", isolated(name), reason ? `: ${reason}` : ""),
      clockTime(new Date(at * 1000)),
    ),
  );
  replace(byId("changes"), entries);
}

/** @type {ServiceState | null} */
let latest = null;
let failure = "";

/** Say what is wrong, or that nothing is. */
function showProblems() {
  /** @type {[string, string][]} */
  const found = [];
  if (failure) found.push(["error", failure]);
  if (latest) found.push(...problemsOf(latest));
  if (!found.length) found.push(["success", "All nodes are live."]);
  replace(byId("problems"), found.map(([level, words]) => make("li", { className: "problem", data: { level } }, icon(level), words)));
}

/** @returns {[string, string][]} levels and sentences */
function problemsOf(/** @type {ServiceState} */ { is_complete, silent_nodes, hidden_nodes, nodes, sums }) {
  /** @type {[string, string][]} */
  const found = [];
  if (!is_complete) {
    const workers = total(sums, "realtime_workers");
    const whose = workers ? `of the ${counted(workers, "worker")} of this launcher` : "of the node that answers";
    found.push(["error", `Redis does not answer this node, so the others cannot be asked. The sums are those ${whose}.`]);
  }
  if (silent_nodes) {
    const [verb, it, its] = silent_nodes === 1 ? ["does", "it hangs", "Its"] : ["do", "they hang", "Their"];
    found.push(["warning", `${counted(silent_nodes, "node")} ${verb} not answer: ${it}, or ${silent_nodes === 1 ? "runs" : "run"} an older version. ${its} clients are not in the sums.`]);
  }
  const away = nodes.filter(({ live }) => !live).length;
  if (away) found.push(["error", `${counted(away, "node")} ${away === 1 ? "is" : "are"} not live: the clients are told, and will learn what they missed.`]);
  if (hidden_nodes) found.push(["warning", `${counted(hidden_nodes, "more node")} ${hidden_nodes === 1 ? "is" : "are"} in the sums, but not shown one by one.`]);
  return found;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
const live = connect();
showConnection(live);
let state = "";
live.addEventListener("state", (/** @type {any} */ { detail }) => {
  if (detail.state === state) return; // only the latency has changed
  state = detail.state;
  refresh();
});
live.addEventListener("message", (/** @type {any} */ { detail }) => {
  if (detail.data?.monitor) showNews(detail.data.monitor);
});
live.subscribe(channel);
refresh().then(() => {
  byId("main").dataset.listening = "";
});
