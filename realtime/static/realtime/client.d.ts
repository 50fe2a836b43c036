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
export type StateName = "connecting" | "live" | "not-live" | "reconnecting" | "closed";
export type State = {
    state: StateName;
    /**
     * why, as a slug or in the server's words; "" while nothing is wrong
     */
    reason: string;
    /**
     * milliseconds until the next attempt; only while "reconnecting"
     */
    retryInMs: number | null;
    /**
     * round trip of the latest ping; null before the first
     */
    latencyMs: number | null;
};
export type Position = {
    /**
     * identifies one life of the channel's counter
     */
    epoch: string;
    /**
     * number of publications counted in this epoch
     */
    offset: number;
};
export type Missing = {
    epoch: string;
    /**
     * the first missing offset
     */
    from: number;
    /**
     * the last missing offset; null if it cannot be known
     */
    to: number | null;
    /**
     * from the server: "slow", "broker", …; found by this client: "reconnect", "unknown"
     */
    reason: string;
};
export type Publication = {
    channel: string;
    data: any;
    /**
     * the event's name, if the publisher gave one
     */
    event: string | null;
    tags: Readonly<Record<string, string>>;
    /**
     * the client that published it; null if your server did
     */
    sender: Sender | null;
    offset: number | null;
    epoch: string | null;
    /**
     * whether it was missed (`SubscribeOptions.fill`)
     */
    filled: boolean;
};
export type Sender = {
    /**
     * the user's id; "" if anonymous
     */
    user: string;
    /**
     * the id of the connection
     */
    client: string;
    /**
     * what the site discloses about the user, such as a name; null if nothing
     */
    info: any;
    /**
     * what the site discloses about the user on this channel; null if nothing
     */
    channelInfo: any;
};
export type Person = {
    /**
     * the user's id; "" if anonymous
     */
    user: string;
    /**
     * what the site discloses about the user; null if nothing
     */
    info: any;
    /**
     * the ids of their connections, one per tab
     */
    clients: string[];
};
export type Headcount = {
    /**
     * connections
     */
    clients: number;
    /**
     * different users; all anonymous connections count as one
     */
    users: number;
};
export type Gap = {
    channel: string;
    epoch: string;
    /**
     * the first missing offset
     */
    from: number;
    /**
     * the last missing offset; null if it cannot be known
     */
    to: number | null;
    /**
     * how many publications; null if some may be missing and the number is unknown
     */
    missed: number | null;
    /**
     * see `Missing`
     */
    reason: string;
    /**
     * the channel is known to be complete up to this time
     */
    since: Date;
    /**
     * the channel is complete again from this time on
     */
    until: Date;
    /**
     * wait this long before you fetch what was missed: other browsers missed it too; 0 for
     * what was published while the page loaded
     */
    refetchAfterMs: number;
};
export type SubscriptionEvents = {
    publication: Publication;
    gap: Gap;
    /**
     * without a position if the server keeps none
     */
    subscribed: {
        channel: string;
        epoch?: string;
        offset?: number;
    };
    /**
     * it has ended; code 0: by this client
     */
    unsubscribed: {
        channel: string;
        code: number;
        reason: string;
    };
    /**
     * the server refused the subscription, which has ended
     */
    error: RealtimeError;
    join: Sender;
    leave: Sender;
    /**
     * complete: `people` lists all members
     */
    presence: {
        channel: string;
        complete: boolean;
    } & Headcount;
};
export type Frame = {
    direction: "in" | "out";
    /**
     * one or more JSON objects, each on a line of its own; may contain tokens
     */
    text: string;
    time: Date;
};
export type ConnectionEvents = {
    state: Readonly<State>;
    /**
     * the server started one, such as of the user's own channel
     */
    subscription: {
        subscription: Subscription;
    };
    /**
     * a message to this client that is not on any channel
     */
    message: {
        data: any;
    };
    /**
     * the server refused a subscription, which has
     * ended; follows the `error` of the subscription
     */
    error: {
        subscription: Subscription;
        error: RealtimeError;
    };
    /**
     * one was sent or received; only from the first listener on
     */
    frame: Readonly<Frame>;
};
export type Emitter<Details> = {
    addEventListener<Name extends keyof Details & string>(type: Name, listener: ((event: CustomEvent<Details[Name]>) => void) | null, options?: AddEventListenerOptions | boolean): void;
    removeEventListener<Name extends keyof Details & string>(type: Name, listener: ((event: CustomEvent<Details[Name]>) => void) | null, options?: EventListenerOptions | boolean): void;
} & EventTarget;
export type Socket = {
    readyState: number;
    send: (data: string) => void;
    close: (code?: number, reason?: string) => void;
    onopen: ((event: any) => void) | null;
    onmessage: ((event: any) => void) | null;
    onclose: ((event: any) => void) | null;
    onerror: ((event: any) => void) | null;
};
export type Options = {
    /**
     * returns a connection token; called before each connection and
     * before the token expires; "" is anonymous. Pages of the service itself use the session instead, and pages with the
     * template tag `{% realtime %}` get tokens from the tag's address
     */
    getToken?: () => string | Promise<string>;
    /**
     * relative, http(s) or ws(s); default: what the template tag `{% realtime %}` wrote into the
     * page, otherwise "/connection/websocket" on this origin
     */
    url?: string;
    /**
     * share one WebSocket with the other tabs of this session. True: the template tag
     * says which session it is, as `{% realtime shared=True %}`, or the user of the token does. A text: it identifies the
     * session, so it differs as soon as someone else has logged in. Default: true if the tag says which session it is
     */
    shared?: boolean | string;
    /**
     * the constructor, for platforms without one
     */
    WebSocket?: new (url: string) => Socket;
    /**
     * 0 ≤ x < 1, for jitter
     */
    random?: () => number;
    /**
     * reconnect attempt n waits random(0, min(retryMostMs, retryFirstMs · 2ⁿ))
     */
    retryFirstMs?: number;
    retryMostMs?: number;
    /**
     * how much longer than its ping interval the server may be silent before it counts as
     * dead
     */
    pingGraceMs?: number;
    /**
     * how long a command may remain unanswered
     */
    answerMs?: number;
    /**
     * interval of latency measurements while the page is visible
     */
    latencyEveryMs?: number;
    /**
     * `refetchAfterMs` is drawn from 0 to this
     */
    refetchWindowMs?: number;
    /**
     * what channels had counted when the page's data was
     * read: the first subscription to each of them begins there, as with its option `since`. Default: what the template
     * tag wrote into the page
     */
    positions?: Readonly<Record<string, Position | null>>;
};
export type GetChannelToken = (request: {
    channel: string;
}) => string | Promise<string>;
export type FillRequest = {
    channel: string;
    epoch: string;
    from: number;
    to: number | null;
    waiting: number | null;
    age: number;
    signal: AbortSignal;
};
export type FillAnswer = {
    publications: {
        offset: number;
        data: any;
        tags?: Record<string, string>;
    }[];
    more?: boolean;
    complete?: boolean;
    waiting?: number | null;
};
export type SubscribeOptions = {
    /**
     * for channels that need a subscription token; called before each subscribe and
     * before the token expires
     */
    getToken?: GetChannelToken;
    /**
     * keep track of the channel's members
     */
    presence?: boolean;
    /**
     * what the channel had counted when the page's data was read. What was published
     * after it and before the subscription is reported as a gap. Null: the position could not be read, so some
     * publications may be missing, which is reported as well. Undefined: the position from `Options.positions`, if any
     */
    since?: Position | null;
    /**
     * where to ask for what was missed: the
     * address of a view of the site (docs/howto/outbox.md), or a function. Only what it lacks is reported as a gap
     */
    fill?: string | ((request: FillRequest) => Promise<FillAnswer>);
};
export type Hold = {
    subscription: Subscription;
    /**
     * ends it for this part
     */
    release: () => void;
};
/**
 * The server refused a request, or its outcome is unknown.
 */
