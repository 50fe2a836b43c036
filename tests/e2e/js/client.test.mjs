/** client.js against a real WebSocket server that says what a test wants it to say. */

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { describe, test } from "node:test";
import { WebSocket } from "../sdk/node_modules/ws/wrapper.mjs";
import { connect } from "../../../realtime/static/realtime/client.js";
import { next, nextState, record, start } from "./support.mjs";

/** A subscription that is live, and the server's end of it. */
async function subscribed(t, { position = { epoch: "A", offset: 4 }, ...options } = {}) {
  const { server, open } = await start(t, options);
  server.positions["public:news"] = position;
  const live = open();
  const news = live.subscribe("public:news");
  await next(news, "subscribed");
  return { server, live, news, peer: await server.peers.take() };
}

describe("a connection that opens", () => {
  test("it sends connect and all subscribes in the first frame", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    live.subscribe("public:a");
    live.subscribe("public:b");
    const peer = await server.peers.take();
    const first = await peer.frameWith("connect");
    assert.deepEqual(first.map(({ id }) => id), [1, 2, 3]);
    assert.deepEqual(first.map(({ subscribe }) => subscribe?.channel), [undefined, "public:a", "public:b"]);
  });

  test("it is live and measures its latency", async (t) => {
    const { open } = await start(t);
    const live = open();
    assert.deepEqual(live.state, { state: "connecting", reason: "", retryInMs: null, latencyMs: null });
    const state = await next(live, "state", ({ latencyMs }) => latencyMs !== null);
    assert.equal(state.state, "live");
    assert.ok(state.latencyMs >= 0 && state.latencyMs < 10_000);
  });

  test("it measures its latency periodically", async (t) => {
    const { server, open } = await start(t, { latencyEveryMs: 5 });
    open();
    const peer = await server.peers.take();
    for (let n = 0; n < 3; n += 1) await peer.frameWith("ping"); // the state only tells of a latency that differs
  });

  test("it continues to measure its latency when a reply takes longer than the interval", async (t) => {
    const { server, open } = await start(t, { latencyEveryMs: 5 });
    server.override = ({ id, ping }, peer) => {
      if (!ping) return null;
      setTimeout(() => peer.send({ id, ping: {} }), 30);
      return undefined;
    };
    open();
    const peer = await server.peers.take();
    for (let n = 0; n < 3; n += 1) await peer.frameWith("ping");
  });

  test("it returns the same subscription when a channel is subscribed to twice", async (t) => {
    const { live, news } = await subscribed(t);
    assert.equal(live.subscribe("public:news"), news);
  });

  test("it splits subscribes into several frames when one would be too large", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    for (let n = 0; n < 999; n += 1) live.subscribe(`public:${n}-${"x".repeat(240)}`);
    const last = live.subscribe("public:last");
    const peer = await server.peers.take();
    await next(last, "subscribed");
    const sizes = [];
    for (let n = 0; n < 4; n += 1) sizes.push((await peer.frames.take()).length);
    assert.ok(Math.max(...sizes) <= 65_536, String(sizes));
  });

  test("it refuses to subscribe when it has 10,000 channels", async (t) => {
    const { open } = await start(t);
    const live = open();
    for (let n = 0; n < 10_000; n += 1) live.subscribe(`public:${n}`);
    assert.throws(() => live.subscribe("public:one-too-many"), { code: "too-many" });
  });

  test("it connects again after a temporary refusal, but not after a permanent one", async (t) => {
    const { server, open } = await start(t);
    const errors = [
      { code: 100, message: "internal server error", temporary: true },
      { code: 101, message: "unauthorized" },
    ];
    server.override = ({ id, connect }) => (connect ? { id, error: errors.shift() } : null);
    const live = open();
    const again = await nextState(live, "reconnecting");
    assert.equal(again.reason, "internal server error");
    assert.equal((await nextState(live, "closed")).reason, "unauthorized");
  });

  test("it gives up when the server does not answer", async (t) => {
    const { server, open } = await start(t, { answerMs: 20 });
    server.override = () => undefined;
    assert.equal((await nextState(open(), "reconnecting")).reason, "no-answer");
  });
});

