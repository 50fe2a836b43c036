/**
 * The browser's end of the notifier: subscriptions over one WebSocket, and the truth about what was missed.
 *
 *     import { connect } from "/static/realtime/client.js";
 *     const live = connect();
 *     const news = live.subscribe("public:news");
 *     news.addEventListener("publication", (e) => console.log(e.detail.data));
 *     news.addEventListener("gap", (e) => console.log("missed", e.detail.missed));
 *
 * One ES module, no dependency, no build step. It speaks Centrifugo's JSON protocol (centrifugal.dev,
 * client_protocol) with our additions, the pushes `gap`, `state` and `presence` (docs/protocol.md). It knows nothing of
 * pages, and nothing that the server sends can make it throw: a frame it cannot read ends the connection, which is
 * then made again. How to use it: docs/client.md.
 *
 * @module
 */

/**
 * @typedef {"connecting" | "live" | "not-live" | "reconnecting" | "closed"} StateName
 * @typedef {object} State
 * @property {StateName} state
 * @property {string} reason why, as a slug or in the server's words; "" while all is well
 * @property {number | null} retryInMs only while "reconnecting": the next attempt starts in so many milliseconds
 * @property {number | null} latencyMs round trip of the newest ping, null before the first one
 *
 * @typedef {object} Position
 * @property {string} epoch the life of a channel's counter
 * @property {number} offset how many publications it has counted
 *
 * @typedef {object} Missing publications that did not arrive
 * @property {string} epoch
 * @property {number} from the first one
 * @property {number | null} to the last one; null where nobody can know
 * @property {string} reason "slow", "broker", … from the server; "reconnect" and "unknown" are found here
 *
 * @typedef {object} Publication the `detail` of a `publication` event
 * @property {string} channel
 * @property {any} data
 * @property {string | null} event the event's name, if the publisher gave one
 * @property {Readonly<Record<string, string>>} tags
 * @property {Sender | null} sender the client that said it; null where your server did
 * @property {number | null} offset
 * @property {string | null} epoch
 *
 * @typedef {object} Sender who published from a page, in the server's words; nobody can say it of somebody else
 * @property {string} user the user's id; "" is nobody
 * @property {string} client the id of the connection
 * @property {any} info what the site shows of the user, such as a name; null is nothing
 * @property {any} channelInfo what it shows of the user on this channel; null is nothing
 *
 * @typedef {object} Person who is on a channel: a user with all of its connections, or one connection of nobody
 * @property {string} user the user's id; "" is nobody
 * @property {any} info what the site shows of the user, or null
 * @property {string[]} clients the ids of the connections: several tabs are several
 *
 * @typedef {object} Gap the `detail` of a `gap` event
 * @property {string} channel
 * @property {string} epoch
 * @property {number} from
 * @property {number | null} to
 * @property {number | null} missed how many; null: some may be missing, nobody knows how many
 * @property {string} reason
 * @property {Date} since up to then the channel was known to be complete
 * @property {Date} until from then on it is complete again
 * @property {number} refetchAfterMs wait so long before fetching what was missed: other browsers missed it too
 *
 * @typedef {object} Options
 * @property {() => string | Promise<string>} [getToken] asked for a connection token before each connection is made and
 *   before the token expires; "" is nobody. On the service's own pages the session does as well, and on others the
 *   template tag
 * @property {string} [url] default what the template tag `{% realtime %}` wrote into the page, otherwise
 *   "/connection/websocket" on this origin; relative, http(s) and ws(s) are fine
 * @property {new (url: string) => WebSocket} [WebSocket] the constructor, where the platform has none
 * @property {() => number} [random] 0 ≤ x < 1, for the jitter
 * @property {number} [retryFirstMs] reconnect number n waits random(0, min(retryMostMs, retryFirstMs · 2ⁿ))
 * @property {number} [retryMostMs]
 * @property {number} [pingGraceMs] silence beyond the server's ping interval after which it counts as dead
 * @property {number} [answerMs] how long a command may stay unanswered
 * @property {number} [latencyEveryMs] how often the round trip is measured while the page is visible
 * @property {number} [refetchWindowMs] `refetchAfterMs` is drawn from 0 to this
 *
 * @typedef {(asked: {channel: string}) => string | Promise<string>} GetChannelToken
 *
 * @typedef {object} Answer a reply to one command
 * @property {any} [result]
 * @property {{code: number, message: string, temporary: boolean}} [error]
 *
 * @typedef {object} Command
 * @property {string} body the command without its id: `"publish":{…}`
 * @property {(answer: Answer) => void} answered
 * @property {(sent: boolean) => void} lost no answer can come any more; sent: the server may have had it
 * @property {() => void} late `answerMs` have passed
 *
 * @typedef {object} Feed what the connection keeps of one subscription
 * @property {Subscription} face
 * @property {PositionTracker} tracker
 * @property {GetChannelToken | undefined} getToken
 * @property {boolean} served the server began it, and does so again after a break
 * @property {object | null} fetching the token that is being fetched for it
 * @property {"subscribing" | "subscribed" | "unsubscribed"} state
 * @property {Roster | null} roster who is there, if somebody wants to know
 * @property {Command | null} asked the subscribe command that waits for its reply
 * @property {number} failures subscribes refused for now, one after the other
 * @property {number} completeAt when the channel was last known to be complete
 */

const OPTIONS = {
  url: "/connection/websocket",
  random: Math.random,
  retryFirstMs: 500, // centrifuge-js: 500 ms and 20 s too
  retryMostMs: 20_000,
  pingGraceMs: 10_000, // centrifuge-js: 10 s
  answerMs: 10_000, // the server's own deadlines are 1 s (publish) and 2 s (subscribe)
  latencyEveryMs: 10_000,
  refetchWindowMs: 10_000, // ten thousand browsers: a thousand fetches a second
};

const LONGEST_TIMER_MS = 2 ** 31 - 1; // longer ones fire at once
const DEFAULT_PING_SECONDS = 25; // what Centrifugo sends; ours names it in the connect reply
const STABLE_MS = 5_000; // a connection that lived so long starts the back-off anew
const PROBE_MS = 5_000; // after waking up or a change of network the server has so long to say something
const FIRST_LATENCY_MS = 1_000;
const FRAME_BYTES = 65_536; // commands joined into one frame; the server refuses frames over 80 KiB
const COMMAND_BYTES = 80_000; // one command alone; refused here, since the server would end the connection (1009)
const MOST_SUBSCRIPTIONS = 10_000;
const MOST_CALLS = 256; // publishes and questions that are unanswered at one time
const TOO_MANY = 106; // the server's word for members that are too many to name
const MOST_NAMED = 1_000; // members of a channel; who more are here is not asked again and again
const MOST_NEWS = 10_000; // joins and leaves that come while we wait for a list
const MOST_EPOCHS = 8; // remembered per channel; a new one starts when Redis restarts

/**
 * Something was refused or is unknown.
 */
