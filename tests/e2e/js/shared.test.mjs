/** The multiplexer of shared.js, with a real client.js for each tab and without a browser. */

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { WebSocket } from "../sdk/node_modules/ws/wrapper.mjs";
import { PositionTracker } from "../../../realtime/static/realtime/client.js";
import { Multiplexer, identityOf } from "../../../realtime/static/realtime/shared.js";
import { next, nextState, record, start } from "./support.mjs";

const NEWS = "public:news";
const at = (epoch, offset) => ({ epoch, offset });

/** A server, and tabs whose sockets are seats at one multiplexer; one that has ended is replaced when a tab reconnects. */
async function share(t, options = {}) {
  const { server, open } = await start(t, { retryFirstMs: 1, ...options });
  let multiplexer = null;
  let seats = 0;
  const theMultiplexer = () => {
    if (multiplexer) return multiplexer;
    const made = new Multiplexer({ open: () => new WebSocket(server.url), PositionTracker, answerMs: 50 }, () => {
      if (multiplexer === made) multiplexer = null;
    });
    return (multiplexer = made);
  };
  t.after(() => multiplexer?.end(1000, ""));

  /** A tab; while `isFrozen`, what its multiplexer sends waits. */
  const tab = (more = {}) => {
    const state = { isFrozen: false, waiting: [] };
    const deliver = (task) => (state.isFrozen ? state.waiting.push(task) : queueMicrotask(task));
    class Seat {
      readyState = 0;
      constructor() {
        const id = String(++seats);
        this.id = id;
        this.multiplexer = theMultiplexer();
        let read = 0;
        this.multiplexer.add(id, {
          send: (data) =>
            deliver(() => {
              if (this.readyState === 3) return;
              read += data.length;
              this.multiplexer.acknowledge(id, read);
              this.onmessage({ data });
            }),
          close: (code, reason) =>
            deliver(() => {
              if (this.readyState === 3) return;
              this.readyState = 3;
              this.onclose({ code, reason });
            }),
        });
        queueMicrotask(() => {
          this.readyState = 1;
          this.onopen({});
        });
      }
      send(frame) {
        this.multiplexer.receive(this.id, frame);
      }
      close(code, reason) {
        this.readyState = 3;
        this.multiplexer.remove(this.id, reason);
      }
    }
    const live = open({ WebSocket: Seat, ...more });
    live.freeze = () => (state.isFrozen = true);
    live.thaw = () => {
      state.isFrozen = false;
      for (const task of state.waiting.splice(0)) task();
    };
    return live;
  };
  return { server, tab };
}

/** Answer all commands, and note their methods with their channels. */
function watch(server) {
  const seen = [];
  server.override = ({ id, ...command }) => {
    for (const [method, { channel }] of Object.entries(command)) seen.push(channel ? `${method} ${channel}` : method);
    return null;
  };
  return { seen, count: (what) => seen.filter((each) => each === what).length };
}

async function subscribed(live, channel = NEWS, options = {}) {
  const subscription = live.subscribe(channel, options);
  const heard = record(subscription);
  if (subscription.state !== "subscribed") await next(subscription, "subscribed");
  return { subscription, heard };
}

