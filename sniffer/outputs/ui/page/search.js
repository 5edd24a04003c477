// Words are searched in the rows at once. A moment later, the sniffer searches headers and bodies. What it knows as an
// expression it judges alone.

const PATIENCE_MS = 250;        // after the last key, and between two requests

export class Search {
  /** `found` is called when further exchanges match, or when the sniffer has said what the text is. */
  constructor(found) {
    this.found = found;
    this.expression = false;    // the text is an expression
    this.error = "";            // what is wrong with it
    this.text = "";
    this.numbers = new Set();
    this.last = 0;              // number of the last exchange that was searched
    this.newest = 0;
    this.timer = null;
  }

  has(number) { return this.numbers.has(number); }

  /** Starts a search. */
  ask(text) {
    if (text === this.text) return;
    this.text = text;
    this.numbers.clear();
    this.expression = false;
    this.error = "";
    this.last = 0;
    this.asking?.abort();
    clearTimeout(this.timer);
    this.timer = null;
    this.later();
  }

  /** Says that there are exchanges up to this number. */
  seen(newest) {
    this.newest = newest;
    this.later();
  }

  later() {
    if (this.text && this.last < this.newest) this.timer ??= setTimeout(() => this.now(), PATIENCE_MS);
  }

  async now() {
    const asking = this.asking = new AbortController();
    try {
      const answer = await fetch(`search?after=${this.last}&text=${encodeURIComponent(this.text)}`, { signal: asking.signal });
      if (!answer.ok || asking.signal.aborted) return;
      const { numbers, last, expression, error = "" } = await answer.json();
      if (asking.signal.aborted) return;
      for (const number of numbers) this.numbers.add(number);
      this.last = last;
      const news = numbers.length || expression !== this.expression || error !== this.error;
      Object.assign(this, { expression, error });
      if (news) this.found();
    } catch { /* it is asked again with the next exchange */ } finally {
      if (this.asking === asking) {
        this.timer = null;
        this.later();
      }
    }
  }
}
