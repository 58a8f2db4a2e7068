// The search field: a combobox over the tasks of all lists, which follows what happens while it is open.

const AFTER_MS = 80; // since the last key
const RECEIPT = "x-backstory-receipt";

// `open` is called with the task that was chosen, `announce` with what is to be read out.
export function startSearch(field, list, nothing, template, { open, announce }) {
  let found = [];
  let at = -1; // of the marked one
  let asked; // aborts the question that is still open
  let later; // what happened since then
  let waiting;

  async function ask(receipt) {
    asked?.abort();
    const { signal } = (asked = new AbortController());
    later = undefined;
    const typed = field.value.trim();
    if (typed === "") return close();
    try {
      const headers = receipt ? { [RECEIPT]: receipt } : {};
      const answer = await fetch(`/api/search?q=${encodeURIComponent(typed)}`, { headers, signal });
      if (!answer.ok) throw new Error(answer.statusText);
      const { tasks, more } = await answer.json();
      if (signal.aborted) return;
      const text = more ? "There is more: type on to find less." : tasks.length === 0 ? "Nothing found" : "";
      show(tasks, text);
      if (!receipt) announce(tasks.length === 0 ? text : `${tasks.length} found. ${text}`);
    } catch {
      // A search again that was not asked for by hand leaves what is shown.
      if (!signal.aborted && !receipt) show([], "The search does not answer right now.");
    }
    if (signal.aborted) return;
    asked = undefined;
    if (later) ask(later);
  }

  function show(tasks, text) {
    const marked = found[at]?.id;
    found = tasks;
    list.replaceChildren(...tasks.map(node));
    list.hidden = tasks.length === 0;
    nothing.textContent = text;
    nothing.hidden = text === "";
    field.ariaExpanded = String(!list.hidden);
    mark(tasks.findIndex((task) => task.id === marked));
  }

  function node(task) {
    const node = template.content.firstElementChild.cloneNode(true);
    node.id = `found-${task.id}`;
    node.dataset.state = task.done ? "done" : "active";
    node.querySelector(".title").textContent = task.title;
    node.querySelector(".state").textContent = task.done ? "Done" : "";
    // Pressed and not clicked: the field would have lost the focus before.
    node.addEventListener("pointerdown", (event) => event.preventDefault());
    node.addEventListener("click", () => choose(task));
    return node;
  }

  function mark(to) {
    at = to;
    [...list.children].forEach((node, index) => (node.ariaSelected = String(index === at)));
    const marked = list.children[at];
    if (marked) field.setAttribute("aria-activedescendant", marked.id);
    else field.removeAttribute("aria-activedescendant");
    marked?.scrollIntoView({ block: "nearest" });
  }

  function choose(task) {
    field.value = "";
    close();
    open(task);
  }

  function close() {
    asked?.abort();
    asked = undefined;
    clearTimeout(waiting);
    found = [];
    list.replaceChildren();
    list.hidden = nothing.hidden = true;
    field.ariaExpanded = "false";
    mark(-1);
  }

  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => ask(), AFTER_MS);
  });
  field.addEventListener("focus", () => field.value.trim() && ask());
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const last = found.length - 1;
    const to = { ArrowDown: at === last ? 0 : at + 1, ArrowUp: at <= 0 ? last : at - 1 }[event.key];
    if (to !== undefined && found.length > 0) mark(to);
    else if (event.key === "Enter" && found.length > 0) choose(found[Math.max(at, 0)]);
    else if (event.key === "Escape") {
      field.value = "";
      close();
    } else return;
    event.preventDefault();
  });

  return {
    // What the receipt names has happened, and may change what is shown.
    again(receipt) {
      if (list.hidden && nothing.hidden) return;
      if (asked) later = receipt;
      else ask(receipt);
    },
  };
}
