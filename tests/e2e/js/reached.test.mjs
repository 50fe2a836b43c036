/** Waiting until a page has received what it has written itself. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Subscription } from "../../../realtime/static/realtime/client.js";
import { next, start } from "./support.mjs";

const ORDERS = "public:orders";
const at = (epoch, offset) => ({ epoch, offset });
const headers = (text) => ({ headers: { get: (name) => (name === "Realtime-Position" ? text : null) } });

async function subscribed(t, options = {}) {
  const { server, open } = await start(t);
  const orders = open().subscribe(ORDERS, options);
  const peer = await server.peers.take();
  await next(orders, "subscribed");
  return { peer, orders };
}

/** Whether a promise is settled already. */
async function isSettled(promise) {
  const none = {};
  await new Promise((resolve) => setImmediate(resolve));
  return (await Promise.race([promise, Promise.resolve(none)])) !== none;
}

describe("the position of what a request has published", () => {
  const positionOf = (channel, text) => new Subscription(channel, {}).positionOf(headers(text));

  test("is read from the header of its response", () => {
    const text = "public:orders 6f1c2a90b4d7e833 42, talk#42,43 00ff 7";
    assert.deepEqual(positionOf("public:orders", text), at("6f1c2a90b4d7e833", 42));
    assert.deepEqual(positionOf("talk#42,43", text), at("00ff", 7));
  });

  test("is none if it has published nothing there", () => {
    for (const text of [null, "", "x", "x y", "x y z", ", ,", "public:order a 1"]) {
      assert.equal(positionOf("public:orders", text), undefined);
    }
  });

  test("is an error if the header is not ours", () => {
    for (const text of ["public:orders", "public:orders a", "public:orders a b", "public:orders a -1"]) {
      assert.throws(() => positionOf("public:orders", text), TypeError);
    }
  });
});

describe("reached", () => {
  test("waits for the publication at the position", async (t) => {
    const { peer, orders } = await subscribed(t);
    const reached = orders.reached(at("A", 2));
    peer.publish(ORDERS, { data: 1, offset: 1 });
    await next(orders, "publication");
    assert.equal(await isSettled(reached), false);
    let isEmitted = false;
    orders.addEventListener("publication", () => (isEmitted = true));
    peer.publish(ORDERS, { data: 2, offset: 2 });
    assert.equal(await reached, true);
    assert.equal(isEmitted, true);
  });

  test("is true at once for what was received, and for nothing", async (t) => {
    const { peer, orders } = await subscribed(t);
    peer.publish(ORDERS, { data: 1, offset: 1 });
    await next(orders, "publication");
    assert.equal(await orders.reached(at("A", 1)), true);
    assert.equal(await orders.reached(undefined), true);
  });

  test("is true when it is reported as missing, also after the end of its epoch", async (t) => {
    const { peer, orders } = await subscribed(t);
    const [first, last] = [orders.reached(at("A", 2)), orders.reached(at("A", 9))];
    peer.gap(ORDERS, { epoch: "A", from: 1, to: 3, reason: "slow" });
    assert.equal(await first, true);
    assert.equal(await isSettled(last), false);
    peer.gap(ORDERS, { epoch: "A", from: 4, to: null, reason: "broker" });
    assert.equal(await last, true);
  });

  test("waits until a gap is filled", async (t) => {
    let answer;
    const asked = new Promise((resolve) => {
      answer = (request) => new Promise((done) => resolve({ request, done }));
    });
    const { peer, orders } = await subscribed(t, { fill: (request) => answer(request) });
    const heard = [];
    orders.addEventListener("publication", ({ detail }) => heard.push(detail.offset));
    const reached = orders.reached(at("A", 2));
    peer.gap(ORDERS, { epoch: "A", from: 1, to: 1, reason: "slow" });
    peer.publish(ORDERS, { data: 2, offset: 2 });
    const { done } = await asked;
    assert.equal(await isSettled(reached), false);
    done({ publications: [{ offset: 1, data: 1 }] });
    assert.equal(await reached, true);
    assert.deepEqual(heard, [1, 2]);
  });

  test("is false if it does not come in time", async (t) => {
    const { orders } = await subscribed(t);
    assert.equal(await orders.reached(at("A", 1), { timeoutMs: 1 }), false);
  });

  test("is false when the subscription ends", async (t) => {
    const { orders } = await subscribed(t);
    const reached = orders.reached(at("A", 1));
    orders.unsubscribe();
    assert.equal(await reached, false);
    assert.equal(await orders.reached(at("A", 2)), false);
  });

  test("has a bound", async (t) => {
    const { orders } = await subscribed(t);
    const waiting = Array.from({ length: 1_000 }, () => orders.reached(at("A", 1)));
    assert.equal(await orders.reached(at("A", 1)), false);
    orders.unsubscribe();
    assert.deepEqual(new Set(await Promise.all(waiting)), new Set([false]));
  });
});
