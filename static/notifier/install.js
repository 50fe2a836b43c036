/**
 * Registers the service worker, and shows notifications of the system through it. Every page loads this file.
 *
 * The worker is beside the manifest: its address is the same in each version of the service, unlike those of static files.
 */

/** @type {Promise<ServiceWorkerRegistration | null>} */
const registered = register();

/** @returns {Promise<ServiceWorkerRegistration | null>} */
async function register() {
  const manifest = /** @type {HTMLLinkElement | null} */ (document.querySelector("link[rel=manifest]"));
  // Browsers have it on secure pages only (HTTPS or localhost), and some not in a private window.
  if (!manifest || !("serviceWorker" in navigator)) return null;
  try {
    await navigator.serviceWorker.register(/** @type {any} */ (trusted(new URL("service-worker.js", manifest.href).href)));
    return await navigator.serviceWorker.ready;
  } catch {
    return null; // the server is unreachable, or the user forbids it; the page works without it
  }
}

/**
 * Mark the address of the worker as one that may become a script. The pages' Content-Security-Policy allows this policy
 * alone, and only once, so no other script can use it.
 */
function trusted(/** @type {string} */ address) {
  const { trustedTypes } = /** @type {any} */ (window);
  return trustedTypes ? trustedTypes.createPolicy("service-worker", { createScriptURL: () => address }).createScriptURL("") : address;
}

/**
 * Show a notification of the system, if the user has allowed it. A click on it brings this page to the front.
 *
 * @param {string} title
 * @param {NotificationOptions} [options] such as `body` and `tag`
 * @returns {Promise<boolean>} whether it was shown
 */
export async function notify(title, options = {}) {
  if (!("Notification" in window) || Notification.permission !== "granted") return false;
  const registration = await registered;
  if (!registration) return false;
  await registration.showNotification(title, { ...options, data: { path: location.pathname + location.search } });
  return true;
}
