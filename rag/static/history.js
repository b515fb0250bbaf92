// Earlier chats, kept in this browser's local storage: bounded, apart for each API key, and gone when they are cleared.

import { keyId } from "/static/client.js";

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
    const kept = JSON.parse(localStorage.getItem(place()) ?? "[]");
    return kept.filter((chat) => typeof chat.id === "string" && chat.turns?.length && chat.at > 0);
  } catch {
    return []; // no storage here, or not ours
  }
}

/** Keep a chat in place of its earlier state. The oldest leave where there is no room. */
export function keep(chat) {
  const turns = chat.turns.slice(-MOST_TURNS);
  const kept = [{ ...chat, turns }, ...chats().filter((other) => other.id !== chat.id)].slice(0, MOST_CHATS);
  for (; kept.length; kept.pop()) {
    const text = JSON.stringify(kept);
    if (text.length > MOST_CHARACTERS) continue;
    try {
      localStorage.setItem(place(), text);
      return;
    } catch {
      // The browser has no room for so much, or none at all.
    }
  }
}

/** Forget one chat. */
export function forget(id) {
  const left = chats().filter((chat) => chat.id !== id);
  if (left.length) localStorage.setItem(place(), JSON.stringify(left));
  else forgetAll();
}

/** Forget every chat of this key. */
export function forgetAll() {
  localStorage.removeItem(place());
}

/** Note which chat this tab shows; "" for a new one. */
export function setCurrent(id) {
  try {
    if (id) sessionStorage.setItem(CURRENT, id);
    else sessionStorage.removeItem(CURRENT);
  } catch {
    // Then a reload begins a new one.
  }
}

/** Return the chat that this tab showed before it was loaded again, or nothing. */
export function current() {
  const id = sessionStorage.getItem(CURRENT);
  return id ? chats().find((chat) => chat.id === id) : undefined;
}

/** A name that no other chat has. (crypto.randomUUID is for https alone.) */
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
}
