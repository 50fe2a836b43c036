/** Gaps that are filled with what the site has kept. */

import assert from "node:assert/strict";
import { createServer } from "node:http";
import { afterEach, beforeEach, describe, test } from "node:test";
import { RealtimeError } from "../../../realtime/static/realtime/client.js";
import { GapFiller } from "../../../realtime/static/realtime/fill.js";
import { next, record, start } from "./support.mjs";

const ORDERS = "public:orders";
const gapOf = (from, to, epoch = "A") => ({
  channel: ORDERS, epoch, from, to, missed: to === null ? null : to - from + 1, reason: "slow", refetchAfterMs: 0,
  since: new Date(),
});
const liveAt = (offset, copy) => ({
  channel: ORDERS, data: offset, tags: copy ? { outbox: copy } : {}, epoch: "A", offset, filled: false,
});
const row = (n) => String(n).padStart(32, "0");
const kept = (...offsets) => offsets.map((offset) => ({ offset, data: offset, tags: { outbox: row(offset) } }));
const answerOf = (publications, more = {}) => ({ publications, ...more });

/** A filler whose questions the test answers one by one, and whose waits end at once. */
function fillerOf({ most = Infinity } = {}) {
  const heard = [];
  const waits = [];
  const asked = [];
  let onAsked = () => {};
  const ask = (request) =>
    new Promise((resolve, reject) => {
      asked.push({ request, answer: resolve, fail: reject });
      onAsked();
    });
  const emit = (type, { from, to, offset, filled }) => {
    heard.push(type === "gap" ? `gap ${from}-${to ?? ""}` : `${filled ? "+" : ""}${offset}`);
    if (heard.length >= most) filler.stop();
  };
  const filler = new GapFiller(ORDERS, ask, emit, () => {}, async (ms) => void waits.push(ms));
  /** The next question. */
  const question = async () => {
    while (asked.length === 0) await new Promise((resolve) => (onAsked = resolve));
    return asked.shift();
  };
  return { filler, heard, waits, question };
}

