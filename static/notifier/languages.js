/**
 * Samples in several languages, as tabs (ARIA Authoring Practices, "Tabs with automatic activation"). The choice applies
 * to all samples of the page, and is remembered.
 *
 * Without this script, the samples stand one below the other.
 */

import { copies, make, memory } from "./page.js";

const LANGUAGE = "language";

/** @typedef {{list: HTMLElement, show: (language: string) => void}} Group */

/** @type {Group[]} */
const groups = [];

/** Make tabs of all samples, and show the language that was chosen last. */
export function showTabs() {
  for (const element of document.querySelectorAll(".samples")) groups.push(makeGroup(/** @type {HTMLElement} */ (element)));
  const language = memory.get(LANGUAGE);
  for (const group of groups) group.show(language ?? "");
}

/** @returns {Group} */
function makeGroup(/** @type {HTMLElement} */ element) {
  const panels = /** @type {HTMLElement[]} */ ([...element.querySelectorAll(".sample")]);
  const list = make("div", { className: "tabs" });
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", element.dataset.title ?? "");
  const tabs = panels.map((panel) => makeTab(panel));
  list.append(...tabs);
  list.addEventListener("click", (/** @type {MouseEvent} */ { target }) => {
    const tab = /** @type {HTMLElement} */ (target).closest(".tab");
    if (tab) choose(/** @type {HTMLElement} */ (tab));
  });
  list.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const next = neighbor(tabs, tabs.indexOf(/** @type {HTMLElement} */ (event.target)), event.key);
    if (!next) return;
    event.preventDefault();
    choose(next);
    next.focus();
  });
  element.prepend(list);
  element.dataset.ready = "";
  const show = (/** @type {string} */ language) => {
    // Not every sample exists in each language.
    const shown = panels.find((panel) => panel.dataset.language === language) ?? panels[0];
    for (const [index, panel] of panels.entries()) {
      const isShown = panel === shown;
      panel.hidden = !isShown;
      tabs[index].ariaSelected = String(isShown);
      tabs[index].tabIndex = isShown ? 0 : -1;
    }
  };
  return { list, show };
}

/** @returns {HTMLElement} */
function makeTab(/** @type {HTMLElement} */ panel) {
  const title = /** @type {HTMLElement} */ (panel.querySelector(".sample-title"));
  title.hidden = true;
  const tab = make("button", { type: "button", className: "tab", id: `${panel.id}-tab` }, title.textContent ?? "");
  tab.dataset.language = panel.dataset.language;
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", panel.id);
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", tab.id);
  const copy = /** @type {HTMLElement | null} */ (panel.querySelector(".copy"));
  if (copy) copies(copy, () => panel.querySelector("code")?.textContent ?? "");
  else panel.tabIndex = 0; // nothing in it can have the focus
  return tab;
}

/** Show a language everywhere, and leave the chosen tab where it is on the screen. */
function choose(/** @type {HTMLElement} */ tab) {
  const language = tab.dataset.language ?? "";
  const before = tab.getBoundingClientRect().top;
  for (const { list, show } of groups) if (list.contains(tab) || list.querySelector(`[data-language="${language}"]`)) show(language);
  scrollBy({ top: tab.getBoundingClientRect().top - before, behavior: "instant" });
  memory.set(LANGUAGE, language);
}

/**
 * @param {HTMLElement[]} tabs
 * @param {number} index
 * @param {string} key
 * @returns {HTMLElement | undefined}
 */
function neighbor(tabs, index, key) {
  const last = tabs.length - 1;
  /** @type {Record<string, number>} */
  const steps = { ArrowRight: index === last ? 0 : index + 1, ArrowLeft: index === 0 ? last : index - 1, Home: 0, End: last };
  return tabs[steps[key] ?? -1];
}