export declare class RealtimeError extends Error {
    code: string | number;
    temporary: boolean;
    outcome: "not-done" | "unknown";
    /**
     * @param {number | string} code the server's number, or one of our slugs: "not-connected", "unknown-outcome",
     *   "too-large", "too-many", "closed"
     * @param {string} message
     * @param {{temporary?: boolean, outcome?: "not-done" | "unknown"}} [facts] temporary: the same request may succeed
     *   later; outcome: whether it may have happened despite the error
     */
    constructor(code: number | string, message: string, { temporary, outcome }?: {
        temporary?: boolean;
        outcome?: "not-done" | "unknown";
    });
}
/**
 * Write to the console that the server refused a subscription, as the client does if nobody listens for `error`.
 *
 * @param {string} channel
 * @param {RealtimeError} error
 */
export declare function warnOfRefusal(channel: string, error: RealtimeError): void;
/**
 * Tell whether a close code forbids reconnecting (Centrifugo's ranges; 1009 means that a frame was too big).
 *
 * @param {number} code
 * @returns {boolean}
 */
export declare function isTerminal(code: number): boolean;
/**
 * Full jitter: a random delay below a limit that doubles (AWS, "Exponential Backoff And Jitter", 2015).
 *
 * @param {number} attempt 0, 1, 2 …
 * @param {number} firstMs
 * @param {number} mostMs
 * @param {number} random 0 ≤ x < 1
 * @returns {number}
 */
