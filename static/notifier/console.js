/** The console: subscribes to any channel that its user may hear, and shows what goes over the connection. */

import { connect } from "../realtime/client.js";
import { showConnection, whenLive } from "./connection.js";
import { Follower } from "./following.js";
import { FrameLog } from "./frames.js";
import { byId, keepFocus, make, runOnce } from "./page.js";
import { peopleForm, showPresence } from "./people.js";
import { publishForm } from "./publishing.js";

/** @typedef {import("../../realtime/static/realtime/client.js").Subscription} Subscription */
/** @typedef {import("../../realtime/static/realtime/client.js").RealtimeError} RealtimeError */

const MOST_OPTIONS = 200; // channels in the filter

publishForm();
peopleForm();
foldByButton();
const log = new FrameLog();
const live = connect();
showConnection(live);
live.addEventListener("frame", ({ detail }) => log.addFrame(detail));
whenLive(live, () => byId("main").toggleAttribute("data-listening", true));

/** A channel in the list, with its state. */
class ChannelRow {
  #state = make("span", { className: "channel-state", role: "status" });
  #leave = make("button", { type: "button", className: "button button-quiet" }, "Leave");
  #ask = make("button", { type: "button", className: "button button-quiet" }, "Who is here");
  #present = make("div", { className: "channel-people" });

  /**
   * @param {Subscription} subscription
   * @param {string} origin how the subscription began, if not by this page
   */
  constructor(subscription, origin) {
    this.subscription = subscription;
    const { channel } = subscription;
    this.element = make("li", { className: "channel", tabIndex: -1, data: { channel } }, make("p", { className: "channel-head" }, make("bdi", { className: "mono" }, channel), this.#state), make("div", { className: "console-buttons" }, this.#ask, this.#leave), this.#present);
    this.#ask.ariaLabel = `Who is here: ${channel}`;
    this.#ask.addEventListener("click", () => runOnce([this.#ask], () => showPresence(subscription, this.#present)));
    this.#leave.ariaLabel = `Leave ${channel}`;
    this.#leave.addEventListener("click", () => this.end());
    subscription.addEventListener("subscribed", () => this.#show("subscribed", `Subscribed${origin}`));
    subscription.addEventListener("gap", ({ detail }) => log.addGap(detail));
    subscription.addEventListener("unsubscribed", ({ detail: { reason } }) => this.#over("ended", `Ended${reason && `: ${reason}`}`));
    subscription.addEventListener("error", ({ detail }) => this.#over("refused", refusalWords(detail)));
    this.#show(subscription.state, subscription.state === "subscribed" ? `Subscribed${origin}` : "Subscribing…");
  }

  #show(/** @type {string} */ state, /** @type {string} */ words) {
    this.element.dataset.state = state;
    this.#state.textContent = words;
  }

  #over(/** @type {string} */ state, /** @type {string} */ words) {
    if (rows.get(this.subscription.channel) !== this) return; // the user has removed it
    if (this.element.dataset.state !== "refused") this.#show(state, words);
    keepFocus(this.element, () => (this.#ask.hidden = true), this.#leave);
    this.#present.replaceChildren();
    this.#leave.textContent = "Remove";
    this.#leave.ariaLabel = `Remove ${this.subscription.channel}`;
  }

  /** Leave the channel, and take the row away. */
  end() {
    rows.delete(this.subscription.channel);
    this.subscription.unsubscribe();
    keepFocus(this.element, () => this.element.remove(), byId("channel-name"));
  }
}

/** @type {Map<string, ChannelRow>} */
const rows = new Map();

function refusalWords(/** @type {RealtimeError} */ { code, message }) {
  return `Refused: ${message} (${code}). The log of the service has the reason.`;
}

function show(/** @type {Subscription} */ subscription, origin = "") {
  const row = new ChannelRow(subscription, origin);
  rows.get(subscription.channel)?.element.remove();
  rows.set(subscription.channel, row);
  byId("channels").append(row.element);
  const options = byId("filter-channel");
  const isKnown = [...options.options].some(({ value }) => value === subscription.channel);
  if (!isKnown && options.options.length < MOST_OPTIONS) options.append(make("option", { value: subscription.channel }, subscription.channel));
}

new Follower({
  join(channel, user) {
    const known = rows.get(channel);
    if (known && known.subscription.state !== "unsubscribed") return false;
    show(live.subscribe(channel), `, followed with ${user}`);
    return true;
  },
  leave: (channel) => rows.get(channel)?.end(),
  filter: (channels) => log.follow(channels),
});

live.addEventListener("subscription", ({ detail }) => show(detail.subscription, " by the server"));

byId("channel-form").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  byId("channel-error").textContent = "";
  const channel = byId("channel-name").value.trim();
  if (!channel) return;
  const known = rows.get(channel);
  if (known && known.subscription.state !== "unsubscribed") {
    byId("channel-error").textContent = `This page is subscribed to ${channel} already.`;
    return;
  }
  try {
    show(live.subscribe(channel));
    byId("channel-name").select();
  } catch (error) {
    byId("channel-error").textContent = error instanceof Error ? error.message : String(error);
  }
});
byId("channel-go").disabled = false;

/** On a narrow screen the form begins folded: the frames are below it. Beside them, the style sheet keeps it open. */
function foldByButton() {
  const button = byId("publish-fold");
  button.addEventListener("click", () => {
    const isFolded = byId("publish").toggleAttribute("data-folded");
    button.ariaExpanded = String(!isFolded);
    button.textContent = isFolded ? "Show form" : "Hide form";
  });
}
