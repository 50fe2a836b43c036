// client.js against the running service, as loops.mjs does it with the stock SDK. Prints the same lines.
//
//   node own.mjs survive|many|subscribe-loop|connect-loop http://127.0.0.1:8000 [HOW OFTEN]

import WebSocket from "ws";
import { connect } from "../../../realtime/static/realtime/client.js";

const [what, base, times] = process.argv.slice(2);
const url = `${base.replace("http", "ws")}/connection/websocket`;
const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
const open = () => connect({ url, WebSocket, retryFirstMs: 50, retryMaxMs: 500 });
const next = (target, event) => new Promise((resolve) => target.addEventListener(event, resolve, { once: true }));

async function lastWord(live, subscription) {
  const { detail } = await next(subscription, "publication");
  say("publication", { data: detail.data });
  live.close();
}

async function survive() {
  const live = open();
  const news = live.subscribe("public:survive");
  news.addEventListener("subscribed", () => say("subscribed", { position: news.position }));
  news.addEventListener("gap", ({ detail }) => say("gap", { missed: detail.missed }));
  await lastWord(live, news);
}

async function many() {
  const live = open();
  const subscriptions = Array.from({ length: Number(times) }, (_, n) => live.subscribe(`public:many-${n}`));
  const heard = [];
  const all = Promise.all(
    [0, 1499, 2999].map((n) => next(subscriptions[n], "publication").then(({ detail }) => heard.push(detail.data))),
  );
  await Promise.all(subscriptions.map((subscription) => next(subscription, "subscribed")));
  say("subscribed", { channels: subscriptions.length });
  await all;
  say("heard", { data: heard.sort((one, other) => one - other) });
  live.close();
}

async function subscribeLoop() {
  const live = open();
  for (let n = 0; n < Number(times); n += 1) {
    const subscription = live.subscribe("public:loop");
    await next(subscription, "subscribed");
    subscription.unsubscribe();
  }
  const subscription = live.subscribe("public:loop");
  await next(subscription, "subscribed");
  say("done", { rounds: Number(times) });
  await lastWord(live, subscription);
}

async function connectLoop() {
  for (let n = 0; n < Number(times); n += 1) {
    const live = open();
    await next(live.subscribe("public:loop"), "subscribed");
    live.close();
  }
  const live = open();
  const subscription = live.subscribe("public:loop");
  await next(subscription, "subscribed");
  say("done", { rounds: Number(times) });
  await lastWord(live, subscription);
}

await { survive, many, "subscribe-loop": subscribeLoop, "connect-loop": connectLoop }[what]();
