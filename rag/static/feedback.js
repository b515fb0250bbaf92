// What people say of an answer, where the server takes it: a thumb, and then, for those who like, words.

import { rate } from "/static/client.js";
import { button, make } from "/static/make.js";

let forms = 0; // so that every field has an id of its own

/** Thumbs for the answer of this id, what follows them, and a line of news. Nothing is sent before one is pressed. */
export function opinion(id) {
  const number = ++forms;
  const said = make("p", "said");
  said.setAttribute("role", "status");
  const details = make("form", "details");
  details.setAttribute("aria-label", "More about this answer");
  details.hidden = true;
  const thumbs = {
    up: button("Helpful", () => press("up"), "small thumb up"),
    down: button("Not helpful", () => press("down"), "small thumb down"),
  };
  const group = make("div", "thumbs", thumbs.up, thumbs.down);
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "What do you think of this answer?");
  let rating = null;
  show();

  async function press(thumb) {
    const wanted = rating === thumb ? null : thumb;
    if (!(await send(wanted))) return;
    rating = wanted;
    show();
    fill();
  }

  async function send(wanted, comment, rightAnswer) {
    try {
      const kept = await rate(id, wanted, comment, rightAnswer);
      const until = kept.kept_until && new Date(kept.kept_until).toLocaleDateString("en-GB", { dateStyle: "long" });
      said.textContent = until
        ? `Thank you. The question, the answer and what you said are kept on the server until ${until}.`
        : "Taken back: nothing is kept.";
      return true;
    } catch (problem) {
      said.textContent = `${problem.message} ${problem.hint ?? ""}`;
      return false;
    }
  }

  function show() {
    for (const [name, thumb] of Object.entries(thumbs)) thumb.setAttribute("aria-pressed", String(rating === name));
  }

  function fill() {
    details.hidden = rating === null;
    const comment = field("textarea", "Comment (optional)", `comment-${number}`);
    const right = field("input", "What would have been right? (optional, as the documents say it)", `right-${number}`);
    const submit = make("button", "quiet small", "Send");
    submit.type = "submit";
    details.replaceChildren(...(rating === "down" ? right.parts : []), ...comment.parts, submit);
    details.onsubmit = async (event) => {
      event.preventDefault();
      const sent = await send(rating, comment.input.value.trim(), rating === "down" ? right.input.value.trim() : "");
      if (!sent) return;
      details.hidden = true;
      thumbs[rating].focus(); // the button that had the focus is gone
    };
  }

  return [group, details, said];
}

function field(kind, label, id) {
  const input = make(kind, "field");
  input.id = id;
  input.maxLength = 2000;
  if (kind === "textarea") input.rows = 2;
  const name = make("label", "", label);
  name.htmlFor = id;
  return { input, parts: [name, input] };
}
