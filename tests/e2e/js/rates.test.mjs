/** Rates and percentiles of the page `/monitor/`, from what nodes have counted. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Delays, increase, KEPT_SECONDS, Past, percentile, total } from "../../../static/notifier/rates.js";

const START = 1_790_000_000;
const HISTOGRAM = "realtime_delivery_seconds";

/** What a node notes at a step: deliveries, published, connections, lag, missed. */
function entry(step, deliveries, { published = 0, connections = 0, lag = 0, missed = {} } = {}) {
  return [START + 5 * step, deliveries, published, connections, lag, missed];
}

function histogram(counts) {
  return { [HISTOGRAM]: [...Object.entries(counts).map(([bound, count]) => [["*", bound], count]), [["*", "sum"], 7]] };
}

describe("rates", () => {
  test("they are the differences of counters, summed over the nodes", () => {
    const past = new Past();
    past.add("a", [entry(0, 100, { connections: 1, lag: 0.1 }), entry(1, 110, { published: 5, connections: 2, lag: 0.2 })]);
    past.add("b", [entry(0, 7, { connections: 10, lag: 0.3 }), entry(1, 57, { connections: 20, missed: { slow: 10 } })]);
    const [first, second] = past.points();
    assert.deepEqual(first, { at: START, delivered: null, published: null, missed: null, connections: 11, lag: 0.3 });
    assert.deepEqual(second, { at: START + 5, delivered: 12, published: 1, missed: 2, connections: 22, lag: 0.2 });
    assert.equal(past.rateOf("a"), 2);
    assert.equal(past.rateOf("c"), null);
  });

  test("a restarted node makes no negative rate", () => {
    const past = new Past();
    past.add("a", [entry(0, 1_000), entry(1, 20), entry(2, 30)]);
    assert.deepEqual(past.points().map(({ delivered }) => delivered), [null, 4, 2]);
    assert.equal(increase(10, 3), 3);
  });

  test("nothing is known about a pause", () => {
    const past = new Past();
    past.add("a", [entry(0, 10), entry(9, 1_000), entry(10, 1_010)]);
    assert.deepEqual(past.points().map(({ delivered }) => delivered), [null, null, 2]);
  });

  test("entries that are known already count once", () => {
    const past = new Past();
    past.add("a", [entry(0, 0), entry(1, 5), entry(2, 10)]);
    past.add("a", [entry(1, 5), entry(2, 10), entry(3, 15)]);
    past.add("a", []);
    assert.deepEqual(past.points().map(({ delivered }) => delivered), [null, 1, 1, 1]);
  });

  test("the latest moment is one for which all nodes have an entry, unless one is gone", () => {
    const past = new Past();
    past.add("a", [0, 1, 2, 3, 4].map((step) => entry(step, 0)));
    past.add("b", [0, 1, 2].map((step) => entry(step, 0)));
    assert.equal(past.points().at(-1).at, START + 10);
    past.add("a", [entry(5, 0)]);
    assert.equal(past.points().at(-1).at, START + 25);
  });

  test("a quarter of an hour is kept", () => {
    const past = new Past();
    for (let step = 0; step < 1_000; step += 1) {
      past.add("a", [entry(step, step)]);
      past.forget(START + 5 * step);
    }
    assert.equal(past.points().length, KEPT_SECONDS / 5);
    past.forget(START + 1e6);
    assert.deepEqual(past.points(), []);
  });
});

describe("percentiles", () => {
  test("they are interpolated within an interval", () => {
    assert.equal(percentile([[1, 0], [2, 10], [4, 0]], 0.5), 1.5);
    assert.equal(percentile([[1, 98], [2, 0], [4, 2]], 0.99), 3);
    assert.equal(percentile([[1, 1], [Infinity, 9]], 0.99), Infinity);
    assert.equal(percentile([[1, 0]], 0.5), null);
  });

  test("only the last minute counts, and no node that has just been seen", () => {
    const delays = new Delays();
    delays.add("a", START, histogram({ 1: 1_000, 2: 0, "+Inf": 0 }));
    assert.equal(delays.percentile(0.5), null);
    delays.add("a", START + 10, histogram({ 1: 1_000, 2: 10, "+Inf": 0 }));
    assert.equal(delays.percentile(0.5), 1.5);
    delays.forget(START + 65);
    assert.equal(delays.percentile(0.5), null);
  });
});

test("a total is over all labels, or over those with one", () => {
  const snapshot = { x: [[["*", "slow"], 2], [["*", "broker"], 3]] };
  assert.equal(total(snapshot, "x"), 5);
  assert.equal(total(snapshot, "x", "slow"), 2);
  assert.equal(total(snapshot, "y"), 0);
});
