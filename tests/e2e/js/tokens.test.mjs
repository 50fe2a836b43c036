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

describe("a connection token", () => {
  test("it is fetched before each connection, and sent in connect", async (t) => {
    let count = 0;
    const { server, open } = await start(t, { getToken: async () => `token ${(count += 1)}`, retryFirstMs: 1 });
    open();
    const first = await server.peers.take();
    assert.equal((await command(first, "connect")).token, "token 1");
    first.socket.terminate();
    assert.equal((await command(await server.peers.take(), "connect")).token, "token 2");
  });

  test("it may be empty: then the client is anonymous", async (t) => {
    const { server, open } = await start(t, { getToken: () => "" });
    open();
    assert.equal("token" in (await command(await server.peers.take(), "connect")), false);
  });

  test("it is renewed when it expires, and the connection continues", async (t) => {
    let count = 0;
    const { server, open } = await start(t, { getToken: () => `token ${(count += 1)}` });
    server.override = ({ id, refresh }) => (refresh ? { id, refresh: {} } : null);
    server.connectReply = reply({ expires: true, ttl: 0 });
    const live = open();
    const peer = await server.peers.take();
    assert.equal((await command(peer, "refresh")).token, "token 2");
    assert.equal(live.state.state, "live");
  });

  test("an empty one at its renewal continues anonymously", async (t) => {
    const { server, open } = await start(t, { retryFirstMs: 1 });
    const tokens = ["first", "", ""];
    server.connectReply = { ...server.connectReply, expires: true, ttl: 0 };
    const live = open({ getToken: () => tokens.shift() });
    const first = await server.peers.take();
    await first.frameWith("connect");
    server.connectReply = { ...server.connectReply, expires: false };
    const second = await server.peers.take();
    const { connect } = (await second.frameWith("connect")).find((message) => message.connect);
    assert.equal(connect.token, undefined);
    await nextState(live, "live");
  });

  test("the server may set another time of expiry", async (t) => {
    const { server, open } = await start(t);
    const tokens = ["first", "second"];
    open({ getToken: () => tokens.shift() });
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    peer.send({ push: { refresh: { expires: true, ttl: 0 } } });
    const { refresh } = (await peer.frameWith("refresh")).find((message) => message.refresh);
    assert.equal(refresh.token, "second");
  });

  test("it is fetched again later when fetching fails", async (t) => {
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

  test("it is fetched again when the server says that it has expired", async (t) => {
    let count = 0;
    const { server, open } = await start(t, { getToken: () => `token ${(count += 1)}`, retryFirstMs: 1 });
    server.override = ({ id, connect }) =>
      connect?.token === "token 1" ? { id, error: { code: 109, message: "token expired" } } : null;
    const live = open();
    await nextState(live, "live");
    assert.equal(count, 2);
  });

  test("it opens no connection when it arrives after close", async (t) => {
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

  test("publish waits until it is fetched", async (t) => {
    const { server, open } = await start(t, { getToken: async () => "token" });
    const live = open();
    await live.publish("chat:lobby", "hi");
    assert.ok(server);
  });
});

describe("a subscription token", () => {
  test("it is fetched for its channel, and sent in subscribe", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const closed = live.subscribe("closed", { getToken: async ({ channel }) => `token of ${channel}` });
    await next(closed, "subscribed");
    const peer = await server.peers.take();
    assert.equal((await command(peer, "subscribe")).token, "token of closed");
  });

  test("it is renewed when it expires, and the subscription continues", async (t) => {
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

  test("it is fetched again when the server ends the subscription", async (t) => {
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

  test("it is fetched again when fetching fails, and other channels do not wait", async (t) => {
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

  test("it is dropped when it arrives after unsubscribe", async (t) => {
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
