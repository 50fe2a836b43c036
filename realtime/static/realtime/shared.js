/**
 * One WebSocket for all tabs of a session. Loaded by client.js for `connect({ shared: true })`, and by nothing else.
 *
 * Each tab runs the whole of client.js, with its own subscriptions, positions and gaps. Only the WebSocket below it is
 * replaced: by a seat at a multiplexer, which is in one of the tabs and speaks the server's protocol to all of them.
 * The multiplexer holds the one WebSocket. It answers a second subscribe to a channel with the position up to which it
 * has passed the channel on, so each tab finds its own gaps, as it does with a server. If the multiplexer is lost, its
 * tabs have lost their connection: they subscribe again at the next multiplexer, and the positions say what they missed
 * (docs/adr/0045).
 *
 * The tab of the multiplexer holds a Web Lock, which the browser releases when that tab ends, however it ends. Tabs
 * exchange messages over BroadcastChannels: one for all of them, and one for each seat.
 *
 * | class | responsibility |
 * |---|---|
 * | `SharedSocket` | what client.js takes for its WebSocket |
 * | `Seat` | this tab's end of a connection to the multiplexer; stands for the next one; notices one that hangs |
 * | `Host` | the multiplexer's end of these connections |
 * | `Multiplexer` | the server that the tabs see: rules without tabs, locks and channels |
 * | `SharedChannel` | one channel of a multiplexer: who listens, and up to which position it was passed on |
 */

/**
 * The part of the WebSocket API that client.js uses.
 *
 * @typedef {object} Socket
 * @property {number} readyState
 * @property {(data: string) => void} send
 * @property {(code?: number, reason?: string) => void} close
 * @property {((event: any) => void) | null} onopen
 * @property {((event: any) => void) | null} onmessage
 * @property {((event: any) => void) | null} onclose
 * @property {((event: any) => void) | null} onerror
 */

/** @typedef {new (url: string) => Socket} SocketClass */
/** @typedef {{epoch: string, offset: number}} Position */
/** @typedef {{epoch: string, from: number, to: number | null, reason: string}} Missing */

/**
 * The rules of client.js for the positions of a channel. This module does not load client.js, which may have another
 * name on this site.
 *
 * @typedef {object} Tracker
 * @property {Position | null} position
 * @property {(position: Position) => Missing[]} subscribed
 * @property {(publication: {offset: number, epoch?: string}) => unknown} publication
 * @property {(gap: Missing) => unknown} gap
 */

/** @typedef {new () => Tracker} TrackerClass */

const VERSION = 1; // of the messages between tabs: those of another version share another socket
const OPEN = 1; // WebSocket.OPEN
const CLOSED = 3; // WebSocket.CLOSED
const ASK_MS = 3_000; // a visible tab asks the multiplexer this often whether it is there
const HIDDEN_ASK_MS = 15_000; // a hidden tab, whose timers the browser may delay
const ANSWER_MS = 3_000; // then the multiplexer counts as hung
const SILENT_MS = 1_000; // the same, for a tab that has just seen it hang
const LATE_MS = 1_000; // a timer that is later says that this tab itself was frozen
const MOST_UNREAD = 1_048_576; // characters that a tab has not read yet; as a node's outbox for a connection
const ACK_EVERY = 65_536;
const PROBE_MS = 5_000; // time for the server to send something when a tab suspects it; as in client.js
const DEFAULT_PING_SECONDS = 25;
const FRAME_BYTES = 65_536; // commands joined into one frame; as in client.js
const LOST = 1006; // the close code of a connection that broke
const HANDED_OVER = "handed-over";
const SLOW = "slow-tab";

/**
 * Make the class of the sockets of one connection.
 *
 * @param {object} options
 * @param {string} options.session equal for all pages of one session, and for no other; "" if it is unknown
 * @param {SocketClass} options.WebSocket the platform's
 * @param {TrackerClass} PositionTracker that of client.js
 * @returns {SocketClass} the platform's, where tabs cannot find each other: without Web Locks, as on plain HTTP
 */
export function shareSocket({ session, WebSocket }, PositionTracker) {
  if (!globalThis.document || !navigator.locks || !globalThis.BroadcastChannel) return WebSocket;
  return class extends SharedSocket {
    /** @param {string} url */
    constructor(url) {
      super(url, { session, WebSocket }, PositionTracker);
    }
  };
}

/**
 * Tell whose connection a first frame opens, as a part of the names by which tabs find each other.
 *
 * @param {string} frame begins with the connect command
 * @param {string} session see `shareSocket`
 * @returns {string | null} null if it cannot be known
 */
export function identityOf(frame, session) {
  const token = JSON.parse(frame.split("\n", 1)[0]).connect?.token ?? "";
  if (token === "" && session === "") return null; // a cookie identifies the user, and no script can read it
  return JSON.stringify(token === "" ? [session] : [session, userOf(token)]);
}

/**
 * Read the user of a token, without a look at its signature: that is the server's task. A token that cannot be read
 * stands for itself.
 *
 * @param {string} token
 */
