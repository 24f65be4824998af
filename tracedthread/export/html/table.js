// The table of locks: sorts, filters, and opens a row to show both sides of a lock.

// The order is that of `numbers` in data.py.
const [CREATED, ACQUIRED, CONTENDED, TIMEOUTS, WAIT, P50, P99, MAX, HOLD, HOLD_P99, HOLD_MAX, BLAME, OWNER_GIL, HANDOFF, OWN_GIL, WAITING, ATTEMPTS] =
  Array(17).keys();

const gilShare = (n) => (n[WAIT] ? (n[OWNER_GIL] + n[OWN_GIL]) / n[WAIT] : 0);
const contendedShare = (n) => n[CONTENDED] / Math.max(1, n[ATTEMPTS]);
const time = (at) => ({ value: (n) => n[at], show: (n) => duration(n[at]) });
const COLUMNS = [
  { title: "acquired", value: (n) => n[ACQUIRED], show: (n) => grouped(n[ACQUIRED]) },
  { title: "contended", value: contendedShare, show: (n) => percent(contendedShare(n), 1) },
  { title: "wait", ...time(WAIT) },
  { title: "wait p50", ...time(P50) },
  { title: "wait p99", ...time(P99) },
  { title: "wait max", ...time(MAX) },
  { title: "GIL", value: gilShare, show: (n) => percent(gilShare(n), 1) },
  { title: "held", ...time(HOLD) },
  { title: "held p99", ...time(HOLD_P99) },
  { title: "held max", ...time(HOLD_MAX) },
];

// Rows that are shown at first: more take longer to lay out than to read.
const AT_FIRST = 200;

function lockTable(zoomTo) {
  const table = byId("lock-table");
  const rows = data.locks.map((lock) => lockRow(lock, zoomTo));
  const body = make("tbody", "");
  let isAll = false;
  const heads = [{ title: "lock" }, ...COLUMNS].map((column, index) => {
    const button = make("button", "", column.title);
    button.type = "button";
    const head = make("th", index ? "" : "name", button);
    head.scope = "col";
    button.addEventListener("click", () => sort(index));
    return head;
  });
  table.append(make("thead", "", make("tr", "", ...heads)), body);

  function sort(index) {
    const head = heads[index];
    const isDown = head.getAttribute("aria-sort") === "descending" || (index === 0 && head.getAttribute("aria-sort") === null);
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", isDown ? "ascending" : "descending");
    const sign = isDown ? 1 : -1;
    const value = index ? (row) => COLUMNS[index - 1].value(row.lock.numbers) : (row) => row.name.toLowerCase();
    const keyed = rows.map((row) => [value(row), row]);
    keyed.sort(([a], [b]) => sign * (a < b ? -1 : a > b ? 1 : 0));
    keyed.forEach(([, row], at) => (rows[at] = row));
    update();
  }

  function update() {
    const wanted = byId("lock-filter").value.trim().toLowerCase();
    const fits = rows.filter((row) => row.haystack.includes(wanted));
    const shown = isAll ? fits : fits.slice(0, AT_FIRST);
    body.replaceChildren(...shown.flatMap((row) => row.elements()));
    byId("lock-count").textContent = wanted ? `${grouped(fits.length)} of ${count(rows.length, "lock")}` : count(rows.length, "lock");
    byId("lock-all").hidden = shown.length === fits.length;
    byId("lock-all").textContent = `Show all ${grouped(fits.length)}, not only the first ${grouped(shown.length)}`;
  }

  byId("lock-filter").addEventListener("input", update);
  byId("lock-all").addEventListener("click", () => {
    isAll = true;
    update();
  });
  sort(COLUMNS.findIndex((column) => column.title === "wait") + 1);
}

