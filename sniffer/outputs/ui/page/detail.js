// One exchange: request and response side by side.

import { body } from "./body.js";
import { MOST_VALUE, bytes, clock, count, cut, day, duration, element, plain, show, statusClass } from "./text.js";
import { CLIENT, ID, LATENCY, METHOD, SERVER, STATUS, TIME } from "./table.js";

const MOST_TITLE = 2_000;       // characters of a path in the title
const MOST_FIELDS = 500;        // headers that are shown
const MOST_KEPT = 30;   // exchanges that this page remembers, for when the sniffer does not any more

const INCOMPLETE = {
  gap: "bytes of it were not captured",
  closed: "the connection ended before it did",
  evicted: "it was given up at a limit on connections or memory",
  idle: "its connection was silent for too long",
  stopped: "the capture ended before it did",
  malformed: "its head is no HTTP",
  limit: "its head or trailers were too long",
};

export class Detail {
  constructor(root, { closed }) {
    this.root = root;
    this.closed = closed;
    this.number = null;
    this.urls = [];
    this.kept = new Map();
  }

  get open() { return !this.root.hidden; }

  close() {
    if (!this.open) return;
    this.root.hidden = true;
    this.number = null;
    this.asking?.abort();
    this.clear();
    this.closed();
  }

  clear() {
    for (const url of this.urls) URL.revokeObjectURL(url);
    this.urls = [];
    this.root.replaceChildren();
  }

  async show(row) {
    if (this.number === row[ID]) return;
    this.number = row[ID];
    this.root.hidden = false;
    this.asking?.abort();
    const asking = this.asking = new AbortController();
    try {
      const exchange = this.kept.get(row[ID]) ?? await this.ask(row[ID], asking.signal);
      if (this.number === row[ID]) this.fill(row, exchange);
    } catch (error) {
      if (error.name !== "AbortError" && this.number === row[ID]) this.fill(row, null);
    }
  }

  async ask(number, signal) {
    const answer = await fetch(`exchange/${number}`, { signal });
    if (!answer.ok) return null;
    const exchange = await answer.json();
    this.kept.set(number, exchange);
    if (this.kept.size > MOST_KEPT) this.kept.delete(this.kept.keys().next().value);
    return exchange;
  }

  fill(row, exchange) {
    this.clear();
    const close = element("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => this.close() }, "×");
    if (exchange === null) {
      this.root.append(
        element("header", {}, element("h2", {}, show(element("b"), row[METHOD]), " ", String(row[STATUS] ?? "")), close),
        element("p", { class: "empty" }, "Headers and bodies of this exchange are not kept any more."),
      );
      return;
    }
    const { request, response } = exchange;
    const message = request ?? response;
    const title = element("h2", { class: `s${statusClass(row[STATUS])}` },
      show(element("b"), row[METHOD]), " ", show(element("span", { class: "path" }), cut(message.path ?? "?", MOST_TITLE)), " ",
      element("b", { class: "status" }, String(row[STATUS] ?? "no response")),
    );
    const copy = element("button", { type: "button", onclick: () => this.copy(copy, curl(request)) }, "Copy as curl");
    this.root.append(
      element("header", {}, title, request ? copy : null, close),
      facts(row, request, response),
      element("div", { class: "sides" },
        side("Request", request, "The request was not captured, or was dropped.", this.urls),
        side("Response", response, "No response was captured.", this.urls),
      ),
    );
    this.root.scrollTop = 0;
  }

  async copy(button, text) {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      button.textContent = "The browser does not allow it";
    }
    setTimeout(() => { button.textContent = before; }, 1500);
  }
}

const microseconds = (message) => Date.parse(message.timestamp.slice(0, 19) + "Z") * 1000 + Number(message.timestamp.slice(20, 26));

function fact(name, value) {
  return value === null || value === undefined ? null : element("div", {}, element("dt", {}, name), show(element("dd"), String(value)));
}