describe("a refused subscription", () => {
  const refused = ({ id, subscribe }) => (subscribe ? { id, error: { code: 103, message: "permission denied" } } : null);

  test("it is logged to the console once when no listener handles the error", async (t) => {
    const warn = t.mock.method(console, "warn", () => {});
    const { server, open } = await start(t);
    server.override = refused;
    open().subscribe("nwes:today");
    const peer = await server.peers.take();
    await peer.frameWith("ping"); // the latency is measured after the replies to all subscribes
    const [[line], ...others] = warn.mock.calls.map((call) => call.arguments);
    assert.deepEqual(others, []);
    assert.match(line, /"nwes:today" was refused \(103 permission denied\).*docs\/client\.md#/);
  });

  for (const on of ["subscription", "connection"]) {
    test(`it is not logged when the ${on} has an error listener`, async (t) => {
      const warn = t.mock.method(console, "warn", () => {});
      const { server, open } = await start(t);
      server.override = refused;
      const live = open();
      const news = live.subscribe("nwes:today");
      if (on === "subscription") assert.equal((await next(news, "error")).code, 103);
      else {
        const { subscription, error } = await next(live, "error");
        assert.deepEqual([subscription, error.message], [news, "permission denied"]);
      }
      assert.equal(news.state, "unsubscribed");
      const peer = await server.peers.take();
      await peer.frameWith("ping");
      assert.equal(warn.mock.callCount(), 0);
    });
  }
});

describe("a listener for frames", () => {
  test("gets each frame in both directions, unchanged and in order", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const frames = [];
    live.addEventListener("frame", ({ detail }) => frames.push(detail));
    const news = live.subscribe("public:news");
    await next(news, "subscribed");
    const peer = await server.peers.take();
    peer.raw('{}\n{"push":{"channel":"public:news","pub":{"data":"Zo\\u00eb","offset":1}}}');
    await next(news, "publication");
    const order = frames.map(({ direction }) => direction);
    assert.deepEqual(order.slice(0, 2), ["out", "in"]);
    assert.equal(frames[0].text, await peer.frames.take());
    assert.match(frames[0].text, /^\{"id":1,"connect":.*\n\{"id":2,"subscribe":/);
    assert.ok(frames.some(({ direction, text }) => direction === "in" && text.includes("Zo\\u00eb")));
    await new Promise((resolve) => setTimeout(resolve));
    assert.ok(frames.some(({ direction, text }) => direction === "out" && text === "{}"), "the pong");
    assert.ok(frames.every(({ time }) => time instanceof Date));
  });

  for (const direction of ["in", "out"]) {
    test(`may close the connection when it gets one that goes ${direction}`, async (t) => {
      const { server, open } = await start(t);
      const live = open();
      live.addEventListener("frame", ({ detail }) => detail.direction === direction && live.close());
      const news = live.subscribe("public:news");
      assert.equal((await nextState(live, "closed")).reason, "closed-here");
      assert.equal(news.state, "unsubscribed");
      await (await server.peers.take()).closed;
    });
  }
});

describe("a connection that does not become live", () => {
  const warned = (t) => new Promise((resolve) => t.mock.method(console, "warn", resolve));

  test("says so in the console, with its state and where to read on", async (t) => {
    const warning = warned(t);
    const { server, open } = await start(t, { answerMs: 20 });
    server.override = () => undefined;
    open();
    assert.match(await warning, /not become live \((re)?connecting.*\).*docs\/client\.md#a-page-that/);
  });

  test("says so as soon as the server refuses it for good", async (t) => {
    const warning = warned(t);
    const { server, open } = await start(t);
    server.override = ({ id, connect }) => (connect ? { id, error: { code: 101, message: "unauthorized" } } : null);
    open();
    assert.match(await warning, /\(closed: unauthorized\)/);
  });

  test("is not live in between when the node says with its reply that it is not", async (t) => {
    const warning = warned(t);
    const { server, open } = await start(t, { answerMs: 500 });
    server.override = ({ id, connect }, peer) => {
      if (!connect) return null;
      peer.send({ id, connect: { client: "c" } }, { push: { state: { live: false, reason: "broker" } } });
      return undefined;
    };
    const states = record(open(), "state");
    assert.match(await warning, /not become live \(not-live: broker\)/);
    assert.ok(!states.some(({ state }) => state === "live"));
  });

  test("says nothing if the page closes it, or if it was live before", async (t) => {
    const warn = t.mock.method(console, "warn", () => {});
    const { open } = await start(t);
    open().close();
    const live = open();
    await nextState(live, "live");
    live.close();
    assert.equal(warn.mock.callCount(), 0);
  });
});

describe("a received frame", () => {
  test("a ping is answered with a pong immediately", async (t) => {
    const { peer } = await subscribed(t);
    peer.send({});
    for (;;) if ((await peer.frames.take()) === "{}") return;
  });

  test("a publication is delivered with its position, event and tags", async (t) => {
    const { peer, news } = await subscribed(t);
    const tags = { event: "order.shipped", region: "eu" };
    peer.publish("public:news", { data: { title: "Hi" }, offset: 5, tags });
    assert.deepEqual(await next(news, "publication"), {
      channel: "public:news",
      data: { title: "Hi" },
      event: "order.shipped",
      tags,
      sender: null,
      offset: 5,
      epoch: "A",
      filled: false,
    });
  });

  test("a publication of a client contains the info about that client", async (t) => {
    const { peer, news } = await subscribed(t);
    const info = { user: "42", client: "c7", conn_info: { name: "Ada" }, chan_info: "guest" };
    peer.publish("public:news", { data: { name: "Ben" }, offset: 5, info });
    const { sender } = await next(news, "publication");
    assert.deepEqual(sender, { user: "42", client: "c7", info: { name: "Ada" }, channelInfo: "guest" });
    peer.publish("public:news", { data: 1, offset: 6, info: { user: "", client: "c8" } });
    const { sender: nobody } = await next(news, "publication");
    assert.deepEqual(nobody, { user: "", client: "c8", info: null, channelInfo: null });
  });

  test("messages in one frame are delivered in order", async (t) => {
    const { peer, news } = await subscribed(t);
    const heard = record(news);
    peer.publish("public:news", { data: 1, offset: 5 }, { data: 2, offset: 6 }, { data: 3, offset: 7 });
    await next(news, "publication", ({ offset }) => offset === 7);
    assert.deepEqual(heard, ["A5", "A6", "A7"]);
  });

  test("publications are delivered when the server has no positions", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ id, subscribe }) => (subscribe ? { id, subscribe: {} } : null);
    const news = open().subscribe("public:news");
    const peer = await server.peers.take();
    await next(news, "subscribed");
    peer.publish("public:news", { data: 1 });
    const { data, offset, epoch } = await next(news, "publication");
    assert.deepEqual([data, offset, epoch], [1, null, null]);
  });

  test("unknown channels and unknown messages are ignored", async (t) => {
    const { peer, news } = await subscribed(t);
    peer.send(
      { push: { channel: "public:other", pub: { data: 0, offset: 1 } } },
      { push: { channel: "public:news", hologram: {} } },
      { push: { channel: "public:news", join: { info: { client: "c2" } } } },
      { id: 4711, rpc: {} },
      { news: "from the future" },
    );
    peer.publish("public:news", { data: 1, offset: 5 });
    assert.equal((await next(news, "publication")).data, 1);
  });

  const malformed = {
    "invalid JSON": "<html>502 Bad Gateway</html>",
    "half a message": '{"push":{"channel":"public:news","pub":{"da',
    "a number": "42",
    null: "null",
    "an array": "[1,2]",
    "an invalid push": '{"push":7}',
    "an invalid publication": '{"push":{"channel":"public:news","pub":"x"}}',
    "an invalid offset": '{"push":{"channel":"public:news","pub":{"data":1,"offset":"5"}}}',
    "an offset above 2^53": '{"push":{"channel":"public:news","pub":{"data":1,"offset":9007199254740993}}}',
    "invalid tags": '{"push":{"channel":"public:news","pub":{"data":1,"offset":5,"tags":[]}}}',
    "a gap without a first offset": '{"push":{"channel":"public:news","gap":{"epoch":"A","to":7,"reason":"slow"}}}',
    "an invalid state": '{"push":{"state":{"live":"yes"}}}',
    "an invalid id": '{"id":"one","connect":{}}',
    "JSON nested 200,000 levels deep": "[".repeat(200_000),
    "a binary frame": Buffer.from([1, 2, 3]),
  };
  for (const [what, frame] of Object.entries(malformed)) {
    test(`${what} closes the connection, which then reconnects`, async (t) => {
      const { server, live, peer } = await subscribed(t);
      peer.raw(frame);
      assert.match((await nextState(live, "reconnecting")).reason, /^malformed-frame: /);
      assert.equal((await peer.closed).code, 4000);
      await server.peers.take();
      await nextState(live, "live");
    });
  }
});

