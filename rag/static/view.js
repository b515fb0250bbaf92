// One question on the page with what became of it.

import { nearCard, sourceCard } from "/static/cards.js";
import { sentence } from "/static/client.js";
import { DOT, announce, button, make, pageOf, whereabouts } from "/static/make.js";
import { opinion } from "/static/feedback.js";

/** One question with what became of it. */
export class Turn {
  constructor(number, question) {
    this.number = number;
    this.asked = question.trim();
    this.text = make("p", "answer-text");
    this.progress = make("p", "progress", "Reading the documents");
    this.answer = make("div", "answer", this.progress, this.text);
    this.answer.setAttribute("aria-busy", "true");
    this.text.hidden = true;
    this.live = make("p", "figures live");
    this.live.setAttribute("aria-hidden", "true"); // ten times a second; the end tells them all
    const asked = make("h2", "asked", question);
    asked.id = `question-${number}`;
    this.element = make("article", "turn", asked, this.answer, this.live);
    this.element.setAttribute("aria-labelledby", asked.id);
  }

  /** Append a piece of the answer. */
  write(piece) {
    if (!piece) return;
    this.progress.remove();
    this.text.hidden = false;
    this.text.append(piece);
  }

  /** Show the figures up to now. */
  tick(figures) {
    this.live.textContent = figures.join(DOT);
  }

  /** Show the whole answer, its sources and figures. With `id` it can be rated. */
  finish({ question, content, annotations, citations, sentences, verdict, reason, closest }, figures, id = "") {
    this.settle();
    this.showUnderstood(question);
    const answered = verdict === "answered";
    if (answered) {
      this.showMarks(content, annotations);
      this.showUnsupported(sentences);
      if (citations.length) this.element.append(this.sources(citations));
    } else {
      this.showAbstention(content, reason);
      if (closest.length) this.element.append(nearby(closest));
    }
    this.footer(answered ? plain(content, citations) : "", figures, id);
  }

  /** Leave what was written and say that it was stopped. */
  stop(figures) {
    this.settle();
    this.answer.append(make("p", "stopped", "Stopped."));
    this.footer(this.text.textContent, figures);
  }

  /** Say what went wrong; `retry` asks again. */
  fail(problem, retry) {
    this.settle();
    const hint = problem.hint ? make("p", "problem-hint", problem.hint) : "";
    const again = button("Try again", retry, "");
    this.answer.append(make("div", "problem", make("p", "problem-text", problem.message), hint, again));
  }

  /** The figures, a button to copy `text` where there is any, and thumbs where it can be rated. */
  footer(text, figures, id = "") {
    const copy = text ? button("Copy answer", (pressed) => copyText(pressed, text)) : "";
    const [thumbs, ...details] = id ? opinion(id) : [""];
    const actions = make("div", "actions", copy, thumbs);
    this.element.append(make("footer", "figures", make("p", "", figures.filter(Boolean).join(DOT)), actions, ...details));
  }

  settle() {
    this.answer.setAttribute("aria-busy", "false");
    this.progress.remove();
    this.live.remove();
  }

  /** A follow-up as the question of its own that was searched for. */
  showUnderstood(question) {
    if (!question || question.trim() === this.asked) return;
    this.answer.before(make("p", "understood", `Understood as: ${question}`));
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
    const cards = citations.map((citation) => sourceCard(citation, this.sourceId(citation.index)));
    return make("section", "sources", heading, make("ol", "sources-list", ...cards));
  }
}

/** What comes closest where there is no answer: nothing there is cited, so nothing is numbered. */
function nearby(closest) {
  const heading = make("h3", "sources-title", "What comes closest");
  return make("section", "sources closest", heading, make("ul", "sources-list", ...closest.map((near) => nearCard(near))));
}

function plain(content, citations) {
  const sources = citations.map((c) => `[${c.index}] ${c.title}${c.page ? `, ${pageOf(c)}` : ""} (${whereabouts(c)})`);
  return [content, ...sources].join("\n");
}

async function copyText(pressed, text) {
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  pressed.textContent = copied || copySelected(text) ? "Copied" : "Copying is not allowed here";
  pressed.focus();
  announce(pressed.textContent);
  setTimeout(() => (pressed.textContent = "Copy answer"), 2000);
}

/** Copy as browsers did before: pages that came by http from another machine are given nothing newer. */
function copySelected(text) {
  const field = make("textarea", "unseen");
  field.value = text;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  return copied;
}
