// Socket.IO with its Redis adapter, as its documentation tells one to build it.
//
//     REDIS_URL=… node socketio_server.js PORT
//
// A client connects with {"channel":"NAME"} as its `auth` and hears "joined"; then it gets each
// "message" that is emitted to the room of that name.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { Server } from "socket.io";
import { connect } from "./redis.js";

const BACKLOG = 4096; // a storm is not refused; Node's default is 511

const publisher = connect();
const subscriber = publisher.duplicate();
const http = createServer();
const io = new Server(http, {
  adapter: createAdapter(publisher, subscriber),
  transports: ["websocket"], // no polling first: what a browser of today ends up with
  perMessageDeflate: false, // the default; here it is said
  serveClient: false,
});

// "Discard the initial HTTP request", socket.io/docs/v4/memory-usage.
io.engine.on("connection", (connection) => {
  connection.request = null;
});

io.on("connection", (socket) => {
  socket.join(socket.handshake.auth.channel);
  socket.emit("joined");
});

// The adapter does not say when it is subscribed. Redis answers in order: so after this it is.
await subscriber.subscribe("ready");
http.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: BACKLOG });
