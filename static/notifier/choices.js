/**
 * Applies what this person has chosen before the page is drawn, so no light page flashes before a dark one. A classic
 * script for that reason: modules run when the page is already there. The form is in preferences.js.
 */
(() => {
  const root = document.documentElement;
  let text = root.dataset.choices ?? "";
  try {
    if (text === "") text = localStorage.getItem("notifier.choices") ?? "";
    if (localStorage.getItem("notifier.start.hidden") === "yes") root.dataset.start = "hidden";
  } catch {
    // storage is blocked
  }
  try {
    const { theme = "system", density = "cozy", toasts = "beside" } = JSON.parse(text || "{}") ?? {};
    Object.assign(root.dataset, { theme, density, toasts });
  } catch {
    // not what this version writes
  }
})();
