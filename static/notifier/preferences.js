/** What this person has chosen: mute, sound, notifications of the browser, toasts, density, theme. */

import { byId, memory } from "./page.js";
import { csrf } from "./post.js";

/**
 * @typedef {object} Choices
 * @property {"system" | "light" | "dark"} theme
 * @property {"cozy" | "compact"} density
 * @property {"beside" | "top" | "none"} toasts
 * @property {boolean} sound
 * @property {boolean} desktop
 * @property {string[]} muted_levels
 * @property {string[]} muted_channels
 */

const KEY = "choices";
const SOUND_EVERY_MS = 1_000;

/** @type {Choices} */
const USUAL = { theme: "system", density: "cozy", toasts: "beside", sound: false, desktop: true, muted_levels: [], muted_channels: [] };
const root = document.documentElement;
const isGuest = root.dataset.choices === undefined;

/** @type {Choices} */
let choices = { ...USUAL, ...stored() };

/** @returns {Partial<Choices>} */
function stored() {
  try {
    return JSON.parse((isGuest ? memory.get(KEY) : root.dataset.choices) || "{}") ?? {};
  } catch {
    return {};
  }
}

/** Tell how a notification is shown besides the list. */
export function waysToShow(/** @type {{level: string, channel: string}} */ { level, channel }) {
  const isMuted = choices.muted_levels.includes(level) || choices.muted_channels.includes(channel);
  return { toast: !isMuted && choices.toasts !== "none", desktop: !isMuted && choices.desktop, sound: !isMuted && choices.sound };
}

/** @type {AudioContext | null} */
let audio = null;
let soundedAt = -Infinity;

/** Play a short tone, at most one a second. Browsers allow it after the first click on the page. */
export function playTone() {
  const now = performance.now();
  if (now - soundedAt < SOUND_EVERY_MS) return;
  soundedAt = now;
  audio ??= new AudioContext();
  const volume = new GainNode(audio, { gain: 0.1 });
  volume.gain.exponentialRampToValueAtTime(0.001, audio.currentTime + 0.25);
  const tone = new OscillatorNode(audio, { frequency: 880 });
  tone.connect(volume).connect(audio.destination);
  tone.start();
  tone.stop(audio.currentTime + 0.25);
}

/** Set up the form in its dialog. */
export function setUpPreferences() {
  const dialog = byId("preferences");
  const form = byId("preferences-form");
  byId("preferences-open").addEventListener("click", () => {
    show(form);
    dialog.showModal();
  });
  byId("preferences-close").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", (/** @type {Event} */ event) => event.preventDefault());
  form.addEventListener("change", () => {
    choices = read(form);
    Object.assign(root.dataset, { theme: choices.theme, density: choices.density, toasts: choices.toasts });
    if (choices.sound) playTone();
    save();
  });
}

function show(/** @type {HTMLFormElement} */ form) {
  for (const field of /** @type {Iterable<HTMLInputElement>} */ (form.elements)) {
    const value = /** @type {any} */ (choices)[field.name];
    if (field.type === "radio") field.checked = value === field.value;
    else if (field.type === "checkbox") field.checked = Array.isArray(value) ? value.includes(field.value) : value === true;
  }
}

/** @returns {Choices} */
function read(/** @type {HTMLFormElement} */ form) {
  const fields = new FormData(form);
  const one = (/** @type {string} */ name) => /** @type {any} */ (fields.get(name));
  const several = (/** @type {string} */ name) => fields.getAll(name).map(String);
  return {
    ...{ theme: one("theme"), density: one("density"), toasts: one("toasts") },
    ...{ sound: fields.has("sound"), desktop: fields.has("desktop") },
    ...{ muted_levels: several("muted_levels"), muted_channels: several("muted_channels") },
  };
}

let isSaving = false;
let isOutdated = false;

/** Keep the choices. One request at a time: of two that overtake each other, the older one would be kept. */
async function save() {
  if (isGuest) {
    memory.set(KEY, JSON.stringify(choices));
    return say("Kept in this browser. Log in to have them everywhere.");
  }
  isOutdated = true;
  if (isSaving) return;
  isSaving = true;
  while (isOutdated) {
    isOutdated = false;
    await post(JSON.stringify(choices));
  }
  isSaving = false;
}

async function post(/** @type {string} */ text) {
  try {
    const { ok } = await fetch(byId("preferences-form").action, { method: "POST", headers: { ...csrf(), "Content-Type": "application/json" }, body: text });
    say(ok ? "Kept in your account." : "Not kept: the server refused it. Reload the page.");
  } catch {
    say("Not kept: the server did not respond.");
  }
}

function say(/** @type {string} */ words) {
  byId("preferences-result").textContent = words;
}