function facts(row, request, response) {
  const message = request ?? response;
  const latency = row[LATENCY];
  const between = request && response ? (microseconds(response) - microseconds(request)) / 1000 : null;
  const list = element("dl", { class: "facts" },
    fact("Began", `${day(row[TIME])} ${clock(row[TIME], 6)}`),
    fact("Client", row[CLIENT]),
    fact("Server", row[SERVER]),
    fact("Latency", latency === null ? null : duration(latency)),
    fact("Connection", `${message.connectionId.slice(0, 8)}… exchange ${message.exchange}`),
    fact("Trace", message.traceId),
    fact("Pod", message.placement?.pod),
    fact("Node", message.placement?.node),
  );
  const sending = between === null || latency === null ? 0 : between - latency;
  if (!(sending > 0.01 * between)) return list;
  const share = 100 * sending / between;
  const bar = element("div", { class: "timing", role: "img",
    "aria-label": `sending ${duration(sending)}, then waiting ${duration(latency)}` },
    element("i", { class: "sending" }), element("i", { class: "waiting" }));
  bar.children[0].style.width = `${share}%`;
  bar.children[1].style.width = `${100 - share}%`;
  const legend = element("p", { class: "note" }, `The request took ${duration(sending)}, the first byte of the response ${duration(latency)} more.`);
  return element("div", { class: "timings" }, list, bar, legend);
}

function side(name, message, missing, urls) {
  const made = element("article", { "aria-label": name }, element("h3", {}, name));
  if (!message) {
    made.append(element("p", { class: "callout" }, missing));
    return made;
  }
  const start = message.direction === "request"
    ? `${message.method} ${message.path} HTTP/${message.httpVersion}`
    : `HTTP/${message.httpVersion} ${message.statusCode} ${message.reason ?? ""}`;
  made.append(show(element("p", { class: "start" }), cut(start, MOST_VALUE)));
  for (const text of remarks(message)) made.append(show(element("p", { class: "callout" }), text));
  made.append(fields(message.headers, "Headers"));
  if (message.trailers) made.append(fields(message.trailers, "Trailers"));
  made.append(element("h4", {}, "Body ", element("span", {}, size(message))));
  if (message.body) made.append(body(message, urls));
  return made;
}

function* remarks(message) {
  if (message.incomplete) {
    const missing = message.missingBytes === undefined ? "" : ` ${count(message.missingBytes)} bytes are missing.`;
    yield `Incomplete (${message.incomplete}): ${INCOMPLETE[message.incomplete] ?? "it is not whole"}.${missing}`;
  }
  if (message.resynced) yield "The first message after bytes were lost whose extent is unknown.";
  if (message.direction === "response" && message.method === undefined) yield "It is not known which request this answers.";
  if (message.informational) yield `Before it came ${message.informational.join(", ")}.`;
  if (message.anomalies) yield `Oddities: ${message.anomalies.join(", ")}.`;
}

function size(message) {
  const parts = [message.bodySize ? `${count(message.bodySize)} bytes on the wire` : "none"];
  if (message.bodyDecoded) parts.push(`decoded from ${plain(message.bodyDecoded)}`);
  if (message.bodyTruncated) parts.push(message.body ? "cut: the beginning is kept" : "not kept: too long");
  else if (message.bodySize && !message.body) parts.push("not kept");
  return parts.join(", ");
}

function fields(values, title) {
  const list = element("dl", { class: "fields" });
  let number = 0;
  for (const [name, value] of Object.entries(values)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (number++ >= MOST_FIELDS) continue;
      const shown = show(element("dd", { class: each.startsWith("[REDACTED") ? "redacted" : "" }), cut(each, MOST_VALUE));
      list.append(element("div", {}, show(element("dt"), cut(name, MOST_VALUE)), shown));
    }
  }
  if (number > MOST_FIELDS) list.append(element("p", { class: "note" }, `The first ${count(MOST_FIELDS)} are shown.`));
  return element("details", { open: true }, element("summary", {}, `${title} `, element("span", {}, String(number))), list);
}

