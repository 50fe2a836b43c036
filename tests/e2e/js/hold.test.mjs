/** Subscriptions that parts of a page hold, such as components that may be removed. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { next, start } from "./support.mjs";

const EPOCH = "e".repeat(16);
const began = (id) => ({ id, subscribe: { positioned: true, epoch: EPOCH, offset: 0 } });

/** Open a connection whose server confirms a subscribe; return both ends and how to hear the next command. */
async function subscribed(t, act) {
  const { server, open } = await start(t);
  const live = open();
  const peer = await server.peers.take();
  await peer.frameWith("connect");
  const result = act(live);
  const [{ id }] = (await peer.frameWith("subscribe")).filter((message) => message.subscribe);
  const [subscription] = live.subscriptions;
  const heard = next(subscription, "subscribed");
  peer.send(began(id));
  await heard;
  return { live, peer, result, subscription };
}

describe("a subscription that parts of the page hold", () => {
  test("it ends when the last of them has released it, each once", async (t) => {
    const { live, peer, result, subscription } = await subscribed(t, (live) => [live.hold("news"), live.hold("news")]);
    const [first, second] = result;
    assert.equal(first.subscription, subscription);
    assert.equal(second.subscription, subscription);
    first.release();
    first.release();
    assert.equal(subscription.state, "subscribed");
    second.release();
    assert.equal(subscription.state, "unsubscribed");
    assert.deepEqual(live.subscriptions, []);
    const [{ unsubscribe }] = (await peer.frameWith("unsubscribe")).filter((message) => message.unsubscribe);
    assert.deepEqual(unsubscribe, { channel: "news" });
  });

  test("it stays if the page has subscribed, before or since", async (t) => {
    for (const act of [
      (live) => [live.subscribe("news"), live.hold("news")],
      (live) => [live.hold("news"), live.subscribe("news")].reverse(),
    ]) {
      const { result, subscription } = await subscribed(t, act);
      const [kept, hold] = result;
      assert.equal(kept, subscription);
      hold.release();
      assert.equal(subscription.state, "subscribed");
    }
  });

  test("it stays if the server has started it, and says so", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    const found = next(live, "subscription");
    peer.send({ push: { channel: "user:#42", subscribe: { positioned: true, epoch: EPOCH, offset: 7 } } });
    const { subscription } = await found;
    assert.equal(subscription.served, true);
    assert.deepEqual(live.subscriptions, [subscription]);
    const hold = live.hold("user:#42");
    assert.equal(hold.subscription, subscription);
    hold.release();
    assert.equal(subscription.state, "subscribed");
    live.subscribe("user:#42");
    assert.equal(subscription.served, false);
  });

  test("a release after its end does nothing", async (t) => {
    const { result, subscription } = await subscribed(t, (live) => live.hold("news"));
    subscription.unsubscribe();
    result.release();
    assert.equal(subscription.state, "unsubscribed");
  });
});
