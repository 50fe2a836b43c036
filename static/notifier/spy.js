/** Marks the section that is being read in a navigation ("scroll-spy"), and closes the menu that it is on a phone. */

const LINE = 160; // pixels from the top of the window: below the header and the menu of a phone

/** Mark sections from now on. */
export function markSections(/** @type {HTMLElement} */ navigation) {
  const links = new Map(
    [.../** @type {NodeListOf<HTMLAnchorElement>} */ (navigation.querySelectorAll("a[href^='#']"))].map((link) => [
      /** @type {HTMLElement} */ (document.getElementById(decodeURIComponent(link.hash.slice(1)))),
      link,
    ]),
  );
  /** @type {HTMLAnchorElement | undefined} */
  let marked;
  let isScheduled = false;

  const mark = () => {
    isScheduled = false;
    const link = links.get(currentSection([...links.keys()]));
    if (!link || link === marked) return;
    marked?.removeAttribute("aria-current");
    link.setAttribute("aria-current", "location");
    marked = link;
    reveal(navigation, link);
  };
  const schedule = () => {
    if (!isScheduled) requestAnimationFrame(mark);
    isScheduled = true;
  };
  addEventListener("scroll", schedule, { passive: true });
  addEventListener("resize", schedule);
  // A menu opens where it was closed, which may be far from the marked link.
  navigation.addEventListener("toggle", () => marked && reveal(navigation, marked));
  navigation.addEventListener("click", ({ target }) => {
    if (/** @type {HTMLElement} */ (target).closest("a") && navigation.matches(":popover-open")) navigation.hidePopover();
  });
  mark();
}

/** Return the last section that begins above the line; at the end of the page, the last one of all. */
function currentSection(/** @type {HTMLElement[]} */ sections) {
  const { scrollHeight, clientHeight } = document.documentElement;
  if (scrollY > 0 && scrollY + clientHeight >= scrollHeight - 2) return /** @type {HTMLElement} */ (sections.at(-1));
  return sections.filter((section) => section.getBoundingClientRect().top <= LINE).at(-1) ?? sections[0];
}

/** Scroll the navigation, and nothing else, until a link is in its view. */
function reveal(/** @type {HTMLElement} */ navigation, /** @type {HTMLElement} */ link) {
  const [outer, inner] = [navigation.getBoundingClientRect(), link.getBoundingClientRect()];
  if (inner.top < outer.top || inner.bottom > outer.bottom) navigation.scrollTop += inner.top - outer.top - outer.height / 2;
}
