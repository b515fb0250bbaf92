// Earlier chats, kept in this browser's local storage: bounded, apart for each API key, and gone when they are cleared.

import { keyId } from "/static/client.js";
import { lasting, tab } from "/static/storage.js";

const MOST_CHATS = 30;
const MOST_TURNS = 40; // of one chat; the first ones leave
const MOST_CHARACTERS = 1_500_000; // of all; browsers allow about 5 million

const CURRENT = "smallhold-chat"; // in the tab's storage: the chat that a reload shows again

function place() {
  const id = keyId();
  return id ? `smallhold-chats-${id}` : "smallhold-chats";
}

/** Return the kept chats, the latest first: [{id, at, turns: [{question, reply, figures}]}]. */
export function chats() {
  try {
    const kept = JSON.parse(lasting.get(place()) ?? "[]");
    return kept.filter((chat) => typeof chat.id === "string" && chat.turns?.length && chat.at > 0);
  } catch {
    return []; // not ours
  }
}

/** Keep a chat in place of its earlier state. The oldest chats leave where there is no room, then its oldest turns. */
export function keep(chat) {
  const kept = [chat, ...chats().filter((other) => other.id !== chat.id)].slice(0, MOST_CHATS);
  kept[0] = { ...chat, turns: chat.turns.slice(-MOST_TURNS) };
  for (;;) {
    const text = JSON.stringify(kept);
    if (text.length <= MOST_CHARACTERS && lasting.set(place(), text)) return;
    if (kept.length > 1) kept.pop();
    else if (kept[0].turns.length > 1) kept[0].turns.shift();
    else return;
  }
}

/** Whether another tab went on with a chat after it was kept or opened here, as one that was made of this one may. */
export function wentOn(chat) {
  return chats().some((other) => other.id === chat.id && other.at > chat.at);
}

/** Whether this browser keeps what it is told to: its settings may forbid that, and its room is not ours alone. */
export function isKept() {
  return !lasting.refused;
}

/** Forget one chat. */
export function forget(id) {
  const left = chats().filter((chat) => chat.id !== id);
  if (left.length) lasting.set(place(), JSON.stringify(left));
  else forgetAll();
}

/** Forget every chat of this key. */
export function forgetAll() {
  lasting.remove(place());
}

/** Note which chat this tab shows; "" for a new one. */
export function setCurrent(id) {
  if (id) tab.set(CURRENT, id);
  else tab.remove(CURRENT);
}

/** Return the chat that this tab showed before it was loaded again, or nothing. */
export function current() {
  const id = tab.get(CURRENT);
  return id ? chats().find((chat) => chat.id === id) : undefined;
}

/** A name that no other chat has. (crypto.randomUUID is for https alone.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
}
