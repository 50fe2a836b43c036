/** The page of live notifications. */

import { connect } from "../realtime/client.js";
import { showConnection, whenLive } from "./connection.js";
import { BackgroundNotifications, List, Toasts, readNotification } from "./notifications.js";
import { Unseen, byId } from "./page.js";
import { postForm } from "./post.js";

const { channel, ownChannel, staff, apiKey, publishUrl } = byId("main").dataset;
const form = postForm({ channel, ownChannel, apiKey, publishUrl, byStaff: Boolean(staff) });
const list = new List();
const toasts = new Toasts();
const background = new BackgroundNotifications();
const unseen = new Unseen();

const live = connect();
showConnection(live);
whenLive(live, form.forgetOutage);
// The page subscribes to the public channel. The server subscribes a logged-in user to the personal one.
const awaited = new Set([channel, ...(ownChannel ? [ownChannel] : [])]);
const news = listen(live.subscribe(channel));
live.addEventListener("subscription", (/** @type {any} */ { detail }) => listen(detail.subscription));

// The empty list shows a curl command. Once it is gone, the form of a large window has room for its own.
const opensCurl = matchMedia("(min-width: 60rem) and (min-height: 50rem)").matches;
const openCurl = () => {
  byId("curl-details").open = true;
};
if (opensCurl) news.addEventListener("publication", openCurl, { once: true });

news.addEventListener("error", (/** @type {any} */ { detail }) => {
  byId("empty").textContent = `The server does not let this page listen to ${channel}: ${detail.message}.`;
});

/** @returns {any} */
function listen(/** @type {any} */ subscription) {
  subscription.addEventListener("subscribed", () => {
    if (subscription.channel === ownChannel) byId("own-heading").hidden = false;
    awaited.delete(subscription.channel);
    if (awaited.size === 0) byId("main").dataset.listening = ""; // from now on, missed publications are reported as gaps
  });
  subscription.addEventListener("publication", (/** @type {any} */ { detail }) => {
    form.arrived(detail);
    const notice = readNotification(detail);
    list.addNotification(notice);
    toasts.show(notice);
    background.show(notice, unseen.add());
  });
  subscription.addEventListener("gap", (/** @type {any} */ { detail }) => list.addGap(detail, subscription.channel));
  return subscription;
}
