"""`review.html`: one page without network on which a person accepts or strikes the questions of a synthetic set.

Decisions stay in the browser's storage while the page is open and afterwards, and leave it as a file, which
`smallhold eval synth apply` reads. All texts are put in as text, never as markup.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Card(NamedTuple):
    """What a person needs to decide on one question. `passages` are `(document id, text)`."""

    id: str
    kind: str
    question: str
    answer: str
    base: str
    read: str
    passages: tuple[tuple[str, str], ...]


def review_page(name: str, cards: Sequence[Card], decided: Mapping[str, str]) -> str:
    """Return the page as HTML."""
    asked = [[name, card.id, card.question] for card in cards]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]
    data = {"set": name, "key": key, "cards": [card._asdict() for card in cards], "decided": dict(decided)}
    # "<" spelt as an escape can neither end the script element nor open a comment in it.
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    return _PAGE.replace("@DATA@", text.replace("\u2029", "\\u2029"))


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
      content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Review of a test set</title>
<style>
:root { color-scheme: light dark; --ink: #1c2321; --soft: #5d6b66; --line: #d5dcd8; --paper: #fbfcfb; --card: #fff;
        --good: #1b6e4b; --bad: #a3322a; --mark: #ffe9a8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5ebe8; --soft: #9fada7; --line: #37423d; --paper: #151a18; --card: #1d2421;
          --good: #6fd3a4; --bad: #f2938b; --mark: #5c4c12; } }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
header { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--line);
         padding: .7rem 1rem; }
header > div, main { max-width: 52rem; margin: 0 auto; }
h1 { font-size: 1.15rem; margin: 0 0 .4rem; }
.bar { display: flex; flex-wrap: wrap; gap: .6rem; align-items: center; }
.bar output { color: var(--soft); margin-right: auto; }
main { padding: 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: 1rem;
          margin: 0 0 1rem; scroll-margin-top: 7rem; }
article:focus { outline: 2px solid var(--good); }
article[data-decision=strike] h2 { text-decoration: line-through; color: var(--soft); }
article[data-decision=accept] { border-left: 4px solid var(--good); }
article[data-decision=strike] { border-left: 4px solid var(--bad); }
h2 { font-size: 1.1rem; margin: .2rem 0 .5rem; }
.kind { color: var(--soft); font-size: .85rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; margin: 0 0 .6rem; }
dt { color: var(--soft); } dd { margin: 0; }
blockquote { margin: .4rem 0; padding: .1rem 0 .1rem .8rem; border-left: 3px solid var(--line); white-space: pre-wrap; }
blockquote cite { display: block; font-size: .85rem; color: var(--soft); font-style: normal; }
mark { background: var(--mark); color: inherit; }
button, select { font: inherit; padding: .35rem .9rem; border-radius: .4rem; border: 1px solid var(--line);
                 background: var(--card); color: inherit; cursor: pointer; }
button[aria-pressed=true].accept { background: var(--good); color: var(--card); }
button[aria-pressed=true].strike { background: var(--bad); color: var(--card); }
#save { background: var(--ink); color: var(--paper); }
</style>
</head>
<body>
<header><div>
<h1></h1>
<div class="bar">
<output aria-live="polite"></output>
<select aria-label="Which questions to show"></select>
<button id="save" type="button">Save decisions</button>
</div></div></header>
<main></main>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const key = "smallhold-review:" + data.key;
const decisions = new Map(Object.entries(data.decided));
try {
  for (const [id, said] of Object.entries(JSON.parse(localStorage.getItem(key) || "{}"))) decisions.set(id, said);
} catch { /* no storage: decisions last as long as the page */ }
const main = document.querySelector("main"), filter = document.querySelector("select");
document.querySelector("h1").textContent = "Review of " + data.set;

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
  return made;
}
function marked(text, answer) {
  const quote = element("blockquote"), at = answer ? text.indexOf(answer) : -1;
  if (at < 0) { quote.append(text); return quote; }
  quote.append(text.slice(0, at), element("mark", answer), text.slice(at + answer.length));
  return quote;
}
function show(card) {
  const box = element("article", undefined, { tabindex: "0", id: card.id });
  box.append(element("div", card.kind, { class: "kind" }), element("h2", card.question));
  const facts = element("dl");
  const fact = (name, value) => { if (value) facts.append(element("dt", name), element("dd", value)); };
  fact("Answer", card.answer || "none: the documents should not answer it");
  fact("Made from", card.base);
  fact("The model read", card.read);
  box.append(facts);
  for (const [where, text] of card.passages) {
    const quote = marked(text, card.answer);
    quote.prepend(element("cite", where));
    box.append(quote);
  }
  const bar = element("div", undefined, { class: "bar" });
  for (const [said, label] of [["accept", "Accept (a)"], ["strike", "Strike (s)"]]) {
    const button = element("button", label, { type: "button", class: said });
    button.addEventListener("click", () => decide(card.id, said));
    bar.append(button);
  }
  box.append(bar);
  main.append(box);
  paint(box);
}
function paint(box) {
  const said = decisions.get(box.id) || "";
  box.dataset.decision = said;
  for (const button of box.querySelectorAll("button"))
    button.setAttribute("aria-pressed", String(button.classList.contains(said || "none")));
}
function decide(id, said) {
  if (decisions.get(id) === said) decisions.delete(id); else decisions.set(id, said);
  paint(document.getElementById(id));
  try { localStorage.setItem(key, JSON.stringify(Object.fromEntries(decisions))); } catch { /* as above */ }
  count();
}
function count() {
  const said = [...decisions.values()], accepted = said.filter(s => s === "accept").length;
  document.querySelector("output").textContent =
    `${data.cards.length} questions: ${accepted} accepted, ${said.length - accepted} struck, ` +
    `${data.cards.length - said.length} open`;
}
function choose() {
  for (const card of data.cards) {
    const wanted = filter.value === "open" ? !decisions.has(card.id) : ["all", card.kind].includes(filter.value);
    document.getElementById(card.id).hidden = !wanted;
  }
}
filter.append(element("option", "all questions", { value: "all" }), element("option", "still open", { value: "open" }));
for (const kind of new Set(data.cards.map(c => c.kind))) filter.append(element("option", kind, { value: kind }));
filter.addEventListener("change", choose);
document.addEventListener("keydown", event => {
  const box = document.activeElement.closest ? document.activeElement.closest("article") : null;
  if (event.ctrlKey || event.metaKey || event.altKey || document.activeElement === filter) return;
  const step = event.key === "j" ? 1 : event.key === "k" ? -1 : 0;
  if (step) {
    const boxes = [...document.querySelectorAll("article:not([hidden])")];
    const next = boxes[Math.min(boxes.length - 1, Math.max(0, boxes.indexOf(box) + step))];
    if (next) next.focus();
  } else if (box && event.key === "a") decide(box.id, "accept");
  else if (box && event.key === "s") decide(box.id, "strike");
});
document.getElementById("save").addEventListener("click", () => {
  const said = data.cards.filter(c => decisions.has(c.id))
    .map(c => ({ id: c.id, question: c.question, decision: decisions.get(c.id) }));
  const link = element("a", undefined, { download: "decisions.json" });
  link.href = URL.createObjectURL(new Blob([JSON.stringify({ set: data.set, decisions: said }, null, 1)],
                                           { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});
data.cards.forEach(show);
count();
</script>
</body>
</html>
"""
