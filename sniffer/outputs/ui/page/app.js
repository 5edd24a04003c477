// The live view: takes events, and shows rows, plots and details. It only reads and cannot change the sniffer.

import { Detail } from "./detail.js";
import { Plots } from "./plot.js";
import { ID, METHOD, SKIPPED, TIME, Table, filter } from "./table.js";
import { Search } from "./search.js";
import { count, element, plain } from "./text.js";

const SILENT_MS = 5000;         // without an event for so long, the page says that the sniffer does not answer
const HIDDEN_MS = 3000;         // after which a tab in the background disconnects: browsers open six connections to a server
const AGAIN_MS = [500, 1000, 2000, 5000];
const YIELDED_MS = 5000;        // for so long the page says that it gave way
const TELL_MS = 5000;           // between two announcements for a screen reader
const MOST_METHODS = 50;

const $ = (name) => document.getElementById(name);
const form = $("filters");
let rows = [];                  // rows that wait for the next frame
let held = [];                  // rows that wait for the end of the pause
let last = 0;                   // number of the newest row
let skipped = 0;
let paused = false;
let yielded = 0;                // when messages were last left out because the page gave way
let facts = null;               // the newest `stats` event
let hello = null;
let events = null;
let heard = 0;
let tries = 0;
let ended = false;
let again = null;
let told = "";
let listed = "";
const methods = new Set();

const detail = new Detail($("detail"), { closed: () => { document.body.classList.remove("split"); table.draw(); } });
const plots = new Plots($("rate"), $("latency"), $("rate-now"), $("latency-now"));
const table = new Table($("table"), {
  chosen: (row, open) => {
    if (open || detail.open) {
      document.body.classList.add("split");
      detail.show(row);
    }
  },
  moved: () => {
    $("follow").hidden = table.following || !table.scrolls || table.sortKey !== TIME;
    tell();
  },
});

const search = new Search(() => { table.rebuild(); mistake(); tell(); });

// Events

function connect() {
  clearTimeout(again);
  events?.close();
  events = new EventSource(`events?after=${last}`);
  heard = Date.now();
  const on = (name, take) => events.addEventListener(name, (event) => {
    heard = Date.now();
    tries = 0;
    take(JSON.parse(event.data));
  });
  on("hello", (said) => {
    hello = said;
    table.most = hello.most;
    plots.begin(hello);
  });
  on("rows", take);
  on("stats", (stats) => {
    if (stats.notShown > (facts?.notShown ?? 0)) yielded = Date.now();
    facts = stats;
    plots.update(stats);
    say();
  });
  on("end", () => { ended = true; events.close(); say(); });
  events.onerror = () => { events.close(); if (!ended) retry(); };
}

/** The stream broke. Finds out whether the sniffer still answers, says so, and connects again. */
async function retry() {
  clearTimeout(again);
  let answer = null;
  try { answer = await fetch("exchange/0"); } catch { /* nobody answers */ }
  if (answer && answer.status !== 404) ended = true;   // another run, which refuses this page's cookie
  say(answer === null ? "no answer" : tries > 2 ? "crowded" : "reconnecting");
  if (!ended) again = setTimeout(connect, AGAIN_MS[Math.min(tries++, AGAIN_MS.length - 1)]);
}

function take(fresh) {
  const gap = last ? fresh[0][ID] - last - 1 : 0;
  if (gap > 0) {
    skipped += gap;
    fresh[0][SKIPPED] = gap;
  }
  last = fresh[fresh.length - 1][ID];
  const waiting = paused ? held : rows;
  for (const row of fresh) waiting.push(row);
  if (waiting.length > 2 * table.most) waiting.splice(0, waiting.length - table.most);
  if (paused) say();
  else if (rows.length === fresh.length) requestAnimationFrame(flush);
}

