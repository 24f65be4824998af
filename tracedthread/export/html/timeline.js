// The timeline: a row a thread, its slow waits as bars, below them what it held, and an arrow from who woke it.

const TIME_ROW = 26;
const AXIS = 24;
const CLASSES = [
  { colour: "idle", title: "waits for work" },
  { colour: "resource", title: "waits for a permit or for room" },
  { colour: "held", title: "waits for a lock" },
];

function readRows(flat, fields) {
  const rows = [];
  for (let at = 0; at < flat.length; at += fields.length) {
    const row = { index: rows.length };
    fields.forEach((field, offset) => (row[field] = flat[at + offset]));
    rows.push(row);
  }
  return rows;
}

function timeLine() {
  const canvas = byId("time");
  const { threads, bins, left, events, stacks } = data.timeline;
  const waits = readRows(data.timeline.waits, ["thread", "start", "length", "gil", "class", "kind", "lock", "outcome", "stack", "holder", "released", "was"]);
  const held = readRows(data.timeline.holds, ["thread", "start", "length", "lock", "exact", "stack"]);
  const names = threads.map(text);
  const whole = [Math.min(0, ...waits.slice(0, 1).map((wait) => wait.start)), Math.max(1, data.duration * 1e6)];
  let [from, to] = whole;
  let current = null; // the wait that is chosen
  let dragged = null; // x of where a drag began and where it is
  const draw = lazily(drawNow);
  const gutter = () => Math.min(190, canvas.parentElement.clientWidth * 0.28);
  const span = () => canvas.parentElement.clientWidth - gutter();
  const x = (us) => gutter() + ((us - from) / (to - from)) * span();
  const us = (at) => from + ((at - gutter()) / span()) * (to - from);
  const y = (thread) => AXIS + thread * TIME_ROW;

  function drawNow() {
    const { context, width } = sized(canvas, AXIS + Math.max(1, threads.length) * TIME_ROW + 4);
    context.font = FONT;
    const colours = palette(["line", "text", "dim", "card", "hold", "own-gil", "accent", ...CLASSES.map((one) => one.colour)]);
    axis(context, colours, width);
    names.forEach((name, thread) => {
      context.fillStyle = colours.line;
      context.fillRect(0, y(thread) + TIME_ROW - 1, width, 1);
      context.fillStyle = colours.text;
      context.fillText(fitting(context, name, gutter() - 16), 8, y(thread) + TIME_ROW / 2);
    });
    if (!threads.length) {
      context.fillStyle = colours.dim;
      context.fillText("No wait was longer than the threshold.", 8, AXIS + TIME_ROW / 2);
    }
    context.save();
    context.beginPath();
    context.rect(gutter(), 0, span(), canvas.clientHeight);
    context.clip();
    bins.forEach((of, thread) => density(context, colours, of, thread));
    for (const wait of waits) {
      bar(context, wait, y(wait.thread) + 3, 13, colours[CLASSES[wait.class].colour]);
      // The last part: only the GIL was missing.
      if (wait.gil) bar(context, { start: wait.start + wait.length - wait.gil, length: wait.gil }, y(wait.thread) + 3, 13, colours["own-gil"], 0);
    }
    for (const hold of held) {
      context.globalAlpha = hold.exact ? 1 : 0.75;
      bar(context, hold, y(hold.thread) + 18, 5, colours.hold);
    }
    context.globalAlpha = 1;
    if (current) arrow(context, colours, current);
    if (dragged) {
      context.globalAlpha = 0.18;
      context.fillStyle = colours.accent;
      context.fillRect(Math.min(...dragged), 0, Math.abs(dragged[1] - dragged[0]), canvas.clientHeight);
      context.globalAlpha = 1;
    }
    context.restore();
  }

  function bar(context, { start, length }, top, height, fill, least = 1.2) {
    if (start + length < from || start > to) return;
    context.fillStyle = fill;
    context.fillRect(x(start), top, Math.max(least, (length / (to - from)) * span()), height);
  }

  function density(context, colours, of, thread) {
    const wide = (data.duration * 1e6) / Math.max(1, of.length);
    context.fillStyle = colours.held;
    of.forEach((thousandths, index) => {
      if (!thousandths) return;
      context.globalAlpha = 0.12 + 0.3 * (thousandths / 1000);
      context.fillRect(x(index * wide), y(thread) + 1, (wide / (to - from)) * span() + 0.5, 17);
    });
    context.globalAlpha = 1;
  }

  function axis(context, colours, width) {
    const step = niceStep((to - from) / Math.max(2, span() / 110));
    for (let tick = Math.ceil(from / step) * step; tick <= to; tick += step) {
      context.fillStyle = colours.line;
      context.fillRect(x(tick), 0, 1, canvas.clientHeight);
      context.fillStyle = colours.dim;
      const words = tickText(tick, step);
      if (x(tick) + context.measureText(words).width + 8 < width) context.fillText(words, x(tick) + 5, AXIS / 2);
    }
  }

  function arrow(context, colours, wait) {
    context.strokeStyle = context.fillStyle = colours.text;
    context.lineWidth = 1.5;
    context.strokeRect(x(wait.start) - 1, y(wait.thread) + 2, Math.max(3, (wait.length / (to - from)) * span() + 2), 15);
    if (wait.holder < 0 || wait.holder === wait.thread) return;
    const at = x(wait.start + wait.length - wait.gil);
    const down = wait.thread > wait.holder ? 1 : -1;
    const end = y(wait.thread) + (down > 0 ? 3 : 17);
    context.beginPath();
    context.moveTo(at, y(wait.holder) + 20);
    context.lineTo(at, end);
    context.stroke();
    context.beginPath();
    context.moveTo(at, end);
    context.lineTo(at - 4, end - 7 * down);
    context.lineTo(at + 4, end - 7 * down);
    context.fill();
  }

  const inner = (number) => (number < 0 ? "" : stacks[number].map(frameText).join("\n   called by "));

  function describeWait(wait) {
    const lines = [`${names[wait.thread]}: ${text(wait.kind)} ${text(wait.lock)}, ${duration(wait.length / 1e6)} from ${tickText(wait.start, 1000)}`];
    if (text(wait.outcome) !== "acquired") lines[0] += `, ${text(wait.outcome)}`;
    if (wait.gil) lines[0] += `; the last ${duration(wait.gil / 1e6)} only for the GIL`;
    if (wait.stack >= 0) lines.push(`in ${inner(wait.stack)}`);
    const who = wait.holder < 0 ? "" : names[wait.holder];
    if (wait.released >= 0) lines.push(`released by ${who || "a thread that is not shown"} in ${inner(wait.released)}`);
    else if (who) lines.push(`held by ${who}`);
    if (wait.was >= 0) lines.push(`whose holder was in ${inner(wait.was)}`);
    return lines.join("\n");
  }

  function describeHold(hold) {
    const at = hold.exact ? "" : " at least, as far as others waited for it";
    return `${names[hold.thread]}: holds ${text(hold.lock)} for ${duration(hold.length / 1e6)}${at}\n${inner(hold.stack)}`;
  }

  function hit(event) {
    const box = canvas.getBoundingClientRect();
    const [px, py] = [event.clientX - box.left, event.clientY - box.top];
    const thread = Math.floor((py - AXIS) / TIME_ROW);
    if (px < gutter() || thread < 0) return null;
    const slack = ((to - from) / span()) * 2;
    const covers = (row) => row.thread === thread && us(px) >= row.start - slack && us(px) <= row.start + row.length + slack;
    const inHolds = (py - AXIS) % TIME_ROW > 17;
    if (inHolds) {
      const hold = held.findLast(covers);
      return hold ? { hold } : null;
    }
    const wait = waits.findLast(covers);
    return wait ? { wait } : null;
  }

  function zoom(start, end) {
    const least = 20;
    const wide = Math.min(Math.max(end - start, least), whole[1] - whole[0]);
    from = Math.min(Math.max(whole[0], start), whole[1] - wide);
    to = from + wide;
    draw();
  }

  function zoomBy(factor, around = (from + to) / 2) {
    zoom(around - (around - from) * factor, around + (to - around) * factor);
  }

  function choose(wait) {
    current = wait;
    byId("time-detail").textContent = wait ? describeWait(wait) : "";
    if (wait && (wait.start + wait.length < from || wait.start > to)) zoom(wait.start - (to - from) / 2, wait.start + (to - from) / 2);
    if (wait) canvas.parentElement.scrollTop = Math.max(0, Math.min(canvas.parentElement.scrollTop, y(wait.thread) - AXIS), y(wait.thread) + 2 * TIME_ROW - canvas.parentElement.clientHeight);
    draw();
  }

  // The next wait of the same thread, or of the nearest thread that has one, close in time.
  function step(threadStep, timeStep) {
    if (!waits.length) return;
    if (!current) return choose(waits[0]);
    if (timeStep) {
      for (let at = current.index + timeStep; at >= 0 && at < waits.length; at += timeStep) {
        if (waits[at].thread === current.thread) return choose(waits[at]);
      }
      return;
    }
    for (let thread = current.thread + threadStep; thread >= 0 && thread < threads.length; thread += threadStep) {
      const there = waits.filter((wait) => wait.thread === thread);
      if (there.length) return choose(there.reduce((a, b) => (Math.abs(b.start - current.start) < Math.abs(a.start - current.start) ? b : a)));
    }
  }

  const keys = {
    ArrowLeft: () => step(0, -1),
    ArrowRight: () => step(0, 1),
    ArrowUp: () => step(-1, 0),
    ArrowDown: () => step(1, 0),
    "+": () => zoomBy(0.5, current ? current.start : undefined),
    "-": () => zoomBy(2),
    Enter: () => current && zoom(current.start - current.length, current.start + 2 * current.length),
    Escape: () => zoom(...whole),
  };
  keys["="] = keys["+"];
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
  });
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    canvas.setPointerCapture(event.pointerId);
    dragged = [event.offsetX, event.offsetX];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged) {
      dragged[1] = event.offsetX;
      showTip(event, "");
      return draw();
    }
    const at = hit(event);
    canvas.style.cursor = at ? "pointer" : "crosshair";
    showTip(event, !at ? "" : at.wait ? describeWait(at.wait) : describeHold(at.hold));
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!dragged) return;
    const [start, end] = [Math.min(...dragged), Math.max(...dragged)].map(us);
    const isClick = Math.abs(dragged[1] - dragged[0]) < 4;
    dragged = null;
    if (!isClick) return zoom(start, end);
    const at = hit(event);
    if (at && at.hold) {
      choose(null);
      byId("time-detail").textContent = describeHold(at.hold);
    } else choose(at ? at.wait : null);
  });
  canvas.addEventListener("pointerleave", (event) => showTip(event, ""));
  byId("time-in").addEventListener("click", () => zoomBy(0.5));
  byId("time-out").addEventListener("click", () => zoomBy(2));
  byId("time-reset").addEventListener("click", () => zoom(...whole));
  const legend = [...CLASSES].reverse().concat({ colour: "own-gil", title: "has it, waits for the GIL" }, { colour: "hold", title: "holds a lock others want" });
  byId("timeline-legend").append(...legend.map(({ colour: name, title }) => swatch(name, title)));
  byId("time-left").textContent = leftOut(left, events, bins.some((of) => of.length));
  new ResizeObserver(draw).observe(canvas.parentElement);
  themed.add(draw);
}

function leftOut([withoutRow, ofThreads, threads], events, isShaded) {
  const parts = [];
  if (withoutRow > ofThreads) parts.push(`${grouped(withoutRow - ofThreads)} of ${count(events, "wait")} are not drawn one by one: the shortest${isShaded ? "; contention among them is the shading behind the bars" : ""}.`);
  if (threads) parts.push(`${count(threads, "thread")} with less of it, and their ${count(ofThreads, "wait")}, have no row.`);
  return parts.join(" ");
}

function swatch(name, title) {
  const square = make("i", "");
  square.style.background = `var(--${name})`;
  return make("span", "", square, title);
}

function niceStep(least) {
  const power = 10 ** Math.floor(Math.log10(Math.max(1, least)));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least);
}

// A moment in µs from the start; `step` tells how many digits matter.
function tickText(us, step) {
  const seconds = us / 1e6;
  const digits = Math.max(0, Math.min(6, Math.ceil(6 - Math.log10(step))));
  return `${seconds.toFixed(digits)} s`;
}
