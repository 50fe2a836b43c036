/** The page of live notifications. */

import { connect } from "../realtime/client.js";
import { showConnection, whenLive } from "./connection.js";
import { setUpDetails } from "./details.js";
import { Feed } from "./feed.js";
import { BackgroundNotifications, Toasts, readNotification } from "./notifications.js";
import { Unseen, byId } from "./page.js";
import { postForm } from "./post.js";
import { playTone, setUpPreferences, waysToShow } from "./preferences.js";
import { countVisitors, showSteps, tickEvent } from "./start.js";

const { channel, ownChannel, staff, apiKey, publishUrl, visitors } = byId("main").dataset;
const form = postForm({ channel, ownChannel, apiKey, publishUrl, byStaff: Boolean(staff) });
const feed = new Feed();
setUpDetails(form.postAgain);
setUpPreferences();
const toasts = new Toasts();
const background = new BackgroundNotifications();
const unseen = new Unseen();
form.whenChanged(showSteps({ publishUrl, apiKey, publication: form.publication }));

const live = connect();
showConnection(live);
whenLive(live, form.forgetOutage);
// The page subscribes to the public channel. The server subscribes a logged-in user to the personal one.
const awaited = new Set([channel, ...(ownChannel ? [ownChannel] : [])]);
const news = listen(live.subscribe(channel));
if (visitors) countVisitors(live.subscribe(visitors, { presence: true }));
live.addEventListener("subscription", (/** @type {any} */ { detail }) => listen(detail.subscription));

news.addEventListener("error", (/** @type {any} */ { detail }) => {
  byId("empty").textContent = `The server does not let this page listen to ${channel}: ${detail.message}.`;
});

// 3 KiB, which only `make run` needs.
if (byId("break")) import("./outage.js").then(({ breakByButton }) => breakByButton({ publishUrl, apiKey, live, news }));

/** @returns {any} */
function listen(/** @type {any} */ subscription) {
  subscription.addEventListener("subscribed", () => {
    if (subscription.channel === ownChannel) byId("own-heading").hidden = false;
    awaited.delete(subscription.channel);
    if (awaited.size === 0) byId("main").dataset.listening = ""; // from now on, missed publications are reported as gaps
  });
  subscription.addEventListener("publication", (/** @type {any} */ { detail }) => {
    form.arrived(detail);
    tickEvent();
    const notice = readNotification(detail);
    feed.addNotification(notice);
    const ways = waysToShow(notice);
    const count = unseen.add();
    if (ways.toast) toasts.show(notice);
    if (ways.desktop) background.show(notice, count);
    if (ways.sound) playTone();
  });
  subscription.addEventListener("gap", (/** @type {any} */ { detail }) => feed.addGap(detail, subscription.channel));
  return subscription;
}
