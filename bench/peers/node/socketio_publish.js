// A back end that emits with @socket.io/redis-emitter: says "ready", then emits what each line says.
//
//     public:bench<TAB>{"text":"x"}
import { createInterface } from "node:readline";
import { Emitter } from "@socket.io/redis-emitter";
import { connect } from "./redis.js";

// "Autopipelining" in ioredis' README: what is emitted in one go is one write.
const redis = connect({ enableAutoPipelining: true });
const emitter = new Emitter(redis);

await redis.ping();
process.stdout.write("ready\n");
for await (const line of createInterface({ input: process.stdin })) {
  const [channel, data] = line.split("\t");
  emitter.to(channel).emit("message", JSON.parse(data));
}
process.exit();
