/** The form of the console that publishes: templates, the three outcomes, a safe retry, and the request to copy. */

import { byId, copies, icon, keepFocus, make, randomId, runOnce } from "./page.js";
import { OUTCOMES, publish, receiptWords } from "./outcomes.js";
import { ADVICE_FOR_STAFF, KEY_MS, NO_ANSWER, STILL_UNKNOWN, TOO_LATE, csrf } from "./post.js";
import { curlSnippet, djangoSnippet, fetchSnippet, pythonSnippet } from "./snippets.js";

/** @type {Record<string, object>} */
const TEMPLATES = {
  plain: { data: { title: "Hello", text: "From the console", level: "info" } },
  event: { event: "order.shipped", data: { title: "Order 1042 shipped", level: "success" } },
  tags: { data: { title: "Order 1042 shipped" }, tags: { shop: "berlin", priority: "high" } },
  fallback: { data: { title: "Order 1042 shipped" }, fallback: "email", fallback_options: { to: "ada@example.com", subject: "Order 1042" } },
};
const FIELDS = ["channel", "data", "event", "tags", "fallback", "fallback_when", "fallback_options"];
const FALLBACK_FIELDS = FIELDS.filter((name) => name.startsWith("fallback"));
const SNIPPETS = { curl: curlSnippet, javascript: fetchSnippet, python: pythonSnippet, django: djangoSnippet };

/** @typedef {import("./outcomes.js").Outcome} Outcome */

/**
 * One publication, and when it was sent for the first time. Sending it again with its key publishes it at most once.
 *
 * @typedef {{body: string, key: string, began: number}} Attempt
 */

/** @type {Attempt | null} the latest publication, while its outcome is unknown */
let unknown = null;

const { publishUrl, channel } = byId("main").dataset;
const editor = byId("publish-body");

/** Set up the form. */
export function publishForm() {
  for (const button of document.querySelectorAll("[data-template]")) {
    button.addEventListener("click", () => fill(/** @type {HTMLElement} */ (button).dataset.template ?? ""));
  }
  const buttons = [byId("publish-go"), byId("publish-again")];
  byId("publish-form").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    if (check()) runOnce(buttons, () => send({ body: editor.value, key: byId("publish-key").value, began: performance.now() }));
    else editor.focus();
  });
  byId("publish-again").addEventListener("click", () => {
    const attempt = unknown;
    if (attempt) runOnce(buttons, () => send(attempt));
  });
  byId("new-key").addEventListener("click", renew);
  editor.addEventListener("input", check);
  byId("snippet-kind").addEventListener("input", check);
  copies(byId("copy-snippet"), () => byId("snippet").textContent);
  if (!editor.value.trim()) fill("plain"); // otherwise, the browser has kept what was entered before a reload
  renew();
  check();
  byId("publish-go").disabled = false;
}

/** Write a template into the editor, for the channel that is there. */
function fill(/** @type {string} */ name) {
  const current = parse(editor.value).body?.channel;
  editor.value = JSON.stringify({ channel: typeof current === "string" ? current : channel, ...TEMPLATES[name] }, null, 2);
  check();
}

function renew() {
  byId("publish-key").value = randomId();
}

// --- what is wrong with the text ----------------------------------------------------------------------------------------

/** Show what is wrong with the text, and the request to copy; return whether it can be sent. */
function check() {
  const { body, problem } = parse(editor.value);
  byId("publish-problem").textContent = problem;
  editor.setAttribute("aria-invalid", String(problem !== ""));
  byId("fallback-note").hidden = !FALLBACK_FIELDS.some((name) => body?.[name] !== undefined && body[name] !== null);
  byId("copy-snippet").disabled = problem !== "";
  const kind = /** @type {keyof typeof SNIPPETS} */ (byId("snippet-kind").value);
  byId("snippet").textContent = problem ? "Correct the publication first." : SNIPPETS[kind](new URL(publishUrl, location.href).href, editor.value.trim());
  return problem === "";
}

