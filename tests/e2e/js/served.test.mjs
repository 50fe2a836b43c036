/** Subscriptions that the server begins by itself: of the user's own channel, say. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { next, nextState, start } from "./support.mjs";

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

describe("a subscription that the server has started", () => {
  /** A connection to which the server gives a channel. */
  async function withServed(t, options = {}) {
    const { server, open } = await start(t, { retryFirstMs: 1, ...options });
    const live = open();
    const found = given(live);
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    peer.send(served("desk", 3));
    return { server, live, peer, ...(await found) };
  }

  test("it ends at the server when a listener of its beginning unsubscribes", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    live.addEventListener("subscription", ({ detail }) => detail.subscription.unsubscribe());
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    peer.send(served("desk", 3));
    const sent = (await peer.frameWith("unsubscribe")).find((message) => message.unsubscribe);
    assert.equal(sent.unsubscribe.channel, "desk");
  });

  test("it is requested after a break once the page has subscribed, too", async (t) => {
    const { server, live, peer, subscription } = await withServed(t);
    assert.equal(live.subscribe("desk"), subscription);
    await peer.frameWith("subscribe");
    server.positions.desk = { epoch: EPOCH, offset: 5 };
    peer.socket.terminate();
    const gap = next(subscription, "gap");
    const second = await server.peers.take();
    assert.ok((await second.frameWith("connect")).some((message) => message.subscribe?.channel === "desk"));
    const { from, to } = await gap;
    assert.deepEqual([from, to], [4, 5]);
  });

  test("it continues if the page may not subscribe itself", async (t) => {
    const { server, live, peer, subscription, heard } = await withServed(t);
    server.override = ({ id, subscribe }) => (subscribe ? { id, error: { code: 103, message: "permission denied" } } : null);
    live.subscribe("desk");
    await peer.frameWith("subscribe");
    const publication = next(subscription, "publication");
    peer.send(pub("desk", 4, "still"));
    assert.equal((await publication).data, "still");
    assert.ok(!heard.includes("unsubscribed"));
  });

  test("it is asked for its members when the page wants them", async (t) => {
    const { server, live, peer, subscription } = await withServed(t);
    const ada = { user: "ada", client: "a1" };
    server.override = ({ id, presence, subscribe }) => {
      if (subscribe) return { id, subscribe: {} };
      return presence ? { id, presence: { presence: { a1: ada } } } : null;
    };
    const told = next(subscription, "presence");
    live.subscribe("desk", { presence: true });
    const asked = (await peer.frameWith("subscribe")).find((message) => message.subscribe);
    assert.equal(asked.subscribe.join_leave, true);
    assert.equal((await told).clients, 1);
  });

  test("it ends when the server does not start it again after a break", async (t) => {
    const { server, peer, subscription } = await withServed(t, { answerMs: 50 });
    const ended = next(subscription, "unsubscribed");
    peer.socket.terminate();
    await (await server.peers.take()).frameWith("connect");
    assert.equal((await ended).reason, "not-renewed");
  });

  test("it does not end when the server says that it cannot start it now", async (t) => {
    const { server, live, peer, subscription } = await withServed(t, { answerMs: 50 });
    const ended = new Promise((resolve) => subscription.addEventListener("unsubscribed", () => resolve("ended")));
    peer.socket.terminate();
    const again = await server.peers.take();
    await again.frameWith("connect");
    again.send({ push: { channel: "desk", state: { live: false, reason: "broker" } } });
    await nextState(live, "not-live");
    const later = new Promise((resolve) => setTimeout(resolve, 200, "waits")); // the answer that must not come has 100 ms
    assert.equal(await Promise.race([ended, later]), "waits");
    const begun = next(subscription, "subscribed");
    again.send({ push: { channel: "desk", subscribe: { epoch: EPOCH, offset: 3 } } });
    await begun;
    assert.equal(live.state.state, "live");
    assert.equal(subscription.live, true);
  });

  test("it does not begin again by a message that was sent before the server read the unsubscribe", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ subscribe, unsubscribe }) => (subscribe || unsubscribe ? undefined : null);
    const live = open();
    let begun = 0;
    live.addEventListener("subscription", () => (begun += 1));
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    live.subscribe("desk").unsubscribe();
    const { id } = (await peer.frameWith("unsubscribe")).find((message) => message.unsubscribe);
    peer.send(served("desk", 3));
    peer.send({ id, unsubscribe: {} }, served("other", 1));
    await next(live, "subscription");
    assert.equal(begun, 1);
    peer.send(served("desk", 4));
    await next(live, "subscription");
  });
});
