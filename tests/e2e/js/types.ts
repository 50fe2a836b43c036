/**
 * The types of client.js as a page in TypeScript uses them. `make check` compiles this file; nothing runs it.
 * Each `@ts-expect-error` is a mistake that the compiler must find.
 */

import { connect, Connection, RealtimeError, Subscription } from "../../../realtime/static/realtime/client.js";
import type { Gap, Person, Position, Publication, Sender, State } from "../../../realtime/static/realtime/client.js";

const live: Connection = connect({ url: "wss://notify.example", getToken: async () => "token", shared: true });
const news: Subscription = live.subscribe("public:news", { presence: true, getToken: ({ channel }) => channel });

// A subscription continues from the position of the page's data.
live.subscribe("public:data", { since: { epoch: "6f1c2a90b4d7e833", offset: 7 } });
live.subscribe("public:lost", { since: null });
// @ts-expect-error
live.subscribe("public:text", { since: "7" });

// Events have details of their own.
news.addEventListener("publication", ({ detail }) => {
  const said: Publication = detail;
  const sender: Sender | null = detail.sender;
  // @ts-expect-error
  detail.sender.user;
  return [said, sender];
});
news.addEventListener("gap", function ({ detail }) {
  const gap: Gap = detail;
  const missed: number | null = gap.missed;
  return missed;
});
news.addEventListener("error", ({ detail }) => detail instanceof RealtimeError && detail.outcome === "unknown");
news.addEventListener("presence", ({ detail }) => detail.complete && detail.users + detail.clients);
live.addEventListener("state", ({ detail }) => detail.state === "not-live");
// @ts-expect-error
live.addEventListener("state", ({ detail }) => detail.state === "no such state");
live.addEventListener("subscription", ({ detail }) => detail.subscription.unsubscribe());
live.addEventListener("message", ({ detail }) => console.log(detail.data));
live.addEventListener("frame", ({ detail }) => detail.direction === "in" && detail.time.getTime() + detail.text.length);

// They remain ordinary event targets.
const target: EventTarget = live;
const listener = (event: Event) => console.log(event.type);
target.addEventListener("state", listener);
news.addEventListener("gap", listener, { once: true });
news.removeEventListener("gap", listener);
news.addEventListener("of a newer version", listener);

// States and positions cannot be changed by the page.
const state: Readonly<State> = live.state;
const position: Position | null = news.position;
const people: Person[] = news.people;
// @ts-expect-error
live.state = state;
// @ts-expect-error
live.state.state = "live";
// @ts-expect-error
news.position = position;
// @ts-expect-error
news.channel = "public:other";

// Outcomes.
const published: Promise<void> = live.publish("public:news", { any: ["json", 1, null] });
const counted: Promise<{ clients: number; users: number }> = news.presenceStats();
const listed: Promise<Map<string, Sender>> = news.presence();
// @ts-expect-error
live.publish("public:news");
// @ts-expect-error
connect({ retryFirstMS: 1 });

// The constructor of Node's package ws is good enough, though it has less than a browser's.
declare class NodeSocket {
  constructor(address: string | URL, options?: { followRedirects?: boolean });
  readonly readyState: 0 | 1 | 2 | 3;
  onopen: ((event: { type: string }) => void) | null;
  onmessage: ((event: { data: string | Uint8Array[] }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: ((event: { error: unknown }) => void) | null;
  send(data: string | Uint8Array, sent?: (error?: Error) => void): void;
  close(code?: number, data?: string | Uint8Array): void;
}
connect({ url: "wss://notify.example", WebSocket: NodeSocket });

export { counted, listed, people, position, published };
