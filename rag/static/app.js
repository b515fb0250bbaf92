// The page around its views: whether the server is ready, whether it wants a key, which view is shown, and shortcuts.

import { Chat } from "/static/chat.js";
import { documents, hasKey, readiness, useKey } from "/static/client.js";
import { Library } from "/static/library.js";
import { count, make } from "/static/make.js";

const LISTED_TITLES = 4;
const POLL_LOADING = 1000; // ms
const POLL_BROKEN = 5000;
const STATES = {
  loading: "Loading the model",
  failed: "Not ready",
  unreachable: "No connection",
};

const byId = (id) => document.getElementById(id);
const chat = new Chat({ onTrouble: () => poll(), onShow: () => toChat() });
const library = new Library({ onTrouble: () => poll() });

let ready = false;
let polling = 0;
let looks = 0; // counts the looks, so that a late answer says nothing of a key that came after it

// Readiness

async function poll({ refused = false } = {}) {
  clearTimeout(polling);
  const mine = ++looks;
  const state = await readiness();
  if (mine !== looks) return; // asked anew meanwhile
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
    chat.setReady(false, state);
    library.clear(); // what a key could see is not for the next one
    return; // goes on when a key is given
  }
  const wasReady = ready;
  ready = state.status === "ready";
  byId("state").dataset.status = state.status;
  if (ready) {
    setText("state-text", state.model);
    byId("state").title = `Ready: ${state.model}, passages found with ${state.embedder}`;
  } else {
    setText("state-text", STATES[state.status] ?? "Not ready");
    polling = setTimeout(() => poll(), state.status === "loading" ? POLL_LOADING : POLL_BROKEN);
  }
  showNotice(ready || state.status === "loading" ? null : state);
  chat.setReady(ready, state);
  if (ready && !wasReady) {
    chat.restore();
    describeIndex();
    if (!byId("documents-view").hidden) library.show();
  }
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
  poll().then(() => (byId("key-form").hidden ? byId("question") : byId("key")).focus());
});

async function describeIndex() {
  const index = await documents(LISTED_TITLES).catch(() => null);
  if (!index) return;
  const titles = index.data.map((row) => row.title).join(", ");
  const more = index.total > index.data.length ? " and others" : "";
  const total = `${count(index.total, "document")} in ${count(index.chunks, "passage")}`;
  byId("welcome-index").replaceChildren(make("strong", "", total), titles ? `${titles}${more}` : "");
}

// Views

function showView({ moved = true } = {}) {
  const listing = location.hash === "#documents";
  byId("chat-view").hidden = listing;
  byId("composer").hidden = listing;
  byId("documents-view").hidden = !listing;
  for (const [id, current] of [["to-chat", !listing], ["to-documents", listing]]) {
    if (current) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  document.title = listing ? "Documents · smallhold" : "smallhold";
  if (listing && ready) library.show();
  if (location.hash === "#question") byId("question").focus();
  if (!moved) return;
  scrollTo(0, listing ? 0 : document.documentElement.scrollHeight);
  if (listing) byId("documents-title").focus({ preventScroll: true });
}

function toChat() {
  if (location.hash !== "#documents") return;
  location.hash = "#chat";
  showView({ moved: false }); // now: what is hidden cannot be focused
}

addEventListener("hashchange", () => showView());

// From anywhere. With Alt and Shift, so that no letter that is typed does anything.
document.addEventListener("keydown", (event) => {
  const open = document.querySelector("dialog[open]");
  if (event.key === "Escape" && !open && !event.isComposing) chat.stop();
  if (!event.altKey || !event.shiftKey || event.ctrlKey || event.metaKey || open) return;
  const does = { KeyN: () => chat.showNew(), KeyH: () => chat.showEarlier() }[event.code];
  if (!does) return;
  event.preventDefault();
  does();
});

showView({ moved: false });
poll();
if (matchMedia("(pointer: fine)").matches && !byId("composer").hidden) byId("question").focus();
