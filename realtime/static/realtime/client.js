/**
 * Browser client of the notifier: subscriptions over one WebSocket, with exact reports of what was missed.
 *
 *     const live = connect(); // exported by this module
 *     const news = live.subscribe("public:news");
 *     news.addEventListener("publication", (e) => console.log(e.detail.data));
 *     news.addEventListener("gap", (e) => console.log("missed", e.detail.missed));
 *
 * One ES module without dependencies or a build step. It speaks Centrifugo's JSON protocol (centrifugal.dev,
 * client_protocol) and our pushes `gap`, `state` and `presence` (docs/protocol.md). It never changes the page, and
 * nothing that the server sends can make it throw: a malformed frame closes the connection, and the client reconnects.
 * Usage: docs/client.md. The types in client.d.ts are generated from the comments of this file (`make types`). No
 * comment may look like a statement that loads a module: Django's storages for static files would rewrite it.
 *
 * | class | responsibility |
 * |---|---|
 * | `Connection` | the public API; routes pushes to feeds and announces the state |
 * | `Feed` | one subscription: its state, position, gaps and token; pages see it as a `Subscription` |
 * | `Filling` | has fill.js put what the site has kept in the place of a gap |
 * | `RosterSync` | keeps the members of one channel up to date |
 * | `Link` | the socket: dialling, back-off, the connect command and the connection token |
 * | `Heartbeat` | detects a silent server and measures the round trip |
 * | `WakeUps` | tells the other tabs of this browser that the server is back |
 * | `Calls` | commands: numbering, frames, time-outs and outcomes |
 * | `PositionTracker`, `Roster` | rules without a clock or a socket |
 *
 * @module
 */

/**
 * @typedef {"connecting" | "live" | "not-live" | "reconnecting" | "closed"} StateName
 */

/**
 * The state of a connection.
 *
 * @typedef {object} State
 * @property {StateName} state
 * @property {string} reason why, as a slug or in the server's words; "" while nothing is wrong
 * @property {number | null} retryInMs milliseconds until the next attempt; only while "reconnecting"
 * @property {number | null} latencyMs round trip of the latest ping; null before the first
 */

/**
 * How far a channel has counted.
 *
 * @typedef {object} Position
 * @property {string} epoch identifies one life of the channel's counter
 * @property {number} offset number of publications counted in this epoch
 */

/**
 * A range of publications that did not arrive.
 *
 * @typedef {object} Missing
 * @property {string} epoch
 * @property {number} from the first missing offset
 * @property {number | null} to the last missing offset; null if it cannot be known
 * @property {string} reason from the server: "slow", "broker", …; found by this client: "reconnect", "unknown"
 */

/**
 * The `detail` of a `publication` event.
 *
 * @typedef {object} Publication
 * @property {string} channel
 * @property {any} data
 * @property {string | null} event the event's name, if the publisher gave one
 * @property {Readonly<Record<string, string>>} tags
 * @property {Sender | null} sender the client that published it; null if your server did
 * @property {number | null} offset
 * @property {string | null} epoch
 * @property {boolean} filled whether it was missed (`SubscribeOptions.fill`)
 */

/**
 * A connection as the server describes it to others. Clients cannot forge it.
 *
 * @typedef {object} Sender
 * @property {string} user the user's id; "" if anonymous
 * @property {string} client the id of the connection
 * @property {any} info what the site discloses about the user, such as a name; null if nothing
 * @property {any} channelInfo what the site discloses about the user on this channel; null if nothing
 */

/**
 * A member of a channel: one user with all of their connections, or one anonymous connection.
 *
 * @typedef {object} Person
 * @property {string} user the user's id; "" if anonymous
 * @property {any} info what the site discloses about the user; null if nothing
 * @property {string[]} clients the ids of their connections, one per tab
 */

/**
 * How many members a channel has.
 *
 * @typedef {object} Headcount
 * @property {number} clients connections
 * @property {number} users different users; all anonymous connections count as one
 */

/**
 * The `detail` of a `gap` event.
 *
 * @typedef {object} Gap
 * @property {string} channel
 * @property {string} epoch
 * @property {number} from the first missing offset
 * @property {number | null} to the last missing offset; null if it cannot be known
 * @property {number | null} missed how many publications; null if some may be missing and the number is unknown
 * @property {string} reason see `Missing`
 * @property {Date} since the channel is known to be complete up to this time
 * @property {Date} until the channel is complete again from this time on
 * @property {number} refetchAfterMs wait this long before you fetch what was missed: other browsers missed it too; 0 for
 *   what was published while the page loaded
 */

/**
 * The events of a `Subscription` and their details.
 *
 * @typedef {object} SubscriptionEvents
 * @property {Publication} publication
 * @property {Gap} gap
 * @property {{channel: string, epoch?: string, offset?: number}} subscribed without a position if the server keeps none
 * @property {{channel: string, code: number, reason: string}} unsubscribed it has ended; code 0: by this client
 * @property {RealtimeError} error the server refused the subscription, which has ended
 * @property {Sender} join
 * @property {Sender} leave
 * @property {{channel: string, complete: boolean} & Headcount} presence complete: `people` lists all members
 */

/**
 * The `detail` of a `frame` event: one message of the WebSocket.
 *
 * @typedef {object} Frame
 * @property {"in" | "out"} direction
 * @property {string} text one or more JSON objects, each on a line of its own; may contain tokens
 * @property {Date} time
 */

/**
 * The events of a `Connection` and their details.
 *
 * @typedef {object} ConnectionEvents
 * @property {Readonly<State>} state
 * @property {{subscription: Subscription}} subscription the server started one, such as of the user's own channel
 * @property {{data: any}} message a message to this client that is not on any channel
 * @property {{subscription: Subscription, error: RealtimeError}} error the server refused a subscription, which has
 *   ended; follows the `error` of the subscription
 * @property {Readonly<Frame>} frame one was sent or received; only from the first listener on
 */

/**
 * An EventTarget whose events are CustomEvents with known details.
 *
 * @template Details
 * @typedef {{
 *   addEventListener<Name extends keyof Details & string>(
 *     type: Name,
 *     listener: ((event: CustomEvent<Details[Name]>) => void) | null,
 *     options?: AddEventListenerOptions | boolean,
 *   ): void,
 *   removeEventListener<Name extends keyof Details & string>(
 *     type: Name,
 *     listener: ((event: CustomEvent<Details[Name]>) => void) | null,
 *     options?: EventListenerOptions | boolean,
 *   ): void,
 * } & EventTarget} Emitter
 */

/**
 * The part of the WebSocket API that the client uses.
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

/**
 * @typedef {object} Options
 * @property {() => string | Promise<string>} [getToken] returns a connection token; called before each connection and
 *   before the token expires; "" is anonymous. Pages of the service itself use the session instead, and pages with the
 *   template tag `{% realtime %}` get tokens from the tag's address
 * @property {string} [url] relative, http(s) or ws(s); default: what the template tag `{% realtime %}` wrote into the
 *   page, otherwise "/connection/websocket" on this origin
 * @property {boolean | string} [shared] share one WebSocket with the other tabs of this session. True: the template tag
 *   says which session it is, as `{% realtime shared=True %}`, or the user of the token does. A text: it identifies the
 *   session, so it differs as soon as someone else has logged in. Default: true if the tag says which session it is
 * @property {new (url: string) => Socket} [WebSocket] the constructor, for platforms without one
 * @property {() => number} [random] 0 ≤ x < 1, for jitter
 * @property {number} [retryFirstMs] reconnect attempt n waits random(0, min(retryMostMs, retryFirstMs · 2ⁿ))
 * @property {number} [retryMostMs]
 * @property {number} [pingGraceMs] how much longer than its ping interval the server may be silent before it counts as
 *   dead
 * @property {number} [answerMs] how long a command may remain unanswered
 * @property {number} [latencyEveryMs] interval of latency measurements while the page is visible
 * @property {number} [refetchWindowMs] `refetchAfterMs` is drawn from 0 to this
 * @property {Readonly<Record<string, Position | null>>} [positions] what channels had counted when the page's data was
 *   read: the first subscription to each of them begins there, as with its option `since`. Default: what the template
 *   tag wrote into the page
 */

/**
 * Returns a subscription token for one channel.
 *
 * @typedef {(request: {channel: string}) => string | Promise<string>} GetChannelToken
 */

/**
 * @typedef {{channel: string, epoch: string, from: number, to: number | null, waiting: number | null, age: number, signal: AbortSignal}}
 *   FillRequest
 */

/**
 * See docs/howto/outbox.md.
 *
 * @typedef {{
 *   publications: {offset: number, data: any, tags?: Record<string, string>}[],
 *   more?: boolean, complete?: boolean, waiting?: number | null,
 * }} FillAnswer
 */

/**
 * @typedef {object} SubscribeOptions
 * @property {GetChannelToken} [getToken] for channels that need a subscription token; called before each subscribe and
 *   before the token expires
 * @property {boolean} [presence] keep track of the channel's members
 * @property {Position | null} [since] what the channel had counted when the page's data was read. What was published
 *   after it and before the subscription is reported as a gap. Null: the position could not be read, so some
 *   publications may be missing, which is reported as well. Undefined: the position from `Options.positions`, if any
 * @property {string | ((request: FillRequest) => Promise<FillAnswer>)} [fill] where to ask for what was missed: the
 *   address of a view of the site (docs/howto/outbox.md), or a function. Only what it lacks is reported as a gap
 */

/**
 * A subscription of a part of the page, from `Connection.hold`.
 *
 * @typedef {object} Hold
 * @property {Subscription} subscription
 * @property {() => void} release ends it for this part
 */

const OPTIONS = {
  url: "/connection/websocket",
  random: Math.random,
  retryFirstMs: 500, // centrifuge-js also uses 500 ms and 20 s
  retryMostMs: 20_000,
  pingGraceMs: 10_000, // centrifuge-js: 10 s
  answerMs: 10_000, // the server's own deadlines are 1 s (publish) and 2 s (subscribe)
  latencyEveryMs: 10_000,
  refetchWindowMs: 10_000, // spreads 10,000 browsers to 1,000 fetches per second
};

const OPEN = 1; // WebSocket.OPEN
const LONGEST_TIMER_MS = 2 ** 31 - 1; // setTimeout fires at once for longer delays
const DEFAULT_PING_SECONDS = 25; // Centrifugo's default; our server names its interval in the connect reply
const STABLE_MS = 5_000; // a connection that lasted this long resets the back-off
const WAKE_UP_MS = 20_000; // how often another tab may wake this one, at most
const PROBE_MS = 5_000; // time for the server to send something after the page woke up or the network changed
const FIRST_LATENCY_MS = 1_000;
const FRAME_BYTES = 65_536; // commands joined into one frame; the server refuses frames over 80 KiB
const COMMAND_BYTES = 80_000; // a single command; refused here because the server would close the connection (1009)
const MOST_SUBSCRIPTIONS = 10_000;
const MOST_CALLS = 256; // unanswered publishes and requests
const TOO_MANY = 106; // error code of a presence request for a channel with too many members to list
const FEW_MEMBERS = 100; // the list of a channel with more members is requested again at a random moment
const MOST_NAMED = 1_000; // the member list of a larger channel is not requested again after bursts of joins and leaves
const MOST_NEWS = 10_000; // joins and leaves buffered while the client waits for a member list
const REFUSALS_PAGE = "docs/client.md#a-subscription-that-is-refused";
const NOT_LIVE_PAGE = "docs/client.md#a-page-that-does-not-become-live";
const MOST_HELD = 1_000; // events that wait while the module that fills gaps is loaded
const REACHED_MS = 10_000;
const MOST_WAITING = 1_000; // calls of `reached` that wait, per channel
const HANDED_OVER = "handed-over"; // why shared.js has closed a socket
const MOST_EPOCHS = 8; // epochs remembered per channel; a new one starts when Redis restarts