describe("a gap", () => {
  test("it is the last event if its listener unsubscribes", async (t) => {
    const { peer, news } = await subscribed(t);
    let gaps = 0;
    news.addEventListener("gap", () => {
      gaps += 1;
      news.unsubscribe();
    });
    peer.publish("public:news", { offset: 7, epoch: "B", data: 1 }); // two gaps: the end of A, and B from 1
    await peer.frameWith("unsubscribe");
    assert.equal(gaps, 1);
  });

  test("it is reported with its time span and a delay before the refetch", async (t) => {
    const { peer, news } = await subscribed(t, { random: () => 0.5 });
    const before = Date.now();
    peer.gap("public:news", { epoch: "A", from: 5, to: 7, reason: "slow" });
    const { since, until, ...gap } = await next(news, "gap");
    assert.deepEqual(gap, {
      channel: "public:news",
      epoch: "A",
      from: 5,
      to: 7,
      missed: 3,
      reason: "slow",
      refetchAfterMs: 5000,
    });
    assert.ok(since <= until && until >= before);
  });

  test("it has no number of missed publications when its end is unknown", async (t) => {
    const { peer, news } = await subscribed(t);
    peer.gap("public:news", { epoch: "A", from: 5, to: null, reason: "broker" });
    const { missed, to } = await next(news, "gap");
    assert.deepEqual([missed, to], [null, null]);
  });

  test("it begins when the broker became unreachable, after an outage", async (t) => {
    const { live, peer, news } = await subscribed(t);
    const subscribedBy = Date.now();
    while (Date.now() === subscribedBy); // the next millisecond
    peer.send({ push: { state: { live: false, reason: "broker" } } });
    await nextState(live, "not-live");
    peer.send({ push: { state: { live: true } } });
    peer.gap("public:news", { epoch: "A", from: 5, to: 5, reason: "broker" });
    assert.ok((await next(news, "gap")).since > subscribedBy);
  });

  const returns = {
    "in the same epoch, its size is exact": [{ epoch: "A", offset: 9 }, [10], ["gap A6-9 reconnect", "A10"]],
    "at the same position, there is none": [{ epoch: "A", offset: 5 }, [6], ["A6"]],
    "behind the old position, known publications are dropped": [{ epoch: "A", offset: 3 }, [4, 5, 6], ["A6"]],
    "in another epoch, the gap in the old one is open": [
      { epoch: "B", offset: 2 },
      [3],
      ["gap A6- reconnect", "gap B1-2 reconnect", "B3"],
    ],
    "in an empty epoch, there is only the open gap in the old one": [{ epoch: "B", offset: 0 }, [1], ["gap A6- reconnect", "B1"]],
  };
  for (const [what, [position, offsets, expected]] of Object.entries(returns)) {
    test(`after a reconnect ${what}`, async (t) => {
      const { server, news, peer } = await subscribed(t);
      const heard = record(news);
      peer.publish("public:news", { data: 0, offset: 5 });
      await next(news, "publication");
      server.positions["public:news"] = position;
      peer.socket.terminate();
      const again = await server.peers.take();
      await next(news, "subscribed");
      again.publish("public:news", ...offsets.map((offset) => ({ data: 0, offset })));
      await next(news, "publication", ({ offset }) => offset === offsets.at(-1));
      assert.deepEqual(heard, ["A5", ...expected]);
    });
  }

  test("it begins with the last message of the server, after a reconnect", async (t) => {
    const { server, news, peer } = await subscribed(t);
    server.positions["public:news"] = { epoch: "A", offset: 6 };
    const before = Date.now();
    peer.publish("public:news", { data: 1, offset: 5 });
    await next(news, "publication");
    peer.socket.terminate();
    const { since, until } = await next(news, "gap");
    assert.ok(since >= before && since <= until);
  });
});

