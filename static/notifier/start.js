/** The steps that show what the service does. Each is ticked off when it has happened, whoever did it. */

import { byId, clock, copies, icon, keepFocus, memory } from "./page.js";
import { curlSnippet, djangoSnippet, pythonSnippet } from "./snippets.js";
import { setUpTabs } from "./tabs.js";

/** @typedef {import("../../realtime/static/realtime/client.js").Subscription} Subscription */

const HIDDEN = "start.hidden";
const TAB = "start.tab";

/**
 * @typedef {object} Facts
 * @property {string} publishUrl
 * @property {string} apiKey "" if the server did not put one into the page
 * @property {() => {channel: string}} publication what the form would post now
 */

/** What a tab shows: a sentence, and code that can be pasted. */
const KINDS = /** @type {Record<string, {words: string, code: (facts: Facts) => string}>} */ ({
  "tab-curl": {
    words: "Publish from a terminal, a script or cron (the key is that of this service):",
    code: ({ publishUrl, publication, apiKey }) => curlSnippet(publishUrl, JSON.stringify(publication()), apiKey),
  },
  "tab-python": {
    words: "Publish from any Python program, without installing anything:",
    code: ({ publishUrl, publication, apiKey }) => pythonSnippet(publishUrl, JSON.stringify(publication(), null, 4), apiKey),
  },
  "tab-javascript": {
    words: "Listen in a page of this site; in other sites, add the address of this one:",
    code: ({ publication }) => listeningScript(publication().channel),
  },
  "tab-django": {
    words: "Publish from a Django project that has the app, without HTTP and without a key:",
    code: ({ publishUrl, publication }) => djangoSnippet(publishUrl, JSON.stringify(publication(), null, 4)),
  },
  "tab-htmx": {
    words: "Let your view render a list anew with each event, and after a gap:",
    code: ({ publication }) => listeningMarkup(publication()),
  },
});

function listeningScript(/** @type {string} */ channel) {
  const client = new URL("../realtime/client.js", import.meta.url);
  // In parts: what looks like a statement that loads a module is taken for one when static files are collected.
  const load = ["import { connect }", `from "${client.pathname}";`].join(" ");
  return `<script type="module">
${load}
const news = connect().subscribe(${JSON.stringify(channel)});
news.addEventListener("publication", ({ detail }) => console.log(detail.data));
news.addEventListener("gap", ({ detail }) => console.log("missed:", detail.missed));
</script>`;
}

function listeningMarkup(/** @type {{channel: string, event?: string}} */ { channel, event = "message" }) {
  return `<div hx-ext="sse" sse-connect="/connection/sse?channel=${encodeURIComponent(channel)}">
  <ul hx-get="/your/rows/" hx-trigger="load, sse:${event}, sse:realtime.gap"></ul>
</div>`;
}

/** Show the steps, unless this person has hidden them; call `update` whenever the form changes. */
export function showSteps(/** @type {Facts} */ facts) {
  const absolute = { ...facts, publishUrl: new URL(facts.publishUrl, location.href).href };
  let kind = memory.get(TAB) ?? "";
  const update = () => {
    byId("start-words").textContent = KINDS[kind].words;
    byId("start-code").textContent = KINDS[kind].code(absolute);
  };
  setUpTabs(
    byId("start-tabs"),
    (id) => {
      kind = id;
      memory.set(TAB, id);
      update();
    },
    kind,
  );
  copies(byId("copy-start"), () => byId("start-code").textContent);
  byId("start-hide").addEventListener("click", () => {
    memory.set(HIDDEN, "yes");
    keepFocus(byId("start"), () => (byId("start").hidden = true), byId("main"));
  });
  foldByButton();
  byId("start").hidden = memory.get(HIDDEN) === "yes";
  return update;
}

/** Tick a step off, if the page has it, and say what has happened. */
export function tick(/** @type {string} */ step, /** @type {string} */ words) {
  const element = byId(step);
  if (!element) return;
  element.dataset.done = "";
  element.querySelector(".step-done").replaceChildren(icon("done"), words);
}

/** Tick off the first event. */
export function tickEvent() {
  if (byId("step-post")?.dataset.done === undefined) tick("step-post", `The first one came at ${clock(new Date())}`);
}

/** Tick off the second browser, and count those that have this page open, from the members of a channel. */
export function countVisitors(/** @type {Subscription} */ visitors) {
  visitors.addEventListener("presence", (/** @type {any} */ { detail: { clients } }) => {
    if (clients > 1) tick("step-second", `${clients.toLocaleString("en")} windows have this page open`);
  });
}

/** On a narrow screen, where the steps are above the list, they begin folded. */
function foldByButton() {
  const button = byId("start-fold");
  button.addEventListener("click", () => {
    const isFolded = byId("start").toggleAttribute("data-folded");
    button.ariaExpanded = String(!isFolded);
    button.textContent = isFolded ? "Show steps" : "Fold";
  });
}