describe("a multiplexer", () => {
  test("it has one connection and one subscription for all tabs", async (t) => {
    const { server, tab } = await share(t);
    const { count } = watch(server);
    const tabs = [tab(), tab(), tab()];
    const all = await Promise.all(tabs.map((live) => subscribed(live)));
    const peer = await server.peers.take();
    peer.publish(NEWS, { data: 1, offset: 1 }, { data: 2, offset: 2 });
    await Promise.all(all.map(({ subscription }) => next(subscription, "publication", ({ offset }) => offset === 2)));
    for (const { heard } of all) assert.deepEqual(heard, ["A1", "A2"]);
    assert.deepEqual([server.wss.clients.size, count("connect"), count(`subscribe ${NEWS}`)], [1, 1, 1]);
    assert.deepEqual(new Set(tabs.map(({ client }) => client)), new Set(["c1"]));
  });

  test("a later tab learns exactly what was published since its page's data was read", async (t) => {
    const { server, tab } = await share(t);
    const first = await subscribed(tab());
    const peer = await server.peers.take();
    peer.publish(NEWS, { data: 1, offset: 1 }, { data: 2, offset: 2 });
    peer.gap(NEWS, { epoch: "A", from: 3, to: 5, reason: "slow" });
    await next(first.subscription, "gap");
    const second = await subscribed(tab(), NEWS, { since: at("A", 1) });
    assert.deepEqual(second.subscription.position, at("A", 5));
    peer.publish(NEWS, { data: 6, offset: 6 });
    await next(second.subscription, "publication");
    assert.deepEqual(second.heard, ["gap A2-5 reconnect", "A6"]);
    assert.deepEqual(first.heard, ["A1", "A2", "gap A3-5 slow", "A6"]);
  });

  test("a later tab learns that an epoch has ended, and of the one that follows", async (t) => {
    const { server, tab } = await share(t);
    server.positions[NEWS] = at("A", 3);
    const first = await subscribed(tab());
    const peer = await server.peers.take();
    peer.gap(NEWS, { epoch: "A", from: 4, to: null, reason: "broker" });
    await next(first.subscription, "gap");
    const second = await subscribed(tab(), NEWS, { since: at("A", 2) });
    peer.publish(NEWS, { data: 1, offset: 2, epoch: "B" }, { data: 2, offset: 3 });
    await next(second.subscription, "publication", ({ offset }) => offset === 3);
    assert.deepEqual(second.heard, ["gap A3-3 reconnect", "gap A4- broker", "gap B1-1 unknown", "B2", "B3"]);
    const third = await subscribed(tab(), NEWS, { since: at("A", 3) });
    assert.deepEqual(third.heard, ["gap A4- reconnect", "gap B1-3 reconnect"]);
  });

  test("each tab unsubscribes for itself, and the last one at the server", async (t) => {
    const { server, tab } = await share(t);
    const { count } = watch(server);
    const [one, two] = [await subscribed(tab()), await subscribed(tab())];
    const peer = await server.peers.take();
    one.subscription.unsubscribe();
    peer.publish(NEWS, { data: 1, offset: 1 });
    await next(two.subscription, "publication");
    assert.deepEqual([one.heard, count(`unsubscribe ${NEWS}`)], [[], 0]);
    two.subscription.unsubscribe();
    while (count(`unsubscribe ${NEWS}`) === 0) await peer.frameWith("unsubscribe");
    server.positions[NEWS] = at("A", 4);
    const again = await subscribed(tab());
    assert.deepEqual(again.subscription.position, at("A", 4));
  });

  test("a tab that has closed is no longer served", async (t) => {
    const { server, tab } = await share(t);
    const { count } = watch(server);
    const live = tab();
    await subscribed(live);
    await subscribed(tab(), "public:other");
    const peer = await server.peers.take();
    live.close();
    while (count(`unsubscribe ${NEWS}`) === 0) await peer.frameWith("unsubscribe");
    assert.equal(server.wss.clients.size, 1);
  });

  test("each tab has its own exact gap after the connection was lost", async (t) => {
    const { server, tab } = await share(t);
    const [one, two] = [await subscribed(tab()), await subscribed(tab(), NEWS)];
    const other = await subscribed(tab(), "public:other");
    const peer = await server.peers.take();
    peer.publish(NEWS, { data: 1, offset: 1 });
    await next(two.subscription, "publication");
    server.positions = { [NEWS]: at("A", 4), "public:other": at("A", 0) };
    peer.socket.terminate();
    const gaps = [next(one.subscription, "gap"), next(two.subscription, "gap")];
    await Promise.all([...gaps, next(other.subscription, "subscribed")]);
    for (const { heard } of [one, two]) assert.deepEqual(heard, ["A1", "gap A2-4 reconnect"]);
    assert.deepEqual(other.heard, []);
    assert.equal(server.wss.clients.size, 1);
  });

  test("a tab that reads nothing is let go at a mebibyte, and has an exact gap later", async (t) => {
    const { server, tab } = await share(t);
    const slow = tab();
    const [one, two] = [await subscribed(slow), await subscribed(tab())];
    const peer = await server.peers.take();
    slow.freeze();
    const data = "x".repeat(100_000);
    for (let offset = 1; offset <= 20; offset += 1) peer.publish(NEWS, { data, offset });
    await next(two.subscription, "publication", ({ offset }) => offset === 20);
    server.positions[NEWS] = at("A", 0); // not asked: the multiplexer knows
    slow.thaw();
    await next(one.subscription, "gap");
    const received = one.heard.length - 1;
    assert.deepEqual(one.heard.at(-1), `gap A${received + 1}-20 reconnect`);
    assert.ok(received >= 5 && received <= 10, String(received));
    assert.equal(two.heard.length, 20);
  });

  test("a refusal ends the subscription of the tab that asked, and of no other", async (t) => {
    const { server, tab } = await share(t);
    server.override = ({ id, subscribe }) => {
      if (!subscribe || subscribe.token === "good") return null;
      return { id, error: { code: 103, message: "permission denied" } };
    };
    const [one, two] = [tab(), tab()];
    one.addEventListener("error", () => {});
    const refused = one.subscribe(NEWS);
    const allowed = two.subscribe(NEWS, { getToken: () => "good" });
    const [error] = await Promise.all([next(refused, "error"), next(allowed, "subscribed")]);
    assert.equal(error.code, 103);
  });

  test("replies go to the tab that asked", async (t) => {
    const { server, tab } = await share(t);
    server.override = ({ id, rpc }) => (rpc ? { id, rpc: { data: rpc.data } } : null);
    const tabs = [tab(), tab(), tab()];
    await Promise.all(tabs.map((live) => nextState(live, "live")));
    const replies = await Promise.all(tabs.map((live, n) => live.rpc("echo", n)));
    assert.deepEqual(replies, [0, 1, 2]);
  });

  test("a tab that wants joins and leaves has the channel subscribed anew, without a silent loss", async (t) => {
    const { server, tab } = await share(t);
    const first = await subscribed(tab());
    const peer = await server.peers.take();
    server.positions[NEWS] = at("A", 2);
    server.override = ({ id, presence }) => (presence ? { id, presence: { presence: {} } } : null);
    const second = await subscribed(tab(), NEWS, { presence: true });
    peer.send({ push: { channel: NEWS, join: { info: { user: "7", client: "c7" } } } });
    assert.equal((await next(second.subscription, "join")).user, "7");
    assert.deepEqual(first.heard, ["gap A1-2 reconnect"]);
    assert.deepEqual(second.subscription.position, at("A", 2));
  });

  test("what the server has started is there for a later tab as well", async (t) => {
    const { server, tab } = await share(t);
    const mine = (live) =>
      new Promise((resolve) => {
        live.addEventListener("subscription", ({ detail }) => {
          const heard = record(detail.subscription);
          next(detail.subscription, "subscribed").then(() => resolve({ subscription: detail.subscription, heard }));
        });
      });
    const first = mine(tab());
    const peer = await server.peers.take();
    await peer.frameWith("connect");
    const subscribe = { positioned: true, recoverable: false, epoch: "A", offset: 6 };
    peer.send({ push: { channel: "user:#42", subscribe } });
    const { subscription } = await first;
    peer.publish("user:#42", { data: 1, offset: 7 });
    await next(subscription, "publication");
    const second = await mine(tab({ positions: { "user:#42": at("A", 5) } }));
    peer.publish("user:#42", { data: 1, offset: 8 });
    await next(second.subscription, "publication");
    assert.deepEqual(second.heard, ["gap A6-7 reconnect", "A8"]);
    assert.deepEqual((await first).heard, ["A7", "A8"]);
  });

  test("a tab that joins while the server is not live is not live either", async (t) => {
    const { server, tab } = await share(t);
    const first = tab();
    await nextState(first, "live");
    const peer = await server.peers.take();
    peer.send({ push: { state: { live: false, reason: "broker" } } });
    await nextState(first, "not-live");
    const second = tab();
    const { reason } = await nextState(second, "not-live");
    assert.equal(reason, "broker");
    peer.send({ push: { state: { live: true } } });
    await Promise.all([nextState(first, "live"), nextState(second, "live")]);
  });

  test("it answers the server's pings for all of them", async (t) => {
    const { server, tab } = await share(t);
    await Promise.all([nextState(tab(), "live"), nextState(tab(), "live")]);
    const peer = await server.peers.take();
    peer.raw("{}");
    const pongs = async () => {
      for (;;) if ((await peer.frames.take()) === "{}") return;
    };
    await pongs();
  });

  test("a server that is silent is found by the tab that misses its answer", async (t) => {
    const { server, tab } = await share(t);
    const first = tab({ answerMs: 50 });
    await subscribed(first);
    const peer = await server.peers.take();
    server.override = ({ subscribe, ping }) => (subscribe || ping ? undefined : null);
    first.subscribe("public:other");
    const { reason } = await peer.closed;
    assert.equal(reason, "");
    server.override = () => null;
    await nextState(first, "live");
  });

  test("a terminal close ends all tabs", async (t) => {
    const { server, tab } = await share(t);
    const tabs = [tab(), tab()];
    await Promise.all(tabs.map((live) => nextState(live, "live")));
    const peer = await server.peers.take();
    const closed = tabs.map((live) => nextState(live, "closed"));
    peer.socket.close(3501, "bad request");
    for (const { reason } of await Promise.all(closed)) assert.equal(reason, "bad request");
  });

  for (const frame of ["nonsense", "null", "[]", '{"push":7}', `{"push":{"channel":"${NEWS}","pub":{"offset":"1"}}}`]) {
    test(`${frame} from the server makes all tabs reconnect`, async (t) => {
      const { server, tab } = await share(t);
      const one = tab();
      await subscribed(one);
      const peer = await server.peers.take();
      const lost = nextState(one, "reconnecting");
      peer.raw(frame);
      assert.match((await lost).reason, /^malformed-frame: /);
      await nextState(one, "live");
    });
  }
});

describe("whose connection it is", () => {
  const frame = (connect) => `${JSON.stringify({ id: 1, connect })}\n${JSON.stringify({ id: 2, ping: {} })}`;
  const token = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.signature`;

  test("it is the session's and the token's user's", () => {
    const ada = identityOf(frame({ token: token({ sub: "ada", exp: 1 }) }), "");
    assert.equal(ada, identityOf(frame({ token: token({ sub: "ada", exp: 2 }) }), ""));
    const others = [
      identityOf(frame({ token: token({ sub: "bob" }) }), ""),
      identityOf(frame({ token: token({ sub: "ada" }) }), "one"),
      identityOf(frame({}), "one"),
      identityOf(frame({}), "two"),
      identityOf(frame({ token: "unreadable" }), ""),
      identityOf(frame({ token: "another" }), ""),
    ];
    assert.equal(new Set([ada, ...others]).size, 7);
  });

  test("it is unknown without both, because no script can read the cookie", () => {
    assert.equal(identityOf(frame({}), ""), null);
  });
});
