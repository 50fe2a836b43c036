/**
 * A connection over an event stream (docs/event-stream.md), for pages that only listen: `<realtime-bell>` takes it
 * instead of one of client.js.
 *
 *     bell.connection = listen("/connection/sse?channel=orders:all", ["order.shipped"]);
 *
 * The browser reconnects, and the stream says what was missed. It does not say of which channel a publication is; the
 * positions in the event's id do.
 */

const RETRY_MS = 3000; // until a stream that the browser has given up is opened again, and a random part of it more
const REFETCH_MS = 10_000; // as in client.js

/** One channel, with the events `subscribed`, `publication`, `gap` and `unsubscribed` of a `Subscription`. */
class StreamSubscription extends EventTarget {
  state = "subscribing";
  served = true; // it is there for whoever listens, and ends with the stream

  /** @param {string} channel */
  constructor(channel) {
    super();
    this.channel = channel;
  }

  /**
   * @param {string} type
   * @param {object} detail
   */
  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail: { channel: this.channel, ...detail } }));
  }
}

/** The part of client.js's `Connection` that a page needs to listen. */
class StreamConnection extends EventTarget {
  state = { state: "connecting", reason: "", retryInMs: null, latencyMs: null };
  #url;
  #events;
  /** @type {Map<string, StreamSubscription>} by channel */
  #subscriptions = new Map();
  /** @type {Map<string, string>} the latest position of each channel, as the stream writes it */
  #positions = new Map();
  /** @type {EventSource | null} */
  #source = null;
  /** @type {number | undefined} */
  #timer;
  /** @type {Set<string>} channels that the server does not receive at present */
  #lost = new Set();
  #isLive = true; // whether the server receives anything
  #completeAt = new Date(performance.timeOrigin);
  #hasBeenLive = false;

