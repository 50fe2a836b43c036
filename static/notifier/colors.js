/**
 * Colors the strings, comments and keywords of code, by the CSS Custom Highlight API: the text stays as it is, and browsers
 * without the API show no colors.
 *
 * The same rules serve curl, JavaScript, Python, templates and JSON: a slip is a word in the wrong color.
 */

const KEYWORDS = new Set("as async await class const def export for from if import in new return with".split(" "));

/** @typedef {[kind: "comment" | "keyword" | "string", start: number, end: number]} Token */

/** Color all samples and schemas that an element contains. */
export function colorCode(/** @type {HTMLElement} */ element) {
  const { Highlight, StaticRange } = /** @type {any} */ (window);
  const { highlights } = /** @type {any} */ (CSS);
  if (!Highlight || !highlights) return;
  for (const code of element.querySelectorAll(".method-samples code, details code, .prose pre code")) {
    const text = code.firstChild;
    for (const [kind, startOffset, endOffset] of tokensOf(text?.textContent ?? "")) {
      const name = `code-${kind}`;
      if (!highlights.has(name)) highlights.set(name, new Highlight());
      highlights.get(name).add(new StaticRange({ startContainer: text, startOffset, endContainer: text, endOffset }));
    }
  }
}

/** @returns {Token[]} */
function tokensOf(/** @type {string} */ text) {
  let start = 0;
  return text.split("\n").flatMap((line) => {
    const found = tokensOfLine(line).map(([kind, from, to]) => /** @type {Token} */ ([kind, start + from, start + to]));
    start += line.length + 1;
    return found;
  });
}

/** @returns {Token[]} */
function tokensOfLine(/** @type {string} */ line) {
  /** @type {Token[]} */
  const found = [];
  for (let at = 0; at < line.length; ) {
    const from = at;
    if (line.startsWith("# ", at) || (line.startsWith("// ", at) && line.slice(0, at).trim() === "")) {
      return [...found, ["comment", from, line.length]];
    }
    if (line[at] === '"') {
      const end = line.indexOf('"', at + 1);
      at = end < 0 ? line.length : end + 1;
      found.push(["string", from, at]);
    } else if (isLetter(line[at])) {
      while (at < line.length && isLetter(line[at])) at += 1;
      if (KEYWORDS.has(line.slice(from, at))) found.push(["keyword", from, at]);
    } else at += 1;
  }
  return found;
}

function isLetter(/** @type {string} */ character) {
  return (character >= "a" && character <= "z") || (character >= "A" && character <= "Z") || "_.-/".includes(character);
}
