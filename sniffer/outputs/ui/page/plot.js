// Two small plots, drawn by hand: exchanges by status class, and percentiles of their latency.

import { clock, count, duration } from "./text.js";

// A point, as sniffer/outputs/ui/store.py writes it.
const SECOND = 0, STATUSES = 1, P50 = 7, P90 = 8, P99 = 9;
const ORDER = [2, 3, 1, 0, 4, 5];      // status classes from the bottom to the top: errors are on top
const LEAST_STEPS = 60;

const total = (point) => point.slice(STATUSES, P50).reduce((sum, each) => sum + each, 0);

export class Plots {
  constructor(rate, latency, rateNow, latencyNow) {
    Object.assign(this, { rate, latency, rateNow, latencyNow });
    this.points = new Map();
    this.width = 1;
    this.bins = 300;
    this.live = true;
    this.now = 0;
    this.pointed = null;
    for (const canvas of [rate, latency]) {
      canvas.addEventListener("pointermove", (event) => { this.pointed = event.offsetX / canvas.clientWidth; this.draw(); });
      canvas.addEventListener("pointerleave", () => { this.pointed = null; this.draw(); });
      new ResizeObserver(() => this.draw()).observe(canvas);
    }
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  begin({ live, bins, width, plot }) {
    Object.assign(this, { live, bins, width });
    this.points.clear();
    this.take(plot);
  }

  update({ width, plot, now, state }) {
    if (width !== this.width) { this.width = width; this.points.clear(); }
    if (state === "live") this.now = now;
    this.take(plot);
    this.draw();
  }

  take(plot) {
    for (const point of plot) this.points.set(point[SECOND], point);
    const oldest = this.end - this.bins * this.width;
    for (const second of this.points.keys()) if (second < oldest) this.points.delete(second);
  }

  get end() { return Math.max(this.now, ...this.points.keys()) + this.width; }

  get begins() {
    const steps = this.live ? this.bins : Math.max(LEAST_STEPS, Math.ceil((this.end - Math.min(...this.points.keys(), this.end)) / this.width));
    return this.end - steps * this.width;
  }

  draw() {
    if (this.drawing) return;
    this.drawing = true;
    requestAnimationFrame(() => { this.drawing = false; this.drawNow(); });
  }

  drawNow() {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const begin = this.begins, end = this.end;
    const points = [...this.points.values()].sort((a, b) => a[SECOND] - b[SECOND]);
    const at = this.pointed === null ? null : begin + this.pointed * (end - begin);
    const chosen = at === null ? null : Math.floor(at / this.width) * this.width;
    const shown = chosen === null ? this.latest(points) : this.points.get(chosen);
    this.say(shown, chosen);
    this.drawRate(points, begin, end, chosen, color);
    this.drawLatency(points, begin, end, chosen, color);
  }

  /** The last step that has ended. */
  latest(points) {
    if (!this.live) return points[points.length - 1];
    return this.points.get(this.now - 1) ?? null;
  }

  say(point, chosen) {
    const when = chosen === null ? "" : `${clock(chosen * 1e6, 0)}  `;
    const rate = point ? total(point) / this.width : 0;
    const errors = point ? point[STATUSES + 4] + point[STATUSES + 5] : 0;
    this.rateNow.textContent = `${when}${count(Math.round(rate * 10) / 10)}/s${errors ? `, ${count(errors)} ${errors === 1 ? "error" : "errors"}` : ""}`;
    this.latencyNow.textContent = point && point[P50] !== null
      ? `p50 ${duration(point[P50])}  p90 ${duration(point[P90])}  p99 ${duration(point[P99])}` : "–";
    this.rate.setAttribute("aria-label", `Exchanges per second: ${this.rateNow.textContent}`);
    this.latency.setAttribute("aria-label", `Latency: ${this.latencyNow.textContent}`);
  }

  begun(canvas, color) {
    const ratio = devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = `11px ${color("--sans")}`;
    context.fillStyle = color("--dim");
    context.strokeStyle = color("--line");
    context.lineWidth = 1;
    return { context, width, height };
  }

  drawRate(points, begin, end, chosen, color) {
    const { context, width, height } = this.begun(this.rate, color);
    const most = Math.max(1, ...points.map((point) => total(point) / this.width));
    const scale = (height - 16) / most;
    const step = width * this.width / (end - begin);
    context.beginPath();
    context.moveTo(0, 14.5); context.lineTo(width, 14.5);
    context.moveTo(0, height - 0.5); context.lineTo(width, height - 0.5);
    context.stroke();
    for (const point of points) {
      const x = (point[SECOND] - begin) / this.width * step;
      let y = height - 1;
      context.globalAlpha = chosen !== null && point[SECOND] !== chosen ? 0.45 : 1;
      for (const group of ORDER) {
        const size = point[STATUSES + group] / this.width * scale;
        if (!size) continue;
        context.fillStyle = color(`--s${group}`);
        context.fillRect(x, y - size, Math.max(1, step - (step > 3 ? 1 : 0)), Math.max(size, 0.75));
        y -= size;
      }
    }
    context.globalAlpha = 1;
    context.fillStyle = color("--dim");
    context.fillText(`${count(Math.round(most * 10) / 10)}/s`, 2, 10);
    this.ends(context, width, begin, end);
  }

  drawLatency(points, begin, end, chosen, color) {
    const { context, width, height } = this.begun(this.latency, color);
    const known = points.filter((point) => point[P50] !== null);
    if (!known.length) { this.ends(context, width, begin, end); return; }
    const low = Math.floor(Math.log10(Math.min(...known.map((point) => point[P50]))));
    const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...known.map((point) => point[P99])))));
    const y = (value) => height - 4 - (Math.log10(value) - low) / (high - low) * (height - 20);
    const step = width * this.width / (end - begin);
    const x = (point) => ((point[SECOND] - begin) / this.width + 0.5) * step;
    for (let decade = low; decade <= high; decade++) {
      const line = Math.round(y(10 ** decade)) + 0.5;
      context.beginPath(); context.moveTo(0, line); context.lineTo(width, line); context.stroke();
    }
    context.lineJoin = "round";
    for (const [place, dash, thick] of [[P99, [2, 2], 1], [P90, [5, 2], 1.25], [P50, [], 1.75]]) {
      context.strokeStyle = color(`--p${{ [P50]: 50, [P90]: 90, [P99]: 99 }[place]}`);
      context.fillStyle = context.strokeStyle;
      context.setLineDash(dash);
      context.lineWidth = thick;
      context.beginPath();
      let before = null;
      for (const point of known) {
        const joined = before !== null && point[SECOND] - before <= 3 * this.width;
        if (joined) context.lineTo(x(point), y(point[place]));
        else { context.fillRect(x(point) - 1.5, y(point[place]) - 1.5, 3, 3); context.moveTo(x(point), y(point[place])); }
        before = point[SECOND];
      }
      context.stroke();
    }
    context.setLineDash([]);
    if (chosen !== null) {
      const line = Math.round(((chosen - begin) / this.width + 0.5) * step) + 0.5;
      context.strokeStyle = color("--dim");
      context.lineWidth = 1;
      context.beginPath(); context.moveTo(line, 14); context.lineTo(line, height); context.stroke();
    }
    context.fillStyle = color("--dim");
    for (let decade = low; decade <= high; decade++) {
      const named = (high - low) * 14 < height - 20 || decade === low || decade === high;
      if (named) this.label(context, duration(10 ** decade).replace(/\.0+ /, " "), Math.max(10, y(10 ** decade) - 3), color);
    }
    this.ends(context, width, begin, end);
  }

  /** Draws text that is readable across a line. */
  label(context, text, y, color) {
    context.strokeStyle = color("--card");
    context.lineWidth = 3;
    context.strokeText(text, 2, y);
    context.fillText(text, 2, y);
  }

  ends(context, width, begin, end) {
    const seconds = end - begin;
    const text = this.live ? `last ${Math.round(seconds / 60)} min`
      : this.points.size ? `${clock(begin * 1e6, 0)} – ${clock(end * 1e6, 0)}` : "";
    context.textAlign = "right";
    context.fillText(text, width - 2, 10);
    context.textAlign = "left";
  }
}