  /**
   * @param {string} url
   * @param {string[]} events
   */
  constructor(url, events) {
    super();
    this.#url = new URL(url, document.baseURI);
    this.#events = events;
    for (const channel of this.#url.searchParams.getAll("channel")) this.#subscriptionTo(channel);
    this.#notePositions(this.#url.searchParams.getAll("since").join("&"));
    this.#open();
  }

  get subscriptions() {
    return [...this.#subscriptions.values()];
  }

  /**
   * Return the subscription to a channel of the stream, which does not end with its release.
   *
   * @param {string} channel
   */
  hold(channel) {
    const subscription = this.#subscriptions.get(channel);
    if (!subscription) throw new RangeError(`the event stream has no channel ${JSON.stringify(channel)}`);
    return { subscription, release() {} };
  }

  /** Close for good. */
  close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#setState("closed", "closed-here");
  }

  #open() {
    const source = (this.#source = new EventSource(this.#url));
    source.onopen = () => this.#onOpen();
    source.onerror = () => this.#onError(source);
    const on = (/** @type {string} */ name, /** @type {(data: any, id: string) => void} */ react) =>
      source.addEventListener(name, ({ data, lastEventId }) => react(data, lastEventId));
    for (const name of new Set(["message", ...this.#events])) {
      on(name, (data, id) => this.#onPublication(name === "message" ? null : name, data, id));
    }
    on("realtime.gap", (data, id) => this.#onGap(JSON.parse(data), id));
    on("realtime.state", (data, id) => {
      this.#notePositions(id); // the first event of a stream, so that the next position is a change of one channel
      this.#onState(JSON.parse(data));
    });
    on("realtime.subscribed", (data, id) => {
      this.#notePositions(id);
      this.#begin(this.#subscriptionTo(JSON.parse(data).channel));
    });
    on("realtime.unsubscribed", (data) => this.#onUnsubscribed(JSON.parse(data).channel));
    on("realtime.disconnect", (data) => {
      this.close();
      this.#setState("closed", JSON.parse(data).reason);
    });
  }

  #onOpen() {
    this.#isLive = true;
    this.#lost.clear();
    for (const channel of this.#url.searchParams.getAll("channel")) this.#begin(this.#subscriptionTo(channel));
    this.#showState();
  }

  /** @param {EventSource} source */
  #onError(source) {
    if (this.state.state === "live") this.#completeAt = new Date();
    this.#setState("reconnecting", "connection-lost");
    for (const subscription of this.subscriptions) subscription.state = "subscribing";
    if (source.readyState !== EventSource.CLOSED) return; // the browser opens it again
    // The browser has given up. A new stream does not send the id of the last event by itself.
    this.#url.searchParams.delete("since");
    for (const [channel, position] of this.#positions) this.#url.searchParams.append("since", `${position}/${channel}`);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#open(), RETRY_MS * (1 + Math.random()));
  }

  /** @param {StreamSubscription} subscription */
  #begin(subscription) {
    if (subscription.state === "subscribed") return;
    subscription.state = "subscribed";
    subscription.emit("subscribed", {});
  }

  /**
   * @param {string | null} event
   * @param {string} text
   * @param {string} id
   */
  #onPublication(event, text, id) {
    const channel = this.#notePositions(id);
    this.#subscriptions.get(channel)?.emit("publication", { event, data: parse(text), tags: {}, sender: null });
  }

  /**
   * @param {{channel: string, from: number, to: number | null}} gap
   * @param {string} id
   */
  #onGap(gap, id) {
    this.#notePositions(id);
    const missed = gap.to === null ? null : gap.to - gap.from + 1;
    const refetchAfterMs = this.#hasBeenLive ? Math.floor(Math.random() * REFETCH_MS) : 0;
    const times = { since: this.#completeAt, until: new Date() };
    this.#subscriptionTo(gap.channel).emit("gap", { ...gap, missed, refetchAfterMs, ...times });
  }

  /** @param {{live: boolean, channel?: string}} change */
  #onState({ live, channel }) {
    if (channel === undefined) {
      this.#isLive = live;
      this.#lost.clear();
    } else if (live) this.#lost.delete(channel);
    else this.#lost.add(channel);
    this.#showState();
  }

  /** @param {string} channel */
  #onUnsubscribed(channel) {
    const subscription = this.#subscriptions.get(channel);
    this.#subscriptions.delete(channel);
    this.#positions.delete(channel);
    if (subscription) subscription.state = "unsubscribed";
    subscription?.emit("unsubscribed", { code: 0, reason: "" });
  }

  #showState() {
    const isLive = this.#isLive && this.#lost.size === 0;
    if (this.state.state === "live" && !isLive) this.#completeAt = new Date();
    this.#setState(isLive ? "live" : "not-live", isLive ? "" : "broker");
    this.#hasBeenLive ||= isLive;
  }

  /**
   * @param {string} state
   * @param {string} reason
   */
  #setState(state, reason) {
    this.state = { state, reason, retryInMs: null, latencyMs: null };
    this.dispatchEvent(new CustomEvent("state", { detail: this.state }));
  }

  /** @param {string} channel */
  #subscriptionTo(channel) {
    let subscription = this.#subscriptions.get(channel);
    if (subscription) return subscription;
    subscription = new StreamSubscription(channel);
    this.#subscriptions.set(channel, subscription);
    this.dispatchEvent(new CustomEvent("subscription", { detail: { subscription } }));
    return subscription;
  }

  /**
   * Remember the positions in an event's id.
   *
   * @param {string} id `epoch/offset/channel`, with `&` between several
   * @returns {string} the channel whose position has changed
   */
  #notePositions(id) {
    let changed = "";
    for (const place of id.split("&").filter(Boolean)) {
      const [epoch, offset, ...rest] = place.split("/");
      const [channel, position] = [rest.join("/"), `${epoch}/${offset}`];
      if (this.#positions.get(channel) !== position) changed = channel;
      this.#positions.set(channel, position);
    }
    return changed;
  }
}

/** Return what a publication's data was: a string is written as it is, anything else as JSON. */
function parse(/** @type {string} */ text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Open an event stream. The browser reconnects until `close()` is called or the server forbids it.
 *
 * @param {string} url its address, as `{% realtime_stream %}` renders it
 * @param {string[]} [events] the names of the events to listen for, besides those without a name
 * @returns {StreamConnection}
 */
export function listen(url, events = []) {
  return new StreamConnection(url, events);
}
