/**
 * Shows, on the tab of a page that is in the background, how many entries are new and whether the page is live; on the icon
 * of the installed app, the number. A page that is visible says both itself, so its icon stays plain.
 */

const SIZE = 64;
const SHOWN = 99; // the largest number that an icon has room for

/** @type {HTMLLinkElement[]} */
const plain = [...document.querySelectorAll(/** @type {"link"} */ ("link[rel=icon]"))];
let unread = 0;
let wasLive = false;
/** @type {HTMLLinkElement | null} */
let drawn = null;

/**
 * Show how many entries are new, until the page is visible. 0 shows none.
 *
 * @param {number} count
 */
export function showUnread(count) {
  unread = count;
  update();
}

/** @returns {string} the state of the connection that the header of the page shows; "" on a page without one */
function connectionState() {
  return document.getElementById("connection")?.dataset.state ?? "";
}

function update() {
  const state = connectionState();
  wasLive ||= state === "live";
  // While the page loads, it connects; later, that is an attempt of one that is away.
  const isAway = !["", "live"].includes(state) && (wasLive || state !== "connecting");
  const isPlain = !document.hidden || (unread === 0 && !isAway);
  setAppBadge(document.hidden ? unread : 0);
  if (isPlain) return restore();
  const link = Object.assign(document.createElement("link"), { rel: "icon", type: "image/png", href: draw(unread, isAway) });
  if (drawn) drawn.replaceWith(link);
  else plain[0]?.replaceWith(link);
  for (const one of plain) one.remove();
  drawn = link;
}

function restore() {
  drawn?.replaceWith(...plain);
  drawn = null;
}

/** Set the number on the icon of the installed app, where there is such a thing. */
function setAppBadge(/** @type {number} */ count) {
  const shown = count > 0 ? navigator.setAppBadge?.(count) : navigator.clearAppBadge?.();
  shown?.catch(() => {}); // the page is not installed, or the system has no badges
}

/**
 * Draw the icon as the address of an image. It is the one of `icons/favicon.svg`, which not every browser draws on a canvas.
 *
 * @param {number} count
 * @param {boolean} isAway
 */
function draw(count, isAway) {
  const canvas = Object.assign(document.createElement("canvas"), { width: SIZE, height: SIZE });
  const context = canvas.getContext("2d");
  if (!context) return plain[0]?.href ?? "";
  context.scale(SIZE / 32, SIZE / 32);
  // Gray while the page is not live. The form says it, too: a stroke is in the place of the waves.
  context.fillStyle = isAway ? "#5b5f68" : "#2a4fd0";
  context.fill(rounded(0, 0, 32, 32, 8));
  context.lineCap = "round";
  context.lineWidth = 3;
  context.strokeStyle = context.fillStyle = "#fff";
  context.fill(new Path2D("M6.9 22.5a2.6 2.6 0 1 0 5.2 0a2.6 2.6 0 1 0 -5.2 0"));
  context.stroke(new Path2D(isAway ? "M7 6 25 25" : "M8.5 14.5a9 9 0 0 1 9 9M8.5 7.5a16 16 0 0 1 16 16"));
  if (count > 0) drawCount(context, count > SHOWN ? `${SHOWN}+` : String(count));
  return canvas.toDataURL();
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 */
function drawCount(context, text) {
  const width = [18, 23, 30][text.length - 1];
  context.fillStyle = "#fff";
  context.fill(rounded(32 - width, 0, width, 18, 8));
  context.fillStyle = "#b0241b";
  context.fill(rounded(33 - width, 1, width - 2, 16, 7));
  context.fillStyle = "#fff";
  context.font = "bold 14px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(text, 32 - width / 2, 9.5, width - 4);
}

/**
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 * @param {number} radius
 */
function rounded(x, y, width, height, radius) {
  const path = new Path2D();
  path.roundRect(x, y, width, height, radius);
  return path;
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) unread = 0;
  update();
});
const connection = document.getElementById("connection");
if (connection) new MutationObserver(update).observe(connection, { attributeFilter: ["data-state"] });
update();