/**
 * The server refused a request, or its outcome is unknown.
 */
export class RealtimeError extends Error {
  /**
   * @param {number | string} code the server's number, or one of our slugs: "not-connected", "unknown-outcome",
   *   "too-large", "too-many", "closed"
   * @param {string} message
   * @param {{temporary?: boolean, outcome?: "not-done" | "unknown"}} [facts] temporary: the same request may succeed
   *   later; outcome: whether it may have happened despite the error
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
 * Write to the console that the server refused a subscription, as the client does if nobody listens for `error`.
 *
 * @param {string} channel
 * @param {RealtimeError} error
 */
export function warnOfRefusal(channel, error) {
  console.warn(
    `realtime: the subscription to ${JSON.stringify(channel)} was refused (${error.code} ${error.message}), so nothing ` +
      `is received on it. The server's log has the reason: see ${REFUSALS_PAGE} of django-realtime-notifier.`,
  );
}

/**
 * Write to the console that a connection did not become live. Browsers do not tell scripts why a handshake failed.
 *
 * @param {StateName} state
 * @param {string} reason
 */
function warnOfSilence(state, reason) {
  console.warn(
    `realtime: this page has not become live (${state}${reason && `: ${reason}`}). Does the server take WebSockets at ` +
      `this address, and does it reach Redis? See ${NOT_LIVE_PAGE} of django-realtime-notifier.`,
  );
}

/**
 * Tell whether a line of a frame says if the node is live.
 *
 * @param {string} line
 * @returns {boolean}
 */
function isState(line) {
  return line.startsWith('{"push":{"state":');
}

/**
 * Tell whether a close code forbids reconnecting (Centrifugo's ranges; 1009 means that a frame was too big).
 *
 * @param {number} code
 * @returns {boolean}
 */
export function isTerminal(code) {
  return code === 1009 || (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);
}

/**
 * Full jitter: a random delay below a limit that doubles (AWS, "Exponential Backoff And Jitter", 2015).
 *
 * @param {number} attempt 0, 1, 2 …
 * @param {number} firstMs
 * @param {number} mostMs
 * @param {number} random 0 ≤ x < 1
 * @returns {number}
 */
export function backoffMs(attempt, firstMs, mostMs, random) {
  return Math.floor(random * Math.min(mostMs, firstMs * 2 ** Math.min(attempt, 30)));
}

/**
 * Tracks which publications of one channel arrived and which are missing. No clock, no socket.
 *
 * Law: each publication after the first position is either received or in a gap, never in both, in order. The one
 * exception is an epoch that was reported as ended and turns out to be alive, because two nodes disagreed for a moment:
 * its gap had no end ("some may be missing"), and publications that still arrive in it are received.
 */
export class PositionTracker {
  /** @type {Map<string, {last: number, ended: boolean}>} every offset up to `last` was received or reported */
  #epochs = new Map();
  /** @type {string | null} the server's current epoch; its publications do not repeat it */
  #stream = null;
  #mayRewind = false;

  /** @param {Position | null} [since] the first position, if it is known before the first subscribe */
  constructor(since = null) {
    if (since === null) return;
    this.#epochs.set(since.epoch, { last: since.offset, ended: false });
    this.#stream = since.epoch;
  }