function userOf(token) {
  try {
    const payload = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
    return String(JSON.parse(atob(payload)).sub ?? "");
  } catch {
    return token;
  }
}

/** A WebSocket for client.js, shared with other tabs as soon as the first frame has said whose connection it is. */
class SharedSocket {
  readyState = 0;
  /** @type {((event: any) => void) | null} */
  onopen = null;
  /** @type {((event: any) => void) | null} */
  onmessage = null;
  /** @type {((event: any) => void) | null} */
  onclose = null;
  /** @type {((event: any) => void) | null} */
  onerror = null;
  #url;
  #options;
  #Tracker;
  /** @type {{send: (frame: string) => void, leave: (code: number, reason: string) => void} | null} */
  #seat = null;

  /**
   * @param {string} url
   * @param {{session: string, WebSocket: SocketClass}} options
   * @param {TrackerClass} PositionTracker
   */
  constructor(url, options, PositionTracker) {
    this.#url = url;
    this.#options = options;
    this.#Tracker = PositionTracker;
    queueMicrotask(() => {
      if (this.readyState === CLOSED) return;
      this.readyState = OPEN;
      this.onopen?.({});
    });
  }

  /** @param {string} frame */
  send(frame) {
    if (this.readyState !== OPEN) return;
    this.#seat ??= this.#takeSeat(frame);
    this.#seat.send(frame);
  }

  /**
   * @param {number} [code]
   * @param {string} [reason]
   */
  close(code = 1000, reason = "") {
    this.readyState = CLOSED;
    this.#seat?.leave(code, reason);
  }

  /** @param {string} frame */
  #takeSeat(frame) {
    const url = this.#url;
    const { session, WebSocket } = this.#options;
    const events = {
      onFrame: (/** @type {string} */ text) => {
        if (this.readyState === OPEN) this.onmessage?.({ data: text });
      },
      onClose: (/** @type {number} */ code, /** @type {string} */ reason) => {
        if (this.readyState === CLOSED) return;
        this.readyState = CLOSED;
        this.onclose?.({ code, reason });
      },
    };
    const open = () => new WebSocket(url);
    const identity = identityOf(frame, session);
    if (identity === null) return new OwnSeat(open, events);
    return new Seat(`realtime ${VERSION} ${url} ${identity}`, { open, PositionTracker: this.#Tracker }, events);
  }
}

/**
 * @typedef {object} SeatEvents
 * @property {(text: string) => void} onFrame
 * @property {(code: number, reason: string) => void} onClose
 */

/** A WebSocket of this tab alone, since it is not known whose it is. */
class OwnSeat {
  #socket;
  /** @type {string[]} */
  #waiting = [];

  /**
   * @param {() => Socket} open
   * @param {SeatEvents} events
   */
  constructor(open, events) {
    console.warn(
      "realtime: this tab has a connection of its own, since it is not known whose it is. Render " +
        "{% realtime shared=True %}, or pass a text that identifies the session: connect({ shared: '…' }).",
    );
    this.#socket = open();
    this.#socket.onopen = () => {
      for (const frame of this.#waiting.splice(0)) this.#socket.send(frame);
    };
    this.#socket.onmessage = ({ data }) => events.onFrame(data);
    this.#socket.onclose = ({ code, reason }) => events.onClose(code, reason);
  }

