// Ways to look at a body: as JSON, form, text, image, bytes.

import { MOST_VALUE, bytes, count, cut, element, show, showBlock } from "./text.js";

// A few kilobytes of a body can describe a huge page. So these limits hold before anything is built.
const MOST_TEXT = 1 << 18;      // characters that are shown
const MOST_LINES = 10_000;      // that are shown
const MOST_JSON = 1 << 20;      // characters that are looked at as JSON
const MOST_DEPTH = 64;          // of JSON that is indented
const MOST_TOKENS = 20_000;     // of JSON that get a colour
const MOST_FIELDS = 1_000;      // of a form
const MOST_BYTES = 1 << 16;     // bytes that are shown as hex
const MOST_PIXELS = 1 << 24;    // of an image: a small file can need much memory

const IMAGES = [    // the first bytes of raster images; SVG is shown as text
  ["image/png", [0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]],
  ["image/jpeg", [0xff, 0xd8, 0xff]],
  ["image/gif", [0x47, 0x49, 0x46, 0x38]],
  ["image/webp", [0x52, 0x49, 0x46, 0x46, null, null, null, null, 0x57, 0x45, 0x42, 0x50]],
  ["image/bmp", [0x42, 0x4d]],
  ["image/x-icon", [0x00, 0x00, 0x01, 0x00]],
  ["image/avif", [null, null, null, null, 0x66, 0x74, 0x79, 0x70, 0x61, 0x76, 0x69, 0x66]],
];

function imageType(data, type) {
  if (!type.startsWith("image/")) return null;
  const found = IMAGES.find(([, magic]) => magic.every((byte, at) => byte === null || data[at] === byte));
  return found ? found[0] : null;
}

/** The number of pixels that an image has at most, according to its header; Infinity if the header does not tell. */
function pixels(type, data) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  try {
    return {
      "image/png": () => areas(data, "IHDR", (at) => view.getUint32(at + 4) * view.getUint32(at + 8)),
      "image/x-icon": () => areas(data, "IHDR", (at) => view.getUint32(at + 4) * view.getUint32(at + 8), 256 * 256),
      "image/gif": () => view.getUint16(6, true) * view.getUint16(8, true),
      "image/bmp": () => Math.abs(view.getInt32(18, true) * view.getInt32(22, true)),
      "image/webp": () => webp(data, view),
      "image/avif": () => areas(data, "ispe", (at) => view.getUint32(at + 8) * view.getUint32(at + 12)),
      "image/jpeg": () => jpeg(view),
    }[type]();
  } catch {     // the file ends within its header
    return Infinity;
  }
}

/** The largest result of `area` for a place of the word in the data, at least `least`; Infinity for none. */
function areas(data, word, area, least = 0) {
  const letters = [...word].map((letter) => letter.charCodeAt(0));
  let most = least;
  for (let at = data.indexOf(letters[0]); at >= 0; at = data.indexOf(letters[0], at + 1)) {
    if (letters.every((letter, number) => data[at + number] === letter)) most = Math.max(most, area(at));
  }
  return most || Infinity;
}

function webp(data, view) {
  const kind = String.fromCharCode(...data.subarray(12, 16));
  if (kind === "VP8X") return (1 + (view.getUint32(24, true) & 0xffffff)) * (1 + (view.getUint32(26, true) >>> 8));
  if (kind === "VP8L") return (1 + (view.getUint16(21, true) & 0x3fff)) * (1 + ((view.getUint32(21, true) >>> 14) & 0x3fff));
  return kind === "VP8 " ? (view.getUint16(26, true) & 0x3fff) * (view.getUint16(28, true) & 0x3fff) : Infinity;
}

function jpeg(view) {
  for (let at = 2; ; at += 2 + view.getUint16(at + 2)) {
    while (view.getUint8(at) === 0xff && view.getUint8(at + 1) === 0xff) at++;
    const mark = view.getUint8(at + 1);
    if (view.getUint8(at) !== 0xff || mark === 0xda) return Infinity;
    if (mark >= 0xc0 && mark <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(mark)) return view.getUint16(at + 5) * view.getUint16(at + 7);
  }
}

function decoded(message) {
  if (message.bodyEncoding !== "base64") return new TextEncoder().encode(message.body);
  const text = atob(message.body);
  const data = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) data[at] = text.charCodeAt(at);
  return data;
}

