// The page of the todo example. What it shows comes from the event stream alone: a button asks the server for a change,
// and the change is drawn when the stream reports it, here exactly as in every other open tab.

import { startPanel } from "/panel.js";
import { startSearch } from "/search.js";

const FILTERS = ["active", "done", "removed"];
const RECEIPT = "x-backstory-receipt";
const ANSWER_WITHIN_MS = 20_000;
const REOPEN_AFTER_MS = { first: 500, longest: 10_000 };

const byId = (id) => document.getElementById(id);
const byHook = (name) => document.querySelector(`[data-testid="${name}"]`);
const page = {
  connection: byId("connection"), connectionText: byId("connection-text"), news: byId("news"),
  problem: byId("problem"), error: byId("error"), dismiss: byId("dismiss"),
  lists: byId("lists"), addList: byId("add-list"), listName: byId("list-name"),
  main: byId("main"), chosen: byId("chosen"), listTitle: byId("list-title"),
  addTask: byId("add-task"), taskTitle: byId("task-title"),
  tabs: FILTERS.map((filter) => byId(`tab-${filter}`)), panel: byId("tasks-panel"), tasks: byId("tasks"),
  empty: byId("empty"), emptyHeadline: byId("empty-headline"), emptyHint: byId("empty-hint"),
};

const TITLES = {
  404: "Not there any more",
  409: "Somebody was faster",
  422: "Not accepted",
  503: "Not available right now",
};

// ---- what the server told us ---------------------------------------------------------------------------------------

const state = { known: false, lists: new Map(), tasks: new Map(), counters: { active: 0, done: 0, removed: 0 } };
let messages = 0; // from the stream; tells an answer that was overtaken by it

function replace(snapshot) {
  state.known = true;
  state.lists = new Map(snapshot.lists.map((list) => [list.id, list]));
  state.tasks = new Map(snapshot.tasks.map((task) => [task.id, withTime(task)]));
  state.counters = snapshot.counters;
  renderSoon();
}

const withTime = (task) => ({ ...task, added: Date.parse(task.added_at) });

function merge(change) {
  const news = [];
  for (const list of change.lists ?? []) {
    if (!state.lists.has(list.id)) news.push(`List “${list.name}” added`);
    state.lists.set(list.id, list);
  }
  for (const task of change.tasks ?? []) {
    const before = state.tasks.get(task.id);
    const told = task.list === view.shown && before?.state !== task.state;
    if (told) news.push(`“${task.title}” ${task.state === "active" ? "added" : task.state}`);
    state.tasks.set(task.id, withTime(task));
  }
  state.counters = change.counters ?? state.counters;
  if (news.length > 0) announce(news.length > 3 ? `${news.length} changes` : news.join(", "));
  renderSoon();
}

// ---- the stream ----------------------------------------------------------------------------------------------------

let stream;
let reopening;
let reopenAfter = REOPEN_AFTER_MS.first;

function open() {
  clearTimeout(reopening);
  stream?.close();
  const opened = new EventSource("/api/events?projections");
  stream = opened;
  opened.addEventListener("snapshot", (event) => {
    messages += 1;
    reopenAfter = REOPEN_AFTER_MS.first;
    replace(JSON.parse(event.data));
    connected(true);
  });
  opened.addEventListener("change", (event) => {
    messages += 1;
    merge(JSON.parse(event.data));
    search.again(event.lastEventId);
  });
  opened.addEventListener("projections", (event) => drawProjections(JSON.parse(event.data)));
  opened.addEventListener("error", () => {
    connected(false);
    if (opened.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    clearTimeout(reopening);
    reopening = setTimeout(open, reopenAfter * (0.75 + Math.random() / 2));
    reopenAfter = Math.min(reopenAfter * 2, REOPEN_AFTER_MS.longest);
  });
}

function connected(live) {
  page.connection.dataset.state = live ? "live" : "reconnecting";
  const text = live ? "Live" : "Reconnecting…";
  if (page.connectionText.textContent !== text) page.connectionText.textContent = text;
  if (!live && !state.known) {
    page.emptyHeadline.textContent = "The server does not answer";
    page.emptyHint.textContent = "This page keeps trying and fills in by itself.";
  }
}

const isLive = () => page.connection.dataset.state === "live";
addEventListener("online", open);
addEventListener("pageshow", (event) => event.persisted && open());

// ---- asking for changes --------------------------------------------------------------------------------------------

let receipt; // of our newest change, so that a read on any server includes it

async function ask(path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: body ? { "content-type": "application/json" } : {},
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(ANSWER_WITHIN_MS),
    });
  } catch {
    throw {
      title: "No answer from the server",
      detail: "Nobody knows yet whether the change was stored. The page will show it if it was.",
      code: "no-answer",
    };
  }
  if (!answer.ok) throw await problemOf(answer);
  receipt = answer.headers.get(RECEIPT) ?? receipt;
  clearError();
  if (!isLive()) readOnce();
  return answer.json().catch(() => ({}));
}

