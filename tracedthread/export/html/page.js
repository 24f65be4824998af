// Puts the page together: cards, tables of other waiting, of thread pools and of threads, limits, the theme.

function cards() {
  const { totals } = data;
  const rows = [
    [duration(totals.wait_s), "waited for locks"],
    [grouped(totals.contended), `of ${grouped(totals.attempts)} attempts to take a lock had to wait`],
    [totals.blame_s ? percent(totals.blame_s, totals.wait_s) : "–", "of the waiting while the lock was held"],
    [percent(totals.own_gil_s + totals.gil_s, totals.wait_s), "of the waiting was for the GIL"],
    [duration(totals.resource_s), "waited for a permit or for room"],
    [duration(totals.idle_s), "idle, waiting for work"],
  ];
  byId("cards").append(...rows.map(([value, label]) => make("div", "", make("b", "", value), make("span", "", label))));
  const isCutOff = ["killed", "unknown"].includes(document.querySelector(".state").dataset.state); // then this is its last sign of life
  byId("lasted").textContent = ` · ${isCutOff ? "at least " : ""}${duration(data.duration)}`;
  const parts = shares(totals.wait_s, totals.blame_s, totals.gil_s, totals.handoff_s, totals.own_gil_s);
  if (!parts.length) return;
  const strip = make("div", "strip");
  const legend = make("div", "legend");
  for (const { title, part, colour: name } of parts) {
    const piece = make("i", "");
    piece.style.background = `var(--${name})`;
    piece.style.flex = `${part / totals.wait_s} 0 0`;
    strip.append(piece);
    legend.append(swatch(name, `${title} ${percent(part, totals.wait_s)}`));
  }
  byId("share").append(strip, legend);
  byId("share").hidden = false;
}

function plainTable(table, heads, rows) {
  const head = heads.map((title, index) => {
    const cell = make("th", index ? "plain" : "plain name", title);
    cell.scope = "col";
    return cell;
  });
  table.append(make("thead", "", make("tr", "", ...head)), make("tbody", "", ...rows.map((cells) => make("tr", "", ...cells))));
}

function elsewhere() {
  const kinds = [
    ["Waiting for a permit or for room", data.resources, true],
    ["Idle: waiting for work, not a problem in itself", data.idle, false],
  ];
  const parts = [];
  for (const [title, { rows, left }, hasWaker] of kinds) {
    if (!rows.length) continue;
    const table = make("table", "");
    const cells = rows.map(([kind, at, lock, times, waitS, maxS, waker]) => {
      const more = [lock && text(lock), hasWaker && text(waker) && `ended by ${text(waker)}`].filter(Boolean).join(", ");
      const where = make("td", "name", make("bdi", "code", frameText(at)), make("small", "", make("bdi", "", more)));
      return [where, make("td", "", kind), make("td", "", grouped(times)), make("td", "", duration(waitS)), make("td", "", duration(maxS))];
    });
    plainTable(table, ["where", "kind", "waits", "time", "max"], cells);
    const scroll = make("div", "scroll", table);
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", title);
    parts.push(make("h3", "", title), scroll);
    if (left[0]) parts.push(make("p", "dim", `and ${count(left[0], "more place")}, ${duration(left[1])}`));
  }
  byId("elsewhere-tables").append(...(parts.length ? parts : [make("p", "", "None.")]));
}

function poolTable() {
  if (!data.pools.length) return;
  const heads = ["pool", "tasks", "queue p50", "queue p99", "queue max", "busy", "full", "workers"];
  const rows = data.pools.map(([name, tasks, queued, p50, p99, longest, busy, full, workers]) => {
    const waiting = queued ? `${count(queued, "task")} in the queue` : "";
    const first = make("td", "name", make("bdi", "", text(name)), make("small", "", waiting));
    const times = [p50, p99, longest, busy, full].map((value) => make("td", value ? "" : "zero", duration(value)));
    return [first, make("td", "", grouped(tasks)), ...times, make("td", "", grouped(workers))];
  });
  plainTable(byId("pool-table"), heads, rows);
  const [more, waited] = data.left.pools;
  if (more) byId("pools-left").textContent = `And ${count(more, "more pool")}, ${duration(waited)}.`;
  byId("pools").hidden = byId("to-pools").hidden = false;
}

function threadTable() {
  const heads = ["thread", "lived", "wait for locks", "own GIL", "for a resource", "idle", "processor"];
  const rows = data.threads.map(([name, runs, lived, wait, gil, idle, resource, cpu, isLifetimeKnown]) => {
    const first = make("td", "name", make("bdi", "", text(name)), make("small", "", make("bdi", "", text(runs))));
    const numbers = [lived, wait, gil, resource, idle].map((value) => make("td", value ? "" : "zero", duration(value)));
    if (!isLifetimeKnown) numbers[0].prepend("\u2265 "); // its process was cut off
    return [first, ...numbers, make("td", cpu ? "" : "zero", cpu ? duration(cpu) : "–")];
  });
  plainTable(byId("thread-table"), heads, rows);
}

function limits() {
  const lines = [];
  for (const [what, number, where] of data.uncovered) {
    const names = where.map(text).join(", ");
    lines.push(`Not recorded: ${text(what)}${number ? `: ${grouped(number)}` : ""}${names ? ` (${names})` : ""}.`);
  }
  const { left, lost } = data;
  if (left.locks[0]) lines.push(`${count(left.locks[0], "lock")} with less waiting, ${duration(left.locks[1])} together, have no row here.`);
  if (left.threads) lines.push(`${count(left.threads, "thread")} with less waiting have no row here.`);
  if (left.uncovered) lines.push(`${grouped(left.uncovered)} more that is not recorded.`);
  const sections = Object.entries(lost).filter(([name]) => name !== "events" && name !== "starts");
  if (sections.length) {
    const what = sections.map(([name, number]) => `${grouped(number)} ${name}`).join(", ");
    lines.push(`The recording had no room for ${what}. Totals are exact; what has no row of its own is in (other).`);
  }
  if (lost.events) lines.push(`The ${count(lost.events, "oldest event")} made room for newer ones, so the timeline begins late. No count or sum misses them.`);
  if (lost.starts) lines.push(`The ${count(lost.starts, "oldest thread start")} of the audit trail made room for newer ones.`);
  lines.push(`The timeline has only waits that were longer than the recording's threshold. Names longer than ${left.names} characters are cut.`);
  lines.push("Waits for the GIL inside a hold, after input and output for example, cannot be told from the hold.");
  byId("limits-list").append(...lines.map((line) => make("li", "", make("bdi", "", line))));
}

function theme() {
  const root = document.documentElement;
  const button = byId("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const update = () => {
    button.textContent = isDark() ? "☀ Light" : "☾ Dark";
    themed.forEach((draw) => draw());
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    update();
  });
  dark.addEventListener("change", update);
  update();
}

cards();
lockTable(flameGraph());
timeLine();
elsewhere();
poolTable();
threadTable();
limits();
theme();
document.documentElement.dataset.ready = "true";