describe("the state of a connection", () => {
  test("it reports when the broker is unreachable, and when it is back", async (t) => {
    const { live, peer } = await subscribed(t);
    peer.send({ push: { state: { live: false, reason: "broker" } } });
    assert.equal((await nextState(live, "not-live")).reason, "broker");
    peer.send({ push: { state: { live: true } } });
    await nextState(live, "live");
  });

  test("it is not live while one of its channels is not, which its subscription says", async (t) => {
    const { live, news, peer } = await subscribed(t);
    const weather = live.subscribe("public:weather");
    await next(weather, "subscribed");
    const lost = { channel: "public:news", state: { live: false, reason: "broker" } };
    peer.send({ push: lost });
    assert.equal((await nextState(live, "not-live")).reason, "broker");
    assert.deepEqual([news.live, weather.live], [false, true]);
    peer.send({ push: { ...lost, channel: "public:weather" } }, { push: { channel: "public:news", state: { live: true } } });
    peer.publish("public:news", { data: 1, offset: 5 });
    await next(news, "publication");
    assert.deepEqual([live.state.state, news.live, weather.live], ["not-live", true, false]);
    weather.unsubscribe();
    assert.deepEqual([live.state.state, weather.live], ["live", false]);
  });

  test("the state of the server replaces that of its channels", async (t) => {
    const { live, news, peer } = await subscribed(t);
    peer.send({ push: { channel: "public:news", state: { live: false, reason: "broker" } } });
    await nextState(live, "not-live");
    peer.send({ push: { state: { live: true } } });
    await nextState(live, "live");
    assert.equal(news.live, true);
  });

  test("it is not live until a subscription has begun that the server cannot start now", async (t) => {
    const { server, live, peer } = await subscribed(t, { retryFirstMs: 1, retryMostMs: 2 });
    let away = true;
    server.override = ({ id, subscribe }) => {
      if (!subscribe || !away) return null;
      peer.send({ push: { channel: subscribe.channel, state: { live: false, reason: "broker" } } });
      return { id, error: { code: 100, message: "the broker is unavailable", temporary: true } };
    };
    const weather = live.subscribe("public:weather");
    await nextState(live, "not-live");
    assert.equal(weather.live, false);
    away = false;
    await nextState(live, "live");
    assert.equal(weather.live, true);
  });

  test("it is live again after a reconnect, whatever was lost before", async (t) => {
    const { live, server, peer } = await subscribed(t);
    peer.send({ push: { channel: "public:news", state: { live: false, reason: "broker" } } });
    await nextState(live, "not-live");
    peer.socket.terminate();
    await server.peers.take();
    await nextState(live, "live");
  });

  test("it is correct when the first message arrives before the reply to connect", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ id, connect }, peer) => {
      if (!connect) return null;
      peer.send({ push: { state: { live: false, reason: "broker" } } });
      return { id, connect: server.connectReply };
    };
    const live = open();
    await nextState(live, "not-live");
  });

  test("it contains the delay until the next attempt, which grows", async (t) => {
    const { server, open } = await start(t, { random: () => 0.999, retryFirstMs: 4, retryMostMs: 12 });
    server.override = (_, peer) => void peer.socket.terminate();
    const live = open();
    const waits = [];
    for (let n = 0; n < 4; n += 1) waits.push((await nextState(live, "reconnecting")).retryInMs);
    assert.deepEqual(waits, [3, 7, 11, 11]);
  });

  test("retryNow connects without waiting for the next attempt", async (t) => {
    const { server, live, peer } = await subscribed(t, { retryFirstMs: 3_600_000, retryMostMs: 3_600_000, random: () => 0.9 });
    peer.socket.terminate();
    await nextState(live, "reconnecting");
    live.retryNow();
    await server.peers.take();
    await nextState(live, "live");
    live.retryNow();
    assert.equal(live.state.state, "live");
  });

  for (const code of [1000, 1001, 1011, 1012, 3001, 3008, 3012, 4000, 4499]) {
    test(`it reconnects after close code ${code}`, async (t) => {
      const { server, live, peer } = await subscribed(t);
      peer.socket.close(code, "because");
      assert.equal((await nextState(live, "reconnecting")).reason, "because");
      await server.peers.take();
      await nextState(live, "live");
    });
  }

  for (const code of [1009, 3500, 3501, 3999, 4500, 4999]) {
    test(`it stays closed after close code ${code}`, async (t) => {
      const { live, news, peer } = await subscribed(t);
      const ended = next(news, "unsubscribed");
      peer.socket.close(code, "because");
      assert.equal((await nextState(live, "closed")).reason, "because");
      assert.equal((await ended).code, code);
      assert.equal(news.state, "unsubscribed");
      assert.throws(() => live.subscribe("public:more"), { code: "closed" });
    });
  }

  test("a disconnect push says whether to reconnect, otherwise its code does", async (t) => {
    const cases = [
      [{ code: 3000, reason: "x", reconnect: false }, "closed"],
      [{ code: 3503, reason: "x", reconnect: true }, "reconnecting"],
      [{ code: 3503, reason: "x" }, "closed"],
      [{ code: 3001, reason: "x" }, "reconnecting"],
    ];
    for (const [disconnect, expected] of cases) {
      const { live, peer } = await subscribed(t);
      peer.send({ push: { disconnect } });
      assert.equal((await nextState(live, expected)).reason, "x");
    }
  });

  test("messages after a disconnect push in the same frame are ignored", async (t) => {
    const { server, live, peer } = await subscribed(t);
    const away = { push: { state: { live: false, reason: "broker" } } };
    peer.send({ push: { disconnect: { code: 3001, reason: "shutdown" } } }, away);
    await nextState(live, "reconnecting");
    await server.peers.take();
    const { state } = await next(live, "state", ({ state }) => state !== "connecting");
    assert.equal(state, "live");
  });

  test("it reconnects when the server stops pinging", async (t) => {
    const { server, open } = await start(t, { pingGraceMs: 10, latencyEveryMs: 60_000 });
    server.connectReply = { ...server.connectReply, ping: 0.02 };
    const live = open();
    assert.equal((await nextState(live, "reconnecting")).reason, "server-silent");
  });

  test("it stays connected when the server sends nothing but pings", async (t) => {
    const { server, open } = await start(t, { pingGraceMs: 100, latencyEveryMs: 60_000 });
    server.connectReply = { ...server.connectReply, ping: 0.1 };
    const live = open();
    const lost = nextState(live, "reconnecting").then(() => assert.fail("gave up a server that pings"));
    const peer = await server.peers.take();
    await nextState(live, "live");
    const beats = (async () => {
      for (let n = 0; n < 10; n += 1) {
        const pong = (async () => {
          while ((await peer.frames.take()) !== "{}");
        })();
        await new Promise((resolve) => setTimeout(resolve, 50)); // the server's own rhythm, not a wait for the client
        peer.send({});
        await pong;
      }
    })();
    await Promise.race([lost, beats]);
  });
});