// For a shell

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;          // a header's name (RFC 9110)
const HOST = /^([A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$/;
const PATH = /^\/[!-"$-\[\]-~]*$/;                       // that a URL holds as it is: no blank, no #, no backslash
const ABSOLUTE = /^https?:\/\/[!-"$-\[\]-~]+$/i;
const MOST_ARGUMENT = 100_000;                          // characters; Linux takes no argument of more than 128 KiB
const BY_CURL = ["host", "content-length", "transfer-encoding", "connection"];

const utf8 = (text) => [...new TextEncoder().encode(text)];
/** The bytes of a start line or a header field, which a record has as ISO-8859-1. */
const latin = (text) => (/^[\x00-\xff]*$/.test(text) ? [...text].map((character) => character.charCodeAt(0)) : utf8(text));
const isText = (data) => data.every((byte) => byte > 31 && byte < 127);
const ascii = (data) => data.map((byte) => String.fromCharCode(byte)).join("");

/** Bytes as a format of POSIX printf, within single quotes: printable ASCII, all else in octal numbers. */
function format(data, escaped) {
  return data.map((byte, at) => {
    const character = String.fromCharCode(byte);
    if (character === "%") return "%%";
    const plain = byte > 31 && byte < 127 && !escaped.includes(character) && (at || character !== "-");
    return plain ? character : `\\${byte.toString(8).padStart(3, "0")}`;
  }).join("");
}

/** A word of a POSIX shell that stands for bytes, of which none is NUL and the last no line end. */
function word(data) {
  if (isText(data)) return `'${ascii(data).replaceAll("'", "'\\''")}'`;
  return `"$(printf '${format(data, "'\\!\"`$()")}')"`;
}

/** The same of the text of a field or a start line; a NUL, which no argument can hold, is left out. */
const field = (text) => word(latin(text).filter((byte) => byte));

/** What is kept of the body. */
function sent(request) {
  if (!request.body) return [];
  if (request.bodyEncoding !== "base64") return utf8(request.body);
  return [...atob(request.body)].map((character) => character.charCodeAt(0));
}

/**
 * A command for any POSIX shell that sends the request again, byte for byte. It is one line of printable ASCII, so that
 * no captured text steers a terminal or leaves its quotes: what is not ASCII is written by printf, in octal numbers.
 */
export function curl(request) {
  const { ip, port } = request.receiver;
  const place = `${ip.includes(":") ? `[${ip}]` : ip}:${port}`;
  const host = request.headers.host ?? "";
  const target = request.path ?? "/";
  const absolute = ABSOLUTE.test(target);
  const data = sent(request);
  const parts = ["curl", "--globoff", "--path-as-is"];
  if (request.method === "HEAD" && !data.length) parts.push("--head");
  else if (request.method !== "GET" || data.length) parts.push("--request", field(request.method));
  const server = `http://${HOST.test(host) ? host : place}`;
  if (absolute) parts.push("--url", field(target));
  else if (PATH.test(target)) parts.push("--url", field(server + target));
  else parts.push("--request-target", field(target), "--url", field(`${server}/`));
  if (host && !HOST.test(host)) parts.push("--header", field(`host: ${host}`));
  for (const [name, value] of Object.entries(request.headers)) {
    if (BY_CURL.includes(name) || !TOKEN.test(name)) continue;
    if (name === "content-encoding" && request.bodyDecoded) continue;    // the body is not as it was sent
    for (const each of Array.isArray(value) ? value : [value]) {
      parts.push("--header", field(each.trim() ? `${name}: ${each}` : `${name};`));
    }
  }
  if (!data.length) return parts.join(" ");
  const written = isText(data) ? ascii(data) : format(data, "'\\!");
  if (written.length > MOST_ARGUMENT || data.includes(0) || data[data.length - 1] === 0x0a) {
    return `printf '${format(data, "'\\!")}' | ${[...parts, "--data-binary", "@-"].join(" ")}`;
  }
  return [...parts, "--data-raw", word(data)].join(" ");
}
