// Talks to the server. Nothing here touches the page.

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

/** Keep the key that is sent with every request from now on; "" forgets it. */
export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Whether a key is kept. */
export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

function authorization() {
  return hasKey() ? { Authorization: `Bearer ${sessionStorage.getItem(KEY)}` } : {};
}

/** Return {status, authorized, reason, hint, model}; status "unreachable" where no server answers. */
export async function readiness() {
  try {
    const response = await fetch("/ready", { cache: "no-store", headers: authorization() });
    const state = await response.json();
    return { ...state, reason: sentence(state.reason) };
  } catch {
    return { status: "unreachable", authorized: true, reason: "The server does not answer.", hint: "Is smallhold serve still running?" };
  }
}

/** Return the first titles of the index and the counts of all, or null where they cannot be had. */
export async function documents(limit) {
  try {
    const response = await fetch(`/v1/documents?limit=${limit}`, { headers: authorization() });
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}

/** Yield the chunks of a streamed answer. Throws Problem, or AbortError when `signal` fires. */
export async function* ask(messages, signal) {
  const response = await send(
    { model: "default", messages, stream: true, stream_options: { include_usage: true } },
    signal,
  );
  let done = false;
  for await (const data of events(response.body)) {
    if (data === "[DONE]") {
      done = true;
      break;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw problem(chunk.error.message, 500);
    yield chunk;
  }
  if (!done) throw new Problem("The answer broke off.", { hint: "The server may have been stopped. Try again." });
}

async function send(body, signal) {
  let response;
  try {
    response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json", ...authorization() },
      body: JSON.stringify(body),
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
