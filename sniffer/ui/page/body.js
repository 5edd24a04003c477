// Ways to look at a body: as JSON, form, text, image, bytes.

import { bytes, count, element, show } from "./text.js";

const MOST_TEXT = 1 << 20;      // characters that are shown
const MOST_BYTES = 1 << 16;     // bytes that are shown as hex
const MOST_TOKENS = 20_000;     // of JSON that get a colour

const IMAGES = [    // what a raster image begins with; SVG is none, it is shown as text
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

function decoded(message) {
  if (message.bodyEncoding !== "base64") return new TextEncoder().encode(message.body);
  const text = atob(message.body);
  const data = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) data[at] = text.charCodeAt(at);
  return data;
}

/** JSON with line breaks, from its text: numbers keep all of their digits, and nothing is put in order. */
function* tokens(text) {
  const pattern = /("(?:[^"\\]|\\.)*")(\s*:)?|(-?\d[\d.eE+-]*)|(true|false|null)|([{}[\],])|\s+/gy;
  let depth = 0;
  let opened = false;     // right behind a bracket
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

const isJson = (text) => { try { JSON.parse(text); return true; } catch { return false; } };

function block(text) {
  const made = element("pre", { tabindex: "0" });
  show(made, text.slice(0, MOST_TEXT), true);
  return text.length > MOST_TEXT ? [made, note(`The first ${count(MOST_TEXT)} characters are shown.`)] : [made];
}

const note = (text) => element("p", { class: "note" }, text);

function json(text) {
  const made = element("pre", { tabindex: "0" });
  let number = 0;
  let rest = "";
  for (const [kind, token] of tokens(text)) {
    if (number > MOST_TOKENS) rest += token;
    else if (kind) { made.append(show(element("span", { class: kind }), token, true)); number++; }
    else made.append(token);
  }
  if (rest) show(made, rest, true);
  return [made];
}

function form(text) {
  const fields = element("dl", { class: "fields" });
  for (const [name, value] of new URLSearchParams(text)) {
    fields.append(element("div", {}, show(element("dt"), name), show(element("dd"), value)));
  }
  return [fields];
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
    if (image) found.push(["Image", () => picture(data, image, urls)]);
    found.push(["Hex", () => hex(data)]);
    found.push(["Text", () => block(new TextDecoder().decode(data))]);
    return found;
  }
  if (/[/+]json\b/.test(type) || /^\s*[{[]/.test(text)) {
    if (text.length <= MOST_TEXT && isJson(text)) found.push(["JSON", () => json(text)]);
  }
  if (type === "application/x-www-form-urlencoded") found.push(["Form", () => form(text)]);
  found.push(["Text", () => block(text)]);
  found.push(["Hex", () => hex(decoded(message))]);
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
