// The stock SDK as a user's: tells what the server subscribes it to and says there, until it is disconnected.
//
//   node served.mjs ws://127.0.0.1:8000/connection/websocket TOKEN
//
// Prints one JSON line per event; ends when the server has sent it away, or with 1 when it comes back.

import { Centrifuge } from "centrifuge";
import WebSocket from "ws";

const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));
const client = new Centrifuge(process.argv[2], { websocket: WebSocket, token: process.argv[3] });
let connected = 0;
client.on("connected", () => {
  connected += 1;
  if (connected > 1) process.exit(1);
});
client.on("subscribed", ({ channel, streamPosition }) => say("subscribed", { channel, streamPosition }));
client.on("publication", ({ channel, data, offset }) => say("publication", { channel, data, offset }));
client.on("unsubscribed", ({ channel }) => say("unsubscribed", { channel }));
client.on("disconnected", ({ code, reason }) => {
  say("disconnected", { code, reason });
  process.exit(0);
});
client.connect();