export class RealtimeError extends Error {
  /**
   * @param {number | string} code the server's number, or a slug of ours: "not-connected", "unknown-outcome",
   *   "too-large", "too-many", "closed"
   * @param {string} message
   * @param {{temporary?: boolean, outcome?: "not-done" | "unknown"}} [facts] temporary: the same may work later;
   *   outcome: whether it may have happened all the same
   */
  constructor(code, message, { temporary = false, outcome = "not-done" } = {}) {
    super(message);
    this.name = "RealtimeError";
    this.code = code;
    this.temporary = temporary;
    this.outcome = outcome;
  }
}

/**
 * Tell whether a close code means: do not come back (Centrifugo's ranges; 1009 is "your frame is too big").
 *
 * @param {number} code
 */
export function isTerminal(code) {
  return code === 1009 || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

/**
 * Full jitter: anything between nothing and a limit that doubles (AWS, "Exponential Backoff And Jitter", 2015).
 *
 * @param {number} attempt 0, 1, 2 …
 * @param {number} firstMs
 * @param {number} mostMs
 * @param {number} random 0 ≤ x < 1
 */
export function backoffMs(attempt, firstMs, mostMs, random) {
  return Math.floor(random * Math.min(mostMs, firstMs * 2 ** Math.min(attempt, 30)));
}

/**
 * Know which publications of one channel were received and which are missing. No clock, no socket.
 *
 * Law: everything since the first position is either received or in a gap, never in both, in order. The one exception
 * is an epoch that was reported as ended and turns out to live, because two nodes disagreed for a moment: its gap had
 * no end ("some may be missing"), and what the server still sends of it is received.
 */
export class PositionTracker {
  /** @type {Map<string, {last: number, ended: boolean}>} last: everything up to it is received or reported */
  #epochs = new Map();
  /** @type {string | null} the epoch the server speaks of; its publications do not repeat it */
  #stream = null;
  #mayRewind = false;

  /** @returns {Position | null} */
  get position() {
    const known = this.#stream === null ? undefined : this.#epochs.get(this.#stream);
    return known ? { epoch: /** @type {string} */ (this.#stream), offset: known.last } : null;
  }

  /**
   * The position in the reply to a subscribe: what follows is live.
   *
   * @param {Position} position
   * @returns {Missing[]}
   */
  subscribed({ epoch, offset }) {
    const first = this.#epochs.size === 0;
    const { known, missing } = this.#enter(epoch, "reconnect");
    if (first) known.last = offset;
    this.#reopen(known, offset);
    // Below what is known: this node is behind the one we come from. Never a gap backwards.
    this.#fill(missing, epoch, offset, "reconnect");
    return missing;
  }

  /**
   * A publication. It is `fresh` unless it was received or reported before; `missing` comes before it.
   *
   * @param {{offset: number, epoch?: string}} publication epoch only where it is a new one
   * @returns {{fresh: boolean, missing: Missing[]}}
   */
  publication({ offset, epoch }) {
    const named = epoch ?? this.#stream;
    if (named === null) return { fresh: true, missing: [] };
    const rewinds = this.#mayRewind && named === this.#stream;
    const { known, missing } = this.#enter(named, "unknown");
    // The server announced an open gap and goes on in the same epoch: the counter went back, and it says so.
    if (rewinds) known.last = Math.min(known.last, offset - 1);
    this.#reopen(known, offset - 1);
    if (offset <= known.last) return { fresh: false, missing };
    this.#fill(missing, named, offset - 1, "unknown");
    known.last = offset;
    return { fresh: true, missing };
  }

  /**
   * A gap that the server announces. What is known already is cut off.
   *
   * @param {Missing} gap
   * @returns {Missing[]}
   */
  gap({ epoch, from, to, reason }) {
    const { known, missing } = this.#enter(epoch, reason);
    if (to === null && known.ended) return missing;
    this.#reopen(known, from - 1);
    this.#fill(missing, epoch, from - 1, "unknown");
    if (to !== null) {
      this.#fill(missing, epoch, to, reason);
      return missing;
    }
    missing.push({ epoch, from: known.last + 1, to, reason });
    known.ended = this.#mayRewind = true;
    return missing;
  }

  /**
   * Make `epoch` the one that the server speaks of. If it was never seen, the others have ended, nobody knows where.
   *
   * @param {string} epoch
   * @param {string} reason
   */
  #enter(epoch, reason) {
    /** @type {Missing[]} */
    const missing = [];
    let known = this.#epochs.get(epoch);
    if (!known) {
      for (const [old, { last, ended }] of this.#epochs) {
        if (!ended) missing.push({ epoch: old, from: last + 1, to: null, reason });
      }
      for (const other of this.#epochs.values()) other.ended = true;
      known = { last: 0, ended: false };
      this.#epochs.set(epoch, known);
      if (this.#epochs.size > MOST_EPOCHS) this.#epochs.delete(firstKey(this.#epochs));
    }
    this.#stream = epoch;
    this.#mayRewind = false;
    return { known, missing };
  }

  /**
   * An epoch that was reported as ended lives: up to `offset` its open gap has told, from there we count again.
   *
   * @param {{last: number, ended: boolean}} known
   * @param {number} offset
   */
  #reopen(known, offset) {
    if (!known.ended) return;
    known.ended = false;
    known.last = Math.max(known.last, offset);
  }

  /**
   * @param {Missing[]} missing
   * @param {string} epoch
   * @param {number} to
   * @param {string} reason
   */
  #fill(missing, epoch, to, reason) {
    const known = /** @type {{last: number}} */ (this.#epochs.get(epoch));
    if (to <= known.last) return;
    missing.push({ epoch, from: known.last + 1, to, reason });
    known.last = to;
  }
}

/**
 * Know who is on one channel. No clock, no socket.
 *
 * A list that was asked for and the joins and leaves around it travel on different roads: what came since it was asked
 * for is applied again on top of it.
 */
export class Roster {
  /** @type {Map<string, Sender>} by client */
  #members = new Map();
  /** @type {[boolean, Sender][] | null} joins and leaves since a list was asked for */
  #since = null;
  #counted = { clients: 0, users: 0 };
  #complete = false;

  /** A list is asked for. */
  asked() {
    this.#since = [];
  }

  /** The list that was asked for. */
  listed(/** @type {Map<string, Sender>} */ members) {
    this.#members = members;
    this.#complete = true;
    for (const [joined, member] of this.#since ?? []) this.#apply(joined, member);
    this.#since = null;
  }

  /** Somebody came. */
  joined(/** @type {Sender} */ member) {
    this.#note(true, member);
  }

  /** Somebody went. */
  left(/** @type {Sender} */ member) {
    this.#note(false, member);
  }

  /**
   * So many are there.
   *
   * @param {{clients: number, users: number}} count
   * @param {boolean} same whether nobody came or went who was not told by name
   */
  counted(count, same) {
    this.#counted = count;
    if (!same) this.#complete = false;
  }

  /** The connection is gone: those who are known are perhaps not here any more. */
  lost() {
    this.#since = null;
    this.#complete = false;
  }

  /** How many are there, and whether `people` are all of them. */
  get presence() {
    const complete = this.#complete;
    const people = complete ? this.people : [];
    const { clients, users } = complete ? { clients: this.#members.size, users: distinct(people) } : this.#counted;
    return { clients, users, complete };
  }

  /** @returns {Person[]} as far as they are known; each user once, in the order in which they came */
  get people() {
    /** @type {Map<string, Person>} */
    const people = new Map();
    for (const [client, { user, info }] of this.#members) {
      const key = user === "" ? `client ${client}` : `user ${user}`;
      const known = people.get(key);
      if (known) known.clients.push(client);
      else people.set(key, { user, info, clients: [client] });
    }
    return [...people.values()];
  }

  /**
   * @param {boolean} joined
   * @param {Sender} member
   */
  #note(joined, member) {
    if (this.#since && this.#since.length < MOST_NEWS) this.#since.push([joined, member]);
    this.#apply(joined, member);
  }

  /**
   * @param {boolean} joined
   * @param {Sender} member
   */
  #apply(joined, member) {
    if (joined) this.#members.set(member.client, member);
    else this.#members.delete(member.client);
  }
}

/** How the server counts users: all that have no identity are one. */
function distinct(/** @type {Person[]} */ people) {
  return new Set(people.map(({ user }) => user)).size;
}

/**
 * One channel. Events: `publication`, `gap`, `subscribed` (detail: the position), `unsubscribed` (detail: code, reason)
 * and `error` (detail: a RealtimeError; the subscription has ended). With the option `presence` also `join` and `leave`
 * (detail: a Sender) and `presence` (detail: how many are there; `people` says who).
 */
export class Subscription extends EventTarget {
  #link;

  /**
   * Made by `Connection.subscribe`.
   *
   * @param {string} channel
   * @param {{feed: () => Feed, ask: (method: string) => Promise<any>, publish: (data: any) => Promise<void>,
   *   unsubscribe: () => void}} link
   */
  constructor(channel, link) {
    super();
    this.channel = channel;
    this.#link = link;
  }

  /** "subscribing" (again, after a break), "subscribed" or "unsubscribed" for good. */
  get state() {
    return this.#link.feed().state;
  }

  /** Everything up to here was received or reported as missing; null before the first reply. */
  get position() {
    return this.#link.feed().tracker.position;
  }

  /**
   * @param {any} data
   * @returns {Promise<void>} see `Connection.publish`
   */
  publish(data) {
    return this.#link.publish(data);
  }

  /** Who is there, as far as it is known; empty without the option `presence`. */
  get people() {
    return this.#link.feed().roster?.people ?? [];
  }

  /**
   * Ask once who is there, where the server tells it.
   *
   * @returns {Promise<Map<string, Sender>>} by client; rejects with a RealtimeError
   */
  async presence() {
    return asMembers(await this.#link.ask("presence"));
  }

  /** @returns {Promise<{clients: number, users: number}>} how many are there; rejects with a RealtimeError */
  async presenceStats() {
    return asHeadcount(await this.#link.ask("presence_stats"));
  }

  unsubscribe() {
    this.#link.unsubscribe();
  }
}

/**
 * One WebSocket, kept alive, and the subscriptions that share it. Events: `state` (detail: State), `subscription`
 * (detail: `{subscription}`, one that the server began by itself: of the user's own channel, say) and `message` (detail:
 * `{data}`, something for this page that is on no channel).
 */
export class Connection extends EventTarget {
  #options;
  #url;
  /** @type {WebSocket | null} null between two attempts */
  #socket = null;
  /** @type {Map<string, Feed>} */
  #feeds = new Map();
  /** @type {Command[]} not sent yet */
  #queue = [];
  /** @type {Map<number, Command>} sent, not answered */
  #unanswered = new Map();
  #lastId = 0;
  #calls = 0;
  #attempt = 0;
  #connectedAt = 0; // 0: the server has not accepted this attempt yet
  #heardAt = 0; // by the calendar, for people
  #heardTick = 0; // by the monotonic clock, for deadlines
  #silenceMs = 0;
  #pongs = true;
  /** @type {string | null} why the server is not live */
  #notLive = null;
  #client = "";
  #outageAt = 0;
  #measuring = false;
  /** @type {object | null} the attempt whose token is being fetched */
  #fetching = null;
  #refreshFailures = 0;
  #timers = new Timers();
  /** @type {Readonly<State>} */
  #state = Object.freeze({ state: "connecting", reason: "", retryInMs: null, latencyMs: null });

  /** @param {Options} [options] */
  constructor(options = {}) {
    super();
    // Whoever names a server himself shows it no token of the page's.
    const page = options.url === undefined ? pageOptions() : {};
    this.#options = { ...OPTIONS, WebSocket: globalThis.WebSocket, ...page, ...options };
    if (options.url === undefined) this.#options.url = page.url ?? OPTIONS.url;
    this.#url = socketUrl(this.#options.url);
    this.#open();
    globalThis.addEventListener?.("online", this.#onOnline);
    globalThis.addEventListener?.("offline", this.#onOffline);
    globalThis.document?.addEventListener("visibilitychange", this.#onVisible);
  }

  /** The newest state; each change is also a `state` event. */
  get state() {
    return this.#state;
  }

  /** The id by which others see this connection (`sender.client`); another one after each break, "" without one. */
  get client() {
    return this.#client;
  }

  /**
   * Listen on a channel; now, and again after every break, until `unsubscribe` or a refusal. A second call for a
   * channel returns the same subscription.
   *
   * @param {string} channel
   * @param {{getToken?: GetChannelToken, presence?: boolean}} [options] getToken is asked for a subscription token, before
   *   each subscribe and before the token expires; for channels that are closed otherwise. presence: know who is there
   * @returns {Subscription}
   */
  subscribe(channel, { getToken, presence = false } = {}) {
    const existing = this.#feeds.get(channel);
    if (existing) return existing.face;
    if (this.#state.state === "closed") throw new RealtimeError("closed", "the connection is closed");
    if (this.#feeds.size >= MOST_SUBSCRIPTIONS) {
      throw new RealtimeError("too-many", `at most ${MOST_SUBSCRIPTIONS} subscriptions`);
    }
    const feed = this.#newFeed(channel, getToken);
    if (presence) feed.roster = new Roster();
    this.#feeds.set(channel, feed);
    this.#ask(feed);
    return feed.face;
  }

  /**
   * Publish into a channel, where the server allows it. Before the connection is made the command waits for it; while
   * it is broken the promise rejects at once.
   *
   * @param {string} channel
   * @param {any} data anything JSON can say
   * @returns {Promise<void>} rejects with a RealtimeError; `outcome` "unknown": it may have been published
   */
  async publish(channel, data) {
    await this.#call(`"publish":{"channel":${JSON.stringify(channel)},"data":${jsonOf(data)}}`);
  }

  /**
   * Ask the server's own code something (`REALTIME_RPC`).
   *
   * @param {string} method
   * @param {any} [data] anything JSON can say
   * @returns {Promise<any>} its answer; rejects with a RealtimeError
   */
  async rpc(method, data = null) {
    return (await this.#call(`"rpc":{"method":${JSON.stringify(method)},"data":${jsonOf(data)}}`)).data;
  }

  /**
   * Send a command for somebody who waits for its answer.
   *
   * @param {string} body
   * @returns {Promise<any>} the result; rejects with a RealtimeError
   */
  async #call(body) {
    const bytes = utf8Length(body);
    if (bytes > COMMAND_BYTES) {
      throw new RealtimeError("too-large", `${bytes} bytes, the limit is ${COMMAND_BYTES}`);
    }
    if (!this.#socket && !this.#fetching) throw new RealtimeError("not-connected", "not connected", { temporary: true });
    if (this.#calls >= MOST_CALLS) {
      throw new RealtimeError("too-many", `${MOST_CALLS} calls wait already`, { temporary: true });
    }
    this.#calls += 1;
    try {
      return await this.#outcome(body);
    } finally {
      this.#calls -= 1;
    }
  }

  /** Make the next attempt now, if one is waiting: for a person who presses a button. */
  retryNow() {
    if (this.#timers.clear("retry")) this.#retry();
  }

  /** End for good: no timer, no listener and no socket is left behind. */
  close() {
    if (this.#state.state !== "closed") this.#end("closed-here", 1000);
  }

  // --- the socket ---------------------------------------------------------------------------------------------------

  #open() {
    this.#timers.set("connect", this.#options.answerMs, () => this.#lose("no-answer"));
    const { getToken } = this.#options;
    if (!getToken) return this.#dial("");
    const fetching = (this.#fetching = {});
    fetchToken(getToken).then(
      (token) => {
        if (this.#fetching === fetching) this.#dialSafely(token);
      },
      () => {
        if (this.#fetching === fetching) this.#lose("no-token");
      },
    );
  }

  #dialSafely(/** @type {string} */ token) {
    this.#fetching = null;
    try {
      this.#dial(token);
    } catch (error) {
      this.#lose(String(error));
    }
  }

  #dial(/** @type {string} */ token) {
    const socket = new this.#options.WebSocket(this.#url);
    this.#socket = socket;
    // What a socket says after we have left it is of no interest.
    const current = (/** @type {(event: any) => void} */ then) => (/** @type {any} */ event) => {
      if (this.#socket === socket) then(event);
    };
    socket.onopen = current(() => this.#greet(token));
    socket.onmessage = current((event) => this.#onFrame(event.data));
    socket.onclose = current((event) => this.#onClose(event.code, event.reason));
    socket.onerror = () => {}; // a close event follows and says more
  }

  /** Connect and all subscribes in one frame: one round trip until the first publication can come. */
  #greet(/** @type {string} */ token) {
    const shown = token ? `,"token":${JSON.stringify(token)}` : "";
    const waiting = this.#queue.splice(0);
    this.#send({
      body: `"connect":{"name":"client.js"${shown}}`,
      answered: (answer) => this.#onConnected(answer),
      lost: () => {},
      late: () => {}, // the timer "connect" runs since before the socket opened
    });
    for (const feed of this.#feeds.values()) if (!feed.served) this.#ask(feed);
    this.#queue.push(...waiting);
    this.#flush();
  }

  /** @param {Answer} answer */
  #onConnected({ result, error }) {
    if (error) {
      const again = isTemporary(error);
      return again ? this.#lose(error.message) : this.#end(error.message, 1000);
    }
    this.#timers.clear("connect");
    this.#connectedAt = performance.now();
    this.#client = asText(result?.client ?? "");
    this.#pongs = result?.pong !== false;
    const seconds = result?.ping > 0 ? result.ping : DEFAULT_PING_SECONDS;
    this.#silenceMs = seconds * 1000 + this.#options.pingGraceMs;
    this.#refreshAfter(result);
    this.#watchSilence();
    this.#showServerState();
    this.#measure();
  }

  // --- tokens that expire -------------------------------------------------------------------------------------------

  /** Show another token when this one expires; the server waits a little longer. */
  #refreshAfter(/** @type {{expires?: boolean, ttl?: number} | undefined} */ result) {
    this.#refreshFailures = 0;
    if (result?.expires) this.#timers.set("refresh", ttlMs(result), () => this.#refresh());
  }

  #refresh() {
    const socket = this.#socket;
    const { getToken } = this.#options;
    if (!getToken) return; // then the server will close with 3005, and the session says who it is
    fetchToken(getToken).then(
      (token) => {
        if (this.#socket === socket) this.#showToken(token);
      },
      () => {
        if (this.#socket === socket) this.#refreshLater();
      },
    );
  }

  #showToken(/** @type {string} */ token) {
    this.#send({
      body: `"refresh":{"token":${JSON.stringify(token)}}`,
      answered: ({ result, error }) => (error ? this.#refreshLater() : this.#refreshAfter(result)),
      lost: () => {},
      late: () => this.#lose("no-answer"),
    });
  }

  #refreshLater() {
    const { retryFirstMs, retryMostMs, random } = this.#options;
    const delay = backoffMs(this.#refreshFailures, retryFirstMs, retryMostMs, random());
    this.#refreshFailures += 1;
    this.#timers.set("refresh", delay, () => this.#refresh());
  }

  /**
   * @param {Feed} feed
   * @param {{expires?: boolean, ttl?: number} | undefined} result
   */
  #refreshFeedAfter(feed, result) {
    if (!result?.expires || !feed.getToken) return;
    this.#timers.set(`refresh ${feed.face.channel}`, ttlMs(result), () => {
      this.#withToken(feed, (token) => this.#showFeedToken(feed, token));
    });
  }

  /**
   * @param {Feed} feed
   * @param {string} token
   */
  #showFeedToken(feed, token) {
    if (feed.state !== "subscribed") return;
    const channel = JSON.stringify(feed.face.channel);
    this.#send({
      body: `"sub_refresh":{"channel":${channel},"token":${JSON.stringify(token)}}`,
      answered: ({ result }) => this.#refreshFeedAfter(feed, result), // refused: the server will end it, and we ask anew
      lost: () => {},
      late: () => this.#lose("no-answer"),
    });
  }

  /**
   * Fetch a token for a subscription; what comes when it is no longer wanted is dropped.
   *
   * @param {Feed} feed
   * @param {(token: string) => void} then
   * @param {() => void} [otherwise]
   */
  #withToken(feed, then, otherwise = () => {}) {
    const { getToken } = feed;
    if (!getToken) return then("");
    const fetching = (feed.fetching = {});
    const current = (/** @type {(token: string) => void} */ next) => (/** @type {string} */ token) => {
      if (feed.fetching !== fetching) return;
      feed.fetching = null;
      next(token);
    };
    fetchToken(() => getToken({ channel: feed.face.channel })).then(current(then), current(otherwise));
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #onClose(code, reason) {
    if (isTerminal(code)) this.#end(reason || `closed by the server (${code})`, code);
    else this.#lose(reason || "connection-lost");
  }

  /** Leave the socket, if there is one, and try again later. */
  #lose(/** @type {string} */ reason) {
    const lived = this.#connectedAt > 0 && performance.now() - this.#connectedAt >= STABLE_MS;
    this.#leave(4000, reason);
    if (lived) this.#attempt = 0;
    const { retryFirstMs, retryMostMs, random } = this.#options;
    const delay = backoffMs(this.#attempt, retryFirstMs, retryMostMs, random());
    this.#attempt += 1;
    this.#retryIn(delay, globalThis.navigator?.onLine === false ? "offline" : reason);
  }

  /**
   * @param {number} ms
   * @param {string} reason
   */
  #retryIn(ms, reason) {
    this.#timers.set("retry", ms, () => this.#retry());
    this.#become({ state: "reconnecting", reason, retryInMs: ms });
  }

  #retry() {
    this.#become({ state: "connecting", reason: this.#state.reason });
    try {
      this.#open();
    } catch (error) {
      // The first attempt throws to the caller of `connect`; a later one (a policy that changed?) must not escape.
      this.#lose(String(error));
    }
  }

  /**
   * Terminal: nothing is tried any more.
   *
   * @param {string} reason
   * @param {number} code
   */
  #end(reason, code) {
    globalThis.removeEventListener?.("online", this.#onOnline);
    globalThis.removeEventListener?.("offline", this.#onOffline);
    globalThis.document?.removeEventListener("visibilitychange", this.#onVisible);
    this.#become({ state: "closed", reason }); // first, so that nothing below starts anything again
    this.#leave(1000, "");
    for (const feed of [...this.#feeds.values()]) this.#drop(feed, { code, reason });
    this.#timers.clearAll();
  }

  /** Forget the socket and all that belonged to it. */
  #leave(/** @type {number} */ code, /** @type {string} */ reason) {
    const socket = this.#socket;
    this.#socket = null;
    this.#fetching = null;
    for (const feed of this.#feeds.values()) this.#interrupt(feed, this.#heardAt);
    const sent = [...this.#unanswered.values()];
    const unsent = this.#queue.splice(0);
    this.#unanswered.clear();
    this.#timers.clearAll();
    this.#connectedAt = 0;
    this.#notLive = null;
    this.#client = "";
    this.#measuring = false;
    for (const command of sent) command.lost(true);
    for (const command of unsent) command.lost(false);
    closeQuietly(socket, code, reason);
  }

  // --- commands -----------------------------------------------------------------------------------------------------

  /** Send a command with all others of this turn of the event loop. */
  #send(/** @type {Command} */ command) {
    this.#queue.push(command);
    if (this.#queue.length === 1) queueMicrotask(() => this.#flush());
  }

  #flush() {
    const socket = this.#socket;
    if (socket?.readyState !== 1 || this.#queue.length === 0) return;
    /** @type {string[]} */
    let frame = [];
    let size = 0;
    for (const command of this.#queue.splice(0)) {
      const text = this.#numbered(command);
      const bytes = utf8Length(text) + 1;
      if (size + bytes > FRAME_BYTES && frame.length > 0) {
        socket.send(frame.join("\n"));
        frame = [];
        size = 0;
      }
      frame.push(text);
      size += bytes;
    }
    socket.send(frame.join("\n"));
  }

  #numbered(/** @type {Command} */ command) {
    const id = ++this.#lastId;
    this.#unanswered.set(id, command);
    this.#timers.set(`answer ${id}`, this.#options.answerMs, () => {
      this.#unanswered.delete(id);
      command.late();
    });
    return `{"id":${id},${command.body}}`;
  }

  /** @returns {Promise<any>} what becomes of a command */
  #outcome(/** @type {string} */ body) {
    return new Promise((resolve, reject) => {
      const unknown = (/** @type {string} */ why) =>
        reject(new RealtimeError("unknown-outcome", `unknown outcome: ${why}`, { outcome: "unknown" }));
      this.#send({
        body,
        answered: ({ result, error }) => (error ? reject(refusal(error)) : resolve(result)),
        lost: (sent) => {
          if (sent) unknown("the connection broke before the answer");
          else reject(new RealtimeError("not-connected", "not connected", { temporary: true }));
        },
        late: () => unknown("no answer"),
      });
    });
  }

  // --- frames -------------------------------------------------------------------------------------------------------

  #onFrame(/** @type {unknown} */ frame) {
    const socket = this.#socket;
    this.#heardAt = Date.now();
    this.#heardTick = performance.now();
    try {
      if (typeof frame !== "string") throw new Malformed("a binary frame");
      for (const line of frame.split("\n")) {
        if (line !== "") this.#onMessage(asObject(JSON.parse(line)));
        if (this.#socket !== socket) return; // a message ended the connection, or a listener closed it
      }
    } catch (error) {
      // Foreign bytes: SyntaxError from the parser, Malformed from the checks. Nothing after them can be trusted.
      const why = error instanceof Error ? error.message : String(error);
      if (this.#socket === socket) this.#lose(`malformed-frame: ${why}`.slice(0, 120));
    }
  }

  #onMessage(/** @type {Record<string, any>} */ message) {
    if (message.push !== undefined) return this.#onPush(asObject(message.push));
    if (message.id !== undefined) return this.#onReply(asCount(message.id), message);
    // An empty object is the server's ping. It measures what is under way by our answer: at once, past the queue.
    if (Object.keys(message).length === 0 && this.#pongs) this.#socket?.send("{}");
  }

  /**
   * @param {number} id
   * @param {Record<string, any>} message
   */
  #onReply(id, message) {
    const command = this.#unanswered.get(id);
    if (!command) return; // too late, or never asked
    this.#unanswered.delete(id);
    this.#timers.clear(`answer ${id}`);
    if (message.error !== undefined) return command.answered({ error: asError(message.error) });
    const { id: _, ...rest } = message;
    command.answered({ result: Object.values(rest)[0] ?? {} });
  }

  #onPush(/** @type {Record<string, any>} */ push) {
    if (push.state !== undefined && push.channel === undefined) return this.#onState(asObject(push.state));
    if (push.disconnect !== undefined) return this.#onDisconnect(asObject(push.disconnect));
    if (push.message !== undefined) return tell(this, "message", { data: asObject(push.message).data });
    if (push.subscribe !== undefined) return this.#onServed(asText(push.channel), asObject(push.subscribe));
    const feed = this.#feeds.get(push.channel);
    if (feed?.state !== "subscribed") return; // on its way while we left
    if (push.pub !== undefined) this.#onPublication(feed, asObject(push.pub));
    else if (push.gap !== undefined) this.#onGap(feed, asObject(push.gap));
    else if (push.unsubscribe !== undefined) this.#onUnsubscribe(feed, asObject(push.unsubscribe));
    else if (push.join !== undefined) this.#onMember(feed, "join", asObject(push.join));
    else if (push.leave !== undefined) this.#onMember(feed, "leave", asObject(push.leave));
    else if (push.presence !== undefined) this.#onHeadcount(feed, asObject(push.presence));
    // Anything else is of a newer server than this client.
  }

  #onState(/** @type {Record<string, any>} */ { live, reason }) {
    if (typeof live !== "boolean") throw new Malformed("state without live");
    if (!live && this.#notLive === null) this.#outageAt = Date.now();
    this.#notLive = live ? null : asText(reason ?? "broker");
    if (this.#connectedAt === 0) return; // before the connect reply, which will show it
    this.#showServerState();
    if (!live) return;
    for (const feed of this.#feeds.values()) {
      if (this.#timers.clear(`subscribe ${feed.face.channel}`)) this.#ask(feed);
    }
  }

  #showServerState() {
    if (this.#notLive === null) this.#become({ state: "live", reason: "" });
    else this.#become({ state: "not-live", reason: this.#notLive });
  }

  #onDisconnect(/** @type {Record<string, any>} */ { code, reason, reconnect }) {
    const number = asCount(code);
    const words = asText(reason ?? "") || `disconnected (${number})`;
    const stays = reconnect === false || (reconnect !== true && isTerminal(number));
    return stays ? this.#end(words, number) : this.#lose(words);
  }

  // --- subscriptions ------------------------------------------------------------------------------------------------

  /**
   * @param {string} channel
   * @param {GetChannelToken | undefined} getToken
   * @returns {Feed}
   */
  #newFeed(channel, getToken) {
    /** @type {Feed} */
    const feed = {
      face: new Subscription(channel, {
        feed: () => feed,
        publish: (data) => this.publish(channel, data),
        ask: (method) => this.#call(`"${method}":{"channel":${JSON.stringify(channel)}}`),
        unsubscribe: () => this.#unsubscribe(feed),
      }),
      tracker: new PositionTracker(),
      getToken,
      served: false,
      fetching: null,
      state: "subscribing",
      roster: null,
      asked: null,
      failures: 0,
      completeAt: Date.now(),
    };
    return feed;
  }

  /** Ask the server for the channel, if there is a server; otherwise `#greet` will. */
  #ask(/** @type {Feed} */ feed) {
    if (this.#socket?.readyState !== 1) return;
    this.#withToken(
      feed,
      (token) => this.#askWith(feed, token),
      () => this.#askLater(feed),
    );
  }

  /**
   * @param {Feed} feed
   * @param {string} token
   */
  #askWith(feed, token) {
    const shown = (token ? `,"token":${JSON.stringify(token)}` : "") + (feed.roster ? `,"join_leave":true` : "");
    /** @type {Command} */
    const command = {
      body: `"subscribe":{"channel":${JSON.stringify(feed.face.channel)}${shown}}`,
      answered: (answer) => {
        if (feed.asked === command) this.#onSubscribed(feed, answer);
      },
      lost: () => {},
      late: () => {
        if (feed.asked === command) this.#lose("no-answer");
      },
    };
    feed.asked = command;
    this.#send(command);
  }

  /**
   * @param {Feed} feed
   * @param {Answer} answer
   */
  #onSubscribed(feed, { result, error }) {
    feed.asked = null;
    if (error) return this.#onRefused(feed, error);
    // Subscribed by the server before we asked: then the reply has no position, and nothing is new.
    if (feed.state !== "subscribed") this.#enter(feed, asPosition(result));
    this.#refreshFeedAfter(feed, result);
    this.#measure();
  }

  /**
   * The server began a subscription by itself: of the user's own channel, say.
   *
   * @param {string} channel
   * @param {Record<string, any>} result
   */
  #onServed(channel, result) {
    const position = asPosition(result);
    let feed = this.#feeds.get(channel);
    if (!feed) {
      feed = this.#newFeed(channel, undefined);
      feed.served = true;
      this.#feeds.set(channel, feed);
      tell(this, "subscription", { subscription: feed.face });
    }
    if (feed.state === "subscribing") this.#enter(feed, position);
  }

  /**
   * @param {Feed} feed
   * @param {Position | null} position
   */
  #enter(feed, position) {
    const missing = position ? feed.tracker.subscribed(position) : [];
    feed.failures = 0;
    feed.state = "subscribed";
    tell(feed.face, "subscribed", { channel: feed.face.channel, ...position });
    this.#report(feed, missing);
    feed.completeAt = Date.now();
    this.#askWho(feed);
  }

  // --- who is there -------------------------------------------------------------------------------------------------

  #askWho(/** @type {Feed} */ feed) {
    const { roster } = feed;
    if (!roster || feed.state !== "subscribed") return;
    roster.asked();
    const channel = JSON.stringify(feed.face.channel);
    this.#send({
      body: `"presence":{"channel":${channel}}`,
      answered: ({ result, error }) => {
        if (feed.state !== "subscribed" || feed.roster !== roster) return;
        if (error) return this.#onWhoRefused(feed, error);
        roster.listed(asMembers(result));
        this.#tellWho(feed);
      },
      lost: () => {},
      late: () => this.#lose("no-answer"),
    });
  }

  /**
   * @param {Feed} feed
   * @param {{code: number, temporary: boolean}} error
   */
  #onWhoRefused(feed, error) {
    if (isTemporary(error)) return this.#askWhoLater(feed, this.#options.refetchWindowMs);
    if (error.code !== TOO_MANY) return; // nobody is told who is there; joins and leaves come, perhaps
    const counted = (/** @type {{clients: number, users: number}} */ count) => {
      feed.roster?.counted(count, false);
      this.#tellWho(feed);
    };
    feed.face.presenceStats().then(counted, () => {});
  }

  /**
   * @param {Feed} feed
   * @param {number} windowMs others ask as well: at a random moment within it
   */
  #askWhoLater(feed, windowMs) {
    const delay = Math.floor(this.#options.random() * windowMs);
    this.#timers.set(`who ${feed.face.channel}`, delay, () => this.#askWho(feed));
  }

  #tellWho(/** @type {Feed} */ feed) {
    if (feed.roster) tell(feed.face, "presence", { channel: feed.face.channel, ...feed.roster.presence });
  }

  /**
   * @param {Feed} feed
   * @param {"join" | "leave"} what
   * @param {Record<string, any>} push
   */
  #onMember(feed, what, push) {
    const member = asSender(push.info);
    if (what === "join") feed.roster?.joined(member);
    else feed.roster?.left(member);
    tell(feed.face, what, member);
    this.#tellWho(feed);
  }

  /**
   * @param {Feed} feed
   * @param {Record<string, any>} push
   */
  #onHeadcount(feed, push) {
    const count = asHeadcount(push);
    const same = push.untold === 0;
    feed.roster?.counted(count, same);
    this.#tellWho(feed);
    if (same || count.clients > MOST_NAMED) return;
    this.#askWhoLater(feed, Math.min(this.#options.refetchWindowMs, 1_000 + 20 * count.clients));
  }

  /**
   * @param {Feed} feed
   * @param {{code: number, message: string, temporary: boolean}} error
   */
  #onRefused(feed, error) {
    if (isTemporary(error)) return this.#askLater(feed);
    this.#forget(feed);
    tell(feed.face, "error", refusal(error));
  }

  #askLater(/** @type {Feed} */ feed) {
    const { retryFirstMs, retryMostMs, random } = this.#options;
    const delay = backoffMs(feed.failures, retryFirstMs, retryMostMs, random());
    feed.failures += 1;
    this.#timers.set(`subscribe ${feed.face.channel}`, delay, () => this.#ask(feed));
  }

  /**
   * @param {Feed} feed
   * @param {Record<string, any>} pub
   */
  #onPublication(feed, pub) {
    const offset = pub.offset === undefined ? 0 : asCount(pub.offset);
    const epoch = pub.epoch === undefined ? undefined : asText(pub.epoch);
    const tags = pub.tags === undefined ? {} : asObject(pub.tags);
    // Without an offset (a server that keeps no position) there is nothing to compare.
    const seen = offset > 0 ? feed.tracker.publication({ offset, epoch }) : { fresh: true, missing: [] };
    this.#report(feed, seen.missing);
    if (!seen.fresh || feed.state !== "subscribed") return; // a listener of the gap may have had enough
    feed.completeAt = Date.now();
    tell(feed.face, "publication", {
      channel: feed.face.channel,
      data: pub.data,
      event: typeof tags.event === "string" ? tags.event : null,
      tags,
      sender: pub.info === undefined ? null : asSender(pub.info),
      offset: offset > 0 ? offset : null,
      epoch: offset > 0 ? (feed.tracker.position?.epoch ?? null) : null,
    });
  }

  /**
   * @param {Feed} feed
   * @param {Record<string, any>} gap
   */
  #onGap(feed, gap) {
    const from = asCount(gap.from);
    const to = gap.to === null ? null : asCount(gap.to);
    const reason = asText(gap.reason ?? "unknown");
    this.#report(feed, feed.tracker.gap({ epoch: asText(gap.epoch), from, to, reason }));
    feed.completeAt = Date.now();
  }

  /**
   * @param {Feed} feed
   * @param {Missing[]} missing
   */
  #report(feed, missing) {
    for (const { epoch, from, to, reason } of missing) {
      const since = reason === "reconnect" ? feed.completeAt : Math.max(feed.completeAt, this.#outageAt);
      tell(feed.face, "gap", {
        channel: feed.face.channel,
        epoch,
        from,
        to,
        missed: to === null ? null : to - from + 1,
        reason,
        since: new Date(since),
        until: new Date(),
        refetchAfterMs: Math.floor(this.#options.random() * this.#options.refetchWindowMs),
      });
    }
  }

  /**
   * @param {Feed} feed
   * @param {Record<string, any>} push
   */
  #onUnsubscribe(feed, { code, reason }) {
    const number = asCount(code);
    if (number < 2500) return this.#drop(feed, { code: number, reason: asText(reason ?? "") });
    this.#interrupt(feed, Date.now());
    if (!feed.served) this.#askLater(feed);
  }

  /**
   * The subscription is broken for now; up to `completeAt` nothing was missed.
   *
   * @param {Feed} feed
   * @param {number} completeAt
   */
  #interrupt(feed, completeAt) {
    if (feed.state === "subscribed") feed.completeAt = completeAt;
    feed.state = "subscribing";
    feed.asked = feed.fetching = null;
    feed.roster?.lost();
    this.#timers.clear(`refresh ${feed.face.channel}`);
    this.#timers.clear(`who ${feed.face.channel}`);
  }

  #unsubscribe(/** @type {Feed} */ feed) {
    if (feed.state === "unsubscribed") return;
    const known = feed.state === "subscribed" || feed.asked !== null;
    this.#drop(feed, { code: 0, reason: "unsubscribed-here" });
    if (!known) return;
    const nothing = () => {};
    const body = `"unsubscribe":{"channel":${JSON.stringify(feed.face.channel)}}`;
    this.#send({ body, answered: nothing, lost: nothing, late: nothing });
  }

  /**
   * @param {Feed} feed
   * @param {{code: number, reason: string}} why
   */
  #drop(feed, why) {
    this.#forget(feed);
    tell(feed.face, "unsubscribed", { channel: feed.face.channel, ...why });
  }

  #forget(/** @type {Feed} */ feed) {
    this.#feeds.delete(feed.face.channel);
    this.#timers.clear(`subscribe ${feed.face.channel}`);
    this.#timers.clear(`refresh ${feed.face.channel}`);
    this.#timers.clear(`who ${feed.face.channel}`);
    feed.state = "unsubscribed";
    feed.asked = feed.fetching = null;
  }

  // --- is anybody there? --------------------------------------------------------------------------------------------

  /** Look again when the silence would be too long; every frame pushes that moment back. */
  #watchSilence() {
    const due = this.#heardTick + this.#silenceMs;
    this.#timers.set("silence", due - performance.now(), () => {
      const now = performance.now();
      if (this.#heardTick + this.#silenceMs > now) this.#watchSilence();
      else if (now - due > PROBE_MS) this.#probe(); // this page was frozen; what came meanwhile is still unread
      else this.#lose("server-silent");
    });
  }

  /** Something changed (network, sleep): the server must say something soon. */
  #probe() {
    if (this.#connectedAt === 0) return;
    this.#measure();
    const asked = performance.now();
    this.#timers.set("silence", PROBE_MS, () => {
      if (this.#heardTick >= asked) this.#watchSilence();
      else this.#lose("server-silent");
    });
  }

  /** Measure the round trip, now and every `latencyEveryMs` while somebody may be looking. */
  #measure() {
    if (this.#connectedAt === 0 || this.#measuring) return;
    // Replies come in the order of the commands: behind a waiting subscribe we would measure its wait.
    if ([...this.#feeds.values()].some((feed) => feed.asked !== null)) return;
    // The first measurement is of a page that is still loading; the next one follows soon.
    const wait = this.#state.latencyMs === null ? FIRST_LATENCY_MS : this.#options.latencyEveryMs;
    this.#timers.set("latency", Math.min(wait, this.#options.latencyEveryMs), () => this.#measure());
    if (globalThis.document?.visibilityState === "hidden") return;
    this.#measuring = true;
    const asked = performance.now();
    const done = () => {
      this.#measuring = false;
    };
    this.#send({
      body: '"ping":{}',
      answered: () => {
        done();
        const { state, reason } = this.#state;
        this.#become({ state, reason, latencyMs: Math.round((performance.now() - asked) * 10) / 10 });
      },
      lost: done,
      late: done,
    });
  }

  #onOnline = () => {
    if (this.#timers.has("retry")) {
      // A whole office comes back at the same moment.
      this.#retryIn(Math.floor(this.#options.random() * this.#options.retryFirstMs), "online");
    } else this.#probe();
  };

  // Browsers guess: a server on this machine, or beyond another interface, may still be there. So ask it.
  #onOffline = () => this.#probe();

  #onVisible = () => {
    if (globalThis.document.visibilityState === "visible") this.#probe();
  };

  /** @param {{state: StateName, reason: string, retryInMs?: number, latencyMs?: number}} change */
  #become({ state, reason, retryInMs, latencyMs }) {
    const old = this.#state;
    if (old.state === "closed") return;
    const next = { state, reason, retryInMs: retryInMs ?? null, latencyMs: latencyMs ?? old.latencyMs };
    this.#state = Object.freeze(/** @type {State} */ (next));
    tell(this, "state", this.#state);
  }
}

