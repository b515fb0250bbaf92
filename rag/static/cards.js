// Cards of what an answer stands on, of what comes closest, and of what a search finds; each opens its document.

import { DOT, button, count, make, pageOf, place } from "/static/make.js";
import { openDocument } from "/static/reader.js";

const EXCERPT = 160; // characters shown on either side of the cited sentence
const PLACES = 3; // other places named at once
const LONG_WORD = 30; // characters given up to end on a whole word; some scripts have no spaces

/** The card of a citation, its number first. */
export function sourceCard(citation, id) {
  const number = make("span", "number", String(citation.index));
  number.setAttribute("aria-hidden", "true");
  const span = `characters ${citation.span[0]}\u2013${citation.span[1]}`;
  const also = others("The same words stand in", citation.also_in);
  const made = card(citation, citation.passage?.headings, quote(citation), span, { number, also });
  made.id = id;
  made.tabIndex = -1;
  made.setAttribute("aria-label", `Source ${citation.index}: ${citation.title}`);
  return made;
}

/** The card of a document that comes close to a question. Its sentence may be cut, so that its passage is marked. */
export function nearCard(near) {
  const how = near.dense === null ? `score ${near.score.toFixed(2)}` : `similarity ${near.dense.toFixed(2)}`;
  return card({ ...near, text: "" }, near.headings, make("blockquote", "quote", near.text), how);
}

/** The card of a passage that a search found, with every score there is. */
export function hitCard(hit) {
  const scores = [
    `score ${hit.score.toFixed(3)}`,
    hit.dense === null ? "" : `similarity ${hit.dense.toFixed(3)}`,
    hit.lexical === null ? "" : `keywords ${hit.lexical.toFixed(2)}`,
  ];
  const also = others("The same is said in", hit.also_in);
  return card(hit, hit.headings, make("blockquote", "quote passage", hit.text), scores.filter(Boolean).join(DOT), { also });
}

function card(source, headings, quoted, figures, { number = "", also = "" } = {}) {
  const where = [headings, pageOf(source)].filter(Boolean).join(DOT);
  const open = source.span ? button("Open in the document", () => openDocument(source)) : "";
  if (open) open.setAttribute("aria-haspopup", "dialog");
  const [block, more] = Array.isArray(quoted) ? quoted : [quoted, ""];
  return make(
    "li",
    "source",
    make("p", "source-title", number, make("span", "", source.title || source.document_id)),
    where ? make("p", "source-where", where) : "",
    block,
    make("div", "source-buttons", open, more),
    make("p", "source-uri", place(source), DOT, figures),
    also,
  );
}

/** The other places where a passage stands, each to be opened there: the first few, and a button for the rest. */
function others(lead, places = []) {
  if (!places.length) return "";
  const list = make("ul", "also-list", ...places.slice(0, PLACES).map(otherPlace));
  const rest = places.slice(PLACES);
  const more = rest.length
    ? button(`Show ${rest.length} more`, () => {
        const rows = rest.map(otherPlace);
        list.append(...rows);
        more.remove();
        rows[0].querySelector("button").focus();
      })
    : "";
  return make("div", "also", make("p", "source-uri", `${lead} ${count(places.length, "other place")}`), list, more);
}

function otherPlace(other) {
  const open = button(other.title || other.document_id, () => openDocument(other), "title");
  open.setAttribute("aria-haspopup", "dialog");
  const page = pageOf(other);
  return make("li", "", open, make("span", "source-uri", place(other), page ? DOT : "", page));
}

/** The quoted sentence within its passage, and a button for the far ends of that where they are not shown. */
function quote(citation) {
  const passage = citation.passage;
  if (!passage) return make("blockquote", "quote", make("mark", "", citation.text));
  const points = Array.from(passage.text);
  const start = citation.span[0] - passage.span[0];
  const end = citation.span[1] - passage.span[0];
  const before = points.slice(0, start).join("");
  const after = points.slice(end).join("");
  const cited = () => make("mark", "", points.slice(start, end).join(""));
  const block = make("blockquote", "quote");
  const short = [lastPart(before), cited(), firstPart(after)];
  block.append(...short);
  if (short[0] === before && short[2] === after) return block;
  const more = button("Show the whole passage", () => {
    const open = more.getAttribute("aria-expanded") === "false";
    block.replaceChildren(...(open ? [before, cited(), after] : [lastPart(before), cited(), firstPart(after)]));
    more.setAttribute("aria-expanded", String(open));
    more.textContent = open ? "Show less" : "Show the whole passage";
  });
  more.setAttribute("aria-expanded", "false");
  return [block, more];
}

function lastPart(text) {
  const points = Array.from(text);
  if (points.length <= EXCERPT) return text;
  const tail = points.slice(-EXCERPT).join("");
  const space = tail.indexOf(" ");
  return `\u2026${space >= 0 && space < LONG_WORD ? tail.slice(space) : tail}`;
}

function firstPart(text) {
  const points = Array.from(text);
  if (points.length <= EXCERPT) return text;
  const head = points.slice(0, EXCERPT).join("");
  const space = head.lastIndexOf(" ");
  return `${space > head.length - LONG_WORD ? head.slice(0, space + 1) : head}\u2026`;
}
