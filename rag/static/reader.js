// A document in a dialog, with a span of it highlighted: what a source quotes, in its place.

import { documentText } from "/static/client.js";
import { make, place } from "/static/make.js";

const AROUND = 6000; // characters fetched on either side of the span
const STEP = 20_000; // characters fetched with each "show more"
const LONGEST = 100_000; // what the server gives at once

const byId = (id) => document.getElementById(id);
const dialog = byId("reader");
const body = byId("reader-body");
let shown = null; // {id, start, end, length, growing}: the part of the document that is on the page
let opening = 0; // counts the openings, so that a late answer to an earlier one is dropped

/** Open the document of `source` and mark what stands at its span. `source.text` is what was quoted from there. */
export async function openDocument(source) {
  const mine = ++opening;
  const [from, to] = source.span;
  shown = null;
  byId("reader-title").textContent = source.title || source.document_id;
  byId("reader-place").replaceChildren(place(source));
  byId("reader-note").textContent = "Fetching the document";
  byId("reader-text").replaceChildren();
  showMore();
  dialog.showModal();
  const start = Math.max(0, from - AROUND);
  try {
    const part = await documentText(source.document_id, start, Math.min(to - start + AROUND, LONGEST));
    if (mine !== opening) return;
    shown = { id: part.id, start: part.span[0], end: part.span[1], length: part.length };
    write(part, from, to, source.text);
  } catch (problem) {
    if (mine === opening) byId("reader-note").textContent = `${problem.message} ${problem.hint ?? ""}`;
  }
}

function write(part, from, to, quoted) {
  const points = Array.from(part.text);
  const at = (position) => Math.min(Math.max(position - part.span[0], 0), points.length);
  const text = points.slice(at(from), at(to)).join("");
  byId("reader-note").textContent =
    !quoted || text === quoted ? "" : "The document is another one since it was quoted; this is where it was.";
  const mark = make("mark", "", text);
  mark.tabIndex = -1;
  byId("reader-text").replaceChildren(points.slice(0, at(from)).join(""), mark, points.slice(at(to)).join(""));
  showMore();
  mark.scrollIntoView({ block: "center" });
  mark.focus({ preventScroll: true });
}

function showMore() {
  byId("reader-earlier").hidden = !shown || shown.start === 0;
  byId("reader-later").hidden = !shown || shown.end >= shown.length;
}

/** Fetch the text beside what is shown, and keep in view what is in view. */
async function extend(earlier) {
  const mine = opening;
  const at = shown;
  if (at.growing) return; // pressed twice: the same text would come twice
  at.growing = true;
  const { id, start, end } = at;
  const from = earlier ? Math.max(0, start - STEP) : end;
  try {
    const part = await documentText(id, from, earlier ? start - from : STEP);
    if (mine !== opening) return;
    const below = body.scrollHeight - body.scrollTop;
    if (earlier) {
      byId("reader-text").prepend(part.text);
      shown.start = part.span[0];
    } else {
      byId("reader-text").append(part.text);
      shown.end = part.span[1];
      shown.length = part.length;
    }
    showMore();
    if (earlier) body.scrollTop = body.scrollHeight - below;
    body.focus({ preventScroll: true });
  } catch (problem) {
    if (mine === opening) byId("reader-note").textContent = `${problem.message} ${problem.hint ?? ""}`;
  } finally {
    at.growing = false;
  }
}

byId("reader-earlier").addEventListener("click", () => extend(true));
byId("reader-later").addEventListener("click", () => extend(false));
byId("reader-close").addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => (opening += 1));
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // the ground around it
});
