/**
 * Tabs with one panel: arrows, Home and End choose, as in the tab pattern of the ARIA Authoring Practices.
 */

/**
 * @param {HTMLElement} tabs holds buttons with the role `tab`, and one panel that they control
 * @param {(id: string) => void} show fills the panel for the tab with this id
 * @param {string} chosen the id of the first tab to show
 */
export function setUpTabs(tabs, show, chosen) {
  const all = /** @type {HTMLElement[]} */ ([...tabs.querySelectorAll("[role=tab]")]);
  const panel = /** @type {HTMLElement} */ (tabs.querySelector("[role=tabpanel]"));
  const choose = (/** @type {HTMLElement} */ tab) => {
    for (const each of all) {
      each.ariaSelected = String(each === tab);
      each.tabIndex = each === tab ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", tab.id);
    show(tab.id);
  };
  for (const [index, tab] of all.entries()) {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: -1 }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      const other = /** @type {HTMLElement} */ (all.at(next % all.length));
      other.focus();
      choose(other);
    });
  }
  choose(all.find(({ id }) => id === chosen) ?? all[0]);
}