describe("a subscription", () => {
  test("it ends with an error when it is refused, and others continue", async (t) => {
    const { server, open } = await start(t);
    server.override = ({ id, subscribe }) =>
      subscribe?.channel === "secret" ? { id, error: { code: 103, message: "permission denied" } } : null;
    const live = open();
    const secret = live.subscribe("secret");
    const news = live.subscribe("public:news");
    const [error] = await Promise.all([next(secret, "error"), next(news, "subscribed")]);
    assert.deepEqual([error.code, error.message, error.temporary], [103, "permission denied", false]);
    assert.equal(secret.state, "unsubscribed");
    assert.notEqual(live.subscribe("secret"), secret);
  });

  for (const error of [{ code: 100, message: "away", temporary: true }, { code: 7, message: "" }, { code: 109, message: "" }]) {
    test(`it is retried after a temporary refusal (${error.code})`, async (t) => {
      const { server, open } = await start(t);
      let refusals = 3;
      server.override = ({ id, subscribe }) => (subscribe && refusals-- > 0 ? { id, error } : null);
      await next(open().subscribe("public:news"), "subscribed");
      assert.equal(refusals, -1);
    });
  }

  test("it is retried immediately when the broker is back", async (t) => {
    const { server, open } = await start(t, { retryFirstMs: 3_600_000, retryMostMs: 3_600_000, random: () => 0.9 });
    let away = true;
    server.override = ({ id, subscribe }) =>
      subscribe && away ? { id, error: { code: 100, message: "the broker is unavailable", temporary: true } } : null;
    const live = open();
    const news = live.subscribe("public:news");
    const peer = await server.peers.take();
    peer.send({ push: { state: { live: false, reason: "broker" } } });
    await nextState(live, "not-live");
    away = false;
    peer.send({ push: { state: { live: true } } });
    await next(news, "subscribed");
  });

  test("it stays ended when the server has ended it permanently", async (t) => {
    const { live, news, peer } = await subscribed(t);
    peer.send({ push: { channel: "public:news", unsubscribe: { code: 2000, reason: "revoked" } } });
    assert.deepEqual(await next(news, "unsubscribed"), { channel: "public:news", code: 2000, reason: "revoked" });
    assert.notEqual(live.subscribe("public:news"), news);
  });

  test("it resumes and reports what it missed when the server interrupts it", async (t) => {
    const { server, news, peer } = await subscribed(t);
    server.positions["public:news"] = { epoch: "A", offset: 6 };
    peer.send({ push: { channel: "public:news", unsubscribe: { code: 2500, reason: "insufficient" } } });
    const { from, to } = await next(news, "gap");
    assert.deepEqual([from, to], [5, 6]);
    assert.equal(news.state, "subscribed");
  });

  test("it stays ended when it is ended before the reply", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const news = live.subscribe("public:news");
    const other = live.subscribe("public:other");
    server.override = ({ subscribe }) => {
      if (subscribe?.channel === "public:news") news.unsubscribe();
      return null;
    };
    await next(other, "subscribed");
    assert.equal(news.state, "unsubscribed");
  });

  test("it receives nothing after unsubscribe", async (t) => {
    const { live, news, peer } = await subscribed(t);
    const heard = record(news);
    news.unsubscribe();
    const again = live.subscribe("public:news");
    peer.publish("public:news", { data: "late", offset: 5 });
    const messages = await peer.frameWith("unsubscribe");
    assert.deepEqual(messages.map((message) => Object.keys(message)[1]), ["unsubscribe", "subscribe"]);
    await next(again, "subscribed");
    assert.deepEqual(heard, []);
  });
});

