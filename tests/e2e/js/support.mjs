/**
 * A small server of the wire protocol for the tests of client.js: a real WebSocket server, with answers that a test
 * can replace. It is not the notifier; tests against that one are in Python.
 */

import { WebSocketServer, WebSocket } from "../sdk/node_modules/ws/wrapper.mjs";
import { connect } from "../../../realtime/static/realtime/client.js";

const HUNG_MS = 120_000;

/** A test that waits for something that never happens fails with its file; Node's runner would wait for ever. */
setTimeout(() => {
  console.error(`A test has not ended within ${HUNG_MS / 1000} s.`);
  process.exit(1);
}, HUNG_MS).unref();

/** Values that arrive later: `put` and `take` meet in either order. */
class Mailbox {
  #values = [];
  #takers = [];

  put(value) {
    const taker = this.#takers.shift();
    if (taker) taker(value);
    else this.#values.push(value);
  }

  take() {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    return new Promise((resolve) => this.#takers.push(resolve));
  }
}

/** The server's side of one connection. */
class Peer {
  frames = new Mailbox();
  closed;

  constructor(socket, answer) {
    this.socket = socket;
    this.closed = new Promise((resolve) => {
      socket.on("close", (code, reason) => resolve({ code, reason: String(reason) }));
    });
    socket.on("error", () => {});
    socket.on("message", (bytes) => {
      const frame = String(bytes);
      this.frames.put(frame);
      for (const command of frame.split("\n").map((line) => JSON.parse(line))) {
        const reply = answer(command, this);
        if (reply) this.send(reply);
      }
    });
  }

  /** Several messages make one frame. */
  send(...messages) {
    this.raw(messages.map((message) => JSON.stringify(message)).join("\n"));
  }

  raw(frame) {
    this.socket.send(frame);
  }

  publish(channel, ...pubs) {
    this.send(...pubs.map((pub) => ({ push: { channel, pub } })));
  }

  gap(channel, gap) {
    this.send({ push: { channel, gap } });
  }

  /** The next frame that holds a message with this key, as its messages. */
  async frameWith(key) {
    for (;;) {
      const messages = (await this.frames.take()).split("\n").map((line) => JSON.parse(line));
      if (messages.some((message) => key in message)) return messages;
    }
  }
}

/** What the notifier answers when all is well. `positions` is what a subscribe reply says. */
export class Server {
  peers = new Mailbox();
  positions = {};
  connectReply = { client: "c1", version: "test", ping: 25, pong: true };
  /** Replace to answer a command yourself; return undefined for no answer, null for the usual one. */
  override = () => null;

  static async start() {
    const server = new Server();
    server.wss = new WebSocketServer({ port: 0, host: "127.0.0.1" });
    server.wss.on("connection", (socket) => {
      server.peers.put(new Peer(socket, (command, peer) => server.answer(command, peer)));
    });
    await new Promise((resolve) => server.wss.once("listening", resolve));
    server.url = `ws://127.0.0.1:${server.wss.address().port}/connection/websocket`;
    return server;
  }

  answer(command, peer) {
    const reply = this.override(command, peer);
    if (reply !== null) return reply;
    const { id } = command;
    if (command.connect) return { id, connect: this.connectReply };
    if (command.subscribe) return { id, subscribe: this.#position(command.subscribe.channel) };
    if (command.unsubscribe) return { id, unsubscribe: {} };
    if (command.publish) return { id, publish: {} };
    if (command.ping) return { id, ping: {} };
    return undefined; // a pong
  }

  #position(channel) {
    const { epoch, offset } = this.positions[channel] ?? { epoch: "A", offset: 0 };
    return { recoverable: false, positioned: true, epoch, offset };
  }

  async stop() {
    for (const socket of this.wss.clients) socket.terminate();
    await new Promise((resolve) => this.wss.close(resolve));
  }
}

/** A server and a client for one test; both end with it. Without jitter unless the test wants some. */
export async function start(t, options = {}) {
  const server = await Server.start();
  const open = (more = {}) => {
    const live = connect({ url: server.url, WebSocket, random: () => 0, ...options, ...more });
    t.after(() => live.close());
    return live;
  };
  t.after(() => server.stop());
  return { server, open };
}

/** The detail of the next event of a type, or of the next that `wanted` accepts. */
export function next(target, type, wanted = () => true) {
  return new Promise((resolve) => {
    const listen = (event) => {
      if (!wanted(event.detail)) return;
      target.removeEventListener(type, listen);
      resolve(event.detail);
    };
    target.addEventListener(type, listen);
  });
}

export function nextState(live, name) {
  return next(live, "state", ({ state }) => state === name);
}

/** Record publications and gaps of a subscription in their order, as short texts: "A1", "gap A2-3", "gap A4-". */
export function record(subscription) {
  const heard = [];
  subscription.addEventListener("publication", ({ detail }) => heard.push(`${detail.epoch}${detail.offset}`));
  subscription.addEventListener("gap", ({ detail }) => {
    heard.push(`gap ${detail.epoch}${detail.from}-${detail.to ?? ""} ${detail.reason}`);
  });
  return heard;
}
