// Elements and figures. Whatever comes from documents, the model or the server goes in as text, never as markup.

export const DOT = " \u00b7 ";

/** Make an element: `make("p", "class", "text", child, ...)`; strings become text nodes. */
export function make(tag, className = "", ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

/** Make a button that does something; `className` beside "quiet". */
export function button(label, onClick, className = "small") {
  const made = make("button", `quiet ${className}`, label);
  made.type = "button";
  made.addEventListener("click", () => onClick(made));
  return made;
}

/** Have something read out that is seen elsewhere. */
export function announce(text) {
  document.getElementById("announcer").textContent = text;
}

/** Where a source is found, in words: of files of the server's the path within what was indexed. */
export function whereabouts(source) {
  return !source.uri || /^file:/i.test(source.uri) ? source.document_id : source.uri;
}

/** The same as an element. Only web addresses become links: a document may not bring a javascript: one. */
export function place(source) {
  const uri = whereabouts(source);
  if (!/^https?:\/\//i.test(uri)) return uri;
  const link = make("a", "", uri);
  link.href = uri;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  return link;
}

const PAGES = { pptx: "slide", pptm: "slide", ppsx: "slide", xlsx: "sheet", xlsm: "sheet" };

/** "page 3"; of a presentation it is a slide, of a workbook a sheet. "" where there are none. */
export function pageOf(source) {
  const suffix = source.document_id.split(".").pop().toLowerCase();
  return source.page ? `${PAGES[suffix] ?? "page"} ${source.page}` : "";
}

/** "1 passage", "1,200 passages". */
export function count(n, one) {
  return `${n.toLocaleString("en")} ${one}${n === 1 ? "" : "s"}`;
}

export function seconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}

/** "12 kB": decimal, as file managers have it. */
export function size(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (bytes >= 999.5 && at < units.length - 1) {
    bytes /= 1000;
    at += 1;
  }
  return `${bytes.toFixed(at && bytes < 9.95 ? 1 : 0)} ${units[at]}`;
}

/** US dollars, two significant digits. */
export function dollars(amount) {
  if (amount > 0 && amount < 1e-7) return "under $0.0000001";
  const digits = { maximumSignificantDigits: 2, maximumFractionDigits: 8, roundingPriority: "lessPrecision" };
  return `$${amount.toLocaleString("en", digits)}`;
}

/** "5 Mar 2026, 14:05", in the reader's own time zone. */
export function moment(iso) {
  return new Date(iso).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });
}
