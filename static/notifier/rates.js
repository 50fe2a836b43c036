/**
 * Rates and percentiles from what nodes have counted. No clock and no page: the caller has both.
 *
 * Counters belong to one node. Sums over nodes would fall when a node leaves, so differences are taken first.
 */

/** @typedef {Record<string, [string[], number][]>} Snapshot values by the name of a metric, each with its labels */
/** @typedef {[number, number, number, number, number, Record<string, number>]} Entry see `HistoryEntry` in core/history.py */

/**
 * @typedef {object} Point the sum over all nodes, per second, at one moment
 * @property {number} at seconds since 1970
 * @property {number | null} delivered null if it is unknown, such as `published` and `missed`
 * @property {number | null} published
 * @property {number | null} missed
 * @property {number} connections
 * @property {number} lag the largest, in seconds
 */

export const KEPT_SECONDS = 900;
export const STEP_SECONDS = 5;
const LATE_SECONDS = 15; // a node without an entry for that long is gone, or hangs
const WINDOW_SECONDS = 60; // of the percentiles

/** Return the sum of the values of a metric, of all or of those with a label. */
export function total(/** @type {Snapshot} */ snapshot, /** @type {string} */ name, label = "") {
  let sum = 0;
  for (const [labels, value] of snapshot[name] ?? []) if (!label || labels.includes(label)) sum += value;
  return sum;
}

/** Return how much a counter has grown. One that fell belongs to a process that was restarted, and began at zero. */
export function increase(/** @type {number} */ before, /** @type {number} */ after) {
  return after >= before ? after - before : after;
}

/** The last quarter of an hour of several nodes. */
export class Past {
  /** @type {Map<string, Entry[]>} the entries of each node, in order */
  #nodes = new Map();

  /** Add entries of a node, which may be known already. */
  add(/** @type {string} */ uid, /** @type {Entry[]} */ entries) {
    const known = this.#nodes.get(uid) ?? [];
    const first = entries[0]?.[0] ?? Infinity;
    this.#nodes.set(uid, [...known.filter(([at]) => at < first), ...entries]);
  }

  /** Drop what is older than a quarter of an hour, and nodes of which nothing is left. */
  forget(/** @type {number} */ now) {
    for (const [uid, entries] of this.#nodes) {
      const kept = entries.filter(([at]) => at > now - KEPT_SECONDS);
      if (kept.length) this.#nodes.set(uid, kept);
      else this.#nodes.delete(uid);
    }
  }

  /** @returns {number | null} the deliveries of a node per second, between its latest two entries */
  rateOf(/** @type {string} */ uid) {
    const [before, entry] = (this.#nodes.get(uid) ?? []).slice(-2);
    return entry ? increase(before[1], entry[1]) / (entry[0] - before[0]) : null;
  }

  /** @returns {Point[]} until the latest moment for which all nodes have an entry, the oldest first */
  points() {
    const latest = [...this.#nodes.values()].map((entries) => entries.at(-1)?.[0] ?? 0);
    const newest = Math.max(...latest);
    const until = Math.min(...latest.filter((at) => at > newest - LATE_SECONDS));
    /** @type {Map<number, Point>} */
    const points = new Map();
    for (const entries of this.#nodes.values()) {
      /** @type {Entry | null} */
      let before = null;
      for (const entry of entries) {
        if (entry[0] > until) break;
        const point = points.get(entry[0]) ?? { at: entry[0], delivered: null, published: null, missed: null, connections: 0, lag: 0 };
        points.set(entry[0], point);
        addTo(point, before, entry);
        before = entry;
      }
    }
    return [...points.values()].sort((one, other) => one.at - other.at);
  }
}

function addTo(/** @type {Point} */ point, /** @type {Entry | null} */ before, /** @type {Entry} */ entry) {
  const [at, deliveries, published, connections, lag, missed] = entry;
  point.connections += connections;
  point.lag = Math.max(point.lag, lag);
  if (!before || at - before[0] > LATE_SECONDS) return; // nobody knows when it was counted
  const seconds = at - before[0];
  point.delivered = (point.delivered ?? 0) + increase(before[1], deliveries) / seconds;
  point.published = (point.published ?? 0) + increase(before[2], published) / seconds;
  point.missed = (point.missed ?? 0) + increase(sum(before[5]), sum(missed)) / seconds;
}

function sum(/** @type {Record<string, number>} */ values) {
  return Object.values(values).reduce((one, other) => one + other, 0);
}

/** The delivery times of the last minute, from the histograms of several nodes. */
export class Delays {
  /** @type {Map<string, {at: number, counts: Map<string, number>}[]>} */
  #nodes = new Map();

  /** Add the histogram that a node had at a time. */
  add(/** @type {string} */ uid, /** @type {number} */ at, /** @type {Snapshot} */ snapshot, name = "realtime_delivery_seconds") {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const [labels, value] of snapshot[name] ?? []) {
      const bound = labels.at(-1) ?? "";
      if (bound !== "sum") counts.set(bound, (counts.get(bound) ?? 0) + value);
    }
    const known = this.#nodes.get(uid) ?? [];
    this.#nodes.set(uid, [...known, { at, counts }]);
  }

  /** Drop what is older than a minute. */
  forget(/** @type {number} */ now) {
    for (const [uid, samples] of this.#nodes) {
      const kept = samples.filter(({ at }) => at > now - WINDOW_SECONDS);
      if (kept.length) this.#nodes.set(uid, kept);
      else this.#nodes.delete(uid);
    }
  }

  /** @returns {number | null} seconds within which this part of the deliveries was made; null without deliveries */
  percentile(/** @type {number} */ part) {
    /** @type {Map<number, number>} */
    const counts = new Map();
    for (const samples of this.#nodes.values()) {
      const before = samples[0].counts;
      for (const [bound, count] of /** @type {{counts: Map<string, number>}} */ (samples.at(-1)).counts) {
        const upper = bound === "+Inf" ? Infinity : Number(bound);
        counts.set(upper, (counts.get(upper) ?? 0) + increase(before.get(bound) ?? 0, count));
      }
    }
    return percentile([...counts].sort(([one], [other]) => one - other), part);
  }
}

/**
 * Interpolate within the interval that has the observation, as Prometheus does.
 *
 * @param {[number, number][]} counts upper bounds with their numbers of observations, in order
 * @param {number} part from 0 to 1
 * @returns {number | null} Infinity above the last bound; null without observations
 */
export function percentile(counts, part) {
  const wanted = part * counts.reduce((all, [, count]) => all + count, 0);
  let lower = 0;
  let before = 0;
  for (const [upper, count] of counts) {
    if (count && before + count >= wanted) {
      return upper === Infinity ? Infinity : lower + (upper - lower) * ((wanted - before) / count);
    }
    before += count;
    lower = upper;
  }
  return null;
}
