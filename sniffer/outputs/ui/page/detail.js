// One exchange: request and response side by side.

import { body } from "./body.js";
import { MOST_VALUE, bytes, clock, count, cut, day, duration, element, plain, show, statusClass } from "./text.js";
import { CLIENT, DURATION, END, ID, LATENCY, METHOD, SERVER, STATUS, TIME } from "./table.js";

const MOST_TITLE = 2_000;       // characters of a path in the title
const MOST_FIELDS = 500;        // headers that are shown
const MOST_KEPT = 30;   // exchanges that this page keeps, in case the sniffer forgets them

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
      show(element("b"), row[METHOD]), " ", show(element("span", { class: "path" }), cut(message.path ?? message.routeId ?? "?", MOST_TITLE)), " ",
      element("b", { class: "status" }, String(row[STATUS] ?? "no response")),
    );
    const copy = element("button", { type: "button", onclick: () => this.copy(copy, curl(request), lacks(request)) }, "Copy as curl");
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

  async copy(button, text, note) {
    const before = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = `Copied${note}`;
    } catch {
      button.textContent = "The browser does not allow it";
    }
    setTimeout(() => { button.textContent = before; }, note ? 6000 : 1500);
  }
}

function fact(name, value) {
  return value === null || value === undefined ? null : element("div", {}, element("dt", {}, name), show(element("dd"), String(value)));
}

function facts(row, request, response) {
  const message = request ?? response;
  const latency = row[LATENCY];
  const list = element("dl", { class: "facts" },
    fact("Began", `${day(row[TIME])} ${clock(row[TIME], 6)}`),
    fact("Ended", `${day(row[END])} ${clock(row[END], 6)}`),
    fact("Host", message.authority),
    fact("Client", row[CLIENT]),
    fact("Server", row[SERVER]),
    fact("Latency", latency === null ? null : duration(latency)),
    fact("Duration", row[DURATION] === null ? null : duration(row[DURATION])),
    fact("Connection", `${message.connectionId.slice(0, 8)}… exchange ${message.exchange}`),
    fact("Trace", message.traceId),
    fact("Pod", message.placement?.pod),
    fact("Node", message.placement?.node),
  );
  return latency === null || row[DURATION] === null ? list : element("div", { class: "timings" }, list, ...phases(row, response));
}

const microseconds = (stamp) => Date.parse(stamp.slice(0, 19) + "Z") * 1000 + Number(stamp.slice(20, 26));

/** A bar of the times of sending, waiting and receiving, where there was more than waiting. */
function phases(row, response) {
  const receiving = (microseconds(response.endTimestamp) - microseconds(response.timestamp)) / 1000;
  const waiting = row[LATENCY];
  const sending = row[DURATION] - waiting - receiving;
  const least = 0.01 * row[DURATION];
  if (!(sending > least || receiving > least)) return [];
  const parts = { sending, waiting, receiving };
  const text = `The request took ${duration(Math.max(0, sending))}, the first byte of the response ${duration(waiting)} more, ` +
    `the rest of the response ${duration(Math.max(0, receiving))}.`;
  const bar = element("div", { class: "timing", role: "img", "aria-label": text });
  for (const [name, time] of Object.entries(parts)) {
    const part = element("i", { class: name });
    part.style.width = `${Math.max(0, 100 * time / row[DURATION])}%`;
    bar.append(part);
  }
  return [bar, element("p", { class: "note" }, text)];
}

function side(name, message, missing, urls) {
  const made = element("article", { "aria-label": name }, element("h3", {}, name));
  if (!message) {
    made.append(element("p", { class: "callout" }, missing));
    return made;
  }
  const start = message.direction === "request"
    ? `${message.method ?? "?"} ${message.path ?? message.routeId ?? "?"} HTTP/${message.httpVersion}`
    : `HTTP/${message.httpVersion} ${message.statusCode ?? "?"} ${message.reason ?? ""}`;
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
  if (message.bodyRedacted === "all") parts.push("left out: it cannot be searched for secrets");
  else if (message.bodyTruncated) parts.push(message.body ? "cut: the beginning is kept" : "not kept: too long");
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

// Copy as curl

const TOKEN = /^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/;          // a header's name (RFC 9110)
const PATH = /^\/[!-"$-\[\]-~]*$/;                       // a target that a URL holds unchanged: no blank, no #, no backslash
const ABSOLUTE = /^https?:\/\/[!-"$-\[\]-~]+$/i;
const MOST_ARGUMENT = 100_000;                          // characters; Linux takes no argument of more than 128 KiB
const BY_CURL = ["host", "content-length", "transfer-encoding", "connection"];

const utf8 = (text) => [...new TextEncoder().encode(text)];
/** The bytes of a start line or a header field. A record has them as ISO-8859-1. */
const latin = (text) => (/^[\x00-\xff]*$/.test(text) ? [...text].map((character) => character.charCodeAt(0)) : utf8(text));
const isText = (data) => data.every((byte) => byte > 31 && byte < 127);
const ascii = (data) => data.map((byte) => String.fromCharCode(byte)).join("");

/** Bytes as a format of POSIX printf, to stand in single quotes: printable ASCII, everything else in octal. */
function format(data, escaped) {
  return data.map((byte, at) => {
    const character = String.fromCharCode(byte);
    if (character === "%") return "%%";
    const plain = byte > 31 && byte < 127 && !escaped.includes(character) && (at || character !== "-");
    return plain ? character : `\\${byte.toString(8).padStart(3, "0")}`;
  }).join("");
}

/** A word of a POSIX shell for these bytes, which must hold no NUL and not end in a line end. */
function word(data) {
  if (isText(data)) return `'${ascii(data).replaceAll("'", "'\\''")}'`;
  return `"$(printf '${format(data, "'\\!\"`$()")}')"`;
}

/** The word for a field or a start line. NUL is left out: no argument can hold it. */
const field = (text) => word(latin(text).filter((byte) => byte));

/** What the command does not send of the request, as far as the user must know before it is sent. */
export function lacks(request) {
  if (request.bodyTruncated) return `, with the body cut: ${count(request.bodySize)} bytes were sent`;
  return request.bodySize && !request.body ? `, without the body: ${count(request.bodySize)} bytes were sent` : "";
}

/** The bytes of the body that are kept. */
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
  const authority = request.authority ?? `${ip.includes(":") ? `[${ip}]` : ip}:${port}`;
  const host = request.headers.host ?? "";
  const target = request.path ?? "/";
  const absolute = ABSOLUTE.test(target);
  const data = sent(request);
  const parts = ["curl", "--globoff", "--path-as-is"];
  if (request.method === "HEAD" && !data.length) parts.push("--head");
  else if (request.method !== "GET" || data.length) parts.push("--request", field(request.method));
  const server = `http://${authority}`;
  if (absolute) parts.push("--url", field(target));
  else if (PATH.test(target)) parts.push("--url", field(server + target));
  else parts.push("--request-target", field(target), "--url", field(`${server}/`));
  if (host && host !== authority) parts.push("--header", field(`host: ${host}`));    // otherwise curl makes the same of the URL
  for (const [name, value] of Object.entries(request.headers)) {
    if (BY_CURL.includes(name) || !TOKEN.test(name)) continue;
    if (name === "content-encoding" && request.bodyDecoded) continue;    // the body is kept decoded
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
