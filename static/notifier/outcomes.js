/**
 * What becomes of a publication that a page sends over HTTP: it was published, it was certainly not published, or nobody
 * knows (docs/semantics.md). Pages that publish decide that here alone.
 */

/** @typedef {"published" | "not-published" | "unknown"} Outcome */

/** @type {Record<Outcome, {word: string, icon: string, level: string}>} how an outcome is shown */
export const OUTCOMES = {
  published: { word: "Published", icon: "success", level: "success" },
  "not-published": { word: "Certainly not published", icon: "error", level: "error" },
  unknown: { word: "Outcome unknown", icon: "warning", level: "warning" },
};

const ANSWER_MS = 20_000; // the service answers after at most a second

/**
 * @typedef {object} Verdict
 * @property {Outcome} outcome
 * @property {number} status 0 if nobody answered
 * @property {any} result what the API returned, if it was published
 * @property {{reason?: string, message?: string}} error why not, otherwise
 */

/**
 * Send one publication.
 *
 * @param {string} url
 * @param {string} body JSON
 * @param {Record<string, string>} headers of the key or the session that permits it
 * @returns {Promise<Verdict>}
 */
export async function publish(url, body, headers) {
  try {
    const response = await fetch(url, {
      method: "POST",
      headers: { ...headers, "Content-Type": "application/json" },
      body,
      credentials: headers["X-API-Key"] ? "omit" : "same-origin",
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    const { status, ok } = response;
    const { result = null, error = null } = (await response.json().catch(() => null)) ?? {};
    // Any other answer may come from a proxy that has passed the request on before.
    const isRefused = (status >= 400 && status < 500) || (status === 503 && error);
    const outcome = ok && result ? "published" : isRefused ? "not-published" : "unknown";
    return { outcome, status, result, error: error ?? {} };
  } catch {
    return { outcome: "unknown", status: 0, result: null, error: {} };
  }
}

/** "offset 5, 1 node listening" */
export function receiptWords(/** @type {{offset: number, nodes: number}} */ { offset, nodes }) {
  return `offset ${offset}, ${nodes === 1 ? "1 node" : `${nodes} nodes`} listening`;
}
