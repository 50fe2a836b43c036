/** A chat room. It shows the messages that arrive while the page is open. */

import { connect } from "../realtime/client.js";
import { authorOf, avatarOf, guest } from "./authors.js";
import { showConnection } from "./connection.js";
import { Announcer, Unseen, byId, clockTime, copies, gapLine, gapWords, icon, isVisible, isolated, keepFocus, longText, make, memory, randomId } from "./page.js";

const LISTED = 500;
const MESSAGE_BYTES = 60_000; // the server accepts 64 KiB of data, including the id
const TOGETHER_MS = 5 * 60_000; // messages of one author within this time are grouped
const RETURN_MS = 5_000; // a published message arrives here within this time, or is considered missed
const TYPING_EVERY_MS = 3_000; // the interval of "is typing" publications while the user writes
const TYPING_MS = 4_500; // how long the others show such a publication
const SHOWN_PEOPLE = 30;
const PERMISSION_DENIED = 103; // docs/protocol.md

const { room, chatUrl } = byId("main").dataset;
const channel = byId("main").dataset.channel || `chat:${room}`;

const { userName } = byId("main").dataset;

// --- rooms --------------------------------------------------------------------------------------------------------------

/** The server's limit on the name of a room, in characters. */
const roomLimit = byId("room-input").maxLength;

function recentRooms() {
  const known = (memory.get("rooms") ?? "").split(" ").filter((one) => /^[a-z0-9-]+$/.test(one) && one.length <= roomLimit);
  const rooms = [...new Set([room, ...known])].slice(0, 8);
  memory.set("rooms", rooms.join(" "));
  return [...new Set(["lobby", ...rooms.sort()])];
}

for (const one of recentRooms()) {
  const link = make("a", { href: `${chatUrl}${one}/` }, one);
  if (one === room) link.setAttribute("aria-current", "page");
  byId("rooms").append(make("li", {}, link));
}

byId("room-form").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const wanted = byId("room-input").value.toLowerCase().replace(/[^a-z0-9-]+/g, "-").replace(/^-|-$/g, "").slice(0, roomLimit);
  if (wanted) location.assign(`${chatUrl}${wanted}/`);
});
byId("room-go").disabled = false;
copies(byId("copy-link"), () => new URL(`${chatUrl}${room}/`, location.href).href);

// --- messages -----------------------------------------------------------------------------------------------------------

const list = byId("messages");
const scroll = byId("scroll");
let atEnd = true;
let newer = 0;

/** @returns {Author} the user of this page, before a message has come back from the server */
function you() {
  return userName ? { kind: "user", name: userName, key: "you" } : guest(live.client);
}

/** @typedef {import("./authors.js").Author} Author */
/** @typedef {{text: string, id: string}} Said */

/** Read a message. Anyone may publish any data here, so data of another form, or without visible text, is shown as JSON. */
function readMessage(/** @type {any} */ data) {
  if (typeof data?.text !== "string" || !isVisible(data.text)) return { text: JSON.stringify(data, null, 2), id: "" };
  return { text: data.text, id: typeof data.id === "string" ? data.id.slice(0, 64) : "" };
}

/**
 * @param {Said} said
 * @param {Author} author
 * @param {{own: boolean, status: string | null}} how
 */
function messageEntry(said, author, { own, status }) {
  const { kind, name, key } = author;
  const at = new Date();
  const shown = make("span", { className: "message-author", title: name, dir: "auto" }, name);
  const entry = make(
    "li",
    { className: "message", data: { id: said.id, own: own ? "true" : "false", status, kind, author: own ? "you" : key, at: String(at.getTime()) } },
    make("div", { className: "message-head" }, avatarOf(author), shown, clockTime(at)),
    make("div", { className: "bubble" }, ...longText(said.text, { className: "message-text" })),
  );
  if (own) entry.append(make("p", { className: "message-status" }));
  return entry;
}

/** Append an entry, grouped with the previous entries of the same author. */
function append(/** @type {HTMLElement} */ entry) {
  list.append(entry);
  group(entry);
  while (list.children.length > LISTED) list.firstElementChild.remove();
  group(list.firstElementChild);
  byId("empty").hidden = true;
}

function group(/** @type {HTMLElement | null} */ entry) {
  if (!entry?.classList.contains("message")) return;
  const before = /** @type {HTMLElement | null} */ (entry.previousElementSibling);
  const together =
    before?.classList.contains("message") &&
    before.dataset.author === entry.dataset.author &&
    before.dataset.own === entry.dataset.own &&
    Number(entry.dataset.at) - Number(before.dataset.at) < TOGETHER_MS;
  entry.classList.toggle("continued", Boolean(together));
}

/** Scroll to the newest message, unless the user is reading older ones. */
function follow({ always = false } = {}) {
  if (always || atEnd) scroll.scrollTop = scroll.scrollHeight;
  else newer += 1;
  showNewer();
}