  /**
   * The newest position; null before the first one.
   *
   * @returns {Position | null}
   */
  get position() {
    const known = this.#stream === null ? undefined : this.#epochs.get(this.#stream);
    return known ? { epoch: /** @type {string} */ (this.#stream), offset: known.last } : null;
  }

  /**
   * Tell whether the publication at a position was received or reported as missing.
   *
   * @param {Position} position
   */
  covers({ epoch, offset }) {
    const known = this.#epochs.get(epoch);
    return known !== undefined && (known.ended || offset <= known.last);
  }

  /**
   * Process the position in a subscribe reply: publications after it arrive live.
   *
   * @param {Position} position
   * @returns {Missing[]}
   */
  subscribed({ epoch, offset }) {
    const first = this.#epochs.size === 0;
    const { known, missing } = this.#enter(epoch, "reconnect");
    if (first) known.last = offset;
    this.#reopen(known, offset);
    // An offset below `known.last` means that this node lags behind the previous one. Never report a gap backwards.
    this.#fill(missing, epoch, offset, "reconnect");
    return missing;
  }

  /**
   * Process a publication. It is `fresh` unless it was received or reported before; `missing` precedes it.
   *
   * @param {{offset: number, epoch?: string}} publication epoch only if it differs from that of the one before
   * @returns {{fresh: boolean, missing: Missing[]}}
   */
  publication({ offset, epoch }) {
    const named = epoch ?? this.#stream;
    if (named === null) return { fresh: true, missing: [] };
    const rewinds = this.#mayRewind && named === this.#stream;
    const { known, missing } = this.#enter(named, "unknown");
    // The server announced an open gap and continues in the same epoch: its counter went back.
    if (rewinds) known.last = Math.min(known.last, offset - 1);
    this.#reopen(known, offset - 1);
    if (offset <= known.last) return { fresh: false, missing };
    this.#fill(missing, named, offset - 1, "unknown");
    known.last = offset;
    return { fresh: true, missing };
  }

  /**
   * Process a gap that the server announces, without the part that is already known.
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
   * Make `epoch` the current one. A new epoch ends all others, at an unknown offset.
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
   * Resume counting in an epoch that was reported as ended: its open gap covers everything up to `offset`.
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
   * Report everything between the last known offset and `to` as missing.
   *
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
 * Tracks the members of one channel. No clock, no socket.
 *
 * The member list and the joins and leaves around it travel on different paths and may overtake each other. Joins and
 * leaves that arrive after the list was requested are therefore applied again on top of it.
 */
export class Roster {
  /** @type {Map<string, Sender>} by client */
  #members = new Map();
  /** @type {[boolean, Sender][] | null} joins and leaves since a list was requested */
  #since = null;
  /** @type {Headcount} */
  #counted = { clients: 0, users: 0 };
  #complete = false;

  /** Collect what happens until the requested list arrives. */
  expectList() {
    this.#since = [];
  }

  /**
   * Take the requested list, and what happened since then.
   *
   * @param {Map<string, Sender>} members
   */
  replaceMembers(members) {
    this.#members = members;
    this.#complete = true;
    for (const [joined, member] of this.#since ?? []) this.#apply(joined, member);
    this.#since = null;
  }

  /**
   * Add a member who joined.
   *
   * @param {Sender} member
   */
  addMember(member) {
    this.#note(true, member);
  }

  /**
   * Remove a member who left.
   *
   * @param {Sender} member
   */
  removeMember(member) {
    this.#note(false, member);
  }

  /**
   * Take the number of members that the server sent.
   *
   * @param {Headcount} count
   * @param {boolean} same whether each join and leave until then was announced by name
   */
  updateCount(count, same) {
    this.#counted = count;
    if (same) return;
    this.#complete = false;
    if (count.clients > MOST_NAMED) this.#members.clear();
  }

  /** Trust the list no longer: the connection was lost, and members may have left. */
  discardList() {
    const { clients, users } = this.presence;
    this.#counted = { clients, users };
    this.#since = null;
    this.#complete = false;
  }

  /** The number of clients, as far as it is known. */
  get clients() {
    return this.#complete ? this.#members.size : this.#counted.clients;
  }

  /**
   * The number of members, and whether `people` lists all of them.
   *
   * @returns {Headcount & {complete: boolean}}
   */
  get presence() {
    const complete = this.#complete;
    const people = complete ? this.people : [];
    const { clients, users } = complete ? { clients: this.#members.size, users: countUsers(people) } : this.#counted;
    return { clients, users, complete };
  }

  /**
   * The known members; each user once, in the order in which they joined.
   *
   * @returns {Person[]}
   */
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
    if (!this.#complete) this.#count(joined ? 1 : -1);
  }

  /**
   * Count a client without a list. Whether its user has others is not known, so `users` is only kept plausible.
   *
   * @param {number} more
   */
  #count(more) {
    const clients = Math.max(0, this.#counted.clients + more);
    this.#counted = { clients, users: Math.min(this.#counted.users, clients) };
    if (this.#members.size > MOST_NAMED) this.#members.delete(firstKey(this.#members));
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

/**
 * Count users as the server does: all anonymous members are one.
 *
 * @param {Person[]} people
 */
function countUsers(people) {
  return new Set(people.map(({ user }) => user)).size;
}

/** @type {WeakSet<EventTarget>} the targets whose `error` somebody has listened for */
const watched = new WeakSet();

/** @type {WeakSet<EventTarget>} the connections whose `frame` somebody has listened for */
const inspected = new WeakSet();

/** An EventTarget that adds itself to `watched` and `inspected`. */
class ErrorTarget extends EventTarget {
  /**
   * @param {string} type
   * @param {EventListenerOrEventListenerObject | null} listener
   * @param {AddEventListenerOptions | boolean} [options]
   */
  addEventListener(type, listener, options) {
    if (type === "error" && listener) watched.add(this);
    if (type === "frame" && listener) inspected.add(this);
    super.addEventListener(type, listener, options);
  }
}

const SubscriptionTarget = /** @type {new () => Emitter<SubscriptionEvents>} */ (ErrorTarget);

/**
 * One channel. Events: `publication`, `gap`, `subscribed`, `unsubscribed` and `error`; with the option `presence` also
 * `join`, `leave` and `presence`. See `SubscriptionEvents` for their details.
 */
export class Subscription extends SubscriptionTarget {
  /**
   * @readonly
   * @type {string}
   */
  channel;
  #feed;

  /**
   * Created by `Connection.subscribe`.
   *
   * @param {string} channel
   * @param {{
   *   readonly state: "subscribing" | "subscribed" | "unsubscribed",
   *   readonly isLive: boolean,
   *   readonly served: boolean,
   *   readonly tracker: PositionTracker,
   *   readonly rosterSync: {readonly people: Person[]} | null,
   *   reached: (position: Position, ms: number) => Promise<boolean>,
   *   call: (body: string) => Promise<any>,
   *   unsubscribe: () => void,
   * }} feed
   */
  constructor(channel, feed) {
    super();
    this.channel = channel;
    this.#feed = feed;
  }

  /**
   * "subscribing" (also after a break), "subscribed", or "unsubscribed" for good.
   *
   * @returns {"subscribing" | "subscribed" | "unsubscribed"}
   */
  get state() {
    return this.#feed.state;
  }

  /**
   * Whether publications arrive now: it is subscribed, and the server receives this channel. Of a Redis Cluster, a part
   * may be gone, and only the channels in it are not live; the connection is "not-live" as long as one of its own is.
   *
   * @returns {boolean}
   */
  get live() {
    return this.#feed.isLive;
  }

  /**
   * Whether the server started it, and the page has not asked for it as well.
   *
   * @returns {boolean}
   */
  get served() {
    return this.#feed.served;
  }

  /**
   * Everything up to this position was received, reported as missing, or part of the page's data (`since`); null before
   * the first reply if there is no `since`.
   *
   * @returns {Position | null}
   */
  get position() {
    return this.#feed.tracker.position;
  }

  /**
   * Where a request of the page has published on this channel, by a header of its response.
   *
   * @param {Response} response
   * @returns {Position | undefined}
   */
  positionOf(response) {
    for (const text of response.headers.get("Realtime-Position")?.split(", ") ?? []) {
      const [channel, epoch, offset] = text.split(" ");
      if (channel === this.channel) return toSince({ epoch, offset: Number(offset) });
    }
  }

  /**
   * Wait until the publication at a position was emitted, or reported as missing.
   *
   * @param {Position | undefined} position undefined: there is nothing to wait for
   * @param {{timeoutMs?: number}} [options] default: ten seconds
   * @returns {Promise<boolean>} false: not in time, or the subscription has ended
   */
  async reached(position, { timeoutMs = REACHED_MS } = {}) {
    return position === undefined || this.#feed.reached(position, timeoutMs);
  }

  /**
   * Publish into this channel; see `Connection.publish`.
   *
   * @param {any} data
   * @returns {Promise<void>}
   */
  async publish(data) {
    await this.#feed.call(formatCommand("publish", this.channel, `,"data":${toJson(data)}`));
  }

  /**
   * The known members; empty without the option `presence`.
   *
   * @returns {Person[]}
   */
  get people() {
    return this.#feed.rosterSync?.people ?? [];
  }

  /**
   * Request the members once, by client, where the server discloses them.
   *
   * @returns {Promise<Map<string, Sender>>} rejects with a RealtimeError
   */
  async presence() {
    return asMembers(await this.#feed.call(formatCommand("presence", this.channel)));
  }

  /**
   * Request the number of members once.
   *
   * @returns {Promise<Headcount>} rejects with a RealtimeError
   */
  async presenceStats() {
    return asHeadcount(await this.#feed.call(formatCommand("presence_stats", this.channel)));
  }

  /** End the subscription. */
  unsubscribe() {
    this.#feed.unsubscribe();
  }
}

const ConnectionTarget = /** @type {new () => Emitter<ConnectionEvents>} */ (ErrorTarget);

/**
 * One WebSocket that reconnects, and the subscriptions that share it. Events: `state`, `subscription` (the server
 * started one), `message` (for this client, on no channel), `error` (the server refused a subscription) and `frame`
 * (something was sent or received). See `ConnectionEvents` for their details.
 */
export class Connection extends ConnectionTarget {
  #options;
  #calls;
  #link;
  /** @type {Map<string, Feed>} by channel */
  #feeds = new Map();
  /** @type {Map<string, Position | null>} where the first subscription to a channel begins */
  #positions;
  /** @type {Readonly<State>} */
  #state = Object.freeze({ state: "connecting", reason: "", retryInMs: null, latencyMs: null });
  #client = "";
  /** @type {string | null} why the server is not live; null while it is */
  #notLive = null;
  /** @type {Set<string>} channels that the server does not receive, although it is live */
  #lost = new Set();
  #outageAt = 0; // start of the latest outage of the broker
  #timers = new Timers(); // "first-live" runs until the connection is live for the first time
  /** @type {Map<string, number>} unsubscribes by channel that the server has not answered yet */
  #leaving = new Map();

  /** @param {Options} [options] */
  constructor(options = {}) {
    super();
    this.#options = completeOptions(options);
    this.#positions = toPositions(this.#options.positions);
    this.#calls = new Calls(this.#options.answerMs);
    this.#link = new Link(this.#options, this.#calls, {
      setState: (change) => this.#setState(change),
      isSubscribing: () => this.#isSubscribing(),
      onOpen: () => this.#subscribeAll(),
      onAccepted: (client) => this.#onAccepted(client),
      onPush: (push) => this.#onPush(push),
      onFrame: (direction, text) => this.#onFrame(direction, text),
      onLost: (heardAt) => this.#onLost(heardAt),
      end: (reason, code) => this.#end(reason, code),
    });
    this.#link.start();
    this.#timers.set("first-live", this.#options.answerMs, () => warnOfSilence(this.#state.state, this.#state.reason));
  }

  /**
   * The current state; each change is also a `state` event.
   *
   * @returns {Readonly<State>}
   */
  get state() {
    return this.#state;
  }

  /**
   * The id by which others see this connection (`sender.client`). It changes with each reconnect, and is "" while there
   * is no connection.
   *
   * @returns {string}
   */
  get client() {
    return this.#client;
  }

  /**
   * Subscribe to a channel, and again after each break, until `unsubscribe` is called or the server refuses. A second
   * call for the same channel returns the same subscription. One that the server has started becomes the page's own: it
   * is requested again after a break.
   *
   * @param {string} channel
   * @param {SubscribeOptions} [options]
   * @returns {Subscription}
   */
  subscribe(channel, options = {}) {
    const existing = this.#feeds.get(channel);
    existing?.adopt(options);
    const feed = existing ?? this.#open(channel, options);
    feed.isKept = true;
    return feed.subscription;
  }

  /**
   * Subscribe to a channel for a part of the page, such as a component that may be removed. The subscription ends when
   * all parts have released it, unless `subscribe` was called for the channel, before or since, or the server started
   * it.
   *
   * @param {string} channel
   * @returns {Hold}
   */
  hold(channel) {
    const feed = this.#feeds.get(channel) ?? this.#open(channel, {});
    feed.holds += 1;
    let isHeld = true;
    const release = () => {
      if (isHeld) feed.release();
      isHeld = false;
    };
    return { subscription: feed.subscription, release };
  }

  /**
   * The present subscriptions, those that the server started included.
   *
   * @returns {Subscription[]}
   */
  get subscriptions() {
    return [...this.#feeds.values()].map(({ subscription }) => subscription);
  }

  /**
   * Publish into a channel, where the server allows it. While the first connection or a reconnect attempt is under way,
   * the command waits for it; while the client waits for the next attempt, the promise rejects at once.
   *
   * @param {string} channel
   * @param {any} data any JSON value
   * @returns {Promise<void>} rejects with a RealtimeError; with `outcome` "unknown" it may have been published
   */
  async publish(channel, data) {
    await this.#calls.call(formatCommand("publish", channel, `,"data":${toJson(data)}`));
  }

  /**
   * Call the server's function `REALTIME_RPC`.
   *
   * @param {string} method
   * @param {any} [data] any JSON value
   * @returns {Promise<any>} its result; rejects with a RealtimeError
   */
  async rpc(method, data = null) {
    return (await this.#calls.call(`"rpc":{"method":${JSON.stringify(method)},"data":${toJson(data)}}`)).data;
  }

  /** Start the pending attempt to reconnect at once, such as from a "retry" button. */
  retryNow() {
    this.#link.retryNow();
  }

  /** Close for good. No timer, listener or socket remains. */
  close() {
    if (this.#state.state !== "closed") this.#end("closed-here", 1000);
  }

  // --- the state of the connection -----------------------------------------------------------------------------------

  /** @param {Partial<State>} change fields that do not change may be omitted; `retryInMs` is reset when omitted */
  #setState(change) {
    if (this.#state.state === "closed") return;
    this.#state = Object.freeze({ ...this.#state, retryInMs: null, ...change });
    if (this.#state.state === "live") this.#timers.clear("first-live");
    this.#emit("state", this.#state);
  }

  #showServerState() {
    const reason = this.#notLive ?? (this.#lost.size > 0 ? "broker" : null);
    if (reason === null) this.#setState({ state: "live", reason: "" });
    else this.#setState({ state: "not-live", reason });
  }

  /**
   * The server accepted the connection.
   *
   * @param {string} client
   */
  #onAccepted(client) {
    this.#client = client;
    this.#showServerState();
    this.#expectServed();
  }

  /**
   * The connection was lost.
   *
   * @param {number} heardAt when the server was last heard
   */
  #onLost(heardAt) {
    for (const feed of this.#feeds.values()) feed.interrupt(heardAt);
    this.#notLive = null;
    this.#lost.clear();
    this.#client = "";
  }

  /**
   * Close for good.
   *
   * @param {string} reason
   * @param {number} code
   */
  #end(reason, code) {
    this.#setState({ state: "closed", reason }); // first, so that listeners of later events cannot start anything
    this.#link.close();
    if (this.#timers.clear("first-live") && reason !== "closed-here") warnOfSilence("closed", reason);
    for (const feed of [...this.#feeds.values()]) feed.end({ code, reason });
  }

  // --- frames and pushes ---------------------------------------------------------------------------------------------

  /**
   * @param {"in" | "out"} direction
   * @param {string} text
   */
  #onFrame(direction, text) {
    if (!inspected.has(this)) return;
    const frame = Object.freeze({ direction, text, time: new Date() });
    if (direction === "in") return this.#emit("frame", frame);
    // Later: a listener may close the connection, whose commands are being sent.
    queueMicrotask(() => this.#emit("frame", frame));
  }

  /** @param {Record<string, any>} push */
  #onPush(push) {
    if (push.state !== undefined) {
      if (push.channel === undefined) return this.#onState(asObject(push.state));
      return this.#onChannelState(asText(push.channel), asObject(push.state));
    }
    if (push.disconnect !== undefined) return this.#onDisconnect(asObject(push.disconnect));
    if (push.refresh !== undefined) return this.#link.onRefresh(asObject(push.refresh));
    if (push.message !== undefined) return this.#emit("message", { data: asObject(push.message).data });
    if (push.subscribe !== undefined) return this.#onServed(asText(push.channel), asObject(push.subscribe));
    this.#feeds.get(push.channel)?.onPush(push);
  }

  /**
   * The server gained or lost its broker.
   *
   * @param {Record<string, any>} push
   */
  #onState({ live, reason }) {
    if (typeof live !== "boolean") throw new Malformed("a state without live");
    if (!live && this.#notLive === null) this.#outageAt = Date.now();
    this.#notLive = live ? null : asText(reason ?? "broker");
    this.#lost.clear(); // the server says again which ones it does not receive
    if (!this.#link.isAccepted) return; // the connect reply will follow and announce the state
    this.#showServerState();
    this.#expectServed();
    if (!live) return;
    for (const feed of this.#feeds.values()) feed.subscribeNow();
  }

  /**
   * The server lost or regained a channel, or cannot start a subscription because it does not receive that channel.
   *
   * @param {string} channel
   * @param {Record<string, any>} push
   */
  #onChannelState(channel, { live }) {
    if (typeof live !== "boolean") throw new Malformed("a state without live");
    const feed = this.#feeds.get(channel);
    if (!feed) return; // sent before the server processed the unsubscribe
    if (!live) feed.expectServed(false);
    this.#noteLost(channel, !live);
  }

  /**
   * @param {string} channel
   * @param {boolean} isLost
   */
  #noteLost(channel, isLost) {
    const hadLost = this.#lost.size > 0;
    if (isLost) this.#lost.add(channel);
    else this.#lost.delete(channel);
    if (this.#lost.size > 0 !== hadLost && this.#notLive === null && this.#link.isAccepted) this.#showServerState();
  }

  /** The subscriptions that the server had started are due again, or the server cannot start any now. */
  #expectServed() {
    for (const feed of [...this.#feeds.values()]) feed.expectServed(this.#notLive === null);
  }

  /** @param {Record<string, any>} push */
  #onDisconnect({ code, reason, reconnect }) {
    const number = asCount(code);
    const text = asText(reason ?? "") || `disconnected (${number})`;
    if (reconnect === false || (reconnect !== true && isTerminal(number))) this.#end(text, number);
    else this.#link.reconnect(text);
  }

  /**
   * The server started a subscription, such as the user's own channel.
   *
   * @param {string} channel
   * @param {Record<string, any>} result
   */
  #onServed(channel, result) {
    const position = asPosition(result);
    if (this.#leaving.has(channel)) return; // it was sent before the server processed the unsubscribe
    let feed = this.#feeds.get(channel);
    if (!feed) {
      feed = this.#addFeed(channel, { served: true });
      this.#emit("subscription", { subscription: feed.subscription });
    }
    feed.onServed(position);
  }

  // --- subscriptions -------------------------------------------------------------------------------------------------

  /**
   * Start a subscription.
   *
   * @param {string} channel
   * @param {SubscribeOptions} options
   */
  #open(channel, { since, ...options }) {
    if (this.#state.state === "closed") throw new RealtimeError("closed", "the connection is closed");
    if (this.#feeds.size >= MOST_SUBSCRIPTIONS) {
      throw new RealtimeError("too-many", `a connection has at most ${MOST_SUBSCRIPTIONS} subscriptions`);
    }
    const feed = this.#addFeed(channel, { ...options, since: toSince(since) });
    feed.subscribe();
    return feed;
  }

  /**
   * @param {string} channel
   * @param {SubscribeOptions & {served?: boolean}} options
   */
  #addFeed(channel, { since = this.#positions.get(channel), ...options }) {
    this.#positions.delete(channel); // a later subscription does not continue from the page's data
    const feed = new Feed(channel, { ...options, since }, {
      options: this.#options,
      calls: this.#calls,
      link: this.#link,
      outageAt: () => this.#outageAt,
      isLive: () => this.#link.isAccepted && this.#notLive === null && !this.#lost.has(channel),
      onSubscribed: () => this.#noteLost(channel, false),
      remove: () => {
        this.#feeds.delete(channel);
        this.#noteLost(channel, false);
      },
      leave: () => this.#leave(channel),
      onRefused: (subscription, error) => this.#onRefused(subscription, error),
    });
    this.#feeds.set(channel, feed);
    return feed;
  }

  /**
   * Tell the server that the page has unsubscribed.
   *
   * @param {string} channel
   */
  #leave(channel) {
    this.#leaving.set(channel, (this.#leaving.get(channel) ?? 0) + 1);
    const done = () => {
      const more = (this.#leaving.get(channel) ?? 1) - 1;
      if (more > 0) this.#leaving.set(channel, more);
      else this.#leaving.delete(channel);
    };
    const outcomes = { onResult: done, onRefusal: done, onLost: done, onTimeout: done };
    this.#calls.send(new Command(formatCommand("unsubscribe", channel), outcomes));
  }

  /**
   * The server refused a subscription for good.
   *
   * @param {Subscription} subscription
   * @param {RealtimeError} error
   */
  #onRefused(subscription, error) {
    this.#emit("error", { subscription, error });
    if (!watched.has(subscription) && !watched.has(this)) warnOfRefusal(subscription.channel, error);
  }

  #subscribeAll() {
    for (const feed of this.#feeds.values()) if (!feed.served) feed.subscribe();
  }

  #isSubscribing() {
    for (const feed of this.#feeds.values()) if (feed.isSubscribing) return true;
    return false;
  }

  /**
   * @template {keyof ConnectionEvents} Name
   * @param {Name} type
   * @param {ConnectionEvents[Name]} detail
   */
  #emit(type, detail) {
    this.dispatchEvent(new DetailEvent(type, { detail }));
  }
}

/**
 * Open a connection. It reconnects until `close()` is called or the server forbids it.
 *
 * @param {Options} [options]
 * @returns {Connection}
 */
export function connect(options) {
  return new Connection(options);
}

/**
 * One subscription of a connection: subscribes to the channel, compares positions, and emits events.
 */
class Feed {
  /** @type {"subscribing" | "subscribed" | "unsubscribed"} */
  state = "subscribing";
  isKept = false; // whether the page itself has subscribed
  holds = 0; // parts of the page that have subscribed
  tracker;
  #host;
  #token;
  #timers = new Timers();
  /** @type {Command | null} the subscribe command that waits for its reply */
  #subscribing = null;
  #refusals = 0; // consecutive temporary refusals of the subscribe
  #completeAt; // the channel is known to be complete up to this time
  #isFirst = true; // whether the subscription has not begun yet
  #isStartUnknown; // whether the page's data is as of a position that could not be read
  /** @type {Filling | null} */
  #filler;
  #wantsMembers = false; // whether the page has asked for presence since the subscription began
  /** @type {Set<{position: Position, settle: (isReached: boolean) => void}>} calls of `reached` */
  #waiting = new Set();

  /**
   * @param {string} channel
   * @param {SubscribeOptions & {served?: boolean}} options served: the server started the subscription, and starts it
   *   again after a break
   * @param {{
   *   options: ReturnType<typeof completeOptions>,
   *   calls: Calls,
   *   link: Link,
   *   outageAt: () => number,
   *   isLive: () => boolean,
   *   onSubscribed: () => void,
   *   remove: () => void,
   *   leave: () => void,
   *   onRefused: (subscription: Subscription, error: RealtimeError) => void,
   * }} host outageAt: start of the latest outage of the broker; isLive: whether the server receives the channel;
   *   onSubscribed: the subscription has begun, again or for the first time; remove: forgets this feed; leave: tells the
   *   server that it ended; onRefused: the server refused the subscription for good
   */
  constructor(channel, { getToken, presence = false, served = false, since, fill }, host) {
    this.channel = channel;
    this.served = served;
    this.tracker = new PositionTracker(since);
    this.#isStartUnknown = since === null;
    // The site read the page's data some time after the browser had asked for the page.
    this.#completeAt = since === undefined ? Date.now() : performance.timeOrigin;
    this.#host = host;
    this.#token = new TokenSource(getToken && (() => getToken({ channel })));
    this.rosterSync = presence ? new RosterSync(this, host) : null;
    this.subscription = new Subscription(channel, this);
    this.#filler = this.#makeFiller(fill, getToken);
  }

  /**
   * @param {SubscribeOptions["fill"]} fill
   * @param {GetChannelToken} [getToken]
   */
  #makeFiller(fill, getToken) {
    if (fill === undefined) return null;
    const emit = (/** @type {"publication" | "gap"} */ type, /** @type {any} */ detail) => this.#dispatch(type, detail);
    const token = getToken && (() => getToken({ channel: this.channel }));
    const onIdle = () => this.#settleReached();
    return new Filling(emit, onIdle, ({ GapFiller, siteFill }) => {
      const ask = typeof fill === "function" ? fill : siteFill(fill, token);
      return new GapFiller(this.channel, ask, emit, onIdle);
    });
  }

  /**
   * See `Subscription.reached`.
   *
   * @param {Position} position
   * @param {number} ms
   * @returns {Promise<boolean>}
   */
  reached(position, ms) {
    if (this.#hasReached(position)) return Promise.resolve(true);
    if (this.state === "unsubscribed" || this.#waiting.size >= MOST_WAITING) return Promise.resolve(false);
    return new Promise((resolve) => {
      const timer = setTimeout(() => call.settle(false), ms);
      const settle = (/** @type {boolean} */ isReached) => {
        clearTimeout(timer);
        this.#waiting.delete(call);
        resolve(isReached);
      };
      const call = { position, settle };
      this.#waiting.add(call);
    });
  }

  /** @param {Position} position */
  #hasReached(position) {
    return this.tracker.covers(position) && !this.#filler?.isFilling;
  }

  #settleReached() {
    for (const call of this.#waiting) if (this.#hasReached(call.position)) call.settle(true);
  }

  /** Whether publications arrive now. */
  get isLive() {
    return this.state === "subscribed" && this.#host.isLive();
  }

  /** Whether a subscribe command awaits its reply. */
  get isSubscribing() {
    return this.#subscribing !== null;
  }

  /**
   * Send a command for the page.
   *
   * @param {string} body
   * @returns {Promise<any>} the result; rejects with a RealtimeError
   */
  call(body) {
    return this.#host.calls.call(body);
  }

  /**
   * @template {keyof SubscriptionEvents} Name
   * @param {Name} type
   * @param {SubscriptionEvents[Name]} detail
   */
  emit(type, detail) {
    if (this.#filler && (type === "publication" || type === "gap")) {
      this.#filler.take(type, /** @type {any} */ (detail));
    } else {
      this.#dispatch(type, detail);
    }
  }

  /**
   * @template {keyof SubscriptionEvents} Name
   * @param {Name} type
   * @param {SubscriptionEvents[Name]} detail
   */
  #dispatch(type, detail) {
    this.subscription.dispatchEvent(new DetailEvent(type, { detail }));
  }

  // --- subscribing ---------------------------------------------------------------------------------------------------

  /** Send the subscribe command. Without an open socket this does nothing: a new one subscribes to all. */
  subscribe() {
    if (!this.#host.link.isOpen) return;
    this.#token.fetch(
      (token) => this.#subscribeWith(token),
      () => this.#subscribeLater(),
    );
  }

  /**
   * The page subscribes to what the server has started: request it again after a break.
   *
   * @param {Pick<SubscribeOptions, "getToken" | "presence" | "fill">} options
   */
  adopt({ getToken, presence, fill }) {
    this.#filler ??= this.#makeFiller(fill, getToken);
    if (!this.served) return;
    this.served = false;
    if (getToken) this.#token = new TokenSource(() => getToken({ channel: this.channel }));
    if (presence && !this.rosterSync) {
      this.rosterSync = new RosterSync(this, this.#host);
      this.#wantsMembers = true;
    }
    this.#timers.clear("served");
    this.subscribe();
  }

  /** A part of the page needs the subscription no longer. */
  release() {
    this.holds -= 1;
    if (this.holds === 0 && !this.isKept && !this.served) this.unsubscribe();
  }

  /** Retry a temporarily refused subscribe without waiting any longer. */
  subscribeNow() {
    if (this.#timers.clear("subscribe")) this.subscribe();
  }

  /** @param {string} token */
  #subscribeWith(token) {
    const joinLeave = this.rosterSync ? ',"join_leave":true' : "";
    const command = new Command(formatCommand("subscribe", this.channel, formatToken(token) + joinLeave), {
      onResult: (result) => {
        if (this.#subscribing === command) this.#onSubscribed(result);
      },
      onRefusal: (refusal) => {
        if (this.#subscribing === command) this.#onRefused(refusal);
      },
      onTimeout: () => {
        if (this.#subscribing === command) this.#host.link.reconnect("no-answer");
      },
    });
    this.#subscribing = command;
    this.#host.calls.send(command);
  }

  #subscribeLater() {
    this.#timers.set("subscribe", retryDelayMs(this.#refusals, this.#host.options), () => this.subscribe());
    this.#refusals += 1;
  }

  /** @param {any} result */
  #onSubscribed(result) {
    this.#subscribing = null;
    // If the server subscribed us before we asked, the reply has no position and changes nothing.
    if (this.state !== "subscribed") this.#becomeSubscribed(asPosition(result));
    else if (this.#wantsMembers) this.rosterSync?.renew();
    this.#wantsMembers = false;
    this.#refreshAfter(result);
    this.#host.link.measure();
  }

  /** @param {Refusal} refusal */
  #onRefused(refusal) {
    this.#subscribing = null;
    this.#host.link.measure();
    if (refusal.isTemporary) return this.#subscribeLater();
    if (this.state === "subscribed") {
      this.served = true; // the page may not subscribe, but the server has subscribed it
      return;
    }
    this.#filler?.giveUp();
    if (this.state === "unsubscribed") return; // by a listener
    this.#forget();
    const error = refusal.toError();
    this.emit("error", error);
    this.#host.onRefused(this.subscription, error);
  }

  /**
   * The server started the subscription.
   *
   * @param {Position | null} position
   */
  onServed(position) {
    if (this.state === "subscribing") this.#becomeSubscribed(position);
  }

  /**
   * After a break, the server starts the subscription again soon, or not at all: what the API started was for the
   * connection that is gone.
   *
   * @param {boolean} isLive whether the server can start subscriptions now
   */
  expectServed(isLive) {
    if (!this.served || this.state !== "subscribing") return;
    if (!isLive) this.#timers.clear("served");
    else if (!this.#timers.has("served")) {
      this.#timers.set("served", 2 * this.#host.options.answerMs, () => this.end({ code: 0, reason: "not-renewed" }));
    }
  }

  /** @param {Position | null} position */
  #becomeSubscribed(position) {
    const missing = position ? this.tracker.subscribed(position) : [];
    /** @type {Missing[]} not to be filled: what the page shows already is in it, too */
    const unknown = [];
    if (this.#isStartUnknown && position) unknown.push({ epoch: position.epoch, from: 1, to: null, reason: "broker" });
    // Pages load at different times, unless they have waited for the broker together.
    const windowMs = this.#isFirst && this.#refusals === 0 ? 0 : this.#host.options.refetchWindowMs;
    this.#isFirst = this.#isStartUnknown = false;
    this.#refusals = 0;
    this.#timers.clear("served");
    this.state = "subscribed";
    this.emit("subscribed", { channel: this.channel, ...position });
    this.#reportGaps(missing, windowMs);
    this.#reportGaps(unknown, windowMs, false);
    this.#completeAt = Date.now();
    this.#settleReached();
    this.rosterSync?.renew();
    this.#host.onSubscribed();
  }

  // --- the subscription token ----------------------------------------------------------------------------------------

  /**
   * Send a new token when the current one expires; the server allows a few seconds more.
   *
   * @param {{expires?: boolean, ttl?: number}} result
   */
  #refreshAfter(result) {
    if (!result.expires || !this.#token.exists) return;
    if (this.state !== "subscribed") return; // a listener of "subscribed" has unsubscribed
    this.#timers.set("refresh", ttlMs(result), () => this.#token.fetch((token) => this.#refresh(token)));
  }

  /** @param {string} token */
  #refresh(token) {
    if (this.state !== "subscribed") return;
    const command = new Command(formatCommand("sub_refresh", this.channel, `,"token":${JSON.stringify(token)}`), {
      onResult: (result) => this.#refreshAfter(result), // after a refusal the server ends it, and we resubscribe
      onTimeout: () => this.#host.link.reconnect("no-answer"),
    });
    this.#host.calls.send(command);
  }

  // --- pushes --------------------------------------------------------------------------------------------------------

  /** @param {Record<string, any>} push */
  #onPush(push) {
    if (push.pub !== undefined) this.#onPublication(asObject(push.pub));
    else if (push.gap !== undefined) this.#onGap(asObject(push.gap));
    else if (push.unsubscribe !== undefined) this.#onUnsubscribe(asObject(push.unsubscribe));
    else if (push.join !== undefined) this.#onMember("join", asObject(push.join));
    else if (push.leave !== undefined) this.#onMember("leave", asObject(push.leave));
    else if (push.presence !== undefined) {
      const count = asHeadcount(push.presence); // validated even if no caller uses the members
      this.rosterSync?.onHeadcount(count, push.presence.untold === 0);
    }
    // Any other push comes from a newer server.
  }

  /** @param {Record<string, any>} push */
  onPush(push) {
    if (this.state !== "subscribed") return; // sent before the server processed the unsubscribe
    this.#onPush(push);
    if (this.#waiting.size > 0) this.#settleReached();
  }

  /** @param {Record<string, any>} pub */
  #onPublication(pub) {
    const offset = pub.offset === undefined ? 0 : asCount(pub.offset);
    const epoch = pub.epoch === undefined ? undefined : asText(pub.epoch);
    const tags = pub.tags === undefined ? {} : asObject(pub.tags);
    // Without an offset (from a server that keeps no positions) there is nothing to compare.
    const seen = offset > 0 ? this.tracker.publication({ offset, epoch }) : { fresh: true, missing: [] };
    this.#reportGaps(seen.missing);
    if (!seen.fresh || this.state !== "subscribed") return; // a listener of the gap may have unsubscribed
    this.#completeAt = Date.now();
    this.emit("publication", {
      channel: this.channel,
      data: pub.data,
      event: eventOf(tags),
      tags,
      sender: pub.info === undefined ? null : asSender(pub.info),
      offset: offset > 0 ? offset : null,
      epoch: offset > 0 ? (this.tracker.position?.epoch ?? null) : null,
      filled: false,
    });
  }

  /** @param {Record<string, any>} gap */
  #onGap(gap) {
    const from = asCount(gap.from);
    const to = gap.to === null ? null : asCount(gap.to);
    const reason = asText(gap.reason ?? "unknown");
    this.#reportGaps(this.tracker.gap({ epoch: asText(gap.epoch), from, to, reason }));
    this.#completeAt = Date.now();
  }

  /**
   * @param {Missing[]} missing
   * @param {number} [windowMs] `refetchAfterMs` is drawn from 0 to this
   * @param {boolean} [mayFill]
   */
  #reportGaps(missing, windowMs = this.#host.options.refetchWindowMs, mayFill = true) {
    const { outageAt, options } = this.#host;
    for (const { epoch, from, to, reason } of missing) {
      if (this.state === "unsubscribed") return; // by a listener of the previous event
      const since = reason === "reconnect" ? this.#completeAt : Math.max(this.#completeAt, outageAt());
      const gap = {
        channel: this.channel,
        epoch,
        from,
        to,
        missed: to === null ? null : to - from + 1,
        reason,
        since: new Date(since),
        until: new Date(),
        refetchAfterMs: Math.floor(options.random() * windowMs),
      };
      if (mayFill) this.emit("gap", gap);
      else this.#dispatch("gap", gap);
    }
  }

  /**
   * @param {"join" | "leave"} what
   * @param {Record<string, any>} push
   */
  #onMember(what, push) {
    const member = asSender(push.info);
    this.rosterSync?.onMember(what, member);
    this.emit(what, member);
    this.rosterSync?.announce();
  }

  /**
   * The server ended the subscription.
   *
   * @param {Record<string, any>} push
   */
  #onUnsubscribe({ code, reason }) {
    const number = asCount(code);
    if (number < 2500) return this.end({ code: number, reason: asText(reason ?? "") });
    this.interrupt(Date.now());
    if (!this.served) this.#subscribeLater();
  }

  // --- the end -------------------------------------------------------------------------------------------------------

  /**
   * The subscription is broken and will be renewed.
   *
   * @param {number} completeAt nothing was missed up to this time
   */
  interrupt(completeAt) {
    if (this.state === "subscribed") this.#completeAt = completeAt;
    this.state = "subscribing";
    this.#stop();
    this.rosterSync?.interrupt();
  }

  /** End the subscription because the page called `unsubscribe`. */
  unsubscribe() {
    if (this.state === "unsubscribed") return;
    this.#filler?.stop();
    const isOpen = this.#host.link.isOpen;
    const known = this.state === "subscribed" || this.isSubscribing || (this.served && isOpen);
    this.end({ code: 0, reason: "unsubscribed-here" });
    if (known) this.#host.leave();
  }

  /**
   * End the subscription for good and say why.
   *
   * @param {{code: number, reason: string}} why
   */
  end(why) {
    this.#filler?.giveUp(); // nothing is lost silently, also at the end
    if (this.state === "unsubscribed") return; // by a listener
    this.#forget();
    this.emit("unsubscribed", { channel: this.channel, ...why });
  }

  #forget() {
    this.#host.remove();
    this.state = "unsubscribed";
    this.#stop();
    for (const call of this.#waiting) call.settle(this.#hasReached(call.position));
  }

  #stop() {
    this.#timers.clearAll();
    this.#token.cancel();
    this.#subscribing = null;
    this.rosterSync?.stop();
  }
}

/** What a subscription with `fill` receives goes through fill.js, once that is loaded. */
class Filling {
  #emit;
  /** @type {any} the `GapFiller`; null if it could not be loaded */
  #filler;
  /** @type {["publication" | "gap", any][]} what waits for fill.js */
  #held = [];

  /**
   * @param {(type: "publication" | "gap", detail: any) => void} emit
   * @param {() => void} onIdle
   * @param {(module: any) => any} make
   */
  constructor(emit, onIdle, make) {
    this.#emit = emit;
    const start = (/** @type {any} */ filler) => {
      this.#filler = filler;
      for (const [type, detail] of this.#held.splice(0)) this.take(type, detail);
      onIdle();
    };
    const load = async () => make(await import("./fill.js"));
    load().then(start, (error) => {
      console.warn(`realtime: gaps are not filled, because fill.js could not be loaded: ${error}`);
      start(null);
    });
  }

  get isFilling() {
    return this.#held.length > 0 || Boolean(this.#filler?.isFilling);
  }

  /**
   * @param {"publication" | "gap"} type
   * @param {any} detail
   */
  take(type, detail) {
    if (this.#filler) return this.#filler.take(type, detail);
    if (this.#filler === null) return this.#emit(type, detail);
    this.#held.push([type, detail]);
    if (this.#held.length > MOST_HELD) this.giveUp();
  }

  /** Emit what waits as it is. */
  giveUp() {
    this.#filler?.giveUp();
    for (const [type, detail] of this.#held.splice(0)) this.#emit(type, detail);
  }

  /** Drop what waits: the page has unsubscribed. */
  stop() {
    this.#emit = ignore;
    this.#filler?.stop();
    this.#held.length = 0;
  }
}

/**
 * Keeps the roster of one feed in sync with the server, and emits its changes as events of the feed.
 */
class RosterSync {
  #feed;
  #host;
  #roster = new Roster();
  #timers = new Timers();

  /**
   * @param {Feed} feed
   * @param {{options: ReturnType<typeof completeOptions>, calls: Calls, link: Link}} host
   */
  constructor(feed, host) {
    this.#feed = feed;
    this.#host = host;
  }

  /** The known members. */
  get people() {
    return this.#roster.people;
  }

  /** The subscription has begun, or begun again: request the members, or only their number if they are many. */
  renew() {
    const { clients } = this.#roster;
    if (clients <= FEW_MEMBERS) return this.request();
    if (clients <= MOST_NAMED) return this.#requestWithin(this.#spread(clients));
    // After an outage all of them come back at once, each with a list of hundreds of kilobytes.
    this.#timers.set("request", this.#host.options.random() * this.#host.options.refetchWindowMs, () => this.#count());
  }

  /** Request the member list. */
  request() {
    if (this.#feed.state !== "subscribed") return;
    this.#roster.expectList();
    const command = new Command(formatCommand("presence", this.#feed.channel), {
      onResult: (result) => {
        if (this.#feed.state !== "subscribed") return;
        this.#roster.replaceMembers(asMembers(result));
        this.announce();
      },
      onRefusal: (refusal) => {
        if (this.#feed.state === "subscribed") this.#onRefused(refusal);
      },
      onTimeout: () => this.#host.link.reconnect("no-answer"),
    });
    this.#host.calls.send(command);
  }

  /** @param {Refusal} refusal */
  #onRefused(refusal) {
    if (refusal.isTemporary) return this.#requestWithin(this.#host.options.refetchWindowMs);
    if (refusal.code !== TOO_MANY) return; // the server does not disclose who is on this channel
    this.#count();
  }

  /** Request the number of members. */
  #count() {
    if (this.#feed.state !== "subscribed") return;
    const counted = (/** @type {Headcount} */ count) => {
      this.#roster.updateCount(count, false);
      this.announce();
    };
    this.#feed.subscription.presenceStats().then(counted, () => {});
  }

  /**
   * Request the list again at a random moment, because other clients will do so too.
   *
   * @param {number} windowMs
   */
  #requestWithin(windowMs) {
    if (this.#feed.state !== "subscribed") return; // a listener of "presence" has unsubscribed
    const delay = Math.floor(this.#host.options.random() * windowMs);
    this.#timers.set("request", delay, () => this.request());
  }

  /**
   * A member joined or left.
   *
   * @param {"join" | "leave"} what
   * @param {Sender} member
   */
  onMember(what, member) {
    if (what === "join") this.#roster.addMember(member);
    else this.#roster.removeMember(member);
  }

  /**
   * The server sent the number of members, after a burst of joins and leaves.
   *
   * @param {Headcount} count
   * @param {boolean} same whether each of them was announced by name
   */
  onHeadcount(count, same) {
    this.#roster.updateCount(count, same);
    this.announce();
    if (same || count.clients > MOST_NAMED) return;
    this.#requestWithin(this.#spread(count.clients));
  }

  /**
   * How long so many clients may take to request a list, in milliseconds.
   *
   * @param {number} clients
   */
  #spread(clients) {
    return Math.min(this.#host.options.refetchWindowMs, 1_000 + 20 * clients);
  }

  /** Emit the number of members. */
  announce() {
    if (this.#feed.state === "unsubscribed") return; // by a listener of the previous event
    this.#feed.emit("presence", { channel: this.#feed.channel, ...this.#roster.presence });
  }

  /** The subscription is interrupted: known members may leave unnoticed. */
  interrupt() {
    this.#roster.discardList();
  }

  /** Forget a planned request. */
  stop() {
    this.#timers.clearAll();
  }
}

/**
 * The socket of a connection: opens it, sends the connect command, and replaces it when it is lost.
 */
class Link {
  #options;
  #calls;
  #owner;
  #url;
  #token;
  #heartbeat;
  #wakeUps;
  #timers = new Timers();
  /** @type {Socket | null} null between two attempts */
  #socket = null;
  #attempt = 0; // consecutive attempts without a stable connection
  #connectedAt = 0; // monotonic; 0 until the server has accepted the connection
  #pongs = true; // whether the server wants its pings answered
  #refreshFailures = 0;
  #isClosed = false;

  /**
   * @param {ReturnType<typeof completeOptions>} options
   * @param {Calls} calls
   * @param {object} owner callbacks into the connection
   * @param {(change: Partial<State>) => void} owner.setState changes the state
   * @param {() => boolean} owner.isSubscribing tells whether a subscribe waits for its reply
   * @param {() => void} owner.onOpen sends the other commands of the first frame
   * @param {(client: string) => void} owner.onAccepted the server accepted the connection
   * @param {(push: Record<string, any>) => void} owner.onPush a push arrived
   * @param {(direction: "in" | "out", text: string) => void} owner.onFrame a frame was sent or arrived
   * @param {(heardAt: number) => void} owner.onLost the socket is gone; the server was last heard at `heardAt`
   * @param {(reason: string, code: number) => void} owner.end reconnecting is forbidden
   */
  constructor(options, calls, owner) {
    this.#options = options;
    this.#calls = calls;
    this.#owner = owner;
    this.#url = toSocketUrl(options.url);
    this.#token = new TokenSource(options.getToken);
    this.#wakeUps = new WakeUps(this.#url, options.shared);
    this.#heartbeat = new Heartbeat(calls, options.latencyEveryMs, {
      isSubscribing: owner.isSubscribing,
      onMeasured: (latencyMs) => owner.setState({ latencyMs }),
      onSilent: () => this.reconnect("server-silent"),
    });
  }

  /** Whether the socket is open. */
  get isOpen() {
    return this.#socket?.readyState === OPEN;
  }

  /**
   * Send a frame.
   *
   * @param {string} text
   */
  send(text) {
    this.#socket?.send(text);
    this.#owner.onFrame("out", text);
  }

  /** Whether the server has accepted the connection. */
  get isAccepted() {
    return this.#connectedAt > 0;
  }

  /** Make the first attempt, and watch for changes of network and visibility. */
  start() {
    if (this.#options.shared) this.#share();
    else this.#begin();
    globalThis.addEventListener?.("online", this);
    globalThis.addEventListener?.("offline", this);
    globalThis.document?.addEventListener("visibilitychange", this);
  }

  #begin() {
    try {
      this.#open();
    } catch (error) {
      this.#timers.clearAll(); // the caller of `connect` has nothing that it could close
      throw error;
    }
  }

  /** Make the first attempt when the module that shares sockets is loaded; without it, this tab has its own socket. */
  async #share() {
    this.#calls.expect();
    try {
      const { shareSocket } = await import("./shared.js");
      this.#options.WebSocket = shareSocket(this.#options, PositionTracker);
    } catch (error) {
      console.warn(`realtime: this tab has a connection of its own, because shared.js could not be loaded: ${error}`);
    }
    if (!this.#isClosed) this.#openSafely();
  }

  /** Close for good. */
  close() {
    this.#isClosed = true;
    globalThis.removeEventListener?.("online", this);
    globalThis.removeEventListener?.("offline", this);
    globalThis.document?.removeEventListener("visibilitychange", this);
    this.#disconnect(1000, "");
  }

  // --- attempts ------------------------------------------------------------------------------------------------------

  #open() {
    this.#timers.set("connect", this.#options.answerMs, () => this.reconnect("no-answer"));
    this.#calls.expect();
    if (!this.#token.exists) return this.#dial("");
    this.#token.fetch(
      (token) => this.#dialSafely(token),
      () => this.reconnect("no-token"),
    );
  }

  /** @param {string} token */
  #dialSafely(token) {
    try {
      this.#dial(token);
    } catch (error) {
      this.reconnect(String(error));
    }
  }

  /** @param {string} token */
  #dial(token) {
    const socket = new this.#options.WebSocket(this.#url);
    this.#socket = socket;
    // Ignore the events of a socket that is no longer used.
    const current = (/** @type {(event: any) => void} */ then) => (/** @type {any} */ event) => {
      if (this.#socket === socket) then(event);
    };
    socket.onopen = current(() => this.#sendConnect(token));
    socket.onmessage = current((event) => this.#onFrame(event.data));
    socket.onclose = current((event) => this.#onClose(event.code, event.reason));
    socket.onerror = () => {}; // a close event follows and has the details
  }

  /**
   * Send connect and all subscribes in one frame: publications arrive after a single round trip.
   *
   * @param {string} token
   */
  #sendConnect(token) {
    const connect = new Command(`"connect":{"name":"client.js"${formatToken(token)}}`, {
      onResult: (result) => this.#onConnected(result),
      onRefusal: (refusal) => {
        if (refusal.isTemporary) this.reconnect(refusal.message);
        else this.#owner.end(refusal.message, 1000);
      },
      // No time-out: the timer "connect" started before the socket opened.
    });
    this.#calls.open(this, () => {
      this.#calls.send(connect);
      this.#owner.onOpen();
    });
  }

  /** @param {any} result */
  #onConnected(result) {
    this.#timers.clear("connect");
    this.#connectedAt = performance.now();
    const client = asText(result.client ?? "");
    this.#pongs = result.pong !== false;
    const seconds = result.ping > 0 ? result.ping : DEFAULT_PING_SECONDS;
    this.#refreshAfter(result);
    this.#heartbeat.start(seconds * 1000 + this.#options.pingGraceMs);
    this.#wakeUps.tell();
    this.#owner.onAccepted(client);
    this.#heartbeat.measure();
  }

  /**
   * @param {number} code
   * @param {string} reason
   */
  #onClose(code, reason) {
    if (isTerminal(code)) return this.#owner.end(reason || `closed by the server (${code})`, code);
    if (reason === HANDED_OVER) this.#attempt = 0; // nothing has failed: another tab opens the shared socket
    this.reconnect(reason || "connection-lost");
  }

  /**
   * Leave the socket, if there is one, and try again later.
   *
   * @param {string} reason
   */
  reconnect(reason) {
    const lived = this.isAccepted && performance.now() - this.#connectedAt >= STABLE_MS;
    this.#disconnect(4000, reason);
    if (lived) this.#attempt = 0;
    const delay = retryDelayMs(this.#attempt, this.#options);
    this.#attempt += 1;
    this.#retryIn(delay, globalThis.navigator?.onLine === false ? "offline" : reason);
  }

  /**
   * @param {number} ms
   * @param {string} reason
   */
  #retryIn(ms, reason) {
    this.#timers.set("retry", ms, () => this.#retry());
    this.#wakeUps.listen(() => this.#retrySoon("other-tab"));
    this.#owner.setState({ state: "reconnecting", reason, retryInMs: ms });
  }

  /**
   * Make the next attempt soon, with jitter: a whole office may come back online at the same moment.
   *
   * @param {string} reason
   */
  #retrySoon(reason) {
    this.#retryIn(Math.floor(this.#options.random() * this.#options.retryFirstMs), reason);
  }

  /** Make the next attempt now, if one is pending. */
  retryNow() {
    if (this.#timers.clear("retry")) this.#retry();
  }

  #retry() {
    this.#wakeUps.stop();
    this.#owner.setState({ state: "connecting" });
    if (!this.#isClosed) this.#openSafely(); // a listener of the state may have closed it
  }

  #openSafely() {
    try {
      this.#open();
    } catch (error) {
      // The first attempt throws to the caller of `connect`; a later one has no caller (a policy may have changed).
      this.reconnect(String(error));
    }
  }

  /**
   * Forget the socket and everything that depended on it.
   *
   * @param {number} code
   * @param {string} reason
   */
  #disconnect(code, reason) {
    const socket = this.#socket;
    this.#socket = null;
    this.#connectedAt = 0;
    this.#token.cancel();
    this.#timers.clearAll();
    this.#wakeUps.stop();
    this.#heartbeat.stop();
    this.#owner.onLost(this.#heartbeat.heardAt);
    this.#calls.close();
    closeQuietly(socket, code, reason);
  }

  // --- the connection token ------------------------------------------------------------------------------------------

  /**
   * Send a new token when the current one expires; the server allows a few seconds more.
   *
   * @param {{expires?: boolean, ttl?: number}} result
   */
  #refreshAfter(result) {
    this.#refreshFailures = 0;
    this.#timers.clear("refresh");
    if (result.expires) this.#timers.set("refresh", ttlMs(result), () => this.#refresh());
  }

  /**
   * The server set another time at which the connection expires.
   *
   * @param {{expires?: boolean, ttl?: number}} result
   */
  onRefresh(result) {
    if (this.isAccepted) this.#refreshAfter(result);
  }

  #refresh() {
    if (!this.#token.exists) return; // the server will close with 3005, and the session identifies the next connection
    this.#token.fetch(
      (token) => this.#sendToken(token),
      () => this.#refreshLater(),
    );
  }

  /** @param {string} token */
  #sendToken(token) {
    if (token === "") return this.reconnect("signed-out"); // the next connection is anonymous
    const command = new Command(`"refresh":{"token":${JSON.stringify(token)}}`, {
      onResult: (result) => this.#refreshAfter(result),
      onRefusal: () => this.#refreshLater(),
      onTimeout: () => this.reconnect("no-answer"),
    });
    this.#calls.send(command);
  }

  #refreshLater() {
    this.#timers.set("refresh", retryDelayMs(this.#refreshFailures, this.#options), () => this.#refresh());
    this.#refreshFailures += 1;
  }