// A row whose elements are made when it is shown first.
function lockRow(lock, zoomTo) {
  const name = text(lock.name);
  const created = frame(lock.created);
  let element = null;
  let more = null;
  let isOpen = false;

  function build() {
    const { numbers } = lock;
    const toggle = make("button", "", make("bdi", "", name));
    toggle.type = "button";
    toggle.setAttribute("aria-expanded", "false");
    toggle.addEventListener("click", () => {
      isOpen = !isOpen;
      toggle.setAttribute("aria-expanded", String(isOpen));
      more = more || lockDetails(lock, zoomTo);
      if (isOpen) element.after(more);
      else more.remove();
    });
    const many = numbers[CREATED] > 1 ? ` ×${grouped(numbers[CREATED])}` : "";
    const kind = lock.type === "rlock" ? " · RLock" : "";
    const where = make("small", "", make("bdi", "", created.place ? frameText(lock.created) : ""), many + kind);
    const cells = COLUMNS.map((column) => {
      const cell = make("td", column.value(numbers) ? "" : "zero", column.show(numbers));
      if (column.title === "wait" && numbers[WAIT]) {
        const meter = make("div", "meter");
        meter.style.width = `${Math.max(1, (100 * numbers[WAIT]) / data.totals.wait_s)}%`;
        cell.append(meter);
      }
      return cell;
    });
    return make("tr", "lock", make("td", "name", toggle, where), ...cells);
  }

  return {
    lock,
    name,
    haystack: `${name} ${created.name} ${created.path}:${created.line}`.toLowerCase(),
    elements() {
      element = element || build();
      return isOpen ? [element, more] : [element];
    },
  };
}

function lockDetails(lock, zoomTo) {
  const { numbers } = lock;
  const blame = lock.blame.map(([at, holds, blameS, maxS, waiters]) =>
    place(blameS, at, holds ? `${count(holds, "hold")}, ${waiters ? `${(waiters / holds).toFixed(1)} waiters at a time, ` : ""}at most ${duration(maxS)} by one` : ""),
  );
  const waits = lock.waits.map(([at, waited, waitS, maxS]) => place(waitS, at, `${count(waited, "wait")}, at most ${duration(maxS)}`));
  const parts = shares(numbers[WAIT], numbers[BLAME], numbers[OWNER_GIL], numbers[HANDOFF], numbers[OWN_GIL]);
  const made = make("ul", "", ...parts.map(({ title, part }) => make("li", "", make("b", "", percent(part, numbers[WAIT])), make("span", "", title))));
  const facts = [];
  if (numbers[TIMEOUTS]) facts.push(count(numbers[TIMEOUTS], "timeout"));
  if (numbers[WAITING]) facts.push(`${count(numbers[WAITING], "thread")} still waiting`);
  const sides = make(
    "div",
    "sides",
    side("Who made others wait", blame, lock.more[0], "nobody is recorded"),
    side("Who waited", waits, lock.more[1], "nobody"),
    make("div", "", make("h3", "", "What the waiting was made of"), made, make("small", "", facts.join(", "))),
  );
  for (const [index, label] of [[0, "Blame in the flame graph"], [1, "Waits in the flame graph"]]) {
    const button = make("button", "", label);
    button.type = "button";
    button.disabled = ![lock.blame, lock.waits][index].length;
    button.addEventListener("click", () => zoomTo(index, text(lock.name)));
    sides.children[index].append(make("p", "", button));
  }
  const cell = make("td", "", sides);
  cell.colSpan = COLUMNS.length + 1;
  return make("tr", "more", cell);
}

function side(title, rows, left, nobody) {
  const rest = left ? make("small", "", `and ${count(left, "more place")}`) : "";
  return make("div", "", make("h3", "", title), rows.length ? make("ul", "", ...rows) : make("small", "", nobody), rest);
}

function place(seconds, at, words) {
  const { name, path, line } = frame(at);
  const where = make("small", "", make("bdi", "", path ? `${path}:${line}` : "places that found no room in the recording"));
  const parts = [make("bdi", "code", name), make("br", ""), where];
  if (words) parts.push(make("br", ""), make("small", "", words));
  return make("li", "", make("b", "", duration(seconds)), make("span", "", ...parts));
}

// What waiting is made of. What is left is the share of holds that are not over, and of captures without blame.
function shares(wait, blame, ownerGil, handoff, ownGil) {
  const parts = [
    { title: "while the lock was held", part: blame, colour: "held" },
    { title: "its owner waited for the GIL", part: ownerGil, colour: "owner-gil" },
    { title: "between two owners", part: handoff, colour: "handoff" },
    { title: "lock obtained, the GIL not", part: ownGil, colour: "own-gil" },
  ];
  const rest = wait - blame - ownerGil - handoff - ownGil;
  if (rest > wait * 5e-4) parts.push({ title: data.totals.blame_s ? "holds that are not over" : "because of whom is not recorded", part: rest, colour: "open" });
  return parts.filter(({ part }) => part > 0);
}