function showNewer() {
  keepFocus(byId("newer"), () => (byId("newer").hidden = newer === 0), scroll);
  byId("newer-text").textContent = newer === 1 ? "1 new message" : `${newer} new messages`;
}

function noteScroll() {
  atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  if (atEnd) newer = 0;
  showNewer();
}

scroll.addEventListener("scroll", noteScroll, { passive: true });
byId("newer").addEventListener("click", () => follow({ always: true }));
// When a phone's keyboard or a longer composer resizes the list, keep the newest message in view.
new ResizeObserver(() => {
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
}).observe(scroll);

// --- the connection -----------------------------------------------------------------------------------------------------

const live = connect();
showConnection(live);
if (!userName) {
  live.addEventListener("state", () => {
    byId("you").textContent = live.client ? guest(live.client).name : "a guest";
  });
}
const talk = live.subscribe(channel, { presence: true });
talk.addEventListener("subscribed", () => {
  byId("main").dataset.listening = ""; // from now on, missed messages are reported as gaps
});
const unseen = new Unseen();
const announcer = new Announcer("messages");
/** @type {Set<string>} authors and ids of the latest messages: one that was sent twice is shown once */
const heard = new Set();
/** @type {Map<string, HTMLElement>} own messages that have not arrived here yet */
const underway = new Map();

talk.addEventListener("publication", (/** @type {any} */ { detail }) => {
  const said = readMessage(detail.data);
  if (detail.sender) stopped(detail.sender);
  const mine = underway.get(said.id);
  const author = authorOf(detail.sender);
  if (detail.sender && isRepeated(said, author)) return;
  if (mine) return comeBack(mine);
  append(messageEntry(said, author, { own: false, status: null }));
  announcer.add(`${author.name}: ${said.text}`);
  follow();
  unseen.add();
});

/** Tell whether a message has been here before: after an unknown outcome, its author may have sent it again. */
function isRepeated(/** @type {Said} */ { id }, /** @type {Author} */ { key }) {
  if (id === "") return false;
  const name = `${key} ${id}`;
  if (heard.has(name)) return true;
  heard.add(name);
  if (heard.size > LISTED) heard.delete(/** @type {string} */ (heard.values().next().value));
  return false;
}

talk.addEventListener("gap", (/** @type {any} */ { detail }) => {
  append(gapLine(detail));
  announcer.add(gapWords(detail));
  follow();
});

talk.addEventListener("error", (/** @type {any} */ { detail }) => {
  byId("empty").textContent = `You cannot join this room: ${detail.message}.`;
});

// --- presence -----------------------------------------------------------------------------------------------------------

talk.addEventListener("presence", (/** @type {any} */ { detail }) => showPeople(detail));

/** @param {{clients: number, complete: boolean}} presence */
function showPeople({ clients, complete }) {
  const people = complete ? talk.people : [];
  const number = complete ? people.length : clients;
  byId("here-count").textContent = number > 0 ? `${number.toLocaleString("en")} here` : "";
  const ownFirst = [...people].sort((one, other) => Number(isMe(other)) - Number(isMe(one)));
  byId("people").replaceChildren(...ownFirst.slice(0, SHOWN_PEOPLE).map(personEntry));
  const hidden = number - Math.min(people.length, SHOWN_PEOPLE);
  byId("people-more").textContent = hidden > 0 ? `${hidden.toLocaleString("en")} ${complete ? "more" : "connections"}` : "";
}

/** @param {import("../../realtime/static/realtime/client.js").Person} person */
function personEntry(person) {
  const author = authorOf({ ...person, client: person.clients[0] });
  const { kind, name } = author;
  const tabs = person.clients.length > 1 ? ` (${person.clients.length} windows)` : "";
  const words = make("span", { className: "person-name", title: name }, isolated(name), isMe(person) ? ", you" : "", tabs);
  return make("li", { className: "person", data: { kind } }, avatarOf(author), words);
}

function isMe(/** @type {{clients: string[]}} */ { clients }) {
  return live.client !== "" && clients.includes(live.client);
}

// --- typing indicator ---------------------------------------------------------------------------------------------------

const typing = channel.startsWith("chat:") ? live.subscribe(channel.replace("chat:", "typing:")) : null;
/** @type {Map<string, {name: string, timer: ReturnType<typeof setTimeout>}>} by author, oldest first */
const writers = new Map();
let toldTypingAt = -TYPING_EVERY_MS;

typing?.addEventListener("publication", (/** @type {any} */ { detail }) => {
  if (!detail.sender || detail.sender.client === live.client) return;
  const { name, key } = authorOf(detail.sender);
  clearTimeout(writers.get(key)?.timer);
  if (writers.size >= SHOWN_PEOPLE && !writers.has(key)) return;
  writers.set(key, { name, timer: setTimeout(() => stopped(detail.sender), TYPING_MS) });
  showTyping();
});