async function problemOf(answer) {
  const problem = await answer.json().catch(() => ({}));
  return {
    // A title that only names the status says nothing to a person.
    title: TITLES[answer.status] ?? problem.title ?? `The server answered ${answer.status}`,
    detail: problem.detail ?? "",
    code: problem.code ?? "",
  };
}

// Only after an own change while the stream is away: one read that includes the change.
async function readOnce() {
  const heard = messages;
  try {
    const answer = await fetch("/api/state", { headers: receipt ? { [RECEIPT]: receipt } : {} });
    const snapshot = answer.ok && (await answer.json());
    if (snapshot && heard === messages) replace(snapshot);
  } catch {
    // The stream brings the state as soon as the server is back.
  }
}

// The field empties at once, so that one can type on; what was refused comes back into it.
async function submit(field, request) {
  const text = field.value;
  field.value = "";
  try {
    return await request(text);
  } catch (problem) {
    if (field.value === "") field.value = text;
    showError(problem, field);
    field.focus();
  }
}

page.addList.addEventListener("submit", async (event) => {
  event.preventDefault();
  const added = await submit(page.listName, (name) => ask("/api/lists", { name }));
  if (!added?.id) return;
  view.opening = added.id;
  location.hash = `#/${added.id}`;
  renderSoon();
});

page.addTask.addEventListener("submit", async (event) => {
  event.preventDefault();
  const list = view.shown;
  const added = await submit(page.taskTitle, (title) => ask("/api/tasks", { list, title }));
  if (added && view.shown === list && view.filter !== "active") choose("active");
});

page.tasks.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-action]");
  const node = button?.closest(".task");
  if (!node || node.ariaBusy === "true") return;
  node.ariaBusy = "true"; // until the stream reports the change
  try {
    await ask(`/api/tasks/${node.dataset.id}/${button.dataset.action}`);
  } catch (problem) {
    node.ariaBusy = null;
    showError(problem, button);
  }
});

// ---- messages ------------------------------------------------------------------------------------------------------

let complaint; // the element that the shown error is about

function showError(problem, about) {
  clearError();
  complaint = about;
  const title = document.createElement("strong");
  title.textContent = problem.title ?? "Something went wrong on this page";
  const detail = document.createElement("span");
  detail.textContent = problem.detail ?? String(problem);
  page.error.replaceChildren(title, " ", detail);
  page.error.dataset.code = problem.code ?? "";
  delete page.problem.dataset.empty;
  if (about.matches("input")) {
    about.setAttribute("aria-invalid", "true");
    about.setAttribute("aria-describedby", page.error.id);
  }
}

function clearError() {
  complaint?.removeAttribute("aria-invalid");
  complaint?.removeAttribute("aria-describedby");
  complaint = undefined;
  page.error.replaceChildren();
  delete page.error.dataset.code;
  page.problem.dataset.empty = "";
}

function announce(text) {
  // An equal text would not be read out again, so every other one ends in a space that nobody hears.
  page.news.textContent = page.news.textContent === text ? `${text}\u00a0` : text;
}

page.dismiss.addEventListener("click", () => {
  const back = complaint?.isConnected ? complaint : selectedTab();
  clearError();
  back.focus();
});

// ---- which list, which filter: kept in the address, so that reload, links and the back button work -------------------

const view = { list: undefined, filter: "active", shown: undefined, opening: undefined, finding: undefined };

