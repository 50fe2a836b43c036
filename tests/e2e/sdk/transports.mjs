// What the scripts of the stock SDK share: a client over one of its transports, tokens, and a line for each event.

import { createHmac } from "node:crypto";
import { Centrifuge } from "centrifuge";
import { EventSource } from "eventsource";
import WebSocket from "ws";

export const say = (event, fields = {}) => console.log(JSON.stringify({ event, ...fields }));

/** A client of the SDK, unmodified, over "websocket", "http_stream" or "sse". */
export function open(transport, base, options = {}) {
  const endpoints = {
    websocket: `${base.replace("http", "ws")}/connection/websocket`,
    http_stream: `${base}/connection/http_stream`,
    sse: `${base}/connection/sse`,
  };
  return new Centrifuge([{ transport, endpoint: endpoints[transport] }], {
    websocket: WebSocket,
    eventsource: EventSource,
    emulationEndpoint: `${base}/emulation`,
    minReconnectDelay: 50,
    maxReconnectDelay: 500,
    ...options,
  });
}

/** A connection token, as a site makes it. */
export function token(secret, user, seconds) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { sub: user, exp: Date.now() / 1000 + seconds, info: { name: user } };
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

/** How a client over a transport shows who its user is: by a token, or over SSE, which has no place for one, by a cookie. */
export function shown(transport, user, how) {
  if (transport !== "sse") return how;
  const fetch_ = (url, init) => {
    const page = { Origin: new URL(url).origin, Cookie: `user=${user}` };
    return fetch(url, { ...init, headers: { ...init.headers, ...page } });
  };
  class WithCookie extends EventSource {
    constructor(url, init) {
      super(url, { ...init, fetch: fetch_ });
    }
  }
  return { eventsource: WithCookie };
}

/** The context of the next event, or of the next that `wanted` accepts. */
export function next(target, event, wanted = () => true) {
  return new Promise((resolve) => {
    const listen = (context) => {
      if (!wanted(context)) return;
      target.removeListener(event, listen);
      resolve(context);
    };
    target.on(event, listen);
  });
}
