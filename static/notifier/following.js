/** Follows a user on the console: this page joins the channels of the user's connections that its own user may hear. */

import { byId, runOnce } from "./page.js";
import { findConnections, wantedUser } from "./people.js";

const PAUSE = 5_000; // ms between two questions; the nodes are asked each time
const MOST_CHANNELS = 50; // a connection may have few more
const NONE = /** @type {ReadonlySet<string>} */ (new Set());

/**
 * @typedef {object} Page
 * @property {(channel: string, user: string) => boolean} join subscribes to a channel; false if the page has it already
 * @property {(channel: string) => void} leave
 * @property {(channels: ReadonlySet<string>) => void} filter shows only these channels as an option; none takes it away
 */

/** The button that follows the user of the form, and stops. */
export class Follower {
  #user = "";
  #run = 0; // counts starts and stops, so that an answer which comes later is ignored
  /** @type {Set<string>} channels that this page has joined for the user */
  #joined = new Set();
  /** @type {Set<string>} channels that the user was on last time */
  #known = new Set();
  /** @type {number | undefined} */
  #timer;
  #button = byId("user-follow");

  constructor(/** @type {Page} */ page) {
    this.page = page;
    this.#button.addEventListener("click", () => {
      if (this.#user) this.#stop();
      else if (wantedUser()) runOnce([this.#button], () => this.#start(wantedUser()));
    });
    this.#button.disabled = false;
  }

  async #start(/** @type {string} */ user) {
    this.#user = user;
    this.#run += 1;
    this.#button.textContent = "Stop following";
    await this.#look();
  }

  #stop() {
    clearTimeout(this.#timer);
    this.#user = "";
    this.#run += 1;
    this.#button.textContent = "Follow";
    for (const channel of this.#joined) this.page.leave(channel);
    this.#joined.clear();
    this.#known.clear();
    this.page.filter(NONE);
    this.#say("");
  }

  async #look() {
    const [user, run] = [this.#user, this.#run];
    try {
      const { connections, has_more: hasMore, silent_nodes: silent } = await findConnections(user, "");
      if (run === this.#run) this.#follow(connections, hasMore, silent);
    } catch (error) {
      if (run === this.#run) this.#say(`${error instanceof Error ? error.message : error} The channels of ${user} are as they were last.`);
    }
    if (run === this.#run) this.#timer = setTimeout(() => this.#look(), PAUSE);
  }

  /**
   * @param {any[]} connections
   * @param {boolean} hasMore
   * @param {number} silent
   */
  #follow(connections, hasMore, silent) {
    const all = new Set(connections.flatMap(({ channels }) => channels ?? []));
    const some = new Set([...all].sort().slice(0, MOST_CHANNELS));
    // With a node missing, a channel that is not in the answer may still have the user.
    if (!silent && !hasMore) this.#leaveAllBut(some);
    for (const channel of some) {
      if (this.#known.has(channel)) continue; // also one that was removed from the page by hand
      this.#known.add(channel);
      if (this.page.join(channel, this.#user)) this.#joined.add(channel);
    }
    this.page.filter(this.#known);
    const parts = [`Following ${this.#user}: ${connections.length} connections${hasMore ? " and more" : ""}, ${this.#known.size} channels.`];
    if (all.size > some.size) parts.push(`${all.size - some.size} more channels are not followed.`);
    if (silent) parts.push(`${silent} nodes did not answer, so there may be more.`);
    this.#say(parts.join(" "));
  }

  #leaveAllBut(/** @type {ReadonlySet<string>} */ channels) {
    for (const channel of this.#known) {
      if (channels.has(channel)) continue;
      this.#known.delete(channel);
      if (this.#joined.delete(channel)) this.page.leave(channel);
    }
  }

  #say(/** @type {string} */ words) {
    if (byId("follow-state").textContent !== words) byId("follow-state").textContent = words;
  }
}
