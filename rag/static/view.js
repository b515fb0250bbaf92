// Builds the page's elements. Whatever comes from documents, the model or the server goes in as text, never as markup.

import { sentence } from "/static/client.js";

const EXCERPT = 160; // characters shown on either side of the cited sentence
const LONG_WORD = 30; // characters given up to end on a whole word; some scripts have no spaces
const DOT = " \u00b7 ";

/** Make an element: `make("p", "class", "text", child, ...)`; strings become text nodes. */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** One question with what became of it. */
export class Turn {
  constructor(number, question) {
    this.number = number;
    this.text = make("p", "answer-text");
    this.progress = make("p", "progress", "Reading the documents");
    this.answer = make("div", "answer", this.progress, this.text);
    this.answer.setAttribute("aria-busy", "true");
    this.text.hidden = true;
    const asked = make("h2", "asked", question);
    asked.id = `question-${number}`;
    this.element = make("article", "turn", asked, this.answer);
    this.element.setAttribute("aria-labelledby", asked.id);
  }

  /** Append a piece of the answer. */
  write(piece) {
    if (!piece) return;
    this.progress.remove();
    this.text.hidden = false;
    this.text.append(piece);
  }

  /** Show the whole answer, its sources and figures. */
  finish({ content, annotations, citations, sentences, verdict, reason, closest }, figures) {
    this.settle();
    if (verdict !== "answered") {
      this.showAbstention(content, reason);
      if (closest.length) this.element.append(this.nearby(closest));
      this.element.append(this.footer("", figures));
      return;
    }
    this.showMarks(content, annotations);
    this.showUnsupported(sentences);
    if (citations.length) this.element.append(this.sources(citations));
    this.element.append(this.footer(plain(content, citations), figures));
  }

  /** Leave what was written and say that it was stopped. */
  stop(figures) {
    this.settle();
    this.answer.append(make("p", "stopped", "Stopped."));
    this.element.append(this.footer(this.text.textContent, figures));
  }

  /** Say what went wrong; `retry` asks again. */
  fail(problem, retry) {
    this.settle();
    const again = make("button", "quiet", "Try again");
    again.type = "button";
    again.addEventListener("click", retry);
    const box = make(
      "div",
      "problem",
      make("p", "problem-text", problem.message),
      problem.hint ? make("p", "problem-hint", problem.hint) : "",
      again,
    );
    this.answer.append(box);
  }

  settle() {
    this.answer.setAttribute("aria-busy", "false");
    this.progress.remove();
  }

  showAbstention(content, reason) {
    this.text.remove();
    const why = reason ? make("p", "abstention-why", sentence(reason)) : "";
    this.answer.append(make("div", "abstention", make("p", "abstention-text", content), why));
  }

  /** Write the content again with its marks as links to the sources. Positions count code points, not UTF-16 units. */
  showMarks(content, annotations) {
    const points = Array.from(content);
    const parts = [];
    let at = 0;
    for (const { url_citation: mark } of annotations) {
      parts.push(points.slice(at, mark.start_index).join("").replace(/ $/, "\u00a0"));
      parts.push(this.markLink(points.slice(mark.start_index, mark.end_index).join("").replace(/\D/g, "")));
      at = mark.end_index;
    }
    this.text.replaceChildren(...parts, points.slice(at).join(""));
    this.text.hidden = false;
  }

  /** Name the sentences that no passage supports, so that they are not taken for what the documents say. */
  showUnsupported(sentences) {
    const alone = sentences.filter((said) => !said.supported).map((said) => `\u201c${said.text}\u201d`);
    if (alone.length) this.answer.append(make("p", "unsupported", `No passage supports ${alone.join(", ")}.`));
  }

  markLink(number) {
    const link = make("a", "mark", number);
    link.href = `#${this.sourceId(number)}`;
    link.setAttribute("aria-label", `Source ${number}`);
    link.addEventListener("click", (event) => {
      event.preventDefault();
      document.getElementById(this.sourceId(number))?.focus();
    });
    return link;
  }

