/** Tokens of client.js: fetched before they are needed, renewed before they expire, asked for again when refused. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { next, nextState, start } from "./support.mjs";

/** The next command of a kind that a peer is sent. */
async function command(peer, kind) {
  const messages = await peer.frameWith(kind);
  return messages.find((message) => kind in message)[kind];
}

const reply = (fields) => ({ client: "c1", version: "test", ping: 25, pong: true, ...fields });

describe("the token of a connection", () => {
  test("is fetched before each connection and shown in connect", async (t) => {
    let count = 0;
    const { server, open } = await start(t, { getToken: async () => `token ${(count += 1)}`, retryFirstMs: 1 });
    open();
    const first = await server.peers.take();
    assert.equal((await command(first, "connect")).token, "token 1");
    first.socket.terminate();
    assert.equal((await command(await server.peers.take(), "connect")).token, "token 2");
  });

  test("may be empty: then nobody is there", async (t) => {
    const { server, open } = await start(t, { getToken: () => "" });
    open();
    assert.equal("token" in (await command(await server.peers.take(), "connect")), false);
  });

  test("is renewed when it expires, and the connection stays", async (t) => {
    let count = 0;
    const { server, open } = await start(t, { getToken: () => `token ${(count += 1)}` });
    server.override = ({ id, refresh }) => (refresh ? { id, refresh: {} } : null);
    server.connectReply = reply({ expires: true, ttl: 0 });
    const live = open();
    const peer = await server.peers.take();
    assert.equal((await command(peer, "refresh")).token, "token 2");
    assert.equal(live.state.state, "live");
  });

  test("that could not be fetched is tried again later", async (t) => {
    let count = 0;
    const getToken = async () => {
      count += 1;
      if (count < 3) throw new Error("the site is away");
      return "token";
    };
    const { server, open } = await start(t, { getToken, retryFirstMs: 1 });
    const live = open();
    const state = await nextState(live, "reconnecting");
    assert.equal(state.reason, "no-token");
    assert.equal((await command(await server.peers.take(), "connect")).token, "token");
    assert.equal(count, 3);
  });

  test("that is refused as expired is fetched anew", async (t) => {
    let count = 0;
    const { server, open } = await start(t, { getToken: () => `token ${(count += 1)}`, retryFirstMs: 1 });
    server.override = ({ id, connect }) =>
      connect?.token === "token 1" ? { id, error: { code: 109, message: "token expired" } } : null;
    const live = open();
    await nextState(live, "live");
    assert.equal(count, 2);
  });

  test("that comes when the connection was closed opens nothing", async (t) => {
    let give;
    const token = new Promise((resolve) => {
      give = resolve;
    });
    const { server, open } = await start(t, { getToken: () => token });
    const live = open();
    live.close();
    give("too late");
    await token;
    assert.equal(server.wss.clients.size, 0);
    assert.equal(live.state.state, "closed");
  });

  test("is waited for by what is published before", async (t) => {
    const { server, open } = await start(t, { getToken: async () => "token" });
    const live = open();
    await live.publish("chat:lobby", "hi");
    assert.ok(server);
  });
});

describe("the token of a subscription", () => {
  test("is fetched for its channel and shown in subscribe", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const closed = live.subscribe("closed", { getToken: async ({ channel }) => `token of ${channel}` });
    await next(closed, "subscribed");
    const peer = await server.peers.take();
    assert.equal((await command(peer, "subscribe")).token, "token of closed");
  });

  test("is renewed when it expires, and the subscription stays", async (t) => {
    let count = 0;
    const { server, open } = await start(t);
    server.override = ({ id, subscribe, sub_refresh: renewed }) => {
      if (renewed) return { id, sub_refresh: {} };
      return subscribe ? { id, subscribe: { positioned: true, epoch: "A", offset: 0, expires: true, ttl: 0 } } : null;
    };
    const closed = open().subscribe("closed", { getToken: () => `token ${(count += 1)}` });
    const peer = await server.peers.take();
    assert.deepEqual(await command(peer, "sub_refresh"), { channel: "closed", token: "token 2" });
    assert.equal(closed.state, "subscribed");
  });

  test("that the server has ended is fetched anew", async (t) => {
    let count = 0;
    const { server, open } = await start(t, { retryFirstMs: 1 });
    const closed = open().subscribe("closed", { getToken: () => `token ${(count += 1)}` });
    await next(closed, "subscribed");
    const peer = await server.peers.take();
    assert.equal((await command(peer, "subscribe")).token, "token 1");
    peer.send({ push: { channel: "closed", unsubscribe: { code: 2501, reason: "expired" } } });
    assert.equal((await command(peer, "subscribe")).token, "token 2");
    await next(closed, "subscribed");
  });

  test("that could not be fetched is tried again, and holds up no other channel", async (t) => {
    let count = 0;
    const getToken = async () => {
      count += 1;
      if (count === 1) throw new Error("the site is away");
      return "token";
    };
    const { open } = await start(t, { retryFirstMs: 1 });
    const live = open();
    const closed = live.subscribe("closed", { getToken });
    await Promise.all([next(live.subscribe("public:news"), "subscribed"), next(closed, "subscribed")]);
    assert.equal(count, 2);
  });

  test("that comes when nobody wants the channel any more is dropped", async (t) => {
    let give;
    const token = new Promise((resolve) => {
      give = resolve;
    });
    const { server, open } = await start(t);
    const live = open();
    const closed = live.subscribe("closed", { getToken: () => token });
    await nextState(live, "live");
    closed.unsubscribe();
    give("too late");
    await token;
    await next(live.subscribe("public:news"), "subscribed");
    const peer = await server.peers.take();
    const said = (await peer.frameWith("subscribe")).map(({ subscribe }) => subscribe?.channel);
    assert.equal(said.includes("closed"), false);
  });
});
