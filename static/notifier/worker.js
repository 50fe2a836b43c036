/**
 * The service worker of the pages. It shows their notifications, because Chrome on Android lets only a service worker show
 * any, and brings a page to the front when one of them is clicked.
 *
 * It has no handler for `fetch`, and caches nothing: a live page from a cache would show an old state and look alive.
 */

// TypeScript knows this file as one of a page; in a worker, the global object is another one.
const worker = /** @type {any} */ (self);

// A new version takes the place of the old one at once: the old one has no cache to lose.
worker.addEventListener("install", () => worker.skipWaiting());
worker.addEventListener("activate", (/** @type {any} */ event) => event.waitUntil(worker.clients.claim()));

worker.addEventListener("notificationclick", (/** @type {any} */ event) => {
  event.notification.close();
  event.waitUntil(showPage(new URL(event.notification.data?.path ?? "./", worker.registration.scope)));
});

/** Bring the page with an address to the front, or any other page of the service, or open it. */
async function showPage(/** @type {URL} */ address) {
  // A path that begins with two slashes leads to another site.
  if (address.origin !== new URL(worker.registration.scope).origin) return;
  const pages = await worker.clients.matchAll({ type: "window", includeUncontrolled: true });
  const isSame = (/** @type {any} */ { url }) => new URL(url).pathname === address.pathname;
  const page = pages.find(isSame);
  if (page) await page.focus();
  else await worker.clients.openWindow(address.href);
}