  /** @param {string} frame */
  send(frame) {
    if (this.#socket.readyState === OPEN) this.#socket.send(frame);
    else this.#waiting.push(frame);
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  leave(code, reason) {
    this.#socket.close(code, reason);
  }
}

/** @type {Set<string>} names whose multiplexer this tab has just seen hang */
const hung = new Set();

/**
 * This tab's end of a connection to the multiplexer. It ends with the connection; client.js takes another one to
 * reconnect.
 */
class Seat {
  #id = crypto.randomUUID();
  #name;
  #options;
  #events;
  #everyone; // the channel of all tabs
  #line; // the channel of this seat
  #left = new AbortController();
  #candidacy = new AbortController();
  /** @type {Host | null} the multiplexer, if it is in this tab */
  #host = null;
  #multiplexer = ""; // its id, or "" until one has answered
  /** @type {string[]} frames for the multiplexer that is not known yet */
  #waiting = [];
  #heard = false; // whether the multiplexer has sent anything since it was asked
  #read = 0; // characters
  #acknowledged = 0;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;

  /**
   * @param {string} name names the tabs that share a socket
   * @param {MultiplexerOptions} options
   * @param {SeatEvents} events
   */
  constructor(name, options, events) {
    this.#name = name;
    this.#options = options;
    this.#events = events;
    this.#everyone = new BroadcastChannel(name);
    this.#line = new BroadcastChannel(`${name} ${this.#id}`);
    addEventListener("pagehide", this);
    for (const type of ["freeze", "resume", "visibilitychange"]) document.addEventListener(type, this);
    // The multiplexer waits for this lock, to learn that this tab has ended. So it is held before the first message.
    const holding = new Promise((resolve) => this.#left.signal.addEventListener("abort", resolve));
    takeLock(`${name} ${this.#id}`, { signal: this.#left.signal }, () => {
      this.#everyone.onmessage = ({ data }) => this.#onNews(data);
      this.#line.onmessage = ({ data }) => this.#onMessage(data);
      this.#stand();
      this.#ask(hung.delete(name) ? SILENT_MS : ANSWER_MS);
      return holding;
    });
  }

  /** @param {string} frame */
  send(frame) {
    if (this.#multiplexer === "") this.#waiting.push(frame);
    else this.#line.postMessage({ to: this.#multiplexer, frame });
  }

  /**
   * End the connection because client.js does.
   *
   * @param {number} code
   * @param {string} reason
   */
  leave(code, reason) {
    if (this.#left.signal.aborted) return;
    if (this.#multiplexer !== "") this.#line.postMessage({ to: this.#multiplexer, leaves: reason, code });
    clearTimeout(this.#timer);
    removeEventListener("pagehide", this);
    for (const type of ["freeze", "resume", "visibilitychange"]) document.removeEventListener(type, this);
    this.#candidacy.abort();
    this.#left.abort();
    this.#host?.end(LOST, HANDED_OVER);
    this.#everyone.close();
    this.#line.close();
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #end(code, reason) {
    this.leave(code, "");
    this.#events.onClose(code, reason);
  }

  /**
   * Called by the browser.
   *
   * @param {Event} event
   */
  handleEvent({ type }) {
    if (type === "pagehide") this.#end(LOST, HANDED_OVER); // if the page comes back, the client reconnects
    else if (type === "freeze") {
      this.#candidacy.abort(); // a frozen tab cannot be the next multiplexer, and must not keep the others from it
      this.#host?.end(LOST, HANDED_OVER);
    } else if (type === "resume") this.#stand();
    else if (document.visibilityState === "visible" && this.#multiplexer !== "") this.#ask(ANSWER_MS);
  }

  // --- the multiplexer -----------------------------------------------------------------------------------------------

  /** Stand for the next multiplexer. */
  #stand() {
    if (this.#host || this.#left.signal.aborted) return;
    this.#candidacy.abort();
    this.#candidacy = new AbortController();
    this.#take({ signal: this.#candidacy.signal });
  }

  /** @param {LockOptions} options */
  #take(options) {
    const lead = () => {
      if (this.#left.signal.aborted) return;
      if (this.#multiplexer !== "") return this.#onGone();
      this.#host = new Host(this.#name, this.#options);
      return this.#host.ended;
    };
    // It ends early if another tab has found that this one hangs, and has stolen the lock.
    takeLock(this.#name, options, lead).then(() => {
      this.#host?.end(LOST, HANDED_OVER);
      this.#host = null;
    });
  }

  /**
   * Ask the multiplexer whether it is there, or find out which one it is.
   *
   * @param {number} patienceMs
   */
  #ask(patienceMs) {
    if (this.#left.signal.aborted) return;
    this.#heard = false;
    if (this.#multiplexer === "") this.#everyone.postMessage({ hello: this.#id });
    else this.#line.postMessage({ to: this.#multiplexer, asks: true });
    const due = performance.now() + patienceMs;
    this.#later(patienceMs, () => {
      if (this.#heard) {
        const isHidden = document.visibilityState === "hidden";
        this.#later(isHidden ? HIDDEN_ASK_MS : ASK_MS, () => this.#ask(ANSWER_MS));
      } else if (performance.now() - due > LATE_MS) this.#ask(ANSWER_MS);
      else this.#onSilence();
    });
  }

  /**
   * @param {number} ms
   * @param {() => void} then
   */
  #later(ms, then) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, ms);
  }

  /** The multiplexer hangs: its tab is frozen, or busy. */
  #onSilence() {
    if (this.#multiplexer === "") {
      this.#candidacy.abort();
      this.#take({ steal: true });
      return this.#ask(ANSWER_MS);
    }
    // What this tab has of that one ends first: its next seat takes the place of the multiplexer, or finds another one.
    hung.add(this.#name);
    this.#end(LOST, HANDED_OVER);
  }

  /** The multiplexer is gone, since its lock is free. This connection ends before this tab can have the next one. */
  #onGone() {
    this.#everyone.postMessage({ gone: this.#multiplexer });
    this.#end(LOST, HANDED_OVER);
  }

  /** @param {{multiplexer?: string, gone?: string}} news a multiplexer has begun, or ended */
  #onNews({ multiplexer, gone }) {
    if (multiplexer !== undefined && this.#multiplexer === "") this.#everyone.postMessage({ hello: this.#id });
    else if (multiplexer !== undefined ? multiplexer !== this.#multiplexer : gone === this.#multiplexer) {
      this.#end(LOST, HANDED_OVER);
    }
  }

  /** @param {{from?: string, frame?: string, close?: [number, string]}} message from the multiplexer */
  #onMessage({ from, frame, close }) {
    if (from === undefined) return;
    if (this.#multiplexer === "" && close === undefined) {
      this.#multiplexer = from;
      for (const waiting of this.#waiting.splice(0)) this.send(waiting);
    }
    if (from !== this.#multiplexer) return; // a multiplexer that does not know yet that it is none
    this.#heard = true;
    if (close) return this.#end(...close);
    if (frame === undefined) return;
    this.#read += frame.length;
    if (this.#read - this.#acknowledged >= ACK_EVERY) {
      this.#acknowledged = this.#read;
      this.#line.postMessage({ to: this.#multiplexer, read: this.#read });
    }
    this.#events.onFrame(frame);
  }
}

/**
 * Hold a Web Lock while `then` works.
 *
 * @param {string} name
 * @param {LockOptions} options
 * @param {() => unknown} then
 * @returns {Promise<void>} resolves when it is not held any more, or is not wanted any more
 */
async function takeLock(name, options, then) {
  try {
    await navigator.locks.request(name, options, async () => {
      await then();
    });
  } catch {
    // AbortError: the signal of the options, or another tab has stolen the lock.
  }
}

/** The multiplexer's end of the connections to the tabs. */
class Host {
  #id = crypto.randomUUID();
  #name;
  #everyone;
  /** @type {Map<string, BroadcastChannel>} by seat */
  #lines = new Map();
  #ended = new AbortController();
  #multiplexer;

  /**
   * @param {string} name
   * @param {MultiplexerOptions} options
   */
  constructor(name, options) {
    this.#name = name;
    /** Resolves when the multiplexer has ended. */
    this.ended = new Promise((resolve) => this.#ended.signal.addEventListener("abort", resolve));
    this.#multiplexer = new Multiplexer(options, () => this.#finish());
    this.#everyone = new BroadcastChannel(name);
    this.#everyone.onmessage = ({ data }) => {
      if (data.hello !== undefined) this.#welcome(data.hello);
    };
    this.#everyone.postMessage({ multiplexer: this.#id });
  }

  /**
   * End the multiplexer, and so all connections to it.
   *
   * @param {number} code
   * @param {string} reason
   */
  end(code, reason) {
    this.#multiplexer.end(code, reason);
  }

  /** @param {string} seat */
  #welcome(seat) {
    const from = this.#id;
    const known = this.#lines.get(seat);
    if (known) return known.postMessage({ from });
    const line = new BroadcastChannel(`${this.#name} ${seat}`);
    this.#lines.set(seat, line);
    line.onmessage = ({ data }) => {
      if (data.to === from) this.#onMessage(seat, data);
    };
    this.#multiplexer.add(seat, {
      send: (frame) => line.postMessage({ from, frame }),
      close: (code, reason) => {
        line.postMessage({ from, close: [code, reason] });
        this.#forget(seat);
      },
    });
    line.postMessage({ from });
    const onGone = () => this.#onMessage(seat, { leaves: "" });
    takeLock(`${this.#name} ${seat}`, { signal: this.#ended.signal }, onGone);
  }

  /**
   * @param {string} seat
   * @param {{frame?: string, read?: number, asks?: boolean, leaves?: string}} message
   */
  #onMessage(seat, { frame, read, asks, leaves }) {
    if (asks) this.#lines.get(seat)?.postMessage({ from: this.#id });
    if (frame !== undefined) this.#multiplexer.receive(seat, frame);
    if (read !== undefined) this.#multiplexer.acknowledge(seat, read);
    if (leaves === undefined || !this.#lines.has(seat)) return;
    this.#forget(seat);
    this.#multiplexer.remove(seat, leaves);
  }

  /** @param {string} seat */
  #forget(seat) {
    this.#lines.get(seat)?.close();
    this.#lines.delete(seat);
  }

  #finish() {
    this.#everyone.postMessage({ gone: this.#id });
    this.#everyone.close();
    this.#ended.abort();
  }
}

/**
 * @typedef {object} MultiplexerOptions
 * @property {() => Socket} open opens the one WebSocket
 * @property {TrackerClass} PositionTracker
 * @property {number} [answerMs] time for the server to send something
 */

/**
 * The connection to a tab.
 *
 * @typedef {{send: (frame: string) => void, close: (code: number, reason: string) => void}} Port
 */

/** A tab, as its multiplexer sees it. */
class Guest {
  /** @type {string[]} lines of its next frame */
  lines = [];
  /** @type {number | null} the id of its connect command, until that is answered */
  connectId = null;
  isAdmitted = false;
  sent = 0; // characters
  read = 0;

  /**
   * @param {string} id
   * @param {Port} port
   */
  constructor(id, port) {
    this.id = id;
    this.port = port;
  }

  /**
   * @param {number} id
   * @param {object} reply
   */
  answer(id, reply) {
    this.lines.push(JSON.stringify({ id, ...reply }));
  }
}

/**
 * The server that the tabs see. It has one connection to the real one, and subscribes there once to each channel.
 */
export class Multiplexer {
  #options;
  #onEnd;
  /** @type {Map<string, Guest>} by seat */
  #guests = new Map();
  /** @type {Map<string, SharedChannel>} by name */
  #channels = new Map();
  /** @type {Map<string, number>} unsubscribes by channel that the server has not answered yet */
  #leaving = new Map();
  /** @type {Socket | null} */
  #socket = null;
  /** @type {string[]} commands for the next frame */
  #commands = [];
  /** @type {Map<number, (message: Record<string, any>) => void>} what to do with a reply */
  #unanswered = new Map();
  #lastId = 0;
  /** @type {Expiring | null} the reply to connect */
  #accepted = null;
  #notLive = ""; // the push that says so
  #heardAt = 0; // monotonic
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #timer;
  #pongs = true; // whether the server wants its pings answered
  #silenceMs = 0; // between two pings
  #isProbing = false;
  #hasEnded = false;

  /**
   * @param {MultiplexerOptions} options
   * @param {() => void} onEnd called once, after all ports were closed
   */
  constructor(options, onEnd) {
    this.#options = options;
    this.#onEnd = onEnd;
  }

  // --- tabs ----------------------------------------------------------------------------------------------------------

  /**
   * Add a tab.
   *
   * @param {string} id
   * @param {Port} port
   */
  add(id, port) {
    if (!this.#hasEnded) this.#guests.set(id, new Guest(id, port));
  }

  /**
   * A tab is gone.
   *
   * @param {string} id
   * @param {string} [reason] why it has closed its connection; it may have found that the server is silent
   */
  remove(id, reason = "") {
    const guest = this.#guests.get(id);
    if (!guest) return;
    this.#forget(guest);
    this.#flush();
    if (reason === "server-silent" || reason === "no-answer") this.#suspect();
  }

  /**
   * A tab has read so many characters.
   *
   * @param {string} id
   * @param {number} characters in total
   */
  acknowledge(id, characters) {
    const guest = this.#guests.get(id);
    if (guest) guest.read = characters;
  }

  /**
   * Process a frame of a tab.
   *
   * @param {string} id
   * @param {string} frame
   */
  receive(id, frame) {
    const guest = this.#guests.get(id);
    if (!guest) return;
    for (const line of frame.split("\n")) this.#onCommand(guest, JSON.parse(line));
    this.#flush();
  }

  /**
   * End all connections.
   *
   * @param {number} code
   * @param {string} reason
   */
  end(code, reason) {
    if (this.#hasEnded) return;
    this.#flush();
    this.#hasEnded = true;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000, "");
    for (const { port } of this.#guests.values()) port.close(code, reason);
    this.#guests.clear();
    this.#onEnd();
  }

  /** @param {Guest} guest */
  #forget(guest) {
    this.#guests.delete(guest.id);
    for (const channel of [...this.#channels.values()]) {
      channel.forget(guest);
      this.#dropUnused(channel);
    }
  }

  // --- commands of tabs ----------------------------------------------------------------------------------------------

  /**
   * @param {Guest} guest
   * @param {Record<string, any>} command
   */
  #onCommand(guest, { id, ...body }) {
    if (id === undefined) return; // a pong
    if (body.connect) this.#connect(guest, id, body.connect);
    else if (body.subscribe) this.#subscribe(guest, id, body.subscribe);
    else if (body.unsubscribe) this.#unsubscribe(guest, id, body.unsubscribe.channel);
    else this.#send(body, (reply) => this.#onReply(guest, id, reply));
  }

  /**
   * Pass a reply on, and remember when what the tab has renewed expires.
   *
   * @param {Guest} guest
   * @param {number} id
   * @param {Record<string, any>} reply
   */
  #onReply(guest, id, reply) {
    if (reply.refresh && this.#accepted) this.#accepted.renew(reply.refresh);
    guest.answer(id, reply);
  }

  /**
   * @param {Guest} guest
   * @param {number} id
   * @param {object} connect
   */
  #connect(guest, id, connect) {
    guest.connectId = id;
    if (this.#accepted) return this.#admit(guest);
    if (this.#socket) return; // it waits for the reply to the first tab
    this.#dial();
    this.#send({ connect }, (reply) => {
      if (reply.error) {
        guest.answer(id, reply);
        this.end(LOST, ""); // the others may have better tokens
      } else this.#accept(asObject(reply.connect));
    });
  }

  /** @param {Record<string, any>} result */
  #accept(result) {
    this.#accepted = new Expiring({ ...result, pong: false }); // the multiplexer answers the pings of the server
    const seconds = result.ping > 0 ? result.ping : DEFAULT_PING_SECONDS;
    this.#pongs = result.pong !== false;
    this.#silenceMs = seconds * 1000;
    this.#watch();
    for (const guest of this.#guests.values()) if (guest.connectId !== null) this.#admit(guest);
  }

  /** @param {Guest} guest */
  #admit(guest) {
    const id = /** @type {number} */ (guest.connectId);
    guest.connectId = null;
    guest.isAdmitted = true;
    guest.answer(id, { connect: /** @type {Expiring} */ (this.#accepted).now });
    if (this.#notLive) guest.lines.push(this.#notLive);
    for (const channel of this.#channels.values()) {
      if (!channel.isServed || !channel.isSubscribed) continue;
      guest.lines.push(JSON.stringify({ push: { channel: channel.name, subscribe: channel.reply } }));
      channel.admit(guest);
    }
  }

  /**
   * @param {Guest} guest
   * @param {number} id
   * @param {{channel: string, token?: string, join_leave?: boolean}} wanted
   */
  #subscribe(guest, id, wanted) {
    let channel = this.#channels.get(wanted.channel);
    if (!channel) {
      channel = new SharedChannel(wanted.channel, this.#options.PositionTracker);
      this.#channels.set(wanted.channel, channel);
    }
    if (channel.isSubscribed && (channel.hasJoins || !wanted.join_leave)) {
      guest.answer(id, { subscribe: channel.reply });
      channel.admit(guest);
      return;
    }
    channel.waiting.push({ guest, id, wanted });
    if (!channel.isAsking) this.#ask(channel);
  }

  /**
   * Subscribe at the server, for the first tab that waits. If the channel is subscribed already, but without joins and
   * leaves, it is subscribed anew.
   *
   * @param {SharedChannel} channel
   */
  #ask(channel) {
    const { wanted } = channel.waiting[0];
    if (channel.isSubscribed && !channel.isServed) this.#send({ unsubscribe: { channel: channel.name } });
    channel.isAsking = true;
    this.#send({ subscribe: wanted }, (reply) => {
      channel.isAsking = false;
      const waiting = channel.waiting.splice(0);
      if (reply.error) this.#onRefused(channel, waiting, wanted, reply);
      else {
        channel.hasJoins ||= wanted.join_leave === true;
        this.#tellAll(channel.listeners, channel.begin(asObject(reply.subscribe)));
        for (const { guest, id, wanted } of waiting) this.#subscribe(guest, id, wanted);
      }
      this.#dropUnused(channel);
    });
  }

  /**
   * @param {SharedChannel} channel
   * @param {SharedChannel["waiting"]} waiting
   * @param {object} refused what was refused
   * @param {object} reply
   */
  #onRefused(channel, waiting, refused, reply) {
    if (channel.isSubscribed && !channel.isServed) {
      // It was to be subscribed anew: those who listen try for themselves.
      const unsubscribe = { code: 2500, reason: "" };
      this.#tellAll(channel.listeners, [JSON.stringify({ push: { channel: channel.name, unsubscribe } })]);
      channel.end();
    }
    const text = JSON.stringify(refused);
    for (const { guest, id, wanted } of waiting) {
      if (JSON.stringify(wanted) === text) guest.answer(id, reply);
      else this.#subscribe(guest, id, wanted); // it may have another token
    }
  }

  /**
   * @param {Guest} guest
   * @param {number} id
   * @param {string} name
   */
  #unsubscribe(guest, id, name) {
    const channel = this.#channels.get(name);
    channel?.forget(guest);
    guest.answer(id, { unsubscribe: {} });
    if (channel) this.#dropUnused(channel);
  }

  /**
   * Unsubscribe from a channel that no tab listens to. Those that the server has started stay for the next tab.
   *
   * @param {SharedChannel} channel
   */
  #dropUnused(channel) {
    if (channel.isUsed || this.#channels.get(channel.name) !== channel) return;
    this.#channels.delete(channel.name);
    if (!channel.isSubscribed) return;
    const { name } = channel;
    this.#leaving.set(name, (this.#leaving.get(name) ?? 0) + 1);
    this.#send({ unsubscribe: { channel: name } }, () => {
      const more = (this.#leaving.get(name) ?? 1) - 1;
      if (more > 0) this.#leaving.set(name, more);
      else this.#leaving.delete(name);
    });
  }

  // --- the server ----------------------------------------------------------------------------------------------------

  #dial() {
    const socket = this.#options.open();
    this.#socket = socket;
    const current = (/** @type {(event: any) => void} */ then) => (/** @type {any} */ event) => {
      if (this.#socket === socket) then(event);
    };
    socket.onopen = current(() => this.#flush());
    socket.onmessage = current(({ data }) => this.#onFrame(data));
    socket.onclose = current(({ code, reason }) => this.end(code, reason));
    socket.onerror = () => {};
  }

  /**
   * @param {object} body
   * @param {(reply: Record<string, any>) => void} [then]
   */
  #send(body, then = () => {}) {
    const id = ++this.#lastId;
    this.#unanswered.set(id, then);
    this.#commands.push(JSON.stringify({ id, ...body }));
  }

  /** @param {unknown} frame */
  #onFrame(frame) {
    this.#heardAt = performance.now();
    try {
      for (const line of String(frame).split("\n")) {
        if (line !== "") this.#onMessage(asObject(JSON.parse(line)), line);
        if (this.#hasEnded) return;
      }
    } catch (error) {
      // Untrusted input. A tab would close such a connection, too.
      const why = error instanceof Error ? error.message : String(error);
      return this.end(LOST, `malformed-frame: ${why}`.slice(0, 120));
    }
    this.#flush();
  }

  /**
   * @param {Record<string, any>} message
   * @param {string} line
   */
  #onMessage(message, line) {
    if (message.push !== undefined) return this.#onPush(asObject(message.push), line);
    if (message.id === undefined) {
      if (this.#pongs) this.#socket?.send("{}");
      return this.#tellAll(this.#guests.values(), [line]);
    }
    const { id, ...reply } = message;
    const then = this.#unanswered.get(id);
    this.#unanswered.delete(id);
    then?.(reply);
  }

  /**
   * @param {Record<string, any>} push
   * @param {string} line
   */
  #onPush(push, line) {
    const channel = this.#channels.get(push.channel);
    if (push.subscribe !== undefined) return this.#onServed(push.channel, asObject(push.subscribe), line);
    if (push.state !== undefined) this.#onState(channel, push, line);
    else if (push.channel !== undefined) {
      if (!channel?.isSubscribed) return; // sent before the server processed the unsubscribe
      channel.note(push, line);
      this.#tellAll(channel.listeners, [line]);
      if (push.unsubscribe === undefined) return;
      channel.end();
      return this.#dropUnused(channel);
    }
    this.#tellAll(this.#guests.values(), [line]);
    if (push.disconnect !== undefined) this.end(asObject(push.disconnect).code ?? LOST, "");
  }

  /**
   * The server, or one channel of it, receives something again, or nothing any more.
   *
   * @param {SharedChannel | undefined} channel
   * @param {Record<string, any>} push
   * @param {string} line
   */
  #onState(channel, push, line) {
    const { live } = asObject(push.state);
    if (push.channel !== undefined) {
      if (channel) channel.notLive = live ? "" : line;
      return;
    }
    this.#notLive = live ? "" : line;
    for (const each of this.#channels.values()) each.notLive = "";
  }

  /**
   * The server has started a subscription.
   *
   * @param {string} name
   * @param {Record<string, any>} result
   * @param {string} line
   */
  #onServed(name, result, line) {
    if (this.#leaving.has(name)) return; // sent before the server processed the unsubscribe
    const channel = this.#channels.get(name) ?? new SharedChannel(name, this.#options.PositionTracker);
    this.#channels.set(name, channel);
    channel.isServed = true;
    const missing = channel.begin(result);
    for (const guest of this.#guests.values()) {
      if (!guest.isAdmitted) continue;
      guest.lines.push(line, ...missing);
      channel.listeners.add(guest);
    }
  }

  /**
   * @param {Iterable<Guest>} guests
   * @param {string[]} lines
   */
  #tellAll(guests, lines) {
    for (const guest of guests) if (guest.isAdmitted) guest.lines.push(...lines);
  }

