/** The API reference. The forms for trying a method are here; the key stays in the memory of this page. */

import { colorCode } from "./colors.js";
import { showTabs } from "./languages.js";
import { makeLookup } from "./lookup.js";
import { byId, copies, runOnce } from "./page.js";
import { markSections } from "./spy.js";

const main = byId("main");

showTabs();
makeLookup();
markSections(byId("contents"));
colorCode(main);

for (const form of /** @type {NodeListOf<HTMLFormElement>} */ (document.querySelectorAll("form.trial"))) {
  const send = /** @type {HTMLButtonElement} */ (form.querySelector("[type=submit]"));
  const copy = /** @type {HTMLButtonElement} */ (form.querySelector(".copy"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    runOnce([send], () => attempt(form));
  });
  copies(copy, () => curl(form));
  send.disabled = copy.disabled = false;
}
byId("api-key").addEventListener("input", () => {
  for (const form of /** @type {NodeListOf<HTMLFormElement>} */ (document.querySelectorAll("form.trial[data-asks]"))) say(form, "", "");
});
byId("main").toggleAttribute("data-ready", true);

function apiKey() {
  return main.dataset.apiKey || byId("api-key").value.trim();
}

function bodyOf(/** @type {HTMLFormElement} */ form) {
  return String(new FormData(form).get("body"));
}

/** Return a command for a POSIX shell, without a key that the user has entered. */
function curl(/** @type {HTMLFormElement} */ form) {
  const { url = "", type } = form.dataset;
  const key = main.dataset.apiKey ? `'X-API-Key: ${main.dataset.apiKey}'` : '"X-API-Key: $NOTIFIER_API_KEY"';
  const body = bodyOf(form).replaceAll("'", "'\\''");
  return [`curl ${new URL(url, location.href)}`, `-H ${key}`, `-H 'Content-Type: ${type}'`, `-d '${body}'`].join(" \\\n  ");
}

async function attempt(/** @type {HTMLFormElement} */ form) {
  const key = apiKey();
  if (!key && !main.dataset.staff) {
    say(form, "Enter an API key first.", "");
    form.dataset.asks = "";
    byId("api-key").focus();
    return;
  }
  say(form, "Sending…", "");
  const started = performance.now();
  try {
    const response = await fetch(form.dataset.url ?? "", {
      method: "POST",
      headers: { "Content-Type": form.dataset.type ?? "", ...(key ? { "X-API-Key": key } : csrf()) },
      body: bodyOf(form),
      credentials: key ? "omit" : "same-origin",
    });
    const text = await response.text();
    const took = Math.max(1, Math.round(performance.now() - started));
    say(form, `${response.status} ${response.statusText} in ${took}\u00a0ms`, pretty(text));
  } catch {
    say(form, "The server did not respond, so the outcome is unknown.", "");
  }
}

/** Return the header that proves that a page of this site sends the session cookie. */
function csrf() {
  const field = /** @type {HTMLInputElement | null} */ (document.querySelector("[name=csrfmiddlewaretoken]"));
  return { "X-CSRFToken": field?.value ?? "" };
}

function pretty(/** @type {string} */ text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

/**
 * @param {HTMLFormElement} form
 * @param {string} status
 * @param {string} answer
 */
function say(form, status, answer) {
  const line = /** @type {HTMLElement} */ (form.querySelector(".trial-status"));
  const code = /** @type {HTMLElement} */ (form.querySelector(".trial-answer"));
  delete form.dataset.asks;
  line.textContent = status;
  code.textContent = answer;
  /** @type {HTMLElement} */ (code.closest(".code")).hidden = !answer;
}
