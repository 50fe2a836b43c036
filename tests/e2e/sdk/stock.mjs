// The stock SDK, unmodified: connect, subscribe, receive with offset, publish. Prints one JSON line per event.
//
//   node stock.mjs ws://127.0.0.1:8000/connection/websocket
//
// Ends when it has published a chat message and heard it, and a publication on public:news whose data is "end".

import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
const client = new Centrifuge(process.argv[2], { websocket: WebSocket });
// The publication may arrive before the reply to its own publish, which a disconnect would reject.
const awaited = new Set(["published", "chat", "end"]);

function saw(what) {
  awaited.delete(what);
  if (awaited.size === 0) client.disconnect();
}

client.on("connected", (context) => say("connected", { client: context.client, transport: context.transport }));
client.on("disconnected", (context) => say("disconnected", { code: context.code }));
client.on("error", (context) => say("error", { error: context.error }));

const news = client.newSubscription("public:news");
news.on("subscribed", (context) => say("subscribed", { channel: context.channel, position: context.streamPosition }));
news.on("publication", (context) => {
  say("publication", { data: context.data, offset: context.offset, tags: context.tags });
  if (context.data === "end") saw("end");
});

const lobby = client.newSubscription("chat:lobby");
lobby.on("subscribed", async () => {
  await lobby.publish({ name: "stock", text: "hello" });
  say("published");
  saw("published");
});
lobby.on("publication", (context) => {
  say("chat", { data: context.data, offset: context.offset });
  saw("chat");
});

const secret = client.newSubscription("secret");
secret.on("unsubscribed", (context) => say("refused", { code: context.code }));

for (const subscription of [news, lobby, secret]) subscription.subscribe();
client.connect();
