/** How the page `/monitor/` writes numbers, and facts with their severity. */

import { icon, make } from "./page.js";

/** @typedef {"" | "success" | "warning" | "error"} Level how serious a fact is; shown by an icon and a word, too */

/** @type {Record<string, string>} */
const SEVERITY = { warning: "Warning", error: "Error" };

/** 12,345 */
export function whole(/** @type {number} */ value) {
  return Math.round(value).toLocaleString("en");
}

/** 0.4, 12, 12,345 */
export function perSecond(/** @type {number} */ value) {
  return value > 0 && value < 10 ? value.toFixed(value < 0.1 ? 2 : 1) : whole(value);
}

/** 0.4 ms, 12 ms, 1.2 s */
export function duration(/** @type {number} */ seconds) {
  if (seconds === Infinity) return "over 5\u00a0s";
  if (seconds >= 1) return `${seconds.toFixed(1)}\u00a0s`;
  const milliseconds = seconds * 1000;
  return `${milliseconds.toFixed(milliseconds > 0 && milliseconds < 10 ? 1 : 0)}\u00a0ms`;
}

/** 3 h 12 min */
export function longDuration(/** @type {number} */ seconds) {
  if (seconds < 60) return `${Math.floor(seconds)}\u00a0s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)}\u00a0min`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}\u00a0h ${Math.floor((seconds % 3600) / 60)}\u00a0min`;
  return `${Math.floor(seconds / 86_400)}\u00a0d ${Math.floor((seconds % 86_400) / 3600)}\u00a0h`;
}

/** 12.3 MiB */
export function size(/** @type {number} */ bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  let value = bytes;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${value.toFixed(unit && value < 100 ? 1 : 0)}\u00a0${units[unit]}`;
}

/** 1 node, 2 nodes */
export function counted(/** @type {number} */ count, /** @type {string} */ noun) {
  return `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** @typedef {[term: string, text: string, level?: Level]} Fact */

/** Make a list of facts; serious ones have an icon and a word besides their color. */
export function factList(/** @type {Fact[]} */ facts) {
  return make("dl", { className: "facts" }, ...facts.map(([term, text, level = ""]) => fact(term, text, level)));
}

function fact(/** @type {string} */ term, /** @type {string} */ text, /** @type {Level} */ level) {
  const word = SEVERITY[level];
  const sign = word ? [icon(level), make("span", { className: "for-ears" }, `${word}: `)] : [];
  return make("div", { data: { level: word ? level : null } }, make("dt", {}, term), make("dd", { dir: "auto" }, ...sign, text));
}

/**
 * Make the children of an element like others, and change only what differs: users of a screen reader keep their place,
 * and hear only what is new. For elements without listeners.
 */
export function replace(/** @type {HTMLElement} */ element, /** @type {(Node | string)[]} */ children) {
  const wanted = [...make(element.tagName, {}, ...children).childNodes];
  const present = [...element.childNodes];
  for (const [place, next] of wanted.entries()) {
    const before = present[place];
    if (!before) element.append(next);
    else if (before instanceof HTMLElement && next instanceof HTMLElement && before.tagName === next.tagName) {
      copyAttributes(before, next);
      replace(before, [...next.childNodes]);
    } else if (!before.isEqualNode(next)) before.replaceWith(next);
  }
  for (const extra of present.slice(wanted.length)) extra.remove();
}

function copyAttributes(/** @type {HTMLElement} */ before, /** @type {HTMLElement} */ next) {
  for (const { name } of [...before.attributes]) if (!next.hasAttribute(name)) before.removeAttribute(name);
  for (const { name, value } of next.attributes) if (before.getAttribute(name) !== value) before.setAttribute(name, value);
}
