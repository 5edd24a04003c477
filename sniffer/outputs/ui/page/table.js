// The list: which rows are kept, filtered and sorted, and the few of them that are drawn.

import { bytes, clock, count, duration, element, plain, statusClass } from "./text.js";

// Places in a row, as sniffer/outputs/ui/store.py writes it; this page adds the last two.
export const ID = 0, TIME = 1, METHOD = 2, HOST = 3, PATH = 4, STATUS = 5, LATENCY = 6, DURATION = 7, END = 8, UP = 9,
  DOWN = 10, CLIENT = 11, SERVER = 12, TYPE = 13, MARKS = 14, TEXT = 15, SKIPPED = 16;

const COLUMNS = [
  { key: TIME, name: "Time", class: "time" },
  { key: METHOD, name: "Method", class: "method" },
  { key: STATUS, name: "Status", class: "status", number: true },
  { key: PATH, name: "Host and path", class: "path" },
  { key: TYPE, name: "Type", class: "type" },
  { key: LATENCY, name: "Latency", class: "latency", number: true },
  { key: DURATION, name: "Duration", class: "duration", number: true },
  { key: END, name: "End", class: "end" },
  { key: UP, name: "Sent", class: "up", number: true },
  { key: DOWN, name: "Received", class: "down", number: true },
  { key: CLIENT, name: "Client → server", class: "ends" },
];
const MARGIN = 6;     // rows drawn above and below the visible ones
const SLOWEST_MS = 10_000;
const HAND_MS = 400;  // between an action of the user and the scrolling that it causes

const text = (row) => (row[TEXT] ??= [
  row[METHOD], row[HOST] + row[PATH], row[STATUS] ?? "none", row[TYPE], row[CLIENT], row[SERVER], ...row[MARKS],
].join(" ").toLowerCase());

/** The filter that the form asks for, a function of a row; null if it asks for none. `within` is a `Search`. */
export function filter(form, within) {
  const tests = [];
  const value = (name) => form.elements[name].value.trim();
  const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
  const statuses = new Set([...form.querySelectorAll("[name=status]:checked")].map((box) => Number(box.value)));
  const latency = Number.parseFloat(value("latency").replace(",", "."));
  const [method, path, host] = [value("method"), value("path").toLowerCase(), value("host").toLowerCase()];
  if (method) tests.push((row) => row[METHOD] === method);
  if (statuses.size) tests.push((row) => statuses.has(statusClass(row[STATUS])));
  if (path) tests.push((row) => row[PATH].toLowerCase().includes(path));
  if (host) tests.push((row) => row[HOST].toLowerCase().includes(host));
  if (latency > 0) tests.push((row) => row[LATENCY] !== null && row[LATENCY] >= latency);
  if (words.length) tests.push((row) => within.error !== "" || within.has(row[ID])
    || (!within.expression && words.every((word) => text(row).includes(word))));
  return tests.length ? (row) => tests.every((test) => test(row)) : null;
}

const collator = new Intl.Collator("en");

function order(key) {
  if (key === TIME) return (a, b) => a[ID] - b[ID];    // the order in which they came
  return (a, b) => {
    const [x, y] = key === PATH ? [a[HOST] + a[PATH], b[HOST] + b[PATH]] : [a[key], b[key]];
    if (x === y) return a[ID] - b[ID];
    if (x === null) return -1;
    if (y === null) return 1;
    return (typeof x === "number" ? x - y : collator.compare(x, y)) || a[ID] - b[ID];
  };
}

function merge(a, b, compare) {
  const merged = [];
  let i = 0, j = 0;
  while (i < a.length && j < b.length) merged.push(compare(a[i], b[j]) <= 0 ? a[i++] : b[j++]);
  while (i < a.length) merged.push(a[i++]);
  while (j < b.length) merged.push(b[j++]);
  return merged;
}

