// Offers the other versions of the site. versions.py writes versions.json above the folder of each version; where it is
// not there, as in a build of one's own, the page stays as it is.

const choice = document.getElementById("versions");
const root = new URL(document.documentElement.dataset.content_root, location.href);
const page = location.href.slice(root.href.length);

if (choice && location.protocol.startsWith("http")) {
  const answer = await fetch(new URL("../versions.json", root)).catch(() => null);
  if (answer?.ok) offer(await answer.json());
}

/** @param {string[]} versions the newest first */
function offer(versions) {
  const here = root.pathname.split("/").at(-2);
  choice.replaceChildren(...versions.map((version) => new Option(version, version, false, version === here)));
  choice.closest(".versions").hidden = versions.length < 2;
  choice.addEventListener("change", async () => {
    const there = new URL(`../${choice.value}/`, root);
    const same = new URL(page, there);
    // A page that this version does not have leads to its front page.
    const exists = await fetch(same, { method: "HEAD" }).catch(() => null);
    location.href = exists?.ok ? same.href : there.href;
  });
}
