// The conversation: what was asked, what is under way, and what is kept of it in this browser.

import { ask, keyId } from "/static/client.js";
import { Figures } from "/static/figures.js";
import { chats, current, forget, forgetAll, isKept, keep, newId, setCurrent, wentOn } from "/static/history.js";
import { announce, button, count, make, moment } from "/static/make.js";
import { Turn } from "/static/view.js";

const KEPT_TURNS = 10; // earlier questions and answers sent along
const TICK = 100; // ms between two looks at the clock

const byId = (id) => document.getElementById(id);
const question = byId("question");
const send = byId("send");
const turns = byId("turns");

/**
 * The view with the questions. `onTrouble` is called where an answer failed in a way that concerns the server, `onShow`
 * before a chat is shown that may be hidden behind another view.
 */
export class Chat {
  constructor({ onTrouble, onShow }) {
    this.onTrouble = onTrouble;
    this.onShow = onShow;
    this.ready = false;
    this.model = "";
    this.rated = false; // whether the server takes feedback
    this.running = null; // the AbortController of the answer under way
    this.asked = 0;
    this.kept = null; // {id, at, turns}: what is kept of this chat
    this.owner = null; // the id of the key whose chats these are
    this.restored = false;
    this.listen();
  }

  /** Take what `/ready` says. */
  setReady(ready, state) {
    this.ready = ready;
    this.model = state.model ?? this.model;
    this.rated = state.feedback ?? false;
    if (ready && this.owner !== keyId()) {
      if (this.owner !== null) this.begin(); // what another key was answered is not shown to this one
      this.owner = keyId();
    }
    this.showSend();
  }

  /** Show the chat again that this tab showed before it was reloaded. */
  restore() {
    if (this.restored || this.asked) return;
    this.restored = true;
    const chat = current();
    if (chat) this.open(chat);
  }

  /** Show a kept chat, to be gone on with. */
  open(chat) {
    this.begin();
    try {
      for (const { question: text, reply, figures } of chat.turns) {
        const turn = new Turn(++this.asked, text);
        turn.finish({ ...blank(), ...reply }, figures); // an earlier version kept fewer fields
        turns.append(turn.element);
      }
    } catch {
      forget(chat.id); // not what this page keeps
      this.begin();
      return;
    }
    this.kept = chat;
    setCurrent(chat.id);
    byId("welcome").hidden = true;
    announce(`Earlier chat, ${count(chat.turns.length, "question")}`);
    turns.lastElementChild.scrollIntoView({ block: "start" });
  }

  /** Begin a new chat. */
  begin() {
    this.stop();
    this.kept = null;
    setCurrent("");
    turns.replaceChildren();
    byId("welcome").hidden = false;
    announce("New chat");
    question.focus();
  }

  /** Begin a new chat, from whatever is shown. */
  showNew() {
    this.onShow();
    this.begin();
  }

  /** Stop the answer under way. */
  stop() {
    this.running?.abort();
  }

  async start(text) {
    byId("welcome").hidden = true;
    const turn = new Turn(++this.asked, text);
    turns.append(turn.element);
    turn.element.scrollIntoView({ block: "start" });
    await this.run(turn, text);
  }

  async run(turn, text) {
    this.running?.abort();
    const mine = new AbortController();
    this.running = mine;
    this.showSend();
    announce("Reading the documents");
    const reply = blank();
    const figures = new Figures(this.model);
    const ticking = setInterval(() => turn.tick(figures.sofar()), TICK);
    try {
      for await (const chunk of ask([...this.earlier(), { role: "user", content: text }], mine.signal)) {
        take(chunk, reply, figures, turn);
      }
      const told = figures.whole(reply);
      turn.finish(reply, told, this.rated ? reply.id : "");
      if (!mine.signal.aborted) this.remember(text, reply, told);
      announce(spoken(reply));
    } catch (problem) {
      if (mine.signal.aborted) {
        turn.stop(figures.whole(reply));
        announce("Stopped");
      } else {
        turn.fail(problem, () => this.retry(turn, text));
        announce(`${problem.message} ${problem.hint ?? ""}`);
        if (!problem.status || problem.status === 503 || problem.status === 401) this.onTrouble();
      }
    } finally {
      clearInterval(ticking);
      if (this.running === mine) this.running = null;
      this.showSend();
    }
  }