/**
 * Open a connection. It keeps itself alive until `close()` or until the server says not to come back.
 *
 * @param {Options} [options]
 * @returns {Connection}
 */
export function connect(options) {
  return new Connection(options);
}

/**
 * What the template tag `{% realtime %}` wrote into this page.
 *
 * @returns {{url?: string, getToken?: () => Promise<string>}}
 */
function pageOptions() {
  // Only a script can say it: markup that somebody smuggled into the page is not asked where tokens go.
  const element = globalThis.document?.querySelector('script#realtime-config[type="application/json"]');
  if (!element) return {};
  const { url, tokenUrl } = asObject(JSON.parse(element.textContent ?? ""));
  return tokenUrl ? { url, getToken: () => pageToken(tokenUrl) } : { url };
}

/** @returns {Promise<string>} a token for the user of this page; "" when nobody is logged in any more */
async function pageToken(/** @type {string} */ tokenUrl) {
  const answer = await fetch(tokenUrl, { headers: { Accept: "application/json" }, mode: "same-origin", cache: "no-store" });
  if (answer.status === 403) return "";
  if (!answer.ok) throw new Error(`no token: status ${answer.status}`);
  return (await answer.json()).token;
}

/** Timers by name, so that none is started twice and none is left behind. */
class Timers {
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #running = new Map();

