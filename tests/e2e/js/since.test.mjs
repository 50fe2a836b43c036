/** Subscriptions that continue from the position at which the page's data was read. */

import assert from "node:assert/strict";
import { afterEach, describe, test } from "node:test";
import { next, record, start } from "./support.mjs";

const NEWS = "public:news";
const at = (epoch, offset) => ({ epoch, offset });

/** A server on which the channel has counted so far, and a client that is not connected yet. */
async function counted(t, position, options = {}) {
  const { server, open } = await start(t, options);
  server.positions[NEWS] = position;
  return { server, open };
}

describe("a subscription since a position", () => {
  test("it first reports exactly what was published in between", async (t) => {
    const { server, open } = await counted(t, at("A", 6));
    const began = performance.timeOrigin;
    const news = open().subscribe(NEWS, { since: at("A", 4) });
    const heard = record(news);
    const gap = await next(news, "gap");
    assert.deepEqual([gap.from, gap.to, gap.missed, gap.reason], [5, 6, 2, "reconnect"]);
    assert.equal(gap.since.getTime(), new Date(began).getTime());
    const peer = await server.peers.take();
    peer.publish(NEWS, { data: 1, offset: 7 });
    await next(news, "publication");
    assert.deepEqual(heard, ["gap A5-6 reconnect", "A7"]);
  });

  test("it asks for a refetch immediately, because pages load at different times", async (t) => {
    const { server, open } = await counted(t, at("A", 6), { random: () => 0.5, retryFirstMs: 1, refetchWindowMs: 1_000 });
    const news = open().subscribe(NEWS, { since: at("A", 4) });
    const peer = await server.peers.take();
    assert.equal((await next(news, "gap")).refetchAfterMs, 0);
    server.positions[NEWS] = at("A", 9);
    peer.socket.terminate();
    assert.equal((await next(news, "gap")).refetchAfterMs, 500);
  });

  test("it asks for a refetch after a random delay when pages have waited together", async (t) => {
    const { server, open } = await counted(t, at("A", 6), { random: () => 0.5, retryFirstMs: 1, refetchWindowMs: 1_000 });
    const refusals = [{ code: 100, message: "the broker is unavailable", temporary: true }];
    server.override = ({ id, subscribe }) => (subscribe && refusals.length ? { id, error: refusals.pop() } : null);
    const { refetchAfterMs } = await next(open().subscribe(NEWS, { since: at("A", 4) }), "gap");
    assert.equal(refetchAfterMs, 500);
  });

  test("it reports nothing when nothing was published", async (t) => {
    const { server, open } = await counted(t, at("A", 4));
    const news = open().subscribe(NEWS, { since: at("A", 4) });
    const heard = record(news);
    const peer = await server.peers.take();
    await next(news, "subscribed");
    peer.publish(NEWS, { data: 1, offset: 5 });
    await next(news, "publication");
    assert.deepEqual(heard, ["A5"]);
  });

  test("it reports the gap once, and only newer gaps after a reconnect", async (t) => {
    const { server, open } = await counted(t, at("A", 6), { retryFirstMs: 1 });
    const news = open().subscribe(NEWS, { since: at("A", 4) });
    const heard = record(news);
    const peer = await server.peers.take();
    await next(news, "gap");
    server.positions[NEWS] = at("A", 9);
    peer.socket.terminate();
    await next(news, "gap");
    assert.deepEqual(heard, ["gap A5-6 reconnect", "gap A7-9 reconnect"]);
  });

  test("it reports an open gap when the position is null", async (t) => {
    const { server, open } = await counted(t, at("A", 6));
    const news = open().subscribe(NEWS, { since: null });
    const heard = record(news);
    const peer = await server.peers.take();
    const gap = await next(news, "gap");
    assert.equal(gap.missed, null);
    peer.publish(NEWS, { data: 1, offset: 7 });
    await next(news, "publication");
    assert.deepEqual(heard, ["gap A1- broker", "A7"]);
  });

  test("it reports the open gap only once", async (t) => {
    const { server, open } = await counted(t, at("A", 6), { retryFirstMs: 1 });
    const news = open().subscribe(NEWS, { since: null });
    const heard = record(news);
    const peer = await server.peers.take();
    await next(news, "gap");
    peer.socket.terminate();
    await next(news, "subscribed");
    assert.deepEqual(heard, ["gap A1- broker"]);
  });

  for (const since of [{}, at("", 1), at("A", -1), at("A", 1.5), at("A", "1"), at(7, 1), "A", "", 7, 0]) {
    test(`it refuses the position ${JSON.stringify(since)}`, async (t) => {
      const { open } = await start(t);
      assert.throws(() => open().subscribe(NEWS, { since }), TypeError);
      assert.throws(() => open({ positions: { [NEWS]: since } }), TypeError);
    });
  }
});