  // --- frames --------------------------------------------------------------------------------------------------------

  /** @param {unknown} frame */
  #onFrame(frame) {
    const socket = this.#socket;
    this.#heartbeat.onFrame();
    try {
      if (typeof frame !== "string") throw new Malformed("a binary frame");
      this.#owner.onFrame("in", frame);
      if (this.#socket !== socket) return; // a listener closed the connection
      const lines = frame.split("\n");
      // A node that is not live says so right behind its reply to connect: the page is not live in between.
      if (!this.isAccepted) lines.sort((one, other) => Number(isState(other)) - Number(isState(one)));
      for (const line of lines) {
        if (line !== "") this.#onMessage(asObject(JSON.parse(line)));
        if (this.#socket !== socket) return; // the message ended the connection, or a listener closed it
      }
    } catch (error) {
      // Untrusted input: SyntaxError from the parser or Malformed from the checks. The rest of the frame is unreliable.
      const why = error instanceof Error ? error.message : String(error);
      if (this.#socket === socket) this.reconnect(`malformed-frame: ${why}`.slice(0, 120));
    }
  }

  /** @param {Record<string, any>} message */
  #onMessage(message) {
    if (message.push !== undefined) return this.#owner.onPush(asObject(message.push));
    if (message.id !== undefined) return this.#calls.onReply(asCount(message.id), message);
    // An empty object is a ping. The server measures the round trip by our pong, which therefore bypasses the queue.
    if (Object.keys(message).length === 0 && this.#pongs) this.send("{}");
  }

  // --- heartbeat -----------------------------------------------------------------------------------------------------

  /** Measure the round trip now, unless it was measured a moment ago. */
  measure() {
    this.#heartbeat.measure();
  }

  /**
   * Called by the browser when the network or the page's visibility changes.
   *
   * @param {Event} event
   */
  handleEvent({ type }) {
    if (type === "online" && this.#timers.has("retry")) {
      this.#retrySoon("online");
    } else if (type !== "visibilitychange" || globalThis.document.visibilityState === "visible") {
      // "offline" is only the browser's guess: a server on this machine or another interface may still be reachable.
      this.#heartbeat.probe();
    }
  }
}

/**
 * Wakes the tabs of this browser that wait for their next attempt as soon as one of them is connected again.
 *
 * Tabs that share a socket need no waking. A channel is open only while its tab waits.
 */
class WakeUps {
  #name;
  #isUsed;
  /** @type {BroadcastChannel | null} */
  #channel = null;
  #wokenAt = -Infinity; // monotonic

  /**
   * @param {string} url of the server
   * @param {boolean} isShared
   */
  constructor(url, isShared) {
    this.#name = `realtime ${url}`;
    this.#isUsed = Boolean(globalThis.document && globalThis.BroadcastChannel) && !isShared;
  }

  /**
   * Call `wake` when another tab is connected again.
   *
   * @param {() => void} wake
   */
  listen(wake) {
    if (!this.#isUsed || this.#channel) return;
    this.#channel = new BroadcastChannel(this.#name);
    this.#channel.onmessage = () => {
      // A server that accepts connections and closes them again would have the tabs wake each other without a pause.
      if (performance.now() - this.#wokenAt < WAKE_UP_MS) return;
      this.#wokenAt = performance.now();
      wake();
    };
  }

  stop() {
    this.#channel?.close();
    this.#channel = null;
  }

  /** Wake the others. */
  tell() {
    if (!this.#isUsed) return;
    const channel = new BroadcastChannel(this.#name);
    channel.postMessage("");
    channel.close();
  }
}

/**
 * Watches one connection at a time for silence of the server, and measures the round trip.
 */
class Heartbeat {
  heardAt = 0; // wall clock, for reports
  #heardTick = 0; // monotonic clock, for deadlines
  #calls;
  #latencyEveryMs;
  #owner;
  #timers = new Timers();
  #isRunning = false;
  #isMeasuring = false;
  #hasMeasured = false;
  #silenceMs = 0;

  /**
   * @param {Calls} calls
   * @param {number} latencyEveryMs
   * @param {object} owner
   * @param {() => boolean} owner.isSubscribing
   * @param {(latencyMs: number) => void} owner.onMeasured
   * @param {() => void} owner.onSilent the server counts as dead
   */
  constructor(calls, latencyEveryMs, owner) {
    this.#calls = calls;
    this.#latencyEveryMs = latencyEveryMs;
    this.#owner = owner;
  }

  /**
   * Watch a new connection.
   *
   * @param {number} silenceMs how long the server may be silent
   */
  start(silenceMs) {
    this.#isRunning = true;
    this.#silenceMs = silenceMs;
    this.#watch();
  }

  /** The connection is gone. */
  stop() {
    this.#isRunning = this.#isMeasuring = false;
    this.#timers.clearAll();
  }

  /** A frame arrived. */
  onFrame() {
    this.heardAt = Date.now();
    this.#heardTick = performance.now();
  }

  /** Check when the silence would become too long; each frame postpones that moment. */
  #watch() {
    const due = this.#heardTick + this.#silenceMs;
    this.#timers.set("silence", due - performance.now(), () => {
      const now = performance.now();
      if (this.#heardTick + this.#silenceMs > now) this.#watch();
      else if (now - due > PROBE_MS) this.probe(); // the page was frozen, and frames from that time are still unread
      else this.#owner.onSilent();
    });
  }

  /** The network changed or the page woke up: expect a sign of life soon. */
  probe() {
    if (!this.#isRunning) return;
    this.measure();
    // A hidden page measures nothing, but expects a sign of life. Behind a pending subscribe, its reply is one.
    if (!this.#isMeasuring && !this.#owner.isSubscribing()) this.#ping();
    const asked = performance.now();
    this.#timers.set("silence", Math.max(PROBE_MS, this.#calls.patienceMs), () => {
      if (this.#heardTick >= asked) this.#watch();
      else this.#owner.onSilent();
    });
  }

  /** Measure the round trip now, and regularly while the page is visible. */
  measure() {
    if (!this.#isRunning) return;
    // Replies arrive in the order of the commands: behind a pending subscribe, the ping would measure its duration.
    if (this.#owner.isSubscribing()) return;
    // The page is still loading during the first measurement, so the second one follows soon.
    const wait = this.#hasMeasured ? this.#latencyEveryMs : FIRST_LATENCY_MS;
    this.#timers.set("latency", Math.min(wait, this.#latencyEveryMs), () => this.measure());
    if (globalThis.document?.visibilityState === "hidden") return;
    if (!this.#isMeasuring) this.#ping(); // else the last answer is late: ask again in the next interval
  }

  #ping() {
    this.#isMeasuring = true;
    const asked = performance.now();
    const end = () => {
      this.#isMeasuring = false;
    };
    const onAnswer = () => {
      end();
      this.#hasMeasured = true;
      this.#owner.onMeasured(Math.round((performance.now() - asked) * 10) / 10);
    };
    const outcomes = { onResult: onAnswer, onRefusal: onAnswer, onLost: end, onTimeout: end };
    this.#calls.send(new Command('"ping":{}', outcomes));
  }
}

/**
 * A command without its id, and what to do with each of its outcomes.
 */
class Command {
  /**
   * @param {string} body such as `"publish":{…}`
   * @param {object} [outcomes]
   * @param {(result: any) => void} [outcomes.onResult]
   * @param {(refusal: Refusal) => void} [outcomes.onRefusal]
   * @param {(sent: boolean) => void} [outcomes.onLost] the connection is gone; `sent`: the server may have received it
   * @param {() => void} [outcomes.onTimeout] there was no answer within `answerMs`
   */
  constructor(body, { onResult = ignore, onRefusal = ignore, onLost = ignore, onTimeout = ignore } = {}) {
    this.body = body;
    this.onResult = onResult;
    this.onRefusal = onRefusal;
    this.onLost = onLost;
    this.onTimeout = onTimeout;
  }
}

/**
 * What commands are sent by: the link of the connection.
 *
 * @typedef {{readonly isOpen: boolean, send: (frame: string) => void}} Outlet
 */

/**
 * The commands of a connection: numbers them, packs them into frames, and settles them.
 */
class Calls {
  #answerMs;
  #timers = new Timers();
  #isExpecting = false; // whether a socket is open or being opened
  /** @type {Outlet | null} null until it is open */
  #outlet = null;
  /** @type {Command[]} not sent yet */
  #queue = [];
  /** @type {Map<number, Command>} sent, not answered; the server answers in this order, one after the other */
  #unanswered = new Map();
  #lastId = 0;
  #waiting = 0; // callers of `call`

  /** @param {number} answerMs how long a command may remain unanswered */
  constructor(answerMs) {
    this.#answerMs = answerMs;
  }

  /** How long the server may be busy with a caller's command, and answer nothing else; 0 without one. */
  get patienceMs() {
    return this.#waiting > 0 ? this.#answerMs : 0;
  }

  /** A socket is being opened: commands wait for it. */
  expect() {
    this.#isExpecting = true;
  }

  /**
   * The socket is open: send the commands that `first` adds, then those that wait.
   *
   * @param {Outlet} outlet
   * @param {() => void} first
   */
  open(outlet, first) {
    this.#outlet = outlet;
    const waiting = this.#queue.splice(0);
    first();
    this.#queue.push(...waiting);
    this.#flush();
  }

  /** The socket is gone: no command can be answered any more. */
  close() {
    const sent = [...this.#unanswered.values()];
    const unsent = this.#queue.splice(0);
    this.#isExpecting = false;
    this.#outlet = null;
    this.#unanswered.clear();
    this.#timers.clearAll();
    for (const command of sent) command.onLost(true);
    for (const command of unsent) command.onLost(false);
  }

  /**
   * Send a command for a caller that waits for the result.
   *
   * @param {string} body
   * @returns {Promise<any>} the result; rejects with a RealtimeError
   */
  async call(body) {
    const bytes = utf8Length(body);
    if (bytes > COMMAND_BYTES) {
      throw new RealtimeError("too-large", `the command has ${bytes} bytes, the limit is ${COMMAND_BYTES}`);
    }
    if (!this.#isExpecting) throw new RealtimeError("not-connected", "not connected", { temporary: true });
    if (this.#waiting >= MOST_CALLS) {
      throw new RealtimeError("too-many", `${MOST_CALLS} calls are already waiting`, { temporary: true });
    }
    this.#waiting += 1;
    try {
      return await this.#request(body);
    } finally {
      this.#waiting -= 1;
    }
  }

  /**
   * @param {string} body
   * @returns {Promise<any>}
   */
  #request(body) {
    return new Promise((resolve, reject) => {
      const unknown = (/** @type {string} */ why) =>
        reject(new RealtimeError("unknown-outcome", `unknown outcome: ${why}`, { outcome: "unknown" }));
      const command = new Command(body, {
        onResult: resolve,
        onRefusal: (refusal) => reject(refusal.toError()),
        onLost: (sent) => {
          if (sent) unknown("the connection broke before the answer");
          else reject(new RealtimeError("not-connected", "not connected", { temporary: true }));
        },
        onTimeout: () => unknown("no answer"),
      });
      this.send(command);
    });
  }

  /**
   * Send a command, in one frame with all others of this turn of the event loop.
   *
   * @param {Command} command
   */
  send(command) {
    this.#queue.push(command);
    if (this.#queue.length === 1) queueMicrotask(() => this.#flush());
  }

  #flush() {
    const outlet = this.#outlet;
    if (!outlet?.isOpen || this.#queue.length === 0) return;
    /** @type {string[]} */
    let frame = [];
    let size = 0;
    for (const command of this.#queue.splice(0)) {
      const text = this.#number(command);
      const bytes = utf8Length(text) + 1;
      if (size + bytes > FRAME_BYTES && frame.length > 0) {
        outlet.send(frame.join("\n"));
        frame = [];
        size = 0;
      }
      frame.push(text);
      size += bytes;
    }
    outlet.send(frame.join("\n"));
  }

  /** @param {Command} command */
  #number(command) {
    const id = ++this.#lastId;
    this.#unanswered.set(id, command);
    if (this.#unanswered.size === 1) this.#expectAnswer();
    return `{"id":${id},${command.body}}`;
  }

  /** Give the first unanswered command its time: those behind it wait for their turn at the server. */
  #expectAnswer() {
    this.#timers.clear("answer");
    if (this.#unanswered.size === 0) return;
    this.#timers.set("answer", this.#answerMs, () => {
      const id = firstKey(this.#unanswered);
      const command = /** @type {Command} */ (this.#unanswered.get(id));
      this.#unanswered.delete(id);
      this.#expectAnswer();
      command.onTimeout();
    });
  }

  /**
   * @param {number} id
   * @param {Record<string, any>} message
   */
  onReply(id, message) {
    const command = this.#unanswered.get(id);
    if (!command) return; // the call has timed out, or never existed
    const isFirst = firstKey(this.#unanswered) === id;
    this.#unanswered.delete(id);
    if (isFirst) this.#expectAnswer();
    if (message.error !== undefined) return command.onRefusal(asRefusal(message.error));
    const { id: _, ...rest } = message;
    command.onResult(Object.values(rest)[0] ?? {});
  }
}

/**
 * Fetches one token at a time, and drops a token that arrives when it is no longer needed.
 */
class TokenSource {
  #getToken;
  /** @type {object | null} identifies the fetch under way */
  #fetching = null;

  /** @param {(() => string | Promise<string>) | undefined} getToken */
  constructor(getToken) {
    this.#getToken = getToken;
  }

  get exists() {
    return Boolean(this.#getToken);
  }

  /**
   * Fetch a token and call `then` with it, at once with "" if there is no source.
   *
   * @param {(token: string) => void} then
   * @param {() => void} [otherwise] called if the token could not be fetched
   */
  fetch(then, otherwise = ignore) {
    const getToken = this.#getToken;
    if (!getToken) return then("");
    const fetching = (this.#fetching = {});
    const current = (/** @type {(token: string) => void} */ next) => (/** @type {string} */ token) => {
      if (this.#fetching !== fetching) return;
      this.#fetching = null;
      next(token);
    };
    fetchToken(getToken).then(current(then), current(otherwise));
  }

  /** Drop the token that is being fetched. */
  cancel() {
    this.#fetching = null;
  }
}

/** Named timers: starting one again replaces it, and all can be stopped together. */
class Timers {
  /** @type {Map<string, ReturnType<typeof setTimeout>>} */
  #running = new Map();

  /** @param {string} name */
  has(name) {
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

  /**
   * @param {string} name
   * @returns {boolean} whether it was running
   */
  clear(name) {
    clearTimeout(this.#running.get(name));
    return this.#running.delete(name);
  }

  clearAll() {
    for (const name of [...this.#running.keys()]) this.clear(name);
  }
}

// --- options ---------------------------------------------------------------------------------------------------------

/**
 * Complete the options of `connect` by those that the page sets and by the defaults.
 *
 * @param {Options} options
 */
function completeOptions(options) {
  // A caller that names another server must not send the page's token to it.
  const page = options.url === undefined ? readPageOptions() : {};
  /** @type {new (url: string) => Socket} */
  const WebSocket = globalThis.WebSocket;
  const session = typeof options.shared === "string" ? options.shared : (page.session ?? "");
  const shared = Boolean(options.shared ?? page.session);
  const complete = { ...OPTIONS, WebSocket, positions: {}, ...page, ...options, session, shared };
  if (options.url === undefined) complete.url = page.url ?? OPTIONS.url;
  return complete;
}

/**
 * Read what the template tag `{% realtime %}` wrote into this page.
 *
 * @returns {{
 *   url?: string, session?: string, positions?: Record<string, Position | null>, getToken?: () => Promise<string>,
 * }}
 */
function readPageOptions() {
  // Only a script element counts: injected markup of another kind must not decide where tokens are sent.
  const elements = globalThis.document?.querySelectorAll('script#realtime-config[type="application/json"]') ?? [];
  const [first, ...others] = [...elements].map((element) => asObject(JSON.parse(element.textContent ?? "")));
  if (!first) return {};
  const { url, tokenUrl } = first;
  const session = first.session ?? others.find((other) => other.session)?.session;
  const positions = Object.assign({}, first.positions, ...others.map((other) => other.positions)); // of a base template
  const page = { url, session, positions };
  return tokenUrl ? { ...page, getToken: () => fetchPageToken(tokenUrl) } : page;
}

/**
 * Check the positions of the page's data.
 *
 * @param {Readonly<Record<string, Position | null>>} positions
 * @returns {Map<string, Position | null>}
 */
function toPositions(positions) {
  /** @type {Map<string, Position | null>} */
  const checked = new Map();
  for (const [channel, since] of Object.entries(positions)) checked.set(channel, toSince(since));
  return checked;
}

/**
 * Check a position that the page's own code gave: only the server's mistakes may close the connection later.
 *
 * @template {Position | null | undefined} Since
 * @param {Since} since
 * @returns {Since}
 */
function toSince(since) {
  if (since === null || since === undefined) return since;
  const { epoch, offset } = since;
  if (typeof epoch === "string" && epoch !== "" && Number.isSafeInteger(offset) && offset >= 0) return since;
  throw new TypeError("a position is {epoch, offset}, as `position()` of the site or POST /api/position returns it");
}

/**
 * Fetch a token for the page's user; "" if they are no longer logged in.
 *
 * @param {string} tokenUrl
 * @returns {Promise<string>}
 */
async function fetchPageToken(tokenUrl) {
  const headers = { Accept: "application/json" };
  const answer = await fetch(tokenUrl, { headers, mode: "same-origin", cache: "no-store" });
  if (answer.status === 403) return "";
  if (!answer.ok) throw new Error(`no token: the site answered with status ${answer.status}`);
  return (await answer.json()).token;
}

/**
 * @param {string} url
 * @returns {string}
 */
function toSocketUrl(url) {
  const absolute = new URL(url, globalThis.location?.href);
  absolute.protocol = absolute.protocol.replace("http", "ws");
  return absolute.href;
}

/**
 * @param {number} attempt
 * @param {{retryFirstMs: number, retryMostMs: number, random: () => number}} options
 */
function retryDelayMs(attempt, { retryFirstMs, retryMostMs, random }) {
  return backoffMs(attempt, retryFirstMs, retryMostMs, random());
}

// --- commands --------------------------------------------------------------------------------------------------------

/**
 * @param {string} method
 * @param {string} channel
 * @param {string} [more] further fields
 */
function formatCommand(method, channel, more = "") {
  return `"${method}":{"channel":${JSON.stringify(channel)}${more}}`;
}

/** @param {string} token */
function formatToken(token) {
  return token ? `,"token":${JSON.stringify(token)}` : "";
}

/**
 * @param {any} data
 * @returns {string}
 */
function toJson(data) {
  const json = JSON.stringify(data);
  if (json === undefined) throw new TypeError("data cannot be encoded as JSON");
  return json;
}

const encoder = new TextEncoder();

/** @param {string} text */
function utf8Length(text) {
  return encoder.encode(text).length;
}

// --- server messages -------------------------------------------------------------------------------------------------

/** A frame that no server of this protocol sends. */
class Malformed extends Error {}

/**
 * The server's refusal of a command.
 */
class Refusal {
  /**
   * @param {number} code
   * @param {string} message
   * @param {boolean} temporary
   */
  constructor(code, message, temporary) {
    this.code = code;
    this.message = message;
    this.temporary = temporary;
  }

  /** Whether another attempt is worthwhile: the rule of Centrifugo's SDKs. */
  get isTemporary() {
    return this.temporary || this.code < 100 || this.code === 109;
  }

  toError() {
    const { code, message, temporary } = this;
    // 1002: the broker did not answer. Other servers of this protocol send 100 ("internal"), which says no more.
    const outcome = [100, 1002].includes(code) ? "unknown" : "not-done";
    return new RealtimeError(code, message, { temporary, outcome });
  }
}

/** @param {unknown} value */
function asRefusal(value) {
  const { code, message, temporary } = asObject(value);
  return new Refusal(asCount(code), asText(message ?? ""), temporary === true);
}

/**
 * @param {unknown} value
 * @returns {Record<string, any>}
 */
function asObject(value) {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
  throw new Malformed("not an object");
}

/**
 * @param {unknown} value
 * @returns {number}
 */
function asCount(value) {
  if (Number.isSafeInteger(value) && /** @type {number} */ (value) >= 0) return /** @type {number} */ (value);
  throw new Malformed("not a non-negative integer");
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function asText(value) {
  if (typeof value === "string") return value;
  throw new Malformed("not a string");
}

/**
 * @param {unknown} result
 * @returns {Position | null} null from a server that keeps no positions
 */
function asPosition(result) {
  const { positioned, epoch, offset } = asObject(result);
  return positioned ? { epoch: asText(epoch), offset: asCount(offset ?? 0) } : null;
}

/**
 * @param {unknown} value
 * @returns {Map<string, Sender>}
 */
function asMembers(value) {
  const listed = Object.entries(asObject(asObject(value).presence));
  return new Map(listed.map(([client, info]) => [client, asSender(info)]));
}

/**
 * @param {unknown} value
 * @returns {Headcount}
 */
function asHeadcount(value) {
  const { num_clients, num_users } = asObject(value);
  return { clients: asCount(num_clients ?? 0), users: asCount(num_users ?? 0) };
}

/** @param {Record<string, any>} tags */
function eventOf(tags) {
  return typeof tags.event === "string" ? tags.event : null;
}

/**
 * @param {unknown} value
 * @returns {Sender}
 */
function asSender(value) {
  const { user, client, conn_info, chan_info } = asObject(value);
  const info = conn_info ?? null;
  return { user: asText(user ?? ""), client: asText(client ?? ""), info, channelInfo: chan_info ?? null };
}

/**
 * @param {() => string | Promise<string>} getToken
 * @returns {Promise<string>}
 */
async function fetchToken(getToken) {
  return asText(await getToken());
}

/** @param {{ttl?: number}} result */
function ttlMs({ ttl }) {
  return Math.min(asCount(ttl ?? 0) * 1000, LONGEST_TIMER_MS);
}

// --- helpers ---------------------------------------------------------------------------------------------------------

/**
 * @param {Socket | null} socket
 * @param {number} code
 * @param {string} reason
 */
function closeQuietly(socket, code, reason) {
  // A reason has at most 123 bytes (RFC 6455 §5.5). Ours are short; the server's may be longer and not ASCII.
  socket?.close(code, reason.replace(/[^ -~]/g, "?").slice(0, 120));
}

/**
 * @template K
 * @param {Map<K, unknown>} map
 * @returns {K}
 */
function firstKey(map) {
  return /** @type {K} */ (map.keys().next().value);
}

function ignore() {}

/**
 * The platform's CustomEvent. Node 18 has none without a flag.
 *
 * @type {typeof CustomEvent}
 */
const DetailEvent =
  globalThis.CustomEvent ??
  /** @type {any} */ (
    class extends Event {
      /**
       * @param {string} type
       * @param {{detail: any}} init
       */
      constructor(type, { detail }) {
        super(type);
        this.detail = detail;
      }
    }
  );
