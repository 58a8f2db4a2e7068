// The panel of projections: what each does, how far it is, and how far its rebuild is.

const WORDS = {
  idle: "Not running", running: "Up to date", paused: "Paused", failing: "Failing", finished: "Finished", stopped: "Stopped",
};

export function startPanel(summary, list, template, { sync, ask, announce, showError }) {
  let known = new Map();

  list.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-order]");
    if (!button || button.ariaDisabled === "true") return;
    const { name } = button.closest(".projection").dataset;
    button.ariaDisabled = "true";
    try {
      await ask(`/api/projections/${name}/${button.dataset.order}`);
    } catch (problem) {
      showError(problem, button);
    } finally {
      button.ariaDisabled = null;
    }
  });

  function create({ name }) {
    const node = template.content.firstElementChild.cloneNode(true);
    node.dataset.id = node.dataset.name = name;
    node.querySelector(".name").textContent = name;
    node.querySelector("progress").ariaLabel = `Rebuild of ${name}`;
    return node;
  }

  function draw(node, row) {
    const { rebuild, head } = row;
    const halted = row.paused || row.state === "failing" || row.state === "stopped";
    node.dataset.state = rebuild ? "rebuilding" : inOneWord(row);
    node.dataset.lag = row.lag;
    node.querySelector(".state").textContent = rebuild ? "Rebuilding" : WORDS[inOneWord(row)] ?? "Catching up";
    node.querySelector(".details").textContent = details(row);
    const progress = node.querySelector("progress");
    progress.hidden = !rebuild;
    [progress.max, progress.value] = [head || 1, rebuild?.reached ?? 0];
    const toggle = node.querySelector(".toggle");
    toggle.dataset.order = halted ? "resume" : "pause";
    toggle.textContent = halted ? "Resume" : "Pause";
    toggle.ariaLabel = `${toggle.textContent} ${row.name}`;
    const again = node.querySelector(".rebuild");
    again.ariaLabel = `Rebuild ${row.name}`;
    again.disabled = Boolean(rebuild);
  }

  return (rows) => {
    for (const row of rows) {
      const before = known.get(row.name);
      if (before?.rebuild && !row.rebuild) announce(`${row.name} is rebuilt`);
      else if (before && inOneWord(before) !== inOneWord(row) && row.lag === 0) announce(`${row.name}: ${WORDS[inOneWord(row)]}`);
    }
    known = new Map(rows.map((row) => [row.name, row]));
    sync(list, rows.map((row) => ({ ...row, id: row.name })), create, draw);
    const worst = rows.map(inOneWord).find((word) => word !== "running");
    summary.textContent = worst ? WORDS[worst] ?? "Catching up" : rows.some((row) => row.rebuild) ? "Rebuilding" : WORDS.running;
    summary.dataset.state = worst ?? "running";
  };
}

const inOneWord = (row) => (row.paused ? "paused" : row.state === "running" && row.lag > 0 ? "behind" : row.state);

function details(row) {
  const parts = [row.lag === 0 ? `at event ${row.head}` : `${row.lag} of ${row.head} events behind`];
  if (row.rate > 0) parts.push(`${row.rate}/s`);
  if (row.reason) parts.push(row.reason);
  if (row.rebuild) {
    const { reached, seconds_left: left, reason } = row.rebuild;
    parts.push(`rebuilt up to ${reached}`);
    if (reason) parts.push(reason);
    else if (left !== null) parts.push(left < 1 ? "nearly done" : `${left} s left`);
  }
  return parts.join(" · ");
}
