/** The authors of chat messages: their names, and avatars that tell users from guests. */

import { icon, isVisible, make } from "./page.js";

const NAME_LENGTH = 100; // in characters as people count them
const HUES = 8;

/**
 * The author of a message according to the server. A name inside the message is ignored.
 *
 * @typedef {object} Author
 * @property {"user" | "guest" | "server"} kind
 * @property {string} name
 * @property {string} key identical for all messages of the author
 */

/** @returns {Author} */
export function authorOf(/** @type {Omit<import("../../realtime/static/realtime/client.js").Sender, "channelInfo"> | null} */ sender) {
  if (sender === null) return { kind: "server", name: "This site", key: "server" };
  if (sender.user === "") return guest(sender.client);
  const shown = typeof sender.info?.name === "string" ? shortName(sender.info.name) : "";
  return { kind: "user", name: isVisible(shown) ? shown : `user ${sender.user}`, key: `user ${sender.user}` };
}

/** @returns {Author} */
export function guest(/** @type {string} */ client) {
  return { kind: "guest", name: client ? `guest ${client.slice(0, 4)}` : "guest", key: `guest ${client}` };
}

/** Shorten a name between characters as people see them: 👩‍👩‍👧 is one character. */
function shortName(/** @type {string} */ name) {
  const characters = "Segmenter" in Intl ? [...new Intl.Segmenter().segment(name.slice(0, 4_000))].map((s) => s.segment) : [...name];
  return characters.slice(0, NAME_LENGTH).join("").replace(/\s+/g, " ").trim();
}

/** @type {Record<string, string>} */
const AVATARS = { guest: "user", server: "mark" };

/** @returns {HTMLElement} */
export function avatarOf(/** @type {Author} */ { kind, name, key }) {
  const avatar = make("span", { className: `avatar avatar-${kind} hue-${hue(key)}` }, AVATARS[kind] ? icon(AVATARS[kind]) : initial(name));
  avatar.setAttribute("aria-hidden", "true");
  return avatar;
}

function initial(/** @type {string} */ text) {
  const [first] = "Segmenter" in Intl ? [...new Intl.Segmenter().segment(text.slice(0, 40))].map((s) => s.segment) : [...text];
  return first.toLocaleUpperCase();
}

function hue(/** @type {string} */ text) {
  let sum = 0;
  for (const character of text) sum = (sum * 31 + /** @type {number} */ (character.codePointAt(0))) % 65_521;
  return sum % HUES;
}
