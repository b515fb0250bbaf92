// The conversation: what was asked, what is under way, whether the server is ready, and whether it wants a key.

import { ask, documents, hasKey, readiness, useKey } from "/static/client.js";
import { make, Turn } from "/static/view.js";

const KEPT_TURNS = 10; // earlier questions and answers sent along
const LISTED_TITLES = 4;
const POLL_LOADING = 1000; // ms
const POLL_BROKEN = 5000;

const byId = (id) => document.getElementById(id);
const composer = byId("composer");
const question = byId("question");
const send = byId("send");
const turns = byId("turns");

let history = [];
let ready = false;
let model = "";
let running = null; // the AbortController of the answer under way
let asked = 0;
let polling = 0;

function announce(text) {
  byId("announcer").textContent = text;
}

// Readiness

const STATES = {
  loading: "Loading the model",
  failed: "Not ready",
  unreachable: "No connection",
};

async function poll({ refused = false } = {}) {
  clearTimeout(polling);
  const state = await readiness();
  if (!state.authorized && hasKey()) {
    useKey(""); // it may be that none is needed
    return poll({ refused: true });
  }
  showKeyForm(!state.authorized, refused);
  if (!state.authorized) {
    ready = false;
    byId("state").dataset.status = "failed";
    setText("state-text", "An API key is needed");
    showNotice(null);
    showSend();
    return; // goes on when a key is given
  }
  const wasReady = ready;
  ready = state.status === "ready";
  byId("state").dataset.status = state.status;
  if (ready) {
    model = state.model;
    setText("state-text", model);
    byId("state").title = `Ready: ${model}, passages found with ${state.embedder}`;
    if (!wasReady) describeIndex();
  } else {
    setText("state-text", STATES[state.status] ?? "Not ready");
    polling = setTimeout(() => poll(), state.status === "loading" ? POLL_LOADING : POLL_BROKEN);
  }
  showNotice(ready || state.status === "loading" ? null : state);
  showSend();
}

/** Set the text only where it changes, so that a live region is not read out again. */
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function showNotice(state) {
  byId("notice").hidden = !state;
  if (!state) return;
  setText("notice-title", STATES[state.status] ?? "Not ready");
  setText("notice-text", state.reason);
  setText("notice-hint", state.hint);
}

function showKeyForm(wanted, refused) {
  byId("key-wrong").hidden = !refused;
  if (byId("key-form").hidden !== wanted) return;
  byId("key-form").hidden = !wanted;
  if (wanted) byId("key").focus();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key").value.trim());
  byId("key").value = "";
  poll().then(() => (byId("key-form").hidden ? question : byId("key")).focus());
});

async function describeIndex() {
  const index = await documents(LISTED_TITLES);
  if (!index) return;
  const count = (n, one) => `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
  const titles = index.data.map((row) => row.title).join(", ");
  const more = index.total > index.data.length ? " and others" : "";
  const total = `${count(index.total, "document")} in ${count(index.chunks, "passage")}`;
  byId("welcome-index").replaceChildren(make("strong", "", total), titles ? `${titles}${more}` : "");
}

// Asking

async function start(text) {
  byId("welcome").hidden = true;
  const turn = new Turn(++asked, text);
  turns.append(turn.element);
  turn.element.scrollIntoView({ block: "start" });
  await run(turn, text);
}

async function run(turn, text) {
  running = new AbortController();
  const mine = running;
  showSend();
  announce("Reading the documents");
  const began = performance.now();
  const reply = { content: "", annotations: [], citations: [], sentences: [], closest: [], verdict: "answered", reason: "", timings: {} };
  const clock = { began, first: null, usage: null };
  try {
    for await (const chunk of ask([...history, { role: "user", content: text }], mine.signal)) {
      take(chunk, reply, clock, turn);
    }
    turn.finish(reply, figures(reply, clock));
    remember(text, reply.content);
    announce(spoken(reply));
  } catch (problem) {
    if (mine.signal.aborted) {
      turn.stop(figures(reply, clock));
      announce("Stopped");
    } else {
      turn.fail(problem, () => retry(turn, text));
      announce(`${problem.message} ${problem.hint ?? ""}`);
      if (!problem.status || problem.status === 503 || problem.status === 401) poll();
    }
  } finally {
    if (running === mine) running = null;
    showSend();
  }
}

/** Add one chunk of the stream to the reply. */
function take(chunk, reply, clock, turn) {
  if (chunk.usage) clock.usage = chunk.usage;
  const choice = chunk.choices[0];
  if (!choice) return;
  const piece = choice.delta.content ?? "";
  if (piece && clock.first === null) clock.first = performance.now();
  reply.content += piece;
  if (choice.finish_reason) {
    const { citations, sentences, closest, verdict, reason, timings } = chunk;
    Object.assign(reply, { citations, sentences, closest, verdict, reason, timings, annotations: choice.delta.annotations ?? [] });
  }
  turn.write(piece);
}

function figures(reply, clock) {
  const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;
  const parts = [seconds(performance.now() - clock.began)];
  if (clock.first !== null && reply.verdict === "answered") parts.push(`first words after ${seconds(clock.first - clock.began)}`);
  const tokens = clock.usage?.completion_tokens;
  if (tokens) parts.push(`${tokens} tokens${rate(tokens, reply.timings)}`);
  parts.push(model);
  return parts;
}

/** Tokens per second of writing alone: `read` is the share of `generate` that went into reading the prompt. */
function rate(tokens, timings) {
  const writing = (timings.generate ?? 0) - (timings.read ?? 0);
  return tokens > 1 && writing > 0 ? `, ${((tokens - 1) / writing).toFixed(0)} per second` : "";
}

function spoken(reply) {
  const n = reply.citations.length;
  return `${reply.content} ${n === 0 ? "" : n === 1 ? "One source." : `${n} sources.`}`;
}

function remember(text, content) {
  history.push({ role: "user", content: text }, { role: "assistant", content });
  history = history.slice(-2 * KEPT_TURNS);
}

function retry(turn, text) {
  if (running) return;
  const next = new Turn(turn.number, text);
  turn.element.replaceWith(next.element);
  question.focus();
  run(next, text);
}

function newChat() {
  running?.abort();
  history = [];
  turns.replaceChildren();
  byId("welcome").hidden = false;
  announce("New chat");
  question.focus();
}

// The composer

function showSend() {
  send.textContent = running ? "Stop" : "Ask";
  send.classList.toggle("stopping", Boolean(running));
  send.disabled = !running && (!ready || !question.value.trim());
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) {
    running.abort();
    return;
  }
  const text = question.value.trim();
  if (!text || !ready) return;
  question.value = "";
  grow();
  if (matchMedia("(pointer: fine)").matches) question.focus();
  else question.blur(); // a touch keyboard would cover the answer
  start(text);
});

question.addEventListener("input", () => {
  grow();
  showSend();
});

question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!running) composer.requestSubmit();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});

byId("new-chat").addEventListener("click", newChat);

poll();
if (matchMedia("(pointer: fine)").matches) question.focus();
