/** Subscriptions that the server begins by itself: of the user's own channel, say. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { next, start } from "./support.mjs";

const EPOCH = "e".repeat(16);

const served = (channel, offset, epoch = EPOCH) => ({
  push: { channel, subscribe: { positioned: true, recoverable: false, epoch, offset } },
});
const pub = (channel, offset, data) => ({ push: { channel, pub: { offset, data } } });

/** Wait for the subscription that a connection is given; return it and what it hears from its beginning. */
function given(live) {
  return new Promise((resolve) => {
    const listen = ({ detail: { subscription } }) => {
      const heard = [];
      for (const type of ["subscribed", "publication", "gap", "unsubscribed"]) {
        subscription.addEventListener(type, () => heard.push(type));
      }
      resolve({ subscription, heard });
    };
    live.addEventListener("subscription", listen, { once: true });
  });
}

describe("a server-side subscription", () => {
  test("it is passed to the page before its first event", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const found = given(live);
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    peer.send(served("user:#42", 7), pub("user:#42", 8, "for you"));
    const { subscription, heard } = await found;
    assert.deepEqual(heard, ["subscribed", "publication"]);
    assert.equal(subscription.channel, "user:#42");
    assert.equal(subscription.state, "subscribed");
    assert.deepEqual(subscription.position, { epoch: EPOCH, offset: 8 });
  });

  test("it is not requested after a reconnect, and reports what was missed", async (t) => {
    const { server, open } = await start(t, { retryFirstMs: 1 });
    const live = open();
    const found = given(live);
    const first = await server.peers.take();
    await first.frameWith("connect");
    first.send(served("user:#42", 7));
    const { subscription } = await found;
    first.socket.terminate();
    const second = await server.peers.take();
    const messages = await second.frameWith("connect");
    assert.deepEqual(messages.filter((message) => message.subscribe), []);
    const gap = next(subscription, "gap");
    second.send(served("user:#42", 9));
    const { from, to, reason } = await gap;
    assert.deepEqual([from, to, reason], [8, 9, "reconnect"]);
    assert.equal(subscription.state, "subscribed");
  });

  test("it is returned when the page subscribes to the channel later", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const found = given(live);
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    peer.send(served("user:#42", 0));
    const { subscription } = await found;
    assert.equal(live.subscribe("user:#42"), subscription);
  });

  test("it is the page's own subscription when the page has subscribed before", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ subscribe }) => (subscribe ? undefined : null);
    const live = open();
    let begun = 0;
    live.addEventListener("subscription", () => (begun += 1));
    const mine = live.subscribe("user:#42");
    let told = 0;
    mine.addEventListener("subscribed", () => (told += 1));
    const peer = await server.peers.take();
    const { id } = (await peer.frameWith("connect")).find((message) => message.subscribe);
    const heard = next(mine, "publication");
    peer.send(served("user:#42", 3), { id, subscribe: {} }, pub("user:#42", 4, "once"));
    const { data } = await heard;
    assert.equal(data, "once");
    assert.deepEqual([begun, told], [0, 1]);
    assert.deepEqual(mine.position, { epoch: EPOCH, offset: 4 });
  });

  test("it ends when the server ends it, and can begin again", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const found = given(live);
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    peer.send(served("team", 0));
    const { subscription } = await found;
    const ended = next(subscription, "unsubscribed");
    peer.send({ push: { channel: "team", unsubscribe: { code: 2000, reason: "server unsubscribe" } } });
    assert.equal((await ended).code, 2000);
    const again = given(live);
    peer.send(served("team", 5));
    assert.notEqual((await again).subscription, subscription);
  });
});
