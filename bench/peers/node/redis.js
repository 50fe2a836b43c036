// One way to Redis for all programs here. REDIS_URL may be `redis://…` or `unix:///path`; ioredis
// takes a path for the latter.
import { Redis } from "ioredis";

export function connect(options = {}) {
  const url = process.env.REDIS_URL ?? "redis://127.0.0.1:6379";
  return new Redis(url.startsWith("unix://") ? url.slice("unix://".length) : url, options);
}
