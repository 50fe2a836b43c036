/**
 * Lets a user of a page allow notifications for the time when no page is open: `realtime.contrib.webpush`.
 *
 *     const push = new WebPush("/webpush/");
 *     button.onclick = async () => (await push.enable()) && (button.hidden = true);
 *
 * Usage: docs/howto/webpush.md. Call `disable` before the user logs out: a browser that several people use would go on
 * to show the notifications of the one who has left.
 *
 * @module
 */

/**
 * What this browser does: "on" and "off", "denied" (the user has refused it, and only they can allow it, in the
 * settings of the browser), or "unsupported" (also on an iPhone, unless the site is on its home screen).
 *
 * @typedef {"on" | "off" | "denied" | "unsupported"} PushState
 */

export class WebPush {
  #base;
  #scope;

  /**
   * @param {string} url where the site has included `realtime.contrib.webpush.urls`
   * @param {{scope?: string, worker?: string}} [options] scope: the pages for which the service worker is; worker: the
   *   address of the site's own service worker, which imports the one of this app
   */
  constructor(url, { scope = "/", worker } = {}) {
    this.#base = new URL(url, location.href);
    this.#scope = scope;
    this.worker = new URL(worker ?? "worker.js", this.#base).href;
  }

  /**
   * Tell what this browser does. Changes nothing.
   *
   * @returns {Promise<PushState>}
   */
  async state() {
    if (!isSupported()) return "unsupported";
    if (Notification.permission === "denied") return "denied";
    const registration = await navigator.serviceWorker.getRegistration(this.#scope);
    const subscription = await registration?.pushManager.getSubscription();
    return subscription && Notification.permission === "granted" ? "on" : "off";
  }

  /**
   * Ask the user, and subscribe this browser. Call it in a click: browsers do not ask otherwise.
   *
   * @returns {Promise<boolean>} whether notifications will come; rejects if the site or the push service cannot be
   *   reached
   */
  async enable() {
    if (!isSupported() || (await Notification.requestPermission()) !== "granted") return false;
    const { key, csrf } = await this.#config();
    const registration = await navigator.serviceWorker.register(this.worker, { scope: this.#scope });
    await isActive(registration);
    const { pushManager } = registration;
    const options = { userVisibleOnly: true, applicationServerKey: key };
    let subscription = await pushManager.getSubscription();
    // One with another key of the site cannot be used any more.
    if (subscription && toText(subscription.options.applicationServerKey) !== key) {
      await subscription.unsubscribe();
      subscription = null;
    }
    subscription ??= await pushManager.subscribe(options);
    await this.#post("subscribe/", subscription, csrf);
    return true;
  }

  /** End the subscription of this browser, here and at the site. */
  async disable() {
    if (!isSupported()) return;
    const registration = await navigator.serviceWorker.getRegistration(this.#scope);
    const subscription = await registration?.pushManager.getSubscription();
    if (!subscription) return;
    const { endpoint } = subscription;
    await subscription.unsubscribe(); // first: it works without the site
    const { csrf } = await this.#config();
    await this.#post("unsubscribe/", { endpoint }, csrf);
  }

  /** @returns {Promise<{key: string, csrf: string}>} */
  async #config() {
    return (await check(await fetch(new URL("config/", this.#base), { cache: "no-store" }))).json();
  }

  /**
   * @param {string} path
   * @param {any} body
   * @param {string} csrf
   */
  async #post(path, body, csrf) {
    const headers = { "Content-Type": "application/json", "X-CSRFToken": csrf };
    await check(await fetch(new URL(path, this.#base), { method: "POST", headers, body: JSON.stringify(body) }));
  }
}

function isSupported() {
  return "serviceWorker" in navigator && "PushManager" in globalThis && "Notification" in globalThis;
}

/**
 * Wait until a service worker is active: only then it can be subscribed.
 *
 * @param {ServiceWorkerRegistration} registration
 */
async function isActive(registration) {
  const coming = registration.installing ?? registration.waiting;
  if (registration.active || !coming) return;
  await new Promise((resolve, reject) => {
    coming.addEventListener("statechange", () => {
      if (coming.state === "activated") resolve(null);
      if (coming.state === "redundant") reject(new Error("web push: the service worker could not be installed"));
    });
  });
}

/** @param {Response} answer */
async function check(answer) {
  if (!answer.ok) throw new Error(`web push: the site answered with status ${answer.status}`);
  return answer;
}

/**
 * Return base64url without padding.
 *
 * @param {ArrayBuffer | null} raw
 */
function toText(raw) {
  const binary = String.fromCharCode(...new Uint8Array(raw ?? new ArrayBuffer(0)));
  return btoa(binary).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
}
