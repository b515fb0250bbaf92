// The documents of the index: how many, how large, how fresh; a search over their passages; and the list.

import { documents, search } from "/static/client.js";
import { hitCard } from "/static/cards.js";
import { button, count, make, moment, size, whereabouts } from "/static/make.js";
import { openDocument } from "/static/reader.js";

const ROWS = 100;
const HITS = 10;

const byId = (id) => document.getElementById(id);

/** The view behind "Documents". `onTrouble` is called where the key is refused. */
export class Library {
  constructor({ onTrouble }) {
    this.onTrouble = onTrouble;
    this.listed = 0;
    this.shown = 0; // counts what it was shown for, so that a late list is not shown to another key
    this.asked = 0; // counts the searches, so that a slow one does not overwrite a later one
    byId("more-rows").addEventListener("click", () => this.list());
    byId("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search(byId("search").value.trim());
    });
  }

  /** Show nothing, until it is fetched anew. */
  clear() {
    this.asked += 1;
    this.shown += 1;
    this.listed = 0;
    for (const id of ["facts", "rows", "hits", "found"]) byId(id).replaceChildren();
    byId("more-rows").hidden = true;
  }

  /** Fetch the figures and the first page of the list anew. */
  async show() {
    this.listed = 0;
    await this.list();
  }

  async list() {
    const from = this.listed;
    const shown = this.shown;
    let index;
    try {
      index = await documents(ROWS, from);
    } catch (problem) {
      if (shown !== this.shown) return;
      byId("facts").replaceChildren(...fact("Not to be had", `${problem.message} ${problem.hint ?? ""}`));
      if (problem.status === 401) this.onTrouble();
      return;
    }
    if (from !== this.listed || shown !== this.shown) return; // shown anew meanwhile
    byId("facts").replaceChildren(
      ...fact("Documents", index.total.toLocaleString("en")),
      ...fact("Passages", index.chunks.toLocaleString("en")),
      ...fact("Size", size(index.bytes)),
      ...(index.changed ? fact("Index made", moment(index.changed)) : []),
      ...(index.synced ? fact("Last sync", moment(index.synced)) : []),
    );
    const rows = index.data.map((row) => documentRow(row));
    if (from) byId("rows").append(...rows);
    else byId("rows").replaceChildren(...rows);
    this.listed += rows.length;
    byId("more-rows").hidden = !rows.length || this.listed >= index.total;
    if (from && rows.length) rows[0].querySelector("button").focus();
  }

  async search(query) {
    if (!query) return;
    const mine = ++this.asked;
    byId("found").textContent = "Searching";
    try {
      const found = await search(query, HITS);
      if (mine !== this.asked) return;
      byId("hits").replaceChildren(...found.data.map((hit) => hitCard(hit)));
      const took = `${Math.round((found.timings.retrieve ?? 0) * 1000)} ms`;
      byId("found").textContent = found.data.length
        ? `${count(found.data.length, "passage")}, best first, in ${took}. Scores compare within one search.`
        : "No passage was found.";
    } catch (problem) {
      if (mine !== this.asked) return;
      byId("hits").replaceChildren();
      byId("found").textContent = `${problem.message} ${problem.hint ?? ""}`;
      if (problem.status === 401) this.onTrouble();
    }
  }
}

function fact(name, value) {
  return [make("div", "", make("dt", "", name), make("dd", "", value))];
}

function documentRow(row) {
  const open = button(row.title || row.id, () => openDocument({ ...row, document_id: row.id, span: [0, 0] }), "title");
  open.setAttribute("aria-haspopup", "dialog");
  const name = make("th", "", open, make("span", "source-uri", whereabouts({ ...row, document_id: row.id })));
  name.scope = "row";
  const amount = (text) => make("td", "amount", text);
  return make("tr", "", name, amount(row.chunks.toLocaleString("en")), amount(size(row.bytes)));
}