/**
 * @param {string} text
 * @returns {{body: any, problem: string}} the problem is "" if the API is to judge it
 */
function parse(text) {
  let body = null;
  try {
    body = JSON.parse(text);
  } catch (error) {
    return { body, problem: `This is not JSON: ${error instanceof Error ? error.message : error}` };
  }
  if (typeof body !== "object" || body === null || Array.isArray(body)) return { body: null, problem: "This must be an object with channel and data." };
  if (typeof body.channel !== "string" || !body.channel) return { body, problem: "channel is missing: add the name of a channel." };
  if (body.data === undefined) return { body, problem: "data is missing: add any JSON value." };
  if (body.idempotency_key !== undefined) return { body, problem: "Remove idempotency_key: the page sends the key below as a header." };
  const others = Object.keys(body).filter((name) => !FIELDS.includes(name));
  if (others.length > 0) return { body, problem: `There is no field ${others[0]}: use ${FIELDS.join(", ")}.` };
  return { body, problem: "" };
}

// --- sending ------------------------------------------------------------------------------------------------------------

async function send(/** @type {Attempt} */ attempt) {
  const isRetry = attempt === unknown;
  if (performance.now() - attempt.began > KEY_MS) return tell("unknown", TOO_LATE);
  tell(null, isRetry ? "Sending again with the same key…" : "Sending…");
  const { outcome, status, result, error } = await publish(publishUrl, attempt.body, { ...csrf(), "Idempotency-Key": attempt.key });
  if (outcome === "published") return published(result);
  if (isRetry && status) offerAgain(attempt, STILL_UNKNOWN);
  else if (outcome === "not-published") tell(outcome, refusalWords(status, error));
  else offerAgain(attempt, status === 504 ? ADVICE_FOR_STAFF[504] : NO_ANSWER);
}

function published(/** @type {any} */ { offset, epoch, nodes, queued, repeated }) {
  const parts = [`Epoch ${epoch}, ${receiptWords({ offset, nodes })}.`];
  if (queued) parts.push("Queued for its fallback.");
  if (repeated) parts.push("By the earlier attempt with this key; nothing was published twice.");
  tell("published", parts.join(" "));
  renew();
}

function refusalWords(/** @type {number} */ status, /** @type {{reason?: string, message?: string}} */ { reason = "", message = "" } = {}) {
  const said = `${status}${reason && ` ${reason}`}${message && `: ${message}`}`;
  if (reason === "unauthorized") return `${said} Your session has ended, or the proxy changes Host or Origin. Log in again; if that does not help, let the proxy pass on Host, and set HTTPS=1 behind TLS.`;
  if (status === 404) return `${said} The API is not at this address for users of a page: include("realtime.urls") under the prefix of the API.`;
  if (reason === "csrf_failed") return `${said} Reload this page.`;
  if (reason === "forbidden" && !byId("fallback-note").hidden) return `${said} A login may not name a fallback.`;
  return said;
}

function offerAgain(/** @type {Attempt} */ attempt, /** @type {string} */ words) {
  tell("unknown", words);
  unknown = attempt;
  byId("publish-again").hidden = false;
}

/** Show an outcome, or with null that there is none yet. */
function tell(/** @type {Outcome | null} */ outcome, /** @type {string} */ words) {
  if (outcome !== null) unknown = null;
  const element = byId("publish-outcome");
  const { word = "", icon: name = "", level = "" } = outcome === null ? {} : OUTCOMES[outcome];
  element.dataset.outcome = outcome ?? "";
  element.dataset.level = level;
  element.replaceChildren(...(outcome === null ? [] : [icon(name), make("strong", {}, word)]), make("span", { dir: "auto" }, words));
  if (outcome !== null) keepFocus(byId("publish-again"), () => (byId("publish-again").hidden = true), byId("publish-go"));
}