describe("the positions of a page", () => {
  afterEach(() => delete globalThis.document);

  test("they are used by the first subscription to each channel", async (t) => {
    const { open } = await counted(t, at("A", 6));
    const live = open({ positions: { [NEWS]: at("A", 4), "public:other": null } });
    const gap = await next(live.subscribe(NEWS), "gap");
    assert.deepEqual([gap.from, gap.to], [5, 6]);
    const other = await next(live.subscribe("public:other"), "gap");
    assert.deepEqual([other.missed, other.reason], [null, "broker"]);
  });

  test("they are not used by a later subscription", async (t) => {
    const { server, open } = await counted(t, at("A", 4));
    const live = open({ positions: { [NEWS]: at("A", 4) } });
    const first = live.subscribe(NEWS);
    await next(first, "subscribed");
    first.unsubscribe();
    server.positions[NEWS] = at("A", 9);
    const second = live.subscribe(NEWS);
    const heard = record(second);
    await next(second, "subscribed");
    assert.deepEqual(heard, []);
  });

  test("they are overridden by the position of a subscription", async (t) => {
    const { open } = await counted(t, at("A", 6));
    const live = open({ positions: { [NEWS]: at("A", 1) } });
    const gap = await next(live.subscribe(NEWS, { since: at("A", 5) }), "gap");
    assert.deepEqual([gap.from, gap.to], [6, 6]);
  });

  test("they are used by server-side subscriptions", async (t) => {
    const { server, open } = await start(t);
    const live = open({ positions: { "user:#42": at("A", 4) } });
    const found = new Promise((resolve) => {
      live.addEventListener("subscription", ({ detail }) => resolve(next(detail.subscription, "gap")), { once: true });
    });
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    const subscribe = { positioned: true, recoverable: false, epoch: "A", offset: 6 };
    peer.send({ push: { channel: "user:#42", subscribe } });
    const { from, to } = await found;
    assert.deepEqual([from, to], [5, 6]);
  });

  test("they are read from the element of the template tag", async (t) => {
    const { server, open } = await counted(t, at("A", 6));
    const config = { url: server.url, positions: { [NEWS]: at("A", 4) } };
    globalThis.document = Object.assign(new EventTarget(), {
      visibilityState: "visible",
      querySelectorAll: () => [{ textContent: JSON.stringify(config) }],
    });
    const { missed } = await next(open({ url: undefined }).subscribe(NEWS), "gap");
    assert.equal(missed, 2);
  });

  test("they are ignored when they are for another server", async (t) => {
    const { server, open } = await counted(t, at("A", 6));
    globalThis.document = Object.assign(new EventTarget(), {
      visibilityState: "visible",
      querySelectorAll: () => [{ textContent: JSON.stringify({ url: "ws://elsewhere/", positions: { [NEWS]: at("A", 4) } }) }],
    });
    const news = open({ url: server.url }).subscribe(NEWS);
    const heard = record(news);
    await next(news, "subscribed");
    assert.deepEqual(heard, []);
  });
});