  /** The turns before, as the endpoint wants them. */
  earlier() {
    return (this.kept?.turns ?? []).slice(-KEPT_TURNS).flatMap(({ question: text, reply }) => [
      { role: "user", content: text },
      { role: "assistant", content: reply.content },
    ]);
  }

  remember(text, reply, figures) {
    this.kept ??= { id: newId(), at: 0, turns: [] };
    if (wentOn(this.kept)) this.kept = { ...this.kept, id: newId() }; // two chats from here on: neither overwrites the other
    this.kept.at = Date.now();
    this.kept.turns.push({ question: text, reply, figures });
    keep(this.kept);
    setCurrent(this.kept.id);
  }

  retry(turn, text) {
    if (this.running) return;
    const next = new Turn(turn.number, text);
    turn.element.replaceWith(next.element);
    question.focus();
    this.run(next, text);
  }

  /** Show the list of earlier chats. */
  showEarlier() {
    const kept = chats();
    byId("chats-none").hidden = kept.length > 0;
    byId("chats-lost").hidden = isKept();
    byId("chats-clear").hidden = kept.length === 0;
    byId("chats-list").replaceChildren(...kept.map((chat) => this.row(chat)));
    if (!byId("chats").open) byId("chats").showModal();
  }

  row(chat) {
    const title = String(chat.turns[0].question);
    const open = button(title, () => {
      byId("chats").close();
      this.onShow();
      this.open(chat);
    }, "title");
    const remove = button("Delete", () => {
      forget(chat.id);
      if (this.kept?.id === chat.id) this.begin();
      this.showEarlier();
      byId("chats-close").focus();
    });
    remove.setAttribute("aria-label", `Delete: ${title}`);
    const about = `${moment(chat.at)}, ${count(chat.turns.length, "question")}`;
    return make("li", "", make("div", "", open, make("p", "source-uri", about)), remove);
  }

  // The composer

  showSend() {
    send.textContent = this.running ? "Stop" : "Ask";
    send.classList.toggle("stopping", Boolean(this.running));
    const idle = !this.running && (!this.ready || !question.value.trim());
    if (idle && document.activeElement === send) focusQuestion(); // what is disabled loses the focus to nowhere
    send.disabled = idle;
  }

  submit() {
    if (this.running) {
      this.stop();
      return;
    }
    const text = question.value.trim();
    if (!text || !this.ready) return;
    question.value = "";
    grow();
    focusQuestion();
    this.start(text);
  }

  listen() {
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    question.addEventListener("input", () => {
      grow();
      this.showSend();
    });
    question.addEventListener("keydown", (event) => {
      // 229: Safari tells of the Enter that ends a composition when that is over.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
      event.preventDefault();
      if (!this.running) this.submit();
    });
    byId("new-chat").addEventListener("click", () => this.showNew());
    byId("open-chats").addEventListener("click", () => this.showEarlier());
    byId("chats-close").addEventListener("click", () => byId("chats").close());
    byId("chats-clear").addEventListener("click", () => {
      forgetAll();
      if (this.kept) this.begin();
      this.showEarlier();
      byId("chats-close").focus();
    });
  }
}

function focusQuestion() {
  if (matchMedia("(pointer: fine)").matches) question.focus();
  else question.blur(); // a touch keyboard would cover the answer
}

function grow() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
}

function blank() {
  const lists = { annotations: [], citations: [], sentences: [], closest: [] };
  return { id: "", question: "", content: "", verdict: "answered", reason: "", timings: {}, passages_read: 0, cost: null, ...lists };
}

/** Add one chunk of the stream to the reply. */
function take(chunk, reply, figures, turn) {
  reply.id = chunk.id;
  if (chunk.usage) figures.usage = chunk.usage;
  const choice = chunk.choices[0];
  if (!choice) return;
  const piece = choice.delta.content ?? "";
  if (piece) figures.piece();
  reply.content += piece;
  if (choice.finish_reason) {
    const { question: understood, citations, sentences, closest, verdict, reason, timings, passages_read, cost } = chunk;
    const annotations = choice.delta.annotations ?? [];
    const told = { question: understood, citations, sentences, closest, verdict, reason, timings, passages_read, cost };
    Object.assign(reply, told, { annotations });
  }
  turn.write(piece);
}

function spoken(reply) {
  const n = reply.citations.length;
  return `${reply.content} ${n === 0 ? "" : n === 1 ? "One source." : `${n} sources.`}`;
}