function readAddress() {
  const [, list, filter] = location.hash.match(/^#\/([^/]+)(?:\/(\w+))?$/) ?? [];
  view.list = list;
  view.filter = FILTERS.includes(filter) ? filter : "active";
}

function choose(filter) {
  history.replaceState(null, "", `#/${view.shown}/${filter}`);
  readAddress();
  render();
}

const selectedTab = () => page.tabs[FILTERS.indexOf(view.filter)];

addEventListener("hashchange", () => {
  readAddress();
  render();
  const list = state.lists.get(view.list);
  if (list) announce(`${list.name}: ${spoken(list)}`);
});

byId("skip").addEventListener("click", (event) => {
  event.preventDefault();
  (page.chosen.hidden ? page.listName : page.taskTitle).focus();
});

page.tabs.forEach((tab, at) => {
  tab.addEventListener("click", () => choose(tab.dataset.filter));
  tab.addEventListener("keydown", (event) => {
    const last = page.tabs.length - 1;
    const to = { ArrowLeft: at === 0 ? last : at - 1, ArrowRight: at === last ? 0 : at + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    page.tabs[to].focus();
    choose(FILTERS[to]);
  });
});

// Up and down go to the same button of the neighbouring task.
page.tasks.addEventListener("keydown", (event) => {
  const node = event.target.closest(".task");
  const to = { ArrowUp: node?.previousElementSibling, ArrowDown: node?.nextElementSibling }[event.key];
  if (!to) return;
  event.preventDefault();
  buttonIn(to, event.target.dataset.action)?.focus();
});

for (const field of [page.listName, page.taskTitle]) {
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.isComposing) return;
    field.value = "";
    if (complaint) clearError();
  });
  field.addEventListener("input", () => complaint === field && clearError());
}
page.problem.addEventListener("keydown", (event) => event.key === "Escape" && page.dismiss.click());

// ---- searching, and operating projections --------------------------------------------------------------------------

const search = startSearch(byId("search"), byId("found"), byId("found-nothing"), byId("found-template"), {
  announce,
  open(task) {
    view.finding = task.id;
    location.hash = `#/${task.list}/${task.done ? "done" : "active"}`;
    readAddress();
    render();
  },
});

const drawProjections = startPanel(byId("projections-state"), byId("projections"), byId("projection-template"), {
  sync, ask, announce, showError,
});

// ---- drawing -------------------------------------------------------------------------------------------------------

// A burst of messages is drawn once. A message port, because timers and frames are held back in background tabs.
const soon = new MessageChannel();
let waiting = false;
soon.port1.onmessage = () => render();

function renderSoon() {
  if (waiting) return;
  waiting = true;
  soon.port2.postMessage(null);
}

function render() {
  waiting = false;
  if (!state.known) return;
  const list = state.lists.get(view.list) ?? state.lists.get(view.shown) ?? state.lists.values().next().value;
  view.shown = list?.id;

  for (const name of FILTERS) count(byHook(`counter-${name}`), state.counters[name]);
  sync(page.lists, [...state.lists.values()], newListNode, drawList);
  renderTasks(list);

  document.title = list ? `(${list.active}) ${list.name} · Todo` : "Todo · Backstory";
  if (list && view.opening === list.id) {
    view.opening = undefined;
    page.taskTitle.focus();
  }
  const found = page.tasks.querySelector(`[data-id="${view.finding}"]`);
  if (found) {
    view.finding = undefined;
    found.focus();
  }
}

function renderTasks(list) {
  page.chosen.hidden = !list;
  page.listTitle.textContent = list?.name ?? "";
  page.tabs.forEach((tab) => {
    const selected = tab === selectedTab();
    tab.ariaSelected = String(selected);
    tab.tabIndex = selected ? 0 : -1;
    tab.querySelector(".count").textContent = list?.[tab.dataset.filter] ?? 0;
  });
  page.panel.setAttribute("aria-labelledby", selectedTab().id);

  const tasks = [...state.tasks.values()].filter((task) => task.list === view.shown && task.state === view.filter);
  const rescue = focusRescue();
  sync(page.tasks, tasks.sort(newestFirst), newTaskNode, drawTask);
  rescue();

  page.tasks.hidden = tasks.length === 0;
  page.empty.hidden = tasks.length > 0;
  [page.emptyHeadline.textContent, page.emptyHint.textContent] = emptyText(list);
  // An empty panel has nothing to tab to, so it takes the focus itself.
  page.panel.tabIndex = tasks.length > 0 ? -1 : 0;
}