function flush() {
  if (!rows.length) return;
  const fresh = rows;
  rows = [];
  for (const row of fresh) {
    const method = row[METHOD];
    if (methods.size < MOST_METHODS && !methods.has(method)) {
      methods.add(method);
      form.elements.method.append(element("option", { value: method }, plain(method)));
    }
  }
  table.add(fresh);
  search.seen(fresh[fresh.length - 1][ID]);
}

// State, counts and notices

const STATES = {
  live: "live", starting: "starting", stopping: "stopping", reading: "reading", read: "file read", failed: "the capture failed", ended: "ended",
};

function say(trouble = "") {
  const state = ended ? "ended" : trouble || (paused ? "paused" : facts?.state ?? "connecting");
  $("state").className = `state ${state.replace(" ", "-")}`;
  const progress = facts?.state === "reading" && facts.progress ? ` ${Math.floor(100 * facts.progress[0] / Math.max(1, facts.progress[1]))} %` : "";
  $("state").textContent = (state === "paused" && held.length ? `paused, ${count(held.length)} wait` : STATES[state] ?? state) + progress;
  const notice = ended ? "tcp-sniffer has ended, or was started anew. What is shown here stays, but exchanges can no longer be opened. A new run writes a new link to its log."
    : trouble === "no answer" ? "tcp-sniffer does not answer. This page tries again by itself."
    : trouble === "crowded" ? "Too many browsers show this page. It tries again by itself."
    : Date.now() - yielded < YIELDED_MS ? "There is more traffic than can be shown beside the other outputs, so this page gives way to them: it shows a part. The plots count that part too." : "";
  $("notice").hidden = !notice;
  if ($("notice").textContent !== notice) $("notice").textContent = notice;
  if (!facts) return;
  const where = `${plain(facts.where.split("/").pop())} : ${hello.ports.join(", ")}`;
  if ($("where").textContent !== where) {
    $("where").textContent = where;
    $("where").title = plain(facts.where);
    document.title = `${where} · tcp-sniffer`;
  }
  const drops = Object.entries(facts.drops);
  const dropped = drops.reduce((sum, [, number]) => sum + number, 0);
  const unread = Object.entries(facts.unread).filter(([, number]) => number);
  const list = [
    ["exchanges", count(facts.exchanges), "", `exchanges since the start; the newest ${count(facts.exchanges - facts.first + 1)} are kept, with headers and bodies ${count(facts.exchanges - facts.firstWhole + 1)}`],
    ...(hello.live ? [["connections", count(facts.connections), "", "open now"]] : []),
    ["drops", count(dropped), dropped ? "bad" : "", drops.map(([name, number]) => `${name} ${count(number)}`).join(", ") || "nothing was lost"],
  ];
  if (facts.first > 1) list.push(["forgotten", count(facts.first - 1), "", "older exchanges, which are not kept"]);
  if (facts.notShown) list.push(["not shown", count(facts.notShown), "warn", "messages that this page did not get because it gave way to the other outputs"]);
  if (skipped) list.push(["rows skipped", count(skipped), "warn", "this browser was too slow, or away for too long"]);
  for (const [name, number] of unread) list.push([`unread: ${name}`, count(number), "warn", "connections whose messages cannot be read"]);
  const shown = JSON.stringify(list);
  if (shown !== listed) $("facts").replaceChildren(...list.map(([name, value, kind, title]) => element("div", { class: kind, title }, element("dt", {}, name), element("dd", {}, value))));
  listed = shown;
  empty();
}

