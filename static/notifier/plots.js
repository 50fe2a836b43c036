/** Sparklines: a picture of a quarter of an hour, and the same as a table for screen readers. */

import { KEPT_SECONDS } from "./rates.js";
import { clock, make } from "./page.js";

const WIDTH = 300;
const HEIGHT = 60;
const MARGIN = 3; // for the width of the line
const TABLE_MS = 10_000; // a table that changes all the time cannot be read
const SVG = "http://www.w3.org/2000/svg";

/** @typedef {{at: number, value: number | null}} PlotPoint `at` is in seconds since 1970 */

/** A figure that shows one number, now and in the last quarter of an hour. */
export class Plot {
  #format;
  #value = make("strong", { className: "plot-value" }, "–");
  #range = make("span", { className: "plot-range" });
  #line = shape("path", { class: "plot-line" });
  #area = shape("path", { class: "plot-area" });
  #rows = make("tbody");
  #tableAt = -Infinity;

  /**
   * @param {string} name what is shown: "Delivered per second"
   * @param {(value: number) => string} format
   * @param {string} kind a name for the style sheet
   */
  constructor(name, format, kind) {
    this.#format = format;
    const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false", class: "plot-picture" });
    picture.append(shape("path", { class: "plot-ground", d: `M 0 ${HEIGHT - MARGIN} H ${WIDTH}` }), this.#area, this.#line);
    const head = make("tr", {}, ...["Minute", "Average", "Most"].map((word) => make("th", { scope: "col" }, word)));
    const table = make("table", {}, make("caption", {}, `${name}, the last 15 minutes`), make("thead", {}, head), this.#rows);
    this.element = make(
      "figure",
      { className: "card plot", data: { plot: kind } },
      make("figcaption", {}, make("span", { className: "plot-name" }, name), this.#value, this.#range),
      picture,
      make("div", { className: "for-ears" }, table),
    );
  }

  /** @param {PlotPoint[]} points in order */
  show(points, now = Date.now() / 1000) {
    const known = /** @type {{at: number, value: number}[]} */ (points.filter(({ value }) => value !== null));
    const most = Math.max(0, ...known.map(({ value }) => value));
    const latest = known.at(-1);
    this.#value.textContent = latest ? this.#format(latest.value) : "–";
    this.#range.textContent = known.length ? `most: ${this.#format(most)}` : "nothing yet";
    const end = points.at(-1)?.at ?? now;
    const x = (/** @type {number} */ at) => WIDTH * (1 - (end - at) / KEPT_SECONDS);
    const y = (/** @type {number} */ value) => HEIGHT - MARGIN - (most ? (value / most) * (HEIGHT - 2 * MARGIN) : 0);
    const runs = split(points);
    this.#line.setAttribute("d", runs.map((run) => line(run, x, y)).join(" "));
    this.#area.setAttribute("d", runs.map((run) => area(run, x, y)).join(" "));
    if (performance.now() - this.#tableAt < TABLE_MS) return;
    this.#tableAt = performance.now();
    this.#rows.replaceChildren(...minutes(known).map(([at, average, top]) => row(at, this.#format(average), this.#format(top))));
  }
}

/** Split points where the value is unknown. */
function split(/** @type {PlotPoint[]} */ points) {
  /** @type {{at: number, value: number}[][]} */
  const runs = [[]];
  for (const { at, value } of points) {
    if (value === null) runs.push([]);
    else /** @type {any[]} */ (runs.at(-1)).push({ at, value });
  }
  return runs.filter((run) => run.length);
}

/** @typedef {(value: number) => number} Scale */

function line(/** @type {{at: number, value: number}[]} */ run, /** @type {Scale} */ x, /** @type {Scale} */ y) {
  const steps = run.map(({ at, value }) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
  return `M ${steps.join(" L ")}${run.length === 1 ? " h 0.1" : ""}`; // a line without a length is a dot
}

function area(/** @type {{at: number, value: number}[]} */ run, /** @type {Scale} */ x, /** @type {Scale} */ y) {
  const [first, last] = [run[0], run[run.length - 1]];
  return `${line(run, x, y)} L ${x(last.at).toFixed(1)} ${HEIGHT} L ${x(first.at).toFixed(1)} ${HEIGHT} Z`;
}

/** @returns {[number, number, number][]} the start, average and maximum of each minute, the newest first */
function minutes(/** @type {{at: number, value: number}[]} */ points) {
  const groups = new Map();
  for (const { at, value } of points) {
    const minute = Math.floor(at / 60) * 60;
    groups.set(minute, [...(groups.get(minute) ?? []), value]);
  }
  return [...groups].reverse().map(([minute, values]) => {
    const all = values.reduce((/** @type {number} */ one, /** @type {number} */ other) => one + other, 0);
    return [minute, all / values.length, Math.max(...values)];
  });
}

function row(/** @type {number} */ at, /** @type {string[]} */ ...cells) {
  const minute = clock(new Date(at * 1000)).slice(0, 5);
  return make("tr", {}, make("th", { scope: "row" }, minute), ...cells.map((cell) => make("td", {}, cell)));
}

function shape(/** @type {string} */ tag, /** @type {Record<string, string>} */ attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
