/**
 * A publication as a request that can be pasted: for a shell, JavaScript, Python and Django.
 *
 * All take the JSON as it was typed, so numbers keep their digits. What comes from others is in string literals, whose
 * escapes are those that JSON, JavaScript and Python have in common.
 */

const KEY = "NOTIFIER_API_KEY";

/**
 * @param {string} url of the API's method `publish`
 * @param {string} json
 * @param {string} [apiKey] written into the command; without one, a variable of the shell
 */
export function curlSnippet(url, json, apiKey = "") {
  const shown = tokens(json).map((token) => (isString(token) ? literal(token) : token)).join("");
  const key = apiKey ? quoted(`X-API-Key: ${apiKey}`) : `"X-API-Key: $${KEY}"`;
  return [`curl ${quoted(url)}`, `-H ${key}`, "-H 'Content-Type: application/json'", `-d ${quoted(shown)}`].join(" \\\n  ");
}

/**
 * @param {string} url
 * @param {string} json
 */
export function fetchSnippet(url, json) {
  return `const body = ${isExactInScript(json) ? `JSON.stringify(${toScript(json)})` : toScript(JSON.stringify(json))};
const response = await fetch(${toScript(JSON.stringify(url))}, {
  method: "POST",
  headers: { "X-API-Key": process.env.${KEY}, "Content-Type": "application/json" },
  body,
});
console.log(response.status, await response.text());
`;
}

/**
 * @param {string} url
 * @param {string} json
 * @param {string} [apiKey] written into the program; without one, a variable of the environment
 */
export function pythonSnippet(url, json, apiKey = "") {
  const key = apiKey ? toPython(JSON.stringify(apiKey)) : `os.environ["${KEY}"]`;
  return `import json
${apiKey ? "" : "import os\n"}from urllib.request import Request, urlopen

body = ${toPython(json)}
request = Request(
    ${toPython(JSON.stringify(url))},
    json.dumps(body).encode(),
    {"X-API-Key": ${key}, "Content-Type": "application/json"},
)
with urlopen(request, timeout=10) as response:
    print(response.status, response.read().decode())
`;
}

/** For the code of a Django project that has the app; it needs no key. */
export function djangoSnippet(/** @type {string} */ _url, /** @type {string} */ json) {
  const { channel, data, ...options } = Object.fromEntries(members(json));
  const lines = [channel, data, ...Object.entries(options).map(([name, value]) => `${name}=${value}`)];
  return `from realtime import publish

receipt = publish(
${lines.map((line) => `    ${line.replaceAll("\n", "\n  ")},\n`).join("")})
print(receipt)
`;
}

/** Quote a text for a POSIX shell. */
function quoted(/** @type {string} */ text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** Return JSON as an expression of JavaScript that is safe inside a page, too. */
function toScript(/** @type {string} */ json) {
  const parts = tokens(json);
  return parts
    .map((token, index) => {
      if (!isString(token)) return token;
      // A literal key of this name would set the prototype.
      if (token === '"__proto__"' && isKey(parts, index)) return '["__proto__"]';
      return literal(token).replaceAll("</", "<\\/").replaceAll("<!", "\\u003c!");
    })
    .join("");
}

/** Return JSON as an expression of Python. */
function toPython(/** @type {string} */ json) {
  /** @type {Record<string, string>} */
  const words = { true: "True", false: "False", null: "None" };
  return tokens(json).map((token) => (isString(token) ? literal(token) : (words[token] ?? token))).join("");
}

/** Tell whether JavaScript reads each number as it is written: it has 53 bits for one. */
function isExactInScript(/** @type {string} */ json) {
  const numbers = tokens(json).filter((token) => "-0123456789".includes(token[0]));
  return numbers.every((number) => number.length <= 15 && Number.isFinite(Number(number)));
}

/**
 * Return the members of a publication as pairs of a name and an expression of Python, without options that are null.
 *
 * @returns {[string, string][]}
 */
function members(/** @type {string} */ json) {
  /** @type {[string, string][]} */
  const found = [];
  const parts = tokens(json);
  let depth = 0;
  for (const [index, token] of parts.entries()) {
    if ("}]".includes(token)) depth -= 1;
    if (depth === 1 && isString(token) && isKey(parts, index)) found.push([JSON.parse(token), ""]);
    else if (found.length > 0 && depth > 0 && !(depth === 1 && ":,".includes(token))) {
      const last = /** @type {[string, string]} */ (found.at(-1));
      last[1] += token;
    }
    if ("{[".includes(token)) depth += 1;
  }
  return found.map(([name, value]) => /** @type {[string, string]} */ ([name, toPython(value.trim())])).filter(([name, value]) => name === "data" || value !== "None");
}

function isString(/** @type {string} */ token) {
  return token[0] === '"';
}

/** Tell whether a token is the name of a member. */
function isKey(/** @type {string[]} */ parts, /** @type {number} */ index) {
  const next = parts.slice(index + 1, index + 3).find((token) => token.trim() !== "");
  return next === ":";
}

/** Divide valid JSON into strings, runs of white space, single marks, and words or numbers. */
function tokens(/** @type {string} */ json) {
  const found = [];
  for (let start = 0; start < json.length; ) {
    let end = start + 1;
    if (json[start] === '"') {
      while (json[end] !== '"') end += json[end] === "\\" ? 2 : 1;
      end += 1;
    } else if (isSpace(json[start])) while (isSpace(json[end])) end += 1;
    else if (!isMark(json[start])) while (end < json.length && !isMark(json[end]) && !isSpace(json[end])) end += 1;
    found.push(json.slice(start, end));
    start = end;
  }
  return found;
}

function isMark(/** @type {string} */ character) {
  return '{}[]:,"'.includes(character);
}

function isSpace(/** @type {string | undefined} */ character) {
  return character !== undefined && " \t\r\n".includes(character);
}

/**
 * Write a string of JSON so that JSON, JavaScript and Python read it alike, and people see all of it: what is invisible or
 * changes the direction of the text around it is escaped ("Trojan Source", CVE-2021-42574).
 */
function literal(/** @type {string} */ token) {
  return JSON.stringify(JSON.parse(token)).replace(/[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, escaped);
}

function escaped(/** @type {string} */ character) {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}