  sourceId(index) {
    return `source-${this.number}-${index}`;
  }

  sources(citations) {
    const heading = make("h3", "sources-title", citations.length === 1 ? "Source" : "Sources");
    const list = make("ol", "sources-list", ...citations.map((citation) => this.card(citation)));
    return make("section", "sources", heading, list);
  }

  /** What comes closest where there is no answer: nothing there is cited, so nothing is numbered. */
  nearby(closest) {
    const heading = make("h3", "sources-title", "What comes closest");
    const list = make("ul", "sources-list", ...closest.map((near) => nearCard(near)));
    return make("section", "sources closest", heading, list);
  }

  card(citation) {
    const number = make("span", "number", String(citation.index));
    number.setAttribute("aria-hidden", "true");
    const where = whereabouts(citation.passage?.headings, citation);
    const span = `characters ${citation.span[0]}\u2013${citation.span[1]}`;
    const card = make(
      "li",
      "source",
      make("p", "source-title", number, make("span", "", citation.title)),
      where ? make("p", "source-where", where) : "",
      quote(citation),
      make("p", "source-uri", place(citation), DOT, span),
    );
    card.id = this.sourceId(citation.index);
    card.tabIndex = -1;
    card.setAttribute("aria-label", `Source ${citation.index}: ${citation.title}`);
    return card;
  }

  /** The figures, and a button to copy `text` where there is any. */
  footer(text, figures) {
    const said = make("p", "", figures.filter(Boolean).join(DOT));
    if (!text) return make("footer", "figures", said);
    const copy = make("button", "quiet small", "Copy answer");
    copy.type = "button";
    copy.addEventListener("click", () => copyText(copy, text));
    return make("footer", "figures", said, copy);
  }
}

function nearCard(near) {
  const where = whereabouts(near.headings, near);
  const how = near.dense === null ? `score ${near.score.toFixed(2)}` : `similarity ${near.dense.toFixed(2)}`;
  return make(
    "li",
    "source",
    make("p", "source-title", make("span", "", near.title)),
    where ? make("p", "source-where", where) : "",
    make("blockquote", "quote", near.text),
    make("p", "source-uri", place(near), DOT, how),
  );
}

function whereabouts(headings, found) {
  return [headings, pageOf(found)].filter(Boolean).join(DOT);
}

/** "page 3" or, of a presentation, "slide 3", of a workbook, "sheet 3"; "" where it has none. */
function pageOf({ document_id, page }) {
  const name = /\.pp[ts][xm]$/i.test(document_id) ? "slide" : /\.xls[xm]$/i.test(document_id) ? "sheet" : "page";
  return page ? `${name} ${page}` : "";
}

/** The quoted sentence within its passage, of which the far ends are shown on demand. */
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
  const more = make("button", "quiet small", "Show the whole passage");
  more.type = "button";
  more.setAttribute("aria-expanded", "false");
  more.addEventListener("click", () => {
    const open = more.getAttribute("aria-expanded") === "false";
    block.replaceChildren(...(open ? [before, cited(), after] : [lastPart(before), cited(), firstPart(after)]));
    more.setAttribute("aria-expanded", String(open));
    more.textContent = open ? "Show less" : "Show the whole passage";
  });
  return make("div", "", block, more);
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

/** Only web addresses become links: a file: link would not open, and a document may not bring a javascript: one. */
function place(citation) {
  const uri = citation.uri || citation.document_id;
  if (!/^https?:\/\//i.test(uri)) return uri;
  const link = make("a", "", uri);
  link.href = uri;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  return link;
}

function plain(content, citations) {
  const sources = citations.map((c) => `[${c.index}] ${c.title}${c.page ? `, ${pageOf(c)}` : ""} (${c.uri || c.document_id})`);
  return [content, ...sources].join("\n");
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copying is not allowed here";
  }
  setTimeout(() => (button.textContent = "Copy answer"), 2000);
}