// Makes `parent` hold one node per item, in order. A node stays the same, and where it is, as long as its item is there.
function sync(parent, items, create, draw) {
  const kept = new Map();
  const wanted = new Set(items.map((item) => item.id));
  for (const node of [...parent.children]) {
    if (wanted.has(node.dataset.id)) kept.set(node.dataset.id, node);
    else node.remove();
  }
  let next = parent.firstElementChild;
  for (const item of items) {
    const node = kept.get(item.id) ?? create(item);
    if (node === next) next = next.nextElementSibling;
    else parent.insertBefore(node, next);
    draw(node, item);
  }
}

// When the focused task leaves the view: after an own click the next task gets the focus; after somebody else's change
// the filter tab does, so that a key already on its way does not hit another task.
function focusRescue() {
  const focused = document.activeElement;
  const node = focused?.closest?.(".task");
  if (!node) return () => {};
  const at = [...page.tasks.children].indexOf(node);
  const own = node.ariaBusy === "true";
  return () => {
    if (node.isConnected) return;
    const neighbour = own && (page.tasks.children[at] ?? page.tasks.lastElementChild);
    (buttonIn(neighbour, focused.dataset.action) ?? selectedTab()).focus();
  };
}

const buttonIn = (node, action) => (node ? node.querySelector(`[data-action="${action}"]:not([hidden])`) : null);

function newListNode(list) {
  const node = byId("list-template").content.firstElementChild.cloneNode(true);
  node.dataset.id = list.id;
  const link = node.querySelector("a");
  link.dataset.id = list.id;
  link.href = `#/${list.id}`;
  return node;
}

function drawList(node, list) {
  const link = node.querySelector("a");
  if (list.id === view.shown) link.setAttribute("aria-current", "true");
  else link.removeAttribute("aria-current");
  if (node.drawn === list) return;
  node.drawn = list;
  const share = list.done / (list.active + list.done || 1);
  link.querySelector(".ring").style.setProperty("--share", share);
  link.querySelector(".name").textContent = list.name;
  link.querySelector(".unseen").textContent = spoken(list);
  count(link.querySelector(".count"), list.active);
}

const spoken = (list) => `${list.active} active, ${list.done} done, ${list.removed} removed`;

function newTaskNode(task) {
  const node = byId("task-template").content.firstElementChild.cloneNode(true);
  node.dataset.id = task.id;
  return node;
}

const shownTime = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

function drawTask(node, task) {
  if (node.drawn === task) return;
  node.drawn = task;
  node.dataset.state = task.state;
  node.ariaBusy = null;
  node.querySelector(".title").textContent = task.title;
  const time = node.querySelector("time");
  time.dateTime = task.added_at;
  time.textContent = Number.isNaN(task.added) ? "" : `Added ${shownTime.format(task.added)}`;
  const done = node.querySelector(".done");
  done.ariaLabel = `Mark “${task.title}” as done`;
  done.hidden = task.state !== "active";
  const remove = node.querySelector(".remove");
  remove.ariaLabel = `Remove “${task.title}”`;
  remove.hidden = task.state === "removed";
}

const newestFirst = (a, b) => b.added - a.added || (a.id < b.id ? 1 : -1);

const calm = matchMedia("(prefers-reduced-motion: reduce)");

// A number that changes beats once.
function count(element, number) {
  const text = String(number);
  if (element.textContent === text) return;
  element.textContent = text;
  if (!calm.matches) element.animate([{ transform: "scale(1.25)" }, { transform: "none" }], { duration: 220, easing: "ease-out" });
}

function emptyText(list) {
  if (!list) return ["No lists yet", "Give your first list a name, for example Groceries."];
  if (view.filter === "done") return ["Nothing done yet", "Tick the circle of a task, and it moves here."];
  if (view.filter === "removed") return ["Nothing removed", "Removed tasks stay here: what happened is never forgotten."];
  return list.done > 0 ? ["All done", "Add the next task above whenever you like."] : ["Nothing to do", "Add the first task above and press Enter."];
}

readAddress();
open();