/** Says why the list is empty. */
function empty() {
  const box = $("empty");
  box.hidden = table.length > 0;
  if (!box.hidden) {
    const [title, text] = table.rows.length ? ["No exchange passes the filters", "Esc clears them."]
      : !facts ? ["Connecting …", ""]
      : facts.state === "failed" ? ["The capture has failed", "The log of tcp-sniffer says why."]
      : facts.state === "read" ? ["No HTTP exchange is in this file", `${count(facts.packets)} packets were looked at. Is it the right port?`]
      : facts.packets ? ["No HTTP exchange yet", `${count(facts.packets)} packets came on ${plain(facts.where)}, port ${hello.ports.join(", ")}.`]
      : ["Waiting for traffic", `on ${plain(facts.where)}, port ${hello.ports.join(", ")}. Nothing to see? \`tcp-sniffer doctor\` says why.`];
    box.replaceChildren(element("b", {}, title), element("span", {}, text));
  }
  $("shown").textContent = table.matches ? `${count(table.length)} of ${count(table.rows.length)}` : "";
}

let speaking = null;

/** Announces the counts to a screen reader, at most once in TELL_MS. */
function tell() {
  empty();
  speaking ??= setTimeout(() => {
    speaking = null;
    const sentence = facts ? `${count(facts.exchanges)} exchanges${table.matches ? `, ${count(table.length)} pass the filters` : ""}${paused ? ", paused" : ""}` : "";
    if (sentence !== told) $("live").textContent = told = sentence;
  }, TELL_MS);
}

// Actions of the user

function pause(on) {
  paused = on;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) {
    rows.push(...held.splice(0));
    flush();
  }
  say();
}

function refilter() {
  const matches = filter(form, search);
  search.ask(form.elements.text.value.trim());
  mistake();
  form.querySelector("[type=reset]").hidden = !matches;
  table.setFilter(matches);
  tell();
}

/** Says what is wrong with an expression. */
function mistake() {
  $("mistake").hidden = !search.error;
  if ($("mistake").textContent !== search.error) $("mistake").textContent = search.error;
  form.elements.text.setAttribute("aria-invalid", String(search.error !== ""));
}

/** The link to the HAR of the filtered rows: the lowest number, and a bit for each number from there on. */
function harLink() {
  if (!table.matches) return "har";
  const numbers = table.view.map((row) => row[ID]);
  if (!numbers.length) return "har?first=0&bits=";
  const first = numbers.reduce((least, number) => Math.min(least, number));
  const span = numbers.reduce((most, number) => Math.max(most, number)) - first + 1;
  const bits = new Uint8Array(Math.ceil(span / 8));
  for (const number of numbers) bits[(number - first) >> 3] |= 1 << ((number - first) & 7);
  const text = btoa(String.fromCharCode(...bits)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  return `har?first=${first}&bits=${text}`;
}

$("pause").addEventListener("click", () => pause(!paused));
$("help").addEventListener("click", () => $("keys").showModal());
$("follow").addEventListener("click", () => { table.follow(); $("table").focus({ preventScroll: true }); });
$("har").addEventListener("click", () => { $("har").href = harLink(); });
form.addEventListener("input", refilter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(refilter));

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const typing = event.target.matches("input:not([type=checkbox]), select");
  if (event.key === "Escape") {
    if (detail.open) detail.close();
    else if (typing && !event.target.value) event.target.blur();
    else form.reset();
    $("table").focus();
  } else if (typing) {
    if (event.key === "Enter" || event.key === "ArrowDown" && event.target.type === "search") {
      $("table").focus();
      event.preventDefault();
    }
    return;
  } else if (event.key === "/") {
    form.elements.text.focus();
    form.elements.text.select();
  } else if (event.key === "p") pause(!paused);
  else if (event.key === "?") $("keys").showModal();
  else return;
  event.preventDefault();
});

let hiding = null;
document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (ended) return;
  if (document.hidden) hiding = setTimeout(() => { events.close(); clearTimeout(again); }, HIDDEN_MS);
  else if (events.readyState === EventSource.CLOSED) connect();
});
addEventListener("pageshow", (event) => { if (event.persisted && !ended) connect(); });

setInterval(() => {
  if (!document.hidden && !ended && events.readyState === EventSource.OPEN && Date.now() - heard > SILENT_MS) say("no answer");
}, 1000);

connect();
say();
$("table").focus({ preventScroll: true });