export declare function backoffMs(attempt: number, firstMs: number, mostMs: number, random: number): number;
/**
 * Tracks which publications of one channel arrived and which are missing. No clock, no socket.
 *
 * Law: each publication after the first position is either received or in a gap, never in both, in order. The one
 * exception is an epoch that was reported as ended and turns out to be alive, because two nodes disagreed for a moment:
 * its gap had no end ("some may be missing"), and publications that still arrive in it are received.
 */
export declare class PositionTracker {
    #private;
    /** @param {Position | null} [since] the first position, if it is known before the first subscribe */
    constructor(since?: Position | null);
    /**
     * The newest position; null before the first one.
     *
     * @returns {Position | null}
     */
    get position(): Position | null;
    /**
     * Tell whether the publication at a position was received or reported as missing.
     *
     * @param {Position} position
     */
    covers({ epoch, offset }: Position): boolean;
    /**
     * Process the position in a subscribe reply: publications after it arrive live.
     *
     * @param {Position} position
     * @returns {Missing[]}
     */
    subscribed({ epoch, offset }: Position): Missing[];
    /**
     * Process a publication. It is `fresh` unless it was received or reported before; `missing` precedes it.
     *
     * @param {{offset: number, epoch?: string}} publication epoch only if it differs from that of the one before
     * @returns {{fresh: boolean, missing: Missing[]}}
     */
    publication({ offset, epoch }: {
        offset: number;
        epoch?: string;
    }): {
        fresh: boolean;
        missing: Missing[];
    };
    /**
     * Process a gap that the server announces, without the part that is already known.
     *
     * @param {Missing} gap
     * @returns {Missing[]}
     */
    gap({ epoch, from, to, reason }: Missing): Missing[];
}
/**
 * Tracks the members of one channel. No clock, no socket.
 *
 * The member list and the joins and leaves around it travel on different paths and may overtake each other. Joins and
 * leaves that arrive after the list was requested are therefore applied again on top of it.
 */
export declare class Roster {
    #private;
    /** Collect what happens until the requested list arrives. */
    expectList(): void;
    /**
     * Take the requested list, and what happened since then.
     *
     * @param {Map<string, Sender>} members
     */
    replaceMembers(members: Map<string, Sender>): void;
    /**
     * Add a member who joined.
     *
     * @param {Sender} member
     */
    addMember(member: Sender): void;
    /**
     * Remove a member who left.
     *
     * @param {Sender} member
     */
    removeMember(member: Sender): void;
    /**
     * Take the number of members that the server sent.
     *
     * @param {Headcount} count
     * @param {boolean} same whether each join and leave until then was announced by name
     */
    updateCount(count: Headcount, same: boolean): void;
    /** Trust the list no longer: the connection was lost, and members may have left. */
    discardList(): void;
    /** The number of clients, as far as it is known. */
    get clients(): number;
    /**
     * The number of members, and whether `people` lists all of them.
     *
     * @returns {Headcount & {complete: boolean}}
     */
    get presence(): Headcount & {
        complete: boolean;
    };
    /**
     * The known members; each user once, in the order in which they joined.
     *
     * @returns {Person[]}
     */
    get people(): Person[];
}
declare const SubscriptionTarget: new () => Emitter<SubscriptionEvents>;
/**
 * One channel. Events: `publication`, `gap`, `subscribed`, `unsubscribed` and `error`; with the option `presence` also
 * `join`, `leave` and `presence`. See `SubscriptionEvents` for their details.
 */