/** JSON with line breaks, from its text: numbers keep all of their digits, and nothing is put in order. */
function* tokens(text) {
  const pattern = /("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|(-?\d[\d.eE+-]*)|(true|false|null)|([{}[\],])|\s+/gy;
  let depth = 0;
  let opened = false;     // the last token was an opening bracket
  const line = () => "\n" + "  ".repeat(depth);
  for (const [, string, colon, number, word, mark] of text.matchAll(pattern)) {
    if (mark === "}" || mark === "]") {
      depth--;
      if (!opened) yield ["", line()];
      opened = false;
      yield ["", mark];
      continue;
    }
    if (string === undefined && number === undefined && word === undefined && mark === undefined) continue;
    if (opened) yield ["", line()];
    opened = false;
    if (mark === ",") yield ["", "," + line()];
    else if (mark) { yield ["", mark]; depth++; opened = true; }
    else if (string) { yield [colon ? "name" : "string", string]; if (colon) yield ["", ": "]; }
    else yield [number ? "number" : "word", number ?? word];
  }
}

/** Whether brackets of JSON are nested no deeper than MOST_DEPTH. */
function isFlat(text) {
  let depth = 0;
  for (const [mark] of text.matchAll(/"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\]]/gs)) {
    if (mark === "{" || mark === "[") { if (++depth > MOST_DEPTH) return false; }
    else if (mark === "}" || mark === "]") depth--;
  }
  return true;
}

const isJson = (text) => { try { JSON.parse(text); return true; } catch { return false; } };

function block(text) {
  const made = element("pre", { tabindex: "0" });
  const lines = text.slice(0, MOST_TEXT).split("\n", MOST_LINES + 1);
  const shown = lines.slice(0, MOST_LINES).join("\n");
  showBlock(made, shown);
  return shown.length < text.length ? [made, note(`The first ${count(shown.length)} of ${count(text.length)} characters are shown.`)] : [made];
}

const note = (text) => element("p", { class: "note" }, text);

function json(text) {
  const made = element("pre", { tabindex: "0" });
  let number = 0;
  let lines = 0;
  let size = 0;
  for (const [kind, token] of tokens(text)) {
    if (token.includes("\n")) lines++;
    const shown = token.slice(0, MOST_TEXT - size);
    size += shown.length;
    if (kind) { made.append(showBlock(element("span", { class: kind }), shown)); number++; }
    else made.append(shown);
    if (number === MOST_TOKENS || lines === MOST_LINES || size === MOST_TEXT) {
      return [made, note("The beginning is shown.")];
    }
  }
  return [made];
}

function form(text) {
  const fields = element("dl", { class: "fields" });
  const parts = text.slice(0, MOST_TEXT).split("&", MOST_FIELDS);
  for (const [name, value] of new URLSearchParams(parts.join("&"))) {
    fields.append(element("div", {}, show(element("dt"), cut(name, MOST_VALUE)), show(element("dd"), cut(value, MOST_VALUE))));
  }
  return parts.join("&").length < text.length ? [fields, note("The beginning is shown.")] : [fields];
}

function hex(data) {
  const lines = [];
  const shown = data.subarray(0, MOST_BYTES);
  for (let at = 0; at < shown.length; at += 16) {
    const part = [...shown.subarray(at, at + 16)];
    const numbers = part.map((byte) => byte.toString(16).padStart(2, "0"));
    const left = numbers.slice(0, 8).join(" ").padEnd(23);
    const right = numbers.slice(8).join(" ").padEnd(23);
    const letters = part.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(6, "0")}  ${left}  ${right}  ${letters}`);
  }
  const made = [element("pre", { class: "hex", tabindex: "0" }, lines.join("\n"))];
  if (data.length > MOST_BYTES) made.push(note(`The first ${bytes(MOST_BYTES)} are shown.`));
  return made;
}

function picture(data, type, urls) {
  const url = URL.createObjectURL(new Blob([data], { type }));
  urls.push(url);
  const image = element("img", { src: url, alt: "the body, as an image" });
  const size = note("");
  image.addEventListener("load", () => { size.textContent = `${image.naturalWidth} × ${image.naturalHeight}, ${type}`; });
  image.addEventListener("error", () => { size.textContent = "The image cannot be shown."; });
  return [image, size];
}

/** The ways to look at the body of a message, the best first: [name, function that makes it]. */
function ways(message, type, urls) {
  const found = [];
  const text = message.bodyEncoding === "base64" ? null : message.body;
  if (text === null) {
    const data = decoded(message);
    const image = imageType(data, type);
    if (image && pixels(image, data) <= MOST_PIXELS) found.push(["Image", () => picture(data, image, urls)]);
    found.push(["Hex", () => hex(data)]);
    found.push(["Text", () => block(new TextDecoder().decode(data.subarray(0, 4 * MOST_TEXT)))]);
    return found;
  }
  const asBytes = ["Hex", () => hex(decoded(message))];
  if (/[/+]json\b/.test(type) || /^\s*[{[]/.test(text)) {
    if (text.length <= MOST_JSON) {
      if (!isFlat(text)) return [["Text", () => [...block(text), note(`It is nested deeper than ${MOST_DEPTH}: it is shown as it came.`)]], asBytes];
      if (isJson(text)) found.push(["JSON", () => json(text)]);
    }
  }
  if (type === "application/x-www-form-urlencoded") found.push(["Form", () => form(text)]);
  found.push(["Text", () => block(text)]);
  found.push(asBytes);
  return found;
}

/** An element that shows the body; URLs of images are added to `urls`, to be revoked. */
export function body(message, urls) {
  const type = String(message.headers["content-type"] ?? "").split(";")[0].trim().toLowerCase();
  const choices = ways(message, type, urls);
  const place = element("div", { class: "content" });
  const buttons = choices.map(([name, make]) => element("button", {
    type: "button", "aria-pressed": "false",
    onclick: () => {
      for (const button of buttons) button.setAttribute("aria-pressed", String(button.textContent === name));
      place.replaceChildren(...make());
    },
  }, name));
  buttons[0].click();
  return element("div", { class: "body" }, element("div", { class: "ways", role: "group", "aria-label": "Show the body as" }, ...buttons), place);
}