  // --- frames --------------------------------------------------------------------------------------------------------

  /** Send what was collected: a frame to the server, and one to each tab. */
  #flush() {
    this.#flushCommands();
    for (const guest of [...this.#guests.values()]) {
      if (guest.lines.length === 0) continue;
      const frame = guest.lines.splice(0).join("\n");
      guest.sent += frame.length;
      if (guest.sent - guest.read <= MOST_UNREAD) guest.port.send(frame);
      else {
        // It is frozen, or too slow. It finds its gaps when it reconnects.
        this.#forget(guest);
        guest.port.close(LOST, SLOW);
      }
    }
    this.#flushCommands(); // of those that were dropped
  }

  #flushCommands() {
    if (this.#socket?.readyState !== OPEN) return;
    /** @type {string[]} */
    let frame = [];
    let size = 0;
    for (const command of this.#commands.splice(0)) {
      const bytes = utf8Length(command) + 1;
      if (size + bytes > FRAME_BYTES && frame.length > 0) {
        this.#socket.send(frame.join("\n"));
        frame = [];
        size = 0;
      }
      frame.push(command);
      size += bytes;
    }
    if (frame.length > 0) this.#socket.send(frame.join("\n"));
  }

  // --- silence -------------------------------------------------------------------------------------------------------

  /** Check when the server was silent for longer than between two pings. */
  #watch() {
    clearTimeout(this.#timer);
    const due = this.#heardAt + this.#silenceMs;
    this.#timer = setTimeout(() => {
      if (this.#heardAt + this.#silenceMs > performance.now()) this.#watch();
      else this.#probe();
    }, due - performance.now());
  }