  has(/** @type {string} */ name) {
    return this.#running.has(name);
  }

  /**
   * @param {string} name
   * @param {number} ms
   * @param {() => void} then
   */
  set(name, ms, then) {
    this.clear(name);
    const fire = () => {
      this.#running.delete(name);
      then();
    };
    this.#running.set(name, setTimeout(fire, ms));
  }

  /** @returns {boolean} whether it was running */
  clear(/** @type {string} */ name) {
    clearTimeout(this.#running.get(name));
    return this.#running.delete(name);
  }

  clearAll() {
    for (const name of [...this.#running.keys()]) this.clear(name);
  }
}

/** A frame says something that no server of this protocol says. */
class Malformed extends Error {}

/** @returns {Record<string, any>} */
function asObject(/** @type {unknown} */ value) {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new Malformed("not an object");
}

/** @returns {number} */
function asCount(/** @type {unknown} */ value) {
  if (Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0) return /** @type {number} */ (value);
  throw new Malformed("not a count");
}

/** @returns {string} */
function asText(/** @type {unknown} */ value) {
  if (typeof value === "string") return value;
  throw new Malformed("not a text");
}

/** @returns {Position | null} null from a server that keeps no positions */
function asPosition(/** @type {unknown} */ result) {
  const { positioned, epoch, offset } = asObject(result);
  return positioned ? { epoch: asText(epoch), offset: asCount(offset ?? 0) } : null;
}

/** @returns {Map<string, Sender>} */
function asMembers(/** @type {unknown} */ value) {
  const listed = Object.entries(asObject(asObject(value).presence));
  return new Map(listed.map(([client, info]) => [client, asSender(info)]));
}

function asHeadcount(/** @type {unknown} */ value) {
  const { num_clients, num_users } = asObject(value);
  return { clients: asCount(num_clients ?? 0), users: asCount(num_users ?? 0) };
}

/** @returns {Sender} */
function asSender(/** @type {unknown} */ value) {
  const { user, client, conn_info, chan_info } = asObject(value);
  const info = conn_info ?? null;
  return { user: asText(user ?? ""), client: asText(client ?? ""), info, channelInfo: chan_info ?? null };
}

function asError(/** @type {unknown} */ value) {
  const { code, message, temporary } = asObject(value);
  return { code: asCount(code), message: asText(message ?? ""), temporary: temporary === true };
}

/** @returns {Promise<string>} */
async function fetchToken(/** @type {() => string | Promise<string>} */ getToken) {
  return asText(await getToken());
}

/** @returns {number} */
function ttlMs(/** @type {{ttl?: number}} */ { ttl }) {
  return Math.min(asCount(ttl ?? 0) * 1000, LONGEST_TIMER_MS);
}

/** The rule of the stock SDKs: worth another try. */
function isTemporary(/** @type {{code: number, temporary: boolean}} */ { code, temporary }) {
  return temporary || code < 100 || code === 109;
}

function refusal(/** @type {{code: number, message: string, temporary: boolean}} */ { code, message, temporary }) {
  // 1002: the broker did not answer. 100, from another server of this protocol, is "internal" and says as little.
  return new RealtimeError(code, message, { temporary, outcome: [100, 1002].includes(code) ? "unknown" : "not-done" });
}

/**
 * @param {EventTarget} target
 * @param {string} type
 * @param {object} detail
 */
function tell(target, type, detail) {
  target.dispatchEvent(new CustomEvent(type, { detail }));
}

/** @returns {string} */
function socketUrl(/** @type {string} */ url) {
  const absolute = new URL(url, globalThis.location?.href);
  absolute.protocol = absolute.protocol.replace("http", "ws");
  return absolute.href;
}

/**
 * @param {WebSocket | null} socket
 * @param {number} code
 * @param {string} reason
 */
function closeQuietly(socket, code, reason) {
  // At most 123 bytes of reason (RFC 6455 §5.5); ours are short, the server's words may not be ASCII.
  socket?.close(code, reason.replace(/[^ -~]/g, "?").slice(0, 120));
}

/** @returns {string} */
function jsonOf(/** @type {any} */ data) {
  const json = JSON.stringify(data);
  if (json === undefined) throw new TypeError("data is not JSON");
  return json;
}

const encoder = new TextEncoder();

function utf8Length(/** @type {string} */ text) {
  return encoder.encode(text).length;
}

/**
 * @template K
 * @param {Map<K, unknown>} map
 * @returns {K}
 */
function firstKey(map) {
  return /** @type {K} */ (map.keys().next().value);
}
