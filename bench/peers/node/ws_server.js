// A server of one's own on `ws` and Redis pub/sub, as their READMEs tell one to build it.
//
//     REDIS_URL=… node ws_server.js PORT
//
// A client sends {"subscribe":"CHANNEL"} and hears {"joined":"CHANNEL"}; then it gets each message of
// the Redis channel as it was published.
import { WebSocket, WebSocketServer } from "ws";
import { connect } from "./redis.js";

const HEARTBEAT_MS = 30_000; // ws' README, "How to detect and close broken connections?"
const BACKLOG = 4096; // a storm is not refused; Node's default is 511

const redis = connect();
const channels = new Map(); // name -> { members, subscribed }

// Bytes, not text: `ws` writes them to each client without encoding them again.
redis.on("messageBuffer", (channel, message) => {
  const members = channels.get(channel.toString())?.members ?? [];
  for (const client of members) {
    if (client.readyState === WebSocket.OPEN) client.send(message, { binary: false });
  }
});

async function join(client, name) {
  let channel = channels.get(name);
  if (channel === undefined) {
    channel = { members: new Set(), subscribed: redis.subscribe(name) };
    channels.set(name, channel);
  }
  await channel.subscribed;
  channel.members.add(client);
  client.on("close", () => leave(client, name));
  client.send(JSON.stringify({ joined: name }));
}

function release(client, name) {
  const channel = channels.get(name);
  channel?.members.delete(client);
  if (channel?.members.size === 0) {
    channels.delete(name);
    redis.unsubscribe(name);
  }
}

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  backlog: BACKLOG,
  perMessageDeflate: false, // the default; here it is said
});

server.on("connection", (client) => {
  client.isAlive = true;
  client.on("pong", () => (client.isAlive = true));
  client.on("error", () => client.terminate());
  client.on("message", (text) => join(client, JSON.parse(text).subscribe));
});

setInterval(() => {
  for (const client of server.clients) {
    if (client.isAlive) {
      client.isAlive = false;
      client.ping();
    } else {
      client.terminate();
    }
  }
}, HEARTBEAT_MS);