  /** A tab has found that the server is silent, which may be its own mistake. */
  #suspect() {
    if (this.#hasEnded || !this.#socket) return;
    if (this.#accepted) this.#probe();
    else this.end(LOST, "no-answer");
  }

  /** Expect a sign of life soon. */
  #probe() {
    if (this.#isProbing || this.#hasEnded) return;
    this.#isProbing = true;
    clearTimeout(this.#timer);
    this.#send({ ping: {} });
    this.#flush();
    const asked = performance.now();
    const waitMs = this.#options.answerMs ?? PROBE_MS;
    this.#timer = setTimeout(() => {
      this.#isProbing = false;
      if (this.#heardAt >= asked) this.#watch();
      else if (performance.now() - asked > waitMs + LATE_MS) this.#probe(); // this tab was frozen
      else this.end(LOST, "server-silent");
    }, waitMs);
  }
}

/** A result of the server that may expire after `ttl` seconds. */
class Expiring {
  #result;
  #at = performance.now();

  /** @param {Record<string, any>} result */
  constructor(result) {
    this.#result = result;
  }

  /** The result as the server would send it now. */
  get now() {
    const { ttl } = this.#result;
    if (!(ttl > 0)) return this.#result;
    const passed = Math.floor((performance.now() - this.#at) / 1000);
    return { ...this.#result, ttl: Math.max(1, ttl - passed) };
  }

  /** @param {{expires?: boolean, ttl?: number}} result */
  renew({ expires, ttl }) {
    this.#result = { ...this.#result, expires, ttl };
    this.#at = performance.now();
  }
}

/** One channel of a multiplexer. */
class SharedChannel {
  /** @type {Set<Guest>} those who get its pushes */
  listeners = new Set();
  /** @type {{guest: Guest, id: number, wanted: {channel: string, token?: string, join_leave?: boolean}}[]} */
  waiting = [];
  isAsking = false; // whether a subscribe awaits the server's reply
  isSubscribed = false;
  isServed = false; // whether the server has started it
  hasJoins = false; // whether joins and leaves were asked for
  notLive = ""; // the push that says so
  #openGap = ""; // the latest push, if it is a gap without an end
  /** @type {Tracker | null} null if the server keeps no positions */
  #tracker = null;
  #Tracker;
  #result = new Expiring({});

  /**
   * @param {string} name
   * @param {TrackerClass} Tracker
   */
  constructor(name, Tracker) {
    this.name = name;
    this.#Tracker = Tracker;
  }

  get isUsed() {
    return this.isServed || this.isAsking || this.listeners.size > 0 || this.waiting.length > 0;
  }

  /** The reply to a subscribe: everything after its position is passed on from now. */
  get reply() {
    return { ...this.#result.now, ...this.#tracker?.position };
  }

  /**
   * Let a tab listen, to which the position was told.
   *
   * @param {Guest} guest
   */
  admit(guest) {
    this.listeners.add(guest);
    if (this.#openGap) guest.lines.push(this.#openGap); // what was missed after the position cannot be known
    if (this.notLive) guest.lines.push(this.notLive);
  }

  /** @param {Guest} guest */
  forget(guest) {
    this.listeners.delete(guest);
    this.waiting = this.waiting.filter((each) => each.guest !== guest);
  }

  /**
   * The server has subscribed the multiplexer.
   *
   * @param {Record<string, any>} result
   * @returns {string[]} pushes for those who listen already: what they have missed since they were subscribed before
   */
  begin(result) {
    const { positioned, epoch, offset = 0 } = result;
    if (this.isSubscribed && !positioned) return []; // the server had started it, and says no more
    this.isSubscribed = true;
    this.#result = new Expiring(result);
    if (!positioned) return [];
    this.#tracker ??= new this.#Tracker();
    const missing = this.#tracker.subscribed({ epoch: asText(epoch), offset: asCount(offset) });
    return missing.map((gap) => JSON.stringify({ push: { channel: this.name, gap } }));
  }

  /**
   * Follow the position of a push.
   *
   * @param {Record<string, any>} push
   * @param {string} line
   */
  note(push, line) {
    if (push.pub !== undefined) {
      const { offset, epoch } = asObject(push.pub);
      this.#openGap = "";
      if (offset !== undefined) this.#tracker?.publication({ offset: asCount(offset), epoch });
    } else if (push.gap !== undefined) {
      const { epoch, from, to, reason } = asObject(push.gap);
      const gap = { epoch: asText(epoch), from: asCount(from), to: to === null ? null : asCount(to), reason };
      this.#tracker?.gap(gap);
      this.#openGap = to === null ? line : "";
    }
  }

  /** The server has ended it. */
  end() {
    this.isSubscribed = this.isServed = this.hasJoins = false;
    this.#openGap = "";
    this.#tracker = null;
    this.listeners.clear();
  }
}

// --- helpers ---------------------------------------------------------------------------------------------------------

const encoder = new TextEncoder();

/** @param {string} text */
function utf8Length(text) {
  return encoder.encode(text).length;
}

/**
 * @param {unknown} value
 * @returns {Record<string, any>}
 */
function asObject(value) {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new TypeError("not an object");
}

/**
 * @param {unknown} value
 * @returns {number}
 */
function asCount(value) {
  if (Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0) return /** @type {number} */ (value);
  throw new TypeError("not a non-negative integer");
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function asText(value) {
  if (typeof value === "string") return value;
  throw new TypeError("not a string");
}
