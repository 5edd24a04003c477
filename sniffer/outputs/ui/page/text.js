// Text from the wire is shown as text. Nothing on this page makes HTML of it.

export const CONTROLS = /[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]/gu;
const CONTROLS_IN_BLOCK = /(?![\n\t])[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060\u2066-\u2069\ufeff\ud800-\udfff]/gu;
const MOST_MARKED = 2000;   // control characters that get an element of their own; further ones are escaped without one

const escaped = (character) => {
  const code = character.codePointAt(0);
  return code < 256 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
};

/** An element with a class, attributes, listeners and children. Strings among the children become text nodes. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (typeof value === "boolean") made.toggleAttribute(key, value);
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** One line, with controls and bidi characters written as \x1b. */
export const plain = (text) => text.replace(CONTROLS, escaped);

/** Puts text into an element, with control characters set apart. In a block, line ends and tabs stay. */
export function show(target, text, block = false, most = MOST_MARKED) {
  const controls = block ? CONTROLS_IN_BLOCK : CONTROLS;
  const source = block ? text.replaceAll("\r\n", "\n") : text;
  let from = 0;
  let marked = 0;
  for (const match of source.matchAll(controls)) {
    if (marked++ >= most) {
      target.append(source.slice(from).replace(controls, escaped));
      return target;
    }
    target.append(source.slice(from, match.index), element("span", { class: "control" }, escaped(match[0])));
    from = match.index + match[0].length;
  }
  target.append(source.slice(from));
  return target;
}

export const MOST_VALUE = 1 << 13;      // characters of a field's name or value, or of a start line; laying out a long word is slow

/** The beginning of a text, with its length if it is longer. */
export const cut = (text, most) => (text.length > most ? `${text.slice(0, most)}… (${count(text.length)} characters)` : text);

const MOST_LINE = 4096;     // characters in one line of a block; the layout of text in both directions takes the square of its length

/** Puts a text of any length into a block. Lines of more than MOST_LINE characters are broken. */
export function showBlock(target, text) {
  const parts = text.match(new RegExp(`[^\\n]{1,${MOST_LINE}}\\n?|\\n`, "gu")) ?? [];
  const most = Math.ceil(MOST_MARKED / Math.max(1, Math.ceil(text.length / MOST_LINE)));
  let short = "";
  for (const part of parts) {
    if (part.length < MOST_LINE || part.endsWith("\n")) short += part;
    else {
      show(target, short, true, most);
      target.append(show(element("span", { class: "line-part" }), part, true, most));
      short = "";
    }
  }
  return show(target, short, true, most);
}

// Numbers

const whole = new Intl.NumberFormat("en");
export const count = (number) => whole.format(number);

export function bytes(size) {
  if (size === null || size === undefined) return "–";
  if (size < 1000) return `${size} B`;
  let value = size;
  let unit = 0;
  while (value >= 999.5 && unit < 5) { value /= 1000; unit++; }
  return `${value < 9.95 ? value.toFixed(1) : value.toFixed(0)} ${" kMGTP"[unit]}B`;
}

export function duration(milliseconds) {
  if (milliseconds === null || milliseconds === undefined) return "";
  if (milliseconds < 1) return `${(milliseconds * 1000).toFixed(0)} µs`;
  if (milliseconds < 9.995) return `${milliseconds.toFixed(2)} ms`;
  if (milliseconds < 99.95) return `${milliseconds.toFixed(1)} ms`;
  if (milliseconds < 999.5) return `${milliseconds.toFixed(0)} ms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 99_950 ? 2 : 0)} s`;
}

const two = (number) => String(number).padStart(2, "0");

/** A time of day, local, from microseconds since the epoch. */
export function clock(microseconds, digits = 3) {
  const date = new Date(Math.floor(microseconds / 1000));
  const part = String(microseconds % 1_000_000).padStart(6, "0").slice(0, digits);
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}${digits ? "." + part : ""}`;
}

export function day(microseconds) {
  const date = new Date(microseconds / 1000);
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

export const statusClass = (status) => (status === null || status === undefined ? 0 : Math.floor(status / 100));