describe("a slow answer", () => {
  test("it delays the answers behind it, and the connection stays", async (t) => {
    const { server, open } = await start(t, { answerMs: 300 });
    let free = Promise.resolve();
    server.override = ({ id, rpc, subscribe }, peer) => {
      if (!rpc && !subscribe) return null;
      free = free.then(() => new Promise((resolve) => setTimeout(resolve, rpc ? 200 : 0)));
      free.then(() => peer.send(rpc ? { id, rpc: { data: id } } : { id, subscribe: {} }));
      return undefined;
    };
    const live = open();
    await nextState(live, "live");
    const states = [];
    live.addEventListener("state", ({ detail: { state } }) => states.push(state));
    const answers = [live.rpc("a"), live.rpc("b"), live.rpc("c")];
    const news = live.subscribe("public:news");
    await next(news, "subscribed");
    assert.equal((await Promise.all(answers)).length, 3);
    assert.ok(!states.includes("reconnecting"));
  });
});

describe("a first attempt that cannot be made", () => {
  test("it leaves nothing running", async (t) => {
    let attempts = 0;
    class Refused {
      constructor() {
        attempts += 1;
        throw new Error("a policy forbids it");
      }
    }
    assert.throws(() => connect({ url: "ws://127.0.0.1:9", WebSocket: Refused, answerMs: 10, retryFirstMs: 1 }), /policy/);
    await new Promise((resolve) => setTimeout(resolve, 60));
    assert.equal(attempts, 1);
  });
});

