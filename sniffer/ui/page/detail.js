// One exchange: request and response side by side.

import { body } from "./body.js";
import { bytes, clock, count, day, duration, element, plain, show, statusClass } from "./text.js";
import { CLIENT, ID, LATENCY, METHOD, SERVER, STATUS, TIME } from "./table.js";

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
      show(element("b"), row[METHOD]), " ", show(element("span", { class: "path" }), message.path ?? "?"), " ",
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
  made.append(show(element("p", { class: "start" }), start));
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
      const shown = show(element("dd", { class: each.startsWith("[REDACTED") ? "redacted" : "" }), each);
      list.append(element("div", {}, show(element("dt"), name), shown));
      number++;
    }
  }
  return element("details", { open: true }, element("summary", {}, `${title} `, element("span", {}, String(number))), list);
}

// For a shell

function quoted(text) {
  const escapes = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  if (/^[\x20-\x7e]*$/.test(text)) return `'${text.replaceAll("'", "'\\''")}'`;
  const data = new TextEncoder().encode(text);
  return `$'${[...data].map((byte) => {
    const character = String.fromCharCode(byte);
    if (character === "'" || character === "\\") return `\\${character}`;
    if (byte > 31 && byte < 127) return character;
    return escapes[character] ?? `\\x${byte.toString(16).padStart(2, "0")}`;
  }).join("")}'`;
}

/** A command that sends the request again; no captured text can leave its quotes. */
export function curl(request) {
  const host = request.headers.host ?? (request.receiver.ip.includes(":") ? `[${request.receiver.ip}]` : request.receiver.ip) + `:${request.receiver.port}`;
  const path = request.path.startsWith("/") ? request.path : `/${request.path}`;
  const url = /^https?:\/\//i.test(request.path) ? request.path : `http://${host}${path}`;
  const parts = ["curl", "--globoff", "--path-as-is"];
  if (request.method !== "GET") parts.push("--request", quoted(request.method));
  parts.push("--url", quoted(url));
  for (const [name, value] of Object.entries(request.headers)) {
    if (["host", "content-length", "transfer-encoding", "connection"].includes(name)) continue;
    for (const each of Array.isArray(value) ? value : [value]) parts.push("--header", quoted(`${name}: ${each}`));
  }
  if (request.body && request.bodyEncoding !== "base64") parts.push("--data-raw", quoted(request.body));
  return parts.join(" ");
}