function stopped(/** @type {import("../../realtime/static/realtime/client.js").Sender} */ sender) {
  const { key } = authorOf(sender);
  clearTimeout(writers.get(key)?.timer);
  if (writers.delete(key)) showTyping();
}

function showTyping() {
  const [one, two, ...others] = [...writers.values()].map(({ name }) => isolated(name));
  if (others.length > 0) byId("typing").textContent = `${writers.size} people are typing…`;
  else if (two) byId("typing").replaceChildren(one, " and ", two, " are typing…");
  else byId("typing").replaceChildren(...(one ? [one, " is typing…"] : []));
}

/** Publish that the user is typing; a failure does not matter. */
function tellTyping() {
  if (typing?.state !== "subscribed" || text.value.trim() === "" || performance.now() - toldTypingAt < TYPING_EVERY_MS) return;
  toldTypingAt = performance.now();
  typing.publish(null).catch(() => {});
}

// --- sending ------------------------------------------------------------------------------------------------------------

const text = byId("composer-text");

function say() {
  const words = text.value.trim();
  const tooLong = new TextEncoder().encode(words).length > MESSAGE_BYTES;
  byId("composer-error").textContent = tooLong ? "This message is too long. Split it into several messages." : "";
  if (words === "" || tooLong) return;
  const said = { text: words, id: randomId() };
  const entry = messageEntry(said, you(), { own: true, status: "sending" });
  underway.set(said.id, entry);
  if (underway.size > LISTED) underway.delete(/** @type {string} */ (underway.keys().next().value));
  append(entry);
  send(said, entry);
  text.value = "";
  toldTypingAt = -TYPING_EVERY_MS;
  fitComposer();
  follow({ always: true });
}

/**
 * @param {Said} said
 * @param {HTMLElement} entry
 */
async function send(said, entry) {
  setStatus(entry, "sending", "Sending…");
  try {
    await talk.publish(said);
  } catch (error) {
    if (underway.has(said.id)) failed(said, entry, error);
    return;
  }
  setTimeout(() => {
    if (underway.delete(said.id)) setStatus(entry, "not-seen", "Published, but not received back here");
  }, RETURN_MS);
}

/** Mark an own message as sent when it arrives, and move it to its place in the order of the room. */
function comeBack(/** @type {HTMLElement} */ entry) {
  underway.delete(entry.dataset.id ?? "");
  setStatus(entry, "sent", "Sent");
  if (entry !== list.lastElementChild) {
    const after = /** @type {HTMLElement | null} */ (entry.nextElementSibling);
    append(entry);
    group(after);
  }
  follow({ always: atEnd });
}

/**
 * @param {Said} said
 * @param {HTMLElement} entry
 * @param {any} error
 */
function failed(said, entry, error) {
  const unknown = error.outcome === "unknown";
  setStatus(entry, unknown ? "unknown" : "failed", failureWords(error, unknown));
  if (error.code === PERMISSION_DENIED) return showReadOnly();
  const again = make("button", { type: "button", className: "button button-quiet again" }, "Send again");
  again.addEventListener("click", () => send(said, entry));
  entry.querySelector(".message-status")?.append(again);
  follow({ always: atEnd });
}

/** Replace the composer: the server would refuse each message. */
function showReadOnly() {
  byId("read-only").hidden = false;
  keepFocus(byId("composer"), () => (byId("composer").hidden = true), scroll);
}

function failureWords(/** @type {any} */ error, /** @type {boolean} */ unknown) {
  if (error.code === "unknown-outcome") return "May have been sent: the connection was lost before the server confirmed it.";
  if (unknown) return `May not have been sent: ${error.message}.`;
  if (error.code === "not-connected") return "Not sent: not connected.";
  return `Not sent: ${error.message}.`;
}

/**
 * @param {HTMLElement} entry
 * @param {string} status
 * @param {string} words
 */
function setStatus(entry, status, words) {
  entry.dataset.status = status;
  const shown = /** @type {HTMLElement} */ (entry.querySelector(".message-status"));
  const children = [...(status === "sent" ? [icon("done")] : []), make("span", {}, words)];
  keepFocus(shown, () => shown.replaceChildren(...children), scroll);
}

function fitComposer() {
  if (CSS.supports("field-sizing", "content")) return; // the browser resizes the field itself
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

byId("composer").addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  say();
  text.focus();
});
text.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  // During composition, Enter belongs to the input method (229: Safari reports it only by the key code).
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  say();
});
text.addEventListener("input", () => {
  byId("composer-error").textContent = "";
  fitComposer();
  tellTyping();
});
byId("composer-send").disabled = false;

// iOS overlays the page with the keyboard instead of shrinking the page.
const viewport = window.visualViewport;
viewport?.addEventListener("resize", () => {
  document.documentElement.style.setProperty("--visible-height", `${viewport.height}px`);
  if (viewport.offsetTop > 0) window.scrollTo(0, 0);
});
