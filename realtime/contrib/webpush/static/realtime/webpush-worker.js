/**
 * Service worker of `realtime.contrib.webpush`: shows what the site sends while no page is open, and opens the page
 * that a notification is about. It has no handler for `fetch`, and caches nothing.
 *
 * A site that has a service worker already imports this file into it.
 *
 * @module
 */

// TypeScript knows this file as one of a page; in a worker, the global object is another one.
const scope = /** @type {any} */ (self);

scope.addEventListener("push", (/** @type {any} */ event) => {
  event.waitUntil(show(event.data));
});

scope.addEventListener("notificationclick", (/** @type {any} */ event) => {
  event.notification.close();
  event.waitUntil(openPage(event.notification.data?.url));
});

// The push service has replaced the subscription: tell the site, or the user would get nothing any more.
scope.addEventListener("pushsubscriptionchange", (/** @type {any} */ event) => {
  event.waitUntil(renew(event.oldSubscription, event.newSubscription));
});

/**
 * Show a notification. A browser withdraws the permission of a worker that shows none.
 *
 * @param {{text: () => string} | null} data
 */
async function show(data) {
  /** @type {any} */
  let message = {};
  try {
    message = JSON.parse(data?.text() ?? "{}");
  } catch {
    // not ours, but it must be shown
  }
  const { title, body, url, tag } = message ?? {};
  const options = { body: String(body ?? ""), tag: String(tag ?? "") || undefined, data: { url: String(url ?? "") } };
  await scope.registration.showNotification(String(title ?? "") || scope.location.host, options);
}

/**
 * Bring the page with an address to the front, or open it.
 *
 * @param {string} [url]
 */
async function openPage(url) {
  const start = new URL(scope.registration.scope);
  const address = toUrl(url, start);
  const pages = await scope.clients.matchAll({ type: "window", includeUncontrolled: true });
  const open = pages.find((/** @type {any} */ page) => page.url === address.href);
  if (open) await open.focus();
  else await scope.clients.openWindow(address.href);
}

/**
 * Return the address of a page of this site. A path that begins with two slashes leads to another one.
 *
 * @param {string | undefined} url
 * @param {URL} start
 */
function toUrl(url, start) {
  try {
    const address = new URL(url || start.href, start);
    return address.origin === start.origin ? address : start;
  } catch {
    return start;
  }
}

/**
 * @param {any} old
 * @param {any} renewed
 */
async function renew(old, renewed) {
  const at = new URL("./", scope.location.href); // the worker is beside the other addresses
  const { key, csrf } = await (await fetch(new URL("config/", at))).json();
  const options = { userVisibleOnly: true, applicationServerKey: key };
  const subscription = renewed ?? (await scope.registration.pushManager.subscribe(options));
  const post = (/** @type {string} */ path, /** @type {any} */ body) =>
    fetch(new URL(path, at), {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": csrf },
      body: JSON.stringify(body),
    });
  await post("subscribe/", subscription);
  if (old) await post("unsubscribe/", { endpoint: old.endpoint });
}