describe("publishing", () => {
  test("it resolves when the server has published", async (t) => {
    const { live, peer } = await subscribed(t);
    const done = live.publish("chat:lobby", { text: "hi" });
    const messages = await peer.frameWith("publish");
    assert.deepEqual(messages.at(-1).publish, { channel: "chat:lobby", data: { text: "hi" } });
    assert.equal(await done, undefined);
  });

  test("it waits while the connection opens", async (t) => {
    const { open } = await start(t);
    await open().publish("chat:lobby", 1);
  });

  test("it rejects with the code of the server", async (t) => {
    const { server, live } = await subscribed(t);
    server.override = ({ id, publish }) => (publish ? { id, error: { code: 103, message: "permission denied" } } : null);
    await assert.rejects(live.publish("public:news", 1), { code: 103, message: "permission denied", outcome: "not-done" });
  });

  test("it rejects with an unknown outcome when the connection breaks before the reply", async (t) => {
    const { server, live } = await subscribed(t);
    server.override = ({ publish }, peer) => (publish ? void peer.socket.terminate() : null);
    await assert.rejects(live.publish("chat:lobby", 1), {
      code: "unknown-outcome",
      message: /^unknown outcome/,
      outcome: "unknown",
    });
  });

  test("it rejects with an unknown outcome when no reply arrives", async (t) => {
    const { server, live } = await subscribed(t, { answerMs: 50 });
    server.override = ({ publish }) => (publish ? undefined : null);
    await assert.rejects(live.publish("chat:lobby", 1), { code: "unknown-outcome" });
    assert.equal(live.state.state, "live");
  });

  test("it rejects immediately while there is no connection", async (t) => {
    const { live, peer } = await subscribed(t, { retryFirstMs: 3_600_000, retryMostMs: 3_600_000, random: () => 0.9 });
    peer.socket.terminate();
    await nextState(live, "reconnecting");
    await assert.rejects(live.publish("chat:lobby", 1), { code: "not-connected", outcome: "not-done" });
  });

  test("it rejects with outcome not-done when nothing was sent", async (t) => {
    const { server, open } = await start(t);
    await server.stop();
    await assert.rejects(open().publish("chat:lobby", 1), { code: "not-connected", outcome: "not-done" });
  });

  test("it refuses data for which the server would close the connection", async (t) => {
    const { live } = await subscribed(t);
    await assert.rejects(live.publish("chat:lobby", "ä".repeat(40_001)), { code: "too-large" });
    await assert.rejects(live.publish("chat:lobby", undefined), TypeError);
    await assert.rejects(live.publish("chat:lobby", 1n), TypeError);
    assert.equal(live.state.state, "live");
  });

  test("it rejects when 256 publications are waiting", async (t) => {
    const { server, live } = await subscribed(t);
    server.override = ({ publish }) => (publish ? undefined : null);
    const waiting = Array.from({ length: 256 }, (_, n) => live.publish("chat:lobby", n));
    const ended = Promise.allSettled(waiting);
    await assert.rejects(live.publish("chat:lobby", "more"), { code: "too-many" });
    live.close();
    assert.ok((await ended).every(({ status }) => status === "rejected"));
  });
});