export declare class Subscription extends SubscriptionTarget {
    #private;
    /**
     * @readonly
     * @type {string}
     */
    readonly channel: string;
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
    constructor(channel: string, feed: {
        readonly state: "subscribing" | "subscribed" | "unsubscribed";
        readonly isLive: boolean;
        readonly served: boolean;
        readonly tracker: PositionTracker;
        readonly rosterSync: {
            readonly people: Person[];
        } | null;
        reached: (position: Position, ms: number) => Promise<boolean>;
        call: (body: string) => Promise<any>;
        unsubscribe: () => void;
    });
    /**
     * "subscribing" (also after a break), "subscribed", or "unsubscribed" for good.
     *
     * @returns {"subscribing" | "subscribed" | "unsubscribed"}
     */
    get state(): "subscribing" | "subscribed" | "unsubscribed";
    /**
     * Whether publications arrive now: it is subscribed, and the server receives this channel. Of a Redis Cluster, a part
     * may be gone, and only the channels in it are not live; the connection is "not-live" as long as one of its own is.
     *
     * @returns {boolean}
     */
    get live(): boolean;
    /**
     * Whether the server started it, and the page has not asked for it as well.
     *
     * @returns {boolean}
     */
    get served(): boolean;
    /**
     * Everything up to this position was received, reported as missing, or part of the page's data (`since`); null before
     * the first reply if there is no `since`.
     *
     * @returns {Position | null}
     */
    get position(): Position | null;
    /**
     * Where a request of the page has published on this channel, by a header of its response.
     *
     * @param {Response} response
     * @returns {Position | undefined}
     */
    positionOf(response: Response): Position | undefined;
    /**
     * Wait until the publication at a position was emitted, or reported as missing.
     *
     * @param {Position | undefined} position undefined: there is nothing to wait for
     * @param {{timeoutMs?: number}} [options] default: ten seconds
     * @returns {Promise<boolean>} false: not in time, or the subscription has ended
     */
    reached(position: Position | undefined, { timeoutMs }?: {
        timeoutMs?: number;
    }): Promise<boolean>;
    /**
     * Publish into this channel; see `Connection.publish`.
     *
     * @param {any} data
     * @returns {Promise<void>}
     */
    publish(data: any): Promise<void>;
    /**
     * The known members; empty without the option `presence`.
     *
     * @returns {Person[]}
     */
    get people(): Person[];
    /**
     * Request the members once, by client, where the server discloses them.
     *
     * @returns {Promise<Map<string, Sender>>} rejects with a RealtimeError
     */
    presence(): Promise<Map<string, Sender>>;
    /**
     * Request the number of members once.
     *
     * @returns {Promise<Headcount>} rejects with a RealtimeError
     */
    presenceStats(): Promise<Headcount>;
    /** End the subscription. */
    unsubscribe(): void;
}
declare const ConnectionTarget: new () => Emitter<ConnectionEvents>;
/**
 * One WebSocket that reconnects, and the subscriptions that share it. Events: `state`, `subscription` (the server
 * started one), `message` (for this client, on no channel), `error` (the server refused a subscription) and `frame`
 * (something was sent or received). See `ConnectionEvents` for their details.
 */
export declare class Connection extends ConnectionTarget {
    #private;
    /** @param {Options} [options] */
    constructor(options?: Options);
    /**
     * The current state; each change is also a `state` event.
     *
     * @returns {Readonly<State>}
     */
    get state(): Readonly<State>;
    /**
     * The id by which others see this connection (`sender.client`). It changes with each reconnect, and is "" while there
     * is no connection.
     *
     * @returns {string}
     */
    get client(): string;
    /**
     * Subscribe to a channel, and again after each break, until `unsubscribe` is called or the server refuses. A second
     * call for the same channel returns the same subscription. One that the server has started becomes the page's own: it
     * is requested again after a break.
     *
     * @param {string} channel
     * @param {SubscribeOptions} [options]
     * @returns {Subscription}
     */
    subscribe(channel: string, options?: SubscribeOptions): Subscription;
    /**
     * Subscribe to a channel for a part of the page, such as a component that may be removed. The subscription ends when
     * all parts have released it, unless `subscribe` was called for the channel, before or since, or the server started
     * it.
     *
     * @param {string} channel
     * @returns {Hold}
     */
    hold(channel: string): Hold;
    /**
     * The present subscriptions, those that the server started included.
     *
     * @returns {Subscription[]}
     */
    get subscriptions(): Subscription[];
    /**
     * Publish into a channel, where the server allows it. While the first connection or a reconnect attempt is under way,
     * the command waits for it; while the client waits for the next attempt, the promise rejects at once.
     *
     * @param {string} channel
     * @param {any} data any JSON value
     * @returns {Promise<void>} rejects with a RealtimeError; with `outcome` "unknown" it may have been published
     */
    publish(channel: string, data: any): Promise<void>;
    /**
     * Call the server's function `REALTIME_RPC`.
     *
     * @param {string} method
     * @param {any} [data] any JSON value
     * @returns {Promise<any>} its result; rejects with a RealtimeError
     */
    rpc(method: string, data?: any): Promise<any>;
    /** Start the pending attempt to reconnect at once, such as from a "retry" button. */
    retryNow(): void;
    /** Close for good. No timer, listener or socket remains. */
    close(): void;
}
/**
 * Open a connection. It reconnects until `close()` is called or the server forbids it.
 *
 * @param {Options} [options]
 * @returns {Connection}
 */
export declare function connect(options?: Options): Connection;
export type Outlet = {
    readonly isOpen: boolean;
    send: (frame: string) => void;
};
export {};