/** Let everything happen that needs no answer. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

describe("a filler", () => {
  test("puts what the site has kept in the place of the gap, before what is newer", async () => {
    const { filler, heard, question } = fillerOf();
    filler.take("publication", liveAt(4));
    filler.take("gap", gapOf(5, 7));
    filler.take("publication", liveAt(8));
    const { request, answer } = await question();
    const { signal: _, age, ...rest } = request;
    assert.ok(age >= 0 && age < 60);
    assert.deepEqual(rest, { channel: ORDERS, epoch: "A", from: 5, to: 7, waiting: null });
    assert.deepEqual(heard, ["4"]);
    answer(answerOf(kept(5, 6, 7)));
    await settle();
    filler.take("publication", liveAt(9));
    assert.deepEqual(heard, ["4", "+5", "+6", "+7", "8", "9"]);
  });

  test("reports exactly what the site does not have", async () => {
    const { filler, heard, question } = fillerOf();
    filler.take("gap", gapOf(5, 10));
    filler.take("publication", liveAt(11));
    (await question()).answer(answerOf(kept(6, 8)));
    await settle();
    assert.deepEqual(heard, ["gap 5-5", "+6", "gap 7-7", "+8", "gap 9-10", "11"]);
  });

  test("asks again for the next page", async () => {
    const { filler, heard, question, waits } = fillerOf();
    filler.take("gap", gapOf(1, 4));
    (await question()).answer(answerOf(kept(1, 2), { more: true }));
    const second = await question();
    assert.equal(second.request.from, 3);
    second.answer(answerOf(kept(3, 4)));
    await settle();
    assert.deepEqual(heard, ["+1", "+2", "+3", "+4"]);
    assert.deepEqual(waits, [0]);
  });

  test("waits for rows that are published but not recorded yet", async () => {
    const { filler, heard, question, waits } = fillerOf();
    filler.take("gap", gapOf(1, 3));
    (await question()).answer(answerOf(kept(1, 3), { waiting: 17 }));
    const second = await question();
    assert.deepEqual(heard, ["+1"], "the third one comes after the second");
    assert.deepEqual([second.request.from, second.request.waiting], [2, 17]);
    second.answer(answerOf(kept(2, 3), { waiting: null }));
    await settle();
    assert.deepEqual(heard, ["+1", "+2", "+3"]);
    assert.deepEqual(waits, [0, 1_000]);
  });

  test("reports a gap after ten attempts that bring nothing, and what waited follows it", async () => {
    const { filler, heard, question, waits } = fillerOf();
    filler.take("gap", gapOf(1, 2));
    filler.take("publication", liveAt(3));
    for (let i = 0; i < 5; i += 1) (await question()).fail(new TypeError("no network"));
    for (let i = 0; i < 5; i += 1) (await question()).answer(answerOf([], { waiting: 4 }));
    await settle();
    assert.deepEqual(heard, ["gap 1-2", "3"]);
    assert.deepEqual(waits, [0, 1_000, 2_000, 4_000, 8_000, ...Array(5).fill(10_000)]);
  });

  test("asks again if the site accepts the question and never answers", async () => {
    const heard = [];
    let asked = 0;
    const ask = ({ signal }) => {
      asked += 1;
      assert.equal(signal.aborted, false);
      return new Promise(() => {});
    };
    const waits = async () => {};
    const done = new Promise((resolve) => {
      const emit = (type) => heard.push(type);
      new GapFiller(ORDERS, ask, emit, resolve, waits, 1).take("gap", gapOf(1, 2));
    });
    await done;
    assert.deepEqual([heard, asked], [["gap"], 10]);
  });

  test("takes a tag of the host for no row", () => {
    const { filler, heard } = fillerOf();
    for (const offset of [1, 2]) filler.take("publication", liveAt(offset, "mail"));
    assert.deepEqual(heard, ["1", "2"]);
  });

  test("reports a gap at once when the site refuses, and warns the developer", async (t) => {
    const warn = t.mock.method(console, "warn", () => {});
    const { filler, heard, question } = fillerOf();
    filler.take("gap", gapOf(1, 2));
    (await question()).fail(new RealtimeError(403, "the site answered with status 403"));
    await settle();
    assert.deepEqual(heard, ["gap 1-2"]);
    assert.match(warn.mock.calls[0].arguments[0], /"public:orders" cannot be fetched: .* 403/);
  });

  test("closes a gap without an end only if the site knows that nothing else was published", async () => {
    for (const [complete, expected] of [[true, ["+5", "+6", "1"]], [false, ["+5", "+6", "gap 7-", "1"]]]) {
      const { filler, heard, question } = fillerOf();
      filler.take("gap", gapOf(5, null));
      filler.take("publication", liveAt(1));
      (await question()).answer(answerOf(kept(5, 6), { complete }));
      await settle();
      assert.deepEqual(heard, expected);
    }
  });

  test("fills one gap after the other", async () => {
    const { filler, heard, question } = fillerOf();
    filler.take("gap", gapOf(1, 1));
    filler.take("publication", liveAt(2));
    filler.take("gap", gapOf(3, 3));
    filler.take("publication", liveAt(4));
    (await question()).answer(answerOf(kept(1)));
    await settle();
    assert.deepEqual(heard, ["+1", "2"]);
    (await question()).answer(answerOf(kept(3)));
    await settle();
    assert.deepEqual(heard, ["+1", "2", "+3", "4"]);
  });

  test("leaves out a copy of what was received, whichever comes first", async () => {
    const { filler, heard, question } = fillerOf();
    filler.take("publication", liveAt(1, row(3)));
    filler.take("gap", gapOf(2, 4));
    filler.take("publication", liveAt(5, row(2)));
    (await question()).answer(answerOf(kept(2, 3, 4)));
    await settle();
    assert.deepEqual(heard, ["1", "+2", "+4"]);
  });

  test("remembers a bounded number of rows", () => {
    const { filler, heard } = fillerOf();
    for (let i = 1; i <= 1_001; i += 1) filler.take("publication", liveAt(i, row(i)));
    filler.take("publication", liveAt(2_000, row(1)));
    filler.take("publication", liveAt(2_001, row(3)));
    assert.equal(heard.length, 1_002);
    assert.equal(heard.at(-1), "2000");
  });

  test("gives up when too much waits, and loses nothing", async () => {
    const { filler, heard, question } = fillerOf();
    filler.take("gap", gapOf(1, 2));
    const { request } = await question();
    for (let i = 3; i <= 1_001; i += 1) filler.take("publication", liveAt(i));
    assert.deepEqual(heard, []);
    filler.take("publication", liveAt(1_002));
    assert.equal(heard.length, 1_001);
    assert.deepEqual(heard.slice(0, 3), ["gap 1-2", "3", "4"]);
    assert.equal(request.signal.aborted, true);
    filler.take("gap", gapOf(1_003, 1_003));
    (await question()).answer(answerOf(kept(1_003)));
    await settle();
    assert.equal(heard.at(-1), "+1003");
  });

  test("reports the rest of a gap when it gives up in the middle", async () => {
    const { filler, heard, question } = fillerOf();
    filler.take("gap", gapOf(1, 4));
    (await question()).answer(answerOf(kept(1, 2), { more: true }));
    await question();
    filler.giveUp();
    assert.deepEqual(heard, ["+1", "+2", "gap 3-4"]);
  });

  test("says nothing after it was stopped, even by a listener", async () => {
    for (const most of [1, 2, 3]) {
      const { filler, heard, question } = fillerOf({ most });
      filler.take("gap", gapOf(1, 3));
      filler.take("publication", liveAt(4));
      (await question()).answer(answerOf(kept(2, 3)));
      await settle();
      assert.deepEqual(heard, ["gap 1-1", "+2", "+3"].slice(0, most));
    }
    const { filler, heard, question } = fillerOf({ most: 2 });
    filler.take("gap", gapOf(1, 1));
    filler.take("publication", liveAt(2));
    filler.take("publication", liveAt(3));
    await question();
    filler.giveUp();
    assert.deepEqual(heard, ["gap 1-1", "2"]);
  });

  test("does not loop over an answer that is not to its question", async () => {
    const { filler, heard, question, waits } = fillerOf();
    filler.take("gap", gapOf(5, 6));
    for (const wrong of [kept(1), kept(9), kept(), [{ offset: "5" }], "text"]) {
      (await question()).answer(answerOf(wrong, { more: true, waiting: 1 }));
    }
    (await question()).answer(answerOf(kept(5, 6)));
    await settle();
    assert.deepEqual(heard, ["+5", "+6"]);
    assert.equal(waits.length, 6);
  });
});

describe("a subscription with fill", () => {
  let site;
  let asked;
  let answers;

  beforeEach(async () => {
    asked = [];
    answers = [];
    site = createServer((request, response) => {
      asked.push([request.url, request.headers.authorization]);
      const [status, body] = answers.shift() ?? [200, answerOf([])];
      response.writeHead(status, { "Content-Type": "application/json" }).end(JSON.stringify(body));
    });
    await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  });
  afterEach(() => {
    site.closeAllConnections();
    site.close();
  });

  const address = () => `http://127.0.0.1:${site.address().port}/missed/?page=1`;

  test("asks the site, with a subscription token, for what was published before it began", async (t) => {
    const { server, open } = await start(t);
    server.positions[ORDERS] = { epoch: "A", offset: 6 };
    answers = [[401, {}], [200, answerOf(kept(5, 6))]];
    const getToken = () => "the token";
    const orders = open().subscribe(ORDERS, { since: { epoch: "A", offset: 4 }, fill: address(), getToken });
    const heard = record(orders);
    const { data, filled, event, sender } = await next(orders, "publication", ({ offset }) => offset === 6);
    assert.deepEqual([data, filled, event, sender], [6, true, null, null]);
    assert.deepEqual(heard, ["A5", "A6"]);
    const query = "page=1&channel=public%3Aorders&epoch=A&from=5&to=6&age=";
    for (const [url, token] of asked) {
      assert.equal(token, "Bearer the token");
      assert.match(url, new RegExp(`^/missed/\\?${query}\\d+$`));
    }
    assert.equal(asked.length, 2);
  });

  test("does not fill a gap from an unknown position: the page shows a part of it already", async (t) => {
    const { server, open } = await start(t);
    server.positions[ORDERS] = { epoch: "A", offset: 3 };
    let asked = 0;
    const orders = open().subscribe(ORDERS, { since: null, fill: async () => (asked += 1) && answerOf(kept(1, 2, 3)) });
    const heard = record(orders);
    const peer = await server.peers.take();
    await next(orders, "gap");
    peer.publish(ORDERS, { data: 4, offset: 4 });
    await next(orders, "publication");
    assert.deepEqual([heard, asked], [["gap A1- broker", "A4"], 0]);
  });

  test("a listener may subscribe again when the server ends the subscription", async (t) => {
    const { server, open } = await start(t);
    const live = open();
    const orders = live.subscribe(ORDERS, { fill: () => new Promise(() => {}) });
    const heard = [];
    orders.addEventListener("unsubscribed", ({ detail }) => heard.push(detail.code));
    const peer = await server.peers.take();
    await next(orders, "subscribed");
    peer.gap(ORDERS, { epoch: "A", from: 1, to: 2, reason: "slow" });
    let again;
    orders.addEventListener("gap", () => {
      orders.unsubscribe();
      again = live.subscribe(ORDERS);
    });
    peer.send({ push: { channel: ORDERS, unsubscribe: { code: 2000, reason: "revoked" } } });
    await next(orders, "unsubscribed");
    assert.deepEqual(heard, [0]);
    assert.equal(live.subscribe(ORDERS), again);
  });

  test("a function can take the place of the address", async (t) => {
    const { server, open } = await start(t);
    server.positions[ORDERS] = { epoch: "A", offset: 6 };
    const fill = async ({ from, to }) => answerOf(kept(from, to));
    const orders = open().subscribe(ORDERS, { since: { epoch: "A", offset: 4 }, fill });
    const heard = record(orders);
    await next(orders, "publication", ({ offset }) => offset === 6);
    assert.deepEqual(heard, ["A5", "A6"]);
  });

  test("a subscription that the server ends first reports what waited", async (t) => {
    const { server, open } = await start(t);
    const orders = open().subscribe(ORDERS, { fill: () => new Promise(() => {}) });
    const heard = record(orders);
    orders.addEventListener("unsubscribed", () => heard.push("unsubscribed"));
    const peer = await server.peers.take();
    await next(orders, "subscribed");
    peer.gap(ORDERS, { epoch: "A", from: 1, to: 2, reason: "slow" });
    peer.publish(ORDERS, { data: 1, offset: 3 });
    peer.send({ push: { channel: ORDERS, unsubscribe: { code: 2000, reason: "revoked" } } });
    await next(orders, "unsubscribed");
    assert.deepEqual(heard, ["gap A1-2 slow", "A3", "unsubscribed"]);
  });

  test("a page that unsubscribes hears no more, and the request ends", async (t) => {
    const { server, open } = await start(t);
    let ask;
    const asked = new Promise((resolve) => (ask = resolve));
    const orders = open().subscribe(ORDERS, { fill: (request) => new Promise(() => ask(request)) });
    const heard = record(orders);
    const peer = await server.peers.take();
    await next(orders, "subscribed");
    peer.gap(ORDERS, { epoch: "A", from: 1, to: 2, reason: "slow" });
    const { signal } = await asked;
    orders.unsubscribe();
    assert.deepEqual(heard, []);
    assert.equal(signal.aborted, true);
  });
});