export class Table {
  /** `chosen` is called with the selected row and whether to show it, `moved` after each drawing. */
  constructor(root, { chosen, moved }) {
    this.rows = [];         // all that are kept, in the order in which they came
    this.view = [];         // those that are shown, in ascending order of the sort key
    this.most = 10_000;
    this.selected = null;
    this.following = true;
    this.byHand = -Infinity;    // when the user scrolled last
    this.matches = null;
    this.sortKey = TIME;
    this.descending = false;
    this.compare = order(TIME);
    this.root = root;
    this.head = root.querySelector(".head");
    this.scroller = root.querySelector(".scroller");
    this.body = root.querySelector(".rows");
    this.pool = [];
    this.chosen = chosen;
    this.moved = moved;
    this.drawing = false;
    this.makeHead();
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    for (const [name, lasts] of [["wheel", 0], ["touchmove", 0], ["pointerdown", 5000]]) {
      this.scroller.addEventListener(name, () => { this.byHand = performance.now() + lasts; }, { passive: true });
    }
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("[role=row]");
      if (line?.row) this.select(line.row, true);
    });
    root.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.resized()).observe(this.scroller);
  }

  makeHead() {
    for (const column of COLUMNS) {
      const button = element("button", { type: "button" }, column.name);
      const cell = element("div", { role: "columnheader", class: `cell ${column.class}` }, button);
      button.addEventListener("click", () => this.sort(column.key, this.sortKey === column.key && !this.descending));
      column.cell = cell;
      this.head.append(cell);
    }
    this.markHead();
  }

  markHead() {
    for (const { key, cell } of COLUMNS) {
      const how = key !== this.sortKey ? "none" : this.descending ? "descending" : "ascending";
      cell.setAttribute("aria-sort", how);
    }
  }

  get scrolls() { return this.scroller.scrollHeight > this.scroller.clientHeight + 4; }
  get length() { return this.view.length; }
  at(index) { return this.view[this.descending ? this.view.length - 1 - index : index]; }
  get rowHeight() { return Number.parseFloat(getComputedStyle(this.root).getPropertyValue("--row")); }

  indexOf(row) {
    let low = 0, high = this.view.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.compare(this.view[middle], row) < 0) low = middle + 1; else high = middle;
    }
    if (this.view[low] !== row) return -1;
    return this.descending ? this.view.length - 1 - low : low;
  }

  /** Adds new rows, and removes the oldest beyond `most`. */
  add(rows) {
    for (const row of rows) this.rows.push(row);
    this.rows.splice(0, Math.max(0, this.rows.length - this.most));
    const oldest = this.rows[0][ID];
    const fresh = rows.filter((row) => row[ID] >= oldest && (!this.matches || this.matches(row)));
    const before = this.view.length;
    if (before) this.view = this.view.filter((row) => row[ID] >= oldest);
    const gone = before - this.view.length;
    if (this.sortKey === TIME) for (const row of fresh) this.view.push(row);
    else if (fresh.length) this.view = merge(this.view, fresh.sort(this.compare), this.compare);
    this.keepPlace(this.descending ? fresh.length : -gone);
    this.draw();
  }

  keepPlace(above) {
    if (this.sortKey !== TIME) return;
    if (!this.following && above) this.scroller.scrollTop = Math.max(0, this.scroller.scrollTop + above * this.rowHeight);
  }

  setFilter(matches) {
    this.matches = matches;
    this.rebuild();
  }

  sort(key, descending) {
    Object.assign(this, { sortKey: key, descending, compare: order(key) });
    this.markHead();
    this.following = key === TIME;
    this.rebuild();
    if (key !== TIME) this.scroller.scrollTop = 0;
  }

  rebuild() {
    const kept = this.matches ? this.rows.filter(this.matches) : [...this.rows];
    this.view = this.sortKey === TIME ? kept : kept.sort(this.compare);
    this.draw();
  }

  follow() {
    this.following = true;
    this.draw();
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    const atNewest = this.descending ? scrollTop < 4 : scrollTop + clientHeight >= scrollHeight - 4;
    const now = performance.now();
    if (now - this.byHand < HAND_MS) {      // otherwise the rows have moved, not the user
      this.byHand = Math.max(now, this.byHand);
      if (this.sortKey === TIME) this.following = atNewest;
    }
    this.draw();
  }

  resized() {
    const index = this.selected && !this.following ? this.indexOf(this.selected) : -1;
    if (index >= 0) this.reveal(index);
    this.draw();
  }

  /** Draws at the next frame. */
  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => { this.drawing = false; this.drawNow(); });
  }

  drawNow() {
    const height = this.rowHeight;
    const total = this.view.length;
    this.body.style.height = `${total * height}px`;
    this.root.setAttribute("aria-rowcount", String(total + 1));
    if (this.following && this.sortKey === TIME) {
      const newest = this.descending ? 0 : Math.max(0, total * height - this.scroller.clientHeight);
      if (Math.abs(this.scroller.scrollTop - newest) > 1) this.scroller.scrollTop = newest;
    }
    const seen = Math.ceil(this.scroller.clientHeight / height);
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / height) - MARGIN);
    const last = Math.min(total, first + seen + 2 * MARGIN);
    while (this.pool.length < last - first) this.pool.push(this.makeLine());
    const size = this.pool.length;
    let active = "";
    for (let slot = 0; slot < size; slot++) {
      const index = first + ((slot - first) % size + size) % size;
      const line = this.pool[slot];
      if (index >= last) { if (!line.hidden) { line.hidden = true; line.row = null; } continue; }
      if (this.fill(line, this.at(index), index, height)) active = line.id;
    }
    if (active) this.root.setAttribute("aria-activedescendant", active);
    else this.root.removeAttribute("aria-activedescendant");
    this.moved();
  }

  makeLine() {
    const cells = Object.fromEntries(COLUMNS.map((column) => [
      column.class, element("div", { role: "gridcell", class: `cell ${column.class}` }),
    ]));
    const line = element("div", { role: "row", class: "line", id: `line-${this.pool.length}` }, ...Object.values(cells));
    const [host, path, marks] = ["host", "rest", "marks"].map((name) => element("span", { class: name }));
    cells.path.append(host, path, marks);
    const bar = element("i");
    const milliseconds = element("span");
    cells.latency.append(bar, milliseconds);
    Object.assign(line, { cells, host, path, marks, bar, milliseconds, row: null, index: -1 });
    this.body.append(line);
    return line;
  }

  /** Returns whether this is the selected row. */
  fill(line, row, index, height) {
    line.hidden = false;
    if (line.index !== index || line.height !== height) {
      line.index = index;
      line.height = height;
      line.style.transform = `translateY(${index * height}px)`;
      line.setAttribute("aria-rowindex", String(index + 2));
    }
    const selected = this.selected !== null && row[ID] === this.selected[ID];
    if (line.getAttribute("aria-selected") !== String(selected)) line.setAttribute("aria-selected", String(selected));
    if (line.row === row) return selected;
    line.row = row;
    const { cells } = line;
    line.className = `line s${statusClass(row[STATUS])}${row[SKIPPED] ? " gap" : ""}`;
    line.title = row[SKIPPED] ? `${count(row[SKIPPED])} rows skipped before this one` : "";
    cells.time.textContent = clock(row[TIME]);
    cells.method.textContent = plain(row[METHOD]);
    cells.status.textContent = row[STATUS] ?? "–––";
    line.host.textContent = plain(row[HOST]);
    line.path.textContent = plain(row[PATH]);
    line.marks.textContent = row[MARKS].length ? `! ${row[MARKS].map(plain).join(", ")}` : "";
    cells.path.title = plain(row[HOST] + row[PATH]);
    cells.type.textContent = plain(row[TYPE].replace(/^(application|text)\//, ""));
    line.milliseconds.textContent = duration(row[LATENCY]);
    const share = row[LATENCY] === null ? 0 : Math.log10(1 + row[LATENCY]) / Math.log10(1 + SLOWEST_MS);
    line.bar.style.width = `${Math.min(100, 100 * share).toFixed(1)}%`;
    cells.duration.textContent = duration(row[DURATION]);
    cells.end.textContent = clock(row[END]);
    cells.up.textContent = bytes(row[UP]);
    cells.down.textContent = bytes(row[DOWN]);
    cells.ends.textContent = `${row[CLIENT]} → ${row[SERVER]}`;
    return selected;
  }

  select(row, open) {
    this.selected = row;
    const index = this.indexOf(row);
    if (index >= 0) this.reveal(index);
    this.draw();
    this.chosen(row, open);
  }

  reveal(index) {
    const height = this.rowHeight;
    const { scrollTop, clientHeight } = this.scroller;
    const top = index * height;
    if (top < scrollTop) this.scroller.scrollTop = top;
    else if (top + height > scrollTop + clientHeight) this.scroller.scrollTop = top + height - clientHeight;
    this.following = index === (this.descending ? 0 : this.view.length - 1);
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest(".head") || !this.view.length) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key === "Enter" && this.selected) {     // what a filter hides is not opened: the first that it shows is
      this.select(this.indexOf(this.selected) >= 0 ? this.selected : this.at(0), true);
    }
    else if (event.key in steps) {
      const from = this.selected ? this.indexOf(this.selected) : -1;
      const last = this.view.length - 1;
      const start = from >= 0 ? from + steps[event.key] : this.descending || !this.following ? 0 : last;
      this.select(this.at(Math.min(last, Math.max(0, start))), false);
    } else return;
    event.preventDefault();
  }
}
