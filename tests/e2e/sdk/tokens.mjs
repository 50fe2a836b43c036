// The stock SDK with tokens: connects, subscribes with a token, and renews both before they expire.
//
//   node tokens.mjs ws://127.0.0.1:8000/connection/websocket
//
// Asks for tokens on its output and reads them from its input, a line each; prints one JSON line per event. Ends when
// it has renewed both, and heard a publication on "closed" after that.

import { createInterface } from "node:readline";
import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
let asked = Promise.resolve();

/** One question at a time: what is read next is its answer. */
function ask(fields) {
  asked = asked.then(async () => {
    say("token", fields);
    return (await lines.next()).value;
  });
  return asked;
}

const client = new Centrifuge(process.argv[2], {
  websocket: WebSocket,
  getToken: () => ask({}),
});
client.on("connected", () => say("connected"));
client.on("disconnected", (context) => {
  say("disconnected", { code: context.code });
  process.exit(0);
});

const closed = client.newSubscription("closed", { getToken: ({ channel }) => ask({ channel }) });
closed.on("subscribed", () => say("subscribed"));
closed.on("unsubscribed", (context) => say("unsubscribed", { code: context.code }));
closed.on("publication", (context) => {
  say("publication", { data: context.data });
  if (context.data === "end") client.disconnect();
});

const refused = client.newSubscription("public:orders#43");
refused.on("unsubscribed", (context) => say("refused", { code: context.code }));

closed.subscribe();
refused.subscribe();
client.connect();
