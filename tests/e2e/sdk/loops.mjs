// The stock SDK where it is worn: many channels, in and out again and again, a server that dies.
//
//   node loops.mjs survive|many|subscribe-loop|connect-loop websocket|http_stream|sse http://127.0.0.1:8000 [HOW OFTEN]

import { next, open, say } from "./transports.mjs";

const [what, transport, base, times] = process.argv.slice(2);
const client = open(transport, base);
client.on("error", ({ error }) => say("error", { error }));
client.on("disconnected", ({ code }) => say("disconnected", { code }));

/** Hear one publication, then leave. */
async function lastWord(subscription) {
  const heard = next(subscription, "publication");
  say("publication", { data: (await heard).data });
  client.disconnect();
  process.exitCode = 0;
}

async function survive() {
  const news = client.newSubscription("public:survive");
  news.on("subscribed", ({ streamPosition }) => say("subscribed", { position: streamPosition }));
  news.subscribe();
  client.connect();
  await lastWord(news);
}

async function many() {
  const heard = [];
  const subscriptions = Array.from({ length: Number(times) }, (_, n) => client.newSubscription(`public:many-${n}`));
  for (const subscription of subscriptions) {
    subscription.on("publication", ({ data }) => {
      heard.push(data);
      if (heard.length < 3) return;
      say("heard", { data: heard.sort((one, other) => one - other) });
      client.disconnect();
    });
    subscription.subscribe();
  }
  client.connect();
  await Promise.all(subscriptions.map((subscription) => subscription.ready()));
  say("subscribed", { channels: subscriptions.length });
}

async function subscribeLoop() {
  client.connect();
  const subscription = client.newSubscription("public:loop");
  for (let n = 0; n < Number(times); n += 1) {
    subscription.subscribe();
    await subscription.ready();
    subscription.unsubscribe();
  }
  subscription.subscribe();
  await subscription.ready();
  say("done", { rounds: Number(times) });
  await lastWord(subscription);
}

async function connectLoop() {
  const subscription = client.newSubscription("public:loop");
  subscription.subscribe();
  for (let n = 0; n < Number(times); n += 1) {
    client.connect();
    await subscription.ready();
    client.disconnect();
  }
  client.connect();
  await subscription.ready();
  say("done", { rounds: Number(times) });
  await lastWord(subscription);
}

await { survive, many, "subscribe-loop": subscribeLoop, "connect-loop": connectLoop }[what]();