describe("close", () => {
  test("it reports the state closed, and sends close code 1000", async (t) => {
    const { live, news, peer } = await subscribed(t);
    const ended = next(news, "unsubscribed");
    live.close();
    assert.equal(live.state.state, "closed");
    assert.equal(live.state.reason, "closed-here");
    await ended;
    assert.equal((await peer.closed).code, 1000);
    live.close();
  });

  test("it drops the rest of a frame when it is called by an event listener", async (t) => {
    const { live, news, peer } = await subscribed(t);
    const heard = record(news);
    news.addEventListener("publication", () => live.close());
    peer.publish("public:news", { data: 1, offset: 5 }, { data: 2, offset: 6 });
    await peer.closed;
    assert.deepEqual(heard, ["A5"]);
  });

  test("it opens no socket when it is called as the next attempt begins", async (t) => {
    let sockets = 0;
    class Counted extends WebSocket {
      constructor(url) {
        super(url);
        sockets += 1;
      }
    }
    const { live, peer } = await subscribed(t, { WebSocket: Counted });
    live.addEventListener("state", ({ detail }) => detail.state === "connecting" && live.close());
    peer.socket.terminate();
    await nextState(live, "closed");
    assert.equal(sockets, 1);
  });

  const lives = {
    "a live connection": "live.addEventListener('state', (e) => e.detail.latencyMs !== null && live.close());",
    "a connection that waits for its next attempt":
      "live.addEventListener('state', (e) => e.detail.state === 'reconnecting' && live.close());",
    "a connection that is opening": "live.close();",
  };
  for (const [what, script] of Object.entries(lives)) {
    test(`it leaves no timer of ${what}, so the process can exit`, async (t) => {
      const { server } = await start(t);
      if (what.includes("waits")) await server.stop();
      const url = (path) => JSON.stringify(new URL(path, import.meta.url).href);
      const program = `
        import { WebSocket } from ${url("../sdk/node_modules/ws/wrapper.mjs")};
        import { connect } from ${url("../../../realtime/static/realtime/client.js")};
        const live = connect({ url: ${JSON.stringify(server.url)}, WebSocket, random: () => 0.9, retryFirstMs: 1e6, retryMostMs: 1e6 });
        live.subscribe("public:news");
        ${script}
      `;
      const child = spawn(process.execPath, ["--input-type=module", "-e", program], { stdio: "inherit" });
      t.after(() => child.kill());
      const [code] = await once(child, "exit", { signal: AbortSignal.timeout(9_000) });
      assert.equal(code, 0);
    });
  }
});
