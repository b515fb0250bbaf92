// What an answer took: seconds, tokens, passages, money. Some while it comes, all at its end.

import { count, dollars, seconds } from "/static/make.js";

/** The clock of one answer. */
export class Figures {
  constructor(model) {
    this.model = model;
    this.began = performance.now();
    this.first = null; // when the first words came
    this.pieces = 0; // of text, each about a token
    this.usage = null;
  }

  /** Note a piece of the answer. */
  piece() {
    this.first ??= performance.now();
    this.pieces += 1;
  }

  /** The figures up to now, in words. */
  sofar() {
    const parts = [seconds(performance.now() - this.began)];
    if (this.first === null) return parts;
    parts.push(this.firstWords());
    const writing = (performance.now() - this.first) / 1000;
    if (this.pieces > 1 && writing > 0.2) parts.push(`about ${((this.pieces - 1) / writing).toFixed(0)} tokens per second`);
    return parts;
  }

  /** All figures of a reply, in words. */
  whole(reply) {
    const parts = [seconds(performance.now() - this.began)];
    if (this.first !== null && reply.verdict === "answered") parts.push(this.firstWords());
    const tokens = this.usage?.completion_tokens;
    if (tokens) parts.push(`${tokens} tokens${rate(tokens, reply.timings)}`);
    if (reply.passages_read) parts.push(`${count(reply.passages_read, "passage")} read`);
    return [...parts, ...costs(reply.cost), this.model];
  }

  firstWords() {
    return `first words after ${seconds(this.first - this.began)}`;
  }
}

/** Tokens per second of writing alone: `read` is the share of `generate` that went into reading the prompt. */
function rate(tokens, timings) {
  const writing = (timings.generate ?? 0) - (timings.read ?? 0);
  return tokens > 1 && writing > 0 ? `, ${((tokens - 1) / writing).toFixed(0)} per second` : "";
}

/** What it cost, and what the same tokens had cost at the model that the settings compare with. */
function costs(cost) {
  if (!cost) return [];
  const { dollars: here, baseline_dollars: there, baseline } = cost;
  const parts = here === null ? [] : [`cost ${dollars(here)}`];
  if (there === null) return parts;
  const times = here > 0 && there > here ? `, ${(there / here).toLocaleString("en", { maximumSignificantDigits: 2 })} times as much` : "";
  return [...parts, `${baseline} ${dollars(there)}${times}`];
}
