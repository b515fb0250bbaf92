// Talks to the server. Nothing here touches the page.

import { tab } from "/static/storage.js";

/** A refusal or failure in words for people; `hint` says what to do about it. */
export class Problem extends Error {
  constructor(message, { hint = "", status = 0 } = {}) {
    super(message);
    this.hint = hint;
    this.status = status;
  }
}

// The API key, kept until the tab is closed.
const KEY = "smallhold-key";
let apiKey = tab.get(KEY) ?? "";

/** Keep the key that is sent with every request from now on; "" forgets it. */
export function useKey(key) {
  apiKey = key;
  if (key) tab.set(KEY, key);
  else tab.remove(KEY);
}

/** Whether a key is kept. */
export function hasKey() {
  return apiKey !== "";
}

function authorization() {
  return hasKey() ? { Authorization: `Bearer ${apiKey}` } : {};
}

/** Return {status, authorized, reason, hint, model}; status "unreachable" where no server answers. */
export async function readiness() {
  try {
    const response = await fetch("/ready", { cache: "no-store", headers: authorization() });
    const state = await response.json();
    if (typeof state.authorized === "boolean") return { ...state, reason: sentence(state.reason) };
    // No word of ours: a proxy's, or a refusal. It says nothing of the key, which is kept.
    const { message, hint } = problem(state.error?.message ?? `What answers in the server's place says ${response.status}.`);
    return { status: "unreachable", authorized: true, reason: message, hint };
  } catch {
    return { status: "unreachable", authorized: true, reason: "The server does not answer.", hint: "Is smallhold serve still running?" };
  }
}

/** The id of the key in use, "" without one. It is no secret: it tells whose chats are whose in this browser. */
export function keyId() {
  return /^shk-([0-9a-f]{8})-/.exec(apiKey)?.[1] ?? "";
}

/** Return a page of the index's documents, and the counts of all. Throws Problem. */
export function documents(limit, offset = 0) {
  return json(`/v1/documents?limit=${limit}&offset=${offset}`);
}

/** Return a part of a document's text. Positions count code points. Throws Problem. */
export function documentText(id, start, length) {
  return json(`/v1/documents/text?id=${encodeURIComponent(id)}&start=${start}&length=${length}`);
}

/** Return the passages nearest to a query, with their scores. Throws Problem. */
export function search(query, k) {
  return json("/v1/search", { query, k });
}

/** Say something of an answer; `rating` null takes it back. Throws Problem. */
export function rate(id, rating, comment = "", rightAnswer = "") {
  return json("/v1/feedback", { id, rating, comment, right_answer: rightAnswer });
}

/** Yield the chunks of a streamed answer. Throws Problem, or AbortError when `signal` fires. */
export async function* ask(messages, signal) {
  const wanted = { model: "default", messages, stream: true, stream_options: { include_usage: true } };
  const response = await request("/v1/chat/completions", wanted, signal);
  let done = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw problem(chunk.error.message, 503); // whatever it is, it came from within the server
    yield chunk;
  }
  if (!done) throw new Problem("The answer broke off.", { hint: "The server may have been stopped. Try again." });
}

async function json(path, body) {
  return (await request(path, body)).json();
}

/** Ask the server: POST where there is a body. Throws Problem, or AbortError when `signal` fires. */
async function request(path, body, signal) {
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: { ...(body ? { "Content-Type": "application/json" } : {}), ...authorization() },
      body: body && JSON.stringify(body),
      cache: "no-store",
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The server does not answer.", { hint: "Is smallhold serve still running?" });
  }
  if (response.ok) return response;
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message;
  } catch {
    // Not our error body: the status has to do.
  }
  throw problem(message, response.status);
}

/** Our messages carry their hint on a line of its own. */
function problem(message, status) {
  const [first, ...rest] = message.split("\n");
  return new Problem(sentence(first), { hint: rest.join(" "), status });
}

/** Our messages are clauses; begin them with a capital and end them with a full stop. */
export function sentence(clause) {
  if (!clause) return "";
  const text = clause.charAt(0).toUpperCase() + clause.slice(1);
  return /[.?!]$/.test(text) ? text : `${text}.`;
}

/** Yield the data of each server-sent event. */
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      buffer += value;
      let end;
      while ((end = buffer.indexOf("\n\n")) >= 0) {
        const event = buffer.slice(0, end);
        buffer = buffer.slice(end + 2);
        if (event.startsWith("data: ")) yield event.slice(6);
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("The connection was lost.", { hint: "Try again." });
  } finally {
    reader.cancel().catch(() => {});
  }
}
