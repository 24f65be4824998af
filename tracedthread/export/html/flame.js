// The flame graph, root on top: one tree a side, drawn on a canvas, used with the mouse or the keyboard.

const ROW = 20;
const SIDES = [
  { tab: "tab-blame", colour: "held", verb: "waiting caused", thing: "hold" },
  { tab: "tab-waits", colour: "waited", verb: "waited", thing: "wait" },
];

// Nodes are depth, frame, ns and times, flat and in preorder: a node's children start where it starts.
function readTree({ nodes, total }) {
  const size = nodes.length / 4;
  const tree = { total, size, depth: [], frame: [], ns: [], times: [], parent: [], start: [] };
  const path = []; // the node and where its next child starts, by depth
  let next = 0;
  for (let i = 0; i < size; i++) {
    const depth = nodes[4 * i];
    const parent = depth ? path[depth - 1] : null;
    const start = parent ? parent.next : next;
    const ns = nodes[4 * i + 2];
    if (parent) parent.next += ns;
    else next += ns;
    path[depth] = { node: i, next: start };
    tree.depth.push(depth);
    tree.frame.push(nodes[4 * i + 1]);
    tree.ns.push(ns);
    tree.times.push(nodes[4 * i + 3]);
    tree.parent.push(parent ? parent.node : -1);
    tree.start.push(start);
  }
  return tree;
}

function flameGraph() {
  const canvas = byId("flame");
  const trees = data.flames.map(readTree);
  let shown = trees[0].size || !trees[1].size ? 0 : 1;
  let root = -1; // the node that is as wide as the graph; -1: everything
  let current = -1; // the node that the keyboard is at
  let found = null; // by node, whether it was searched for
  const draw = lazily(drawNow);

  const tree = () => trees[shown];
  const label = (node) => (node < 0 ? "all locks" : frameText(tree().frame[node]));
  const nsOf = (node) => (node < 0 ? tree().total : tree().ns[node]);
  const isLock = (node) => tree().depth[node] === 0;
  const isAncestor = (node, of) => {
    while (of >= 0 && of !== node) of = tree().parent[of];
    return of === node;
  };

  function drawNow() {
    const { size, depth, start, ns, parent } = tree();
    const width = canvas.parentElement.clientWidth;
    const from = root < 0 ? 0 : start[root];
    const scale = width / Math.max(1, nsOf(root));
    const above = new Set();
    for (let node = root; node >= 0; node = parent[node]) above.add(node);
    const visible = [];
    let deepest = -1;
    for (let i = 0; i < size; i++) {
      const x = above.has(i) ? 0 : (start[i] - from) * scale;
      const w = above.has(i) ? width : ns[i] * scale;
      if (x + w <= 0 || x >= width || w < 0.4 || (!above.has(i) && root >= 0 && depth[i] <= depth[root])) continue;
      visible.push([i, x, w]);
      deepest = Math.max(deepest, depth[i]);
    }
    const { context } = sized(canvas, Math.max(4, deepest + 2) * ROW + 1);
    context.font = FONT;
    const colours = palette([SIDES[shown].colour, "hold", "held-ink", "card", "text", "mark", "soft", "accent", "dim"]);
    box(context, colours, 0, 0, width, -1, colours.soft, colours.text);
    if (!size) {
      context.fillStyle = colours.dim;
      context.fillText(shown ? "No thread had to wait for a lock." : "Nobody who made others wait is recorded.", 8, 2.5 * ROW);
    }
    for (const [i, x, w] of visible) {
      let fill = isLock(i) ? colours.hold : colours[SIDES[shown].colour];
      let alpha = isLock(i) ? 1 : 0.88 + 0.12 * ((tree().frame[i] * 0.618) % 1);
      let ink = colours["held-ink"];
      if (found) {
        alpha = found[i] ? 1 : 0.22;
        [fill, ink] = found[i] ? [colours.mark, "#1b1600"] : [fill, colours.text];
      }
      if (above.has(i) && i !== root) [alpha, ink] = [alpha * 0.4, colours.text];
      context.globalAlpha = alpha;
      context.fillStyle = fill;
      box(context, colours, x, (depth[i] + 1) * ROW, w, i, fill, ink);
    }
  }

  function box(context, colours, x, y, w, node, fill, ink) {
    const left = Math.max(0, x);
    const right = Math.min(canvas.parentElement.clientWidth, x + w);
    context.fillStyle = fill;
    context.fillRect(left, y, Math.max(0.5, right - left - (right - left > 3 ? 1 : 0)), ROW - 1);
    context.globalAlpha = 1;
    if (node === current && document.activeElement === canvas) {
      context.strokeStyle = colours.text;
      context.lineWidth = 2;
      context.strokeRect(left + 1, y + 1, Math.max(1, right - left - 3), ROW - 3);
    }
    if (right - left < 28) return;
    const words = fitting(context, node < 0 ? `${label(node)}  ${duration(nsOf(node) / 1e9)}` : label(node), right - left - 10);
    context.fillStyle = ink;
    if (words) context.fillText(words, left + 5, y + ROW / 2);
  }

  function describe(node) {
    const seconds = nsOf(node) / 1e9;
    const { verb, thing } = SIDES[shown];
    const lines = [label(node), `${duration(seconds)} ${verb}, ${percent(nsOf(node), tree().total)} of all`];
    if (node >= 0) {
      if (root >= 0 && root !== node) lines[1] += `, ${percent(nsOf(node), nsOf(root))} of what is shown`;
      if (tree().times[node]) lines[1] += `, in ${count(tree().times[node], thing)}`;
      const { path, line } = frame(tree().frame[node]);
      if (path) lines.push(`${path}:${line}`);
    }
    return lines.join("\n");
  }

  function go(node) {
    current = node;
    byId("flame-detail").textContent = describe(node);
    canvas.setAttribute("aria-label", `Flame graph, ${describe(node).replaceAll("\n", ", ")}`);
    draw();
  }

  function zoom(node) {
    root = node;
    go(node);
  }

  function show(side) {
    shown = side;
    SIDES.forEach(({ tab }, index) => {
      byId(tab).setAttribute("aria-selected", String(index === side));
      byId(tab).tabIndex = index === side ? 0 : -1;
    });
    byId("flame-panel").setAttribute("aria-labelledby", SIDES[side].tab);
    const [left, heaviest] = data.flames[side].left;
    byId("flame-left").textContent = left
      ? `${count(left, "frame")} of ${duration(heaviest / 1e9)} at most ${left === 1 ? "is" : "are"} left out; the room on the right of their callers is theirs.`
      : "";
    search();
    zoom(-1);
  }

  function search() {
    const wanted = byId("flame-search").value.trim().toLowerCase();
    const { size, frame: frames, ns, parent, total } = tree();
    found = null;
    let sum = 0;
    let times = 0;
    if (wanted) {
      const fits = new Map(); // a frame is looked at once
      const fit = (at) => {
        if (!fits.has(at)) fits.set(at, `${frameText(at)} ${frame(at).path}`.toLowerCase().includes(wanted));
        return fits.get(at);
      };
      found = new Uint8Array(size);
      const within = new Uint8Array(size); // of a match: its time is counted
      for (let i = 0; i < size; i++) {
        const inside = parent[i] >= 0 && within[parent[i]];
        found[i] = fit(frames[i]) ? 1 : 0;
        within[i] = inside || found[i] ? 1 : 0;
        times += found[i];
        if (found[i] && !inside) sum += ns[i];
      }
    }
    const matches = times ? `${grouped(times)} ${times === 1 ? "match" : "matches"}, ${percent(sum, total)} of the time` : "no match";
    byId("flame-found").textContent = wanted ? matches : "";
    draw();
  }

  function at(event) {
    const bounds = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - bounds.top) / ROW) - 1;
    if (row < 0) return -1;
    const { size, depth, start, ns } = tree();
    const inRoot = root >= 0 && row <= depth[root];
    const ticks = (root < 0 ? 0 : start[root]) + ((event.clientX - bounds.left) / bounds.width) * nsOf(root);
    for (let i = 0; i < size; i++) {
      if (depth[i] !== row) continue;
      if (inRoot ? isAncestor(i, root) : ticks >= start[i] && ticks < start[i] + ns[i]) return i;
    }
    return null;
  }

  function sibling(node, step) {
    const { size, parent } = tree();
    for (let i = node + step; i >= 0 && i < size; i += step) {
      if (parent[i] === parent[node]) return i;
      if (i === parent[node]) break;
    }
    return node;
  }

  const keys = {
    ArrowDown: () => {
      const child = current < 0 ? 0 : current + 1; // in preorder, and the heaviest comes first
      if (child < tree().size && tree().parent[child] === current) go(child);
    },
    ArrowUp: () => current >= 0 && go(tree().parent[current]),
    ArrowLeft: () => current >= 0 && go(sibling(current, -1)),
    ArrowRight: () => current >= 0 && go(sibling(current, 1)),
    Home: () => go(-1),
    Enter: () => zoom(current),
    Escape: () => zoom(root < 0 ? -1 : tree().parent[root]),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!keys[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    keys[event.key]();
    if (current >= 0 && root >= 0 && !isAncestor(root, current) && !isAncestor(current, root)) zoom(current); // keep it in view
  });
  canvas.addEventListener("click", (event) => {
    const node = at(event);
    if (node !== null) zoom(node);
  });
  canvas.addEventListener("mousemove", (event) => {
    const hovered = at(event);
    canvas.style.cursor = hovered === null ? "" : "pointer";
    showTip(event, hovered === null ? "" : describe(hovered));
  });
  canvas.addEventListener("mouseleave", (event) => showTip(event, ""));
  canvas.addEventListener("focus", draw);
  canvas.addEventListener("blur", draw);
  byId("flame-search").addEventListener("input", search);
  byId("flame-reset").addEventListener("click", () => zoom(-1));
  SIDES.forEach(({ tab }, index) => {
    byId(tab).addEventListener("click", () => show(index));
    byId(tab).addEventListener("keydown", (event) => {
      if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
      show(1 - index);
      byId(SIDES[1 - index].tab).focus();
    });
  });
  new ResizeObserver(draw).observe(canvas.parentElement);
  themed.add(draw);
  show(shown);

  // Shows one lock on one side.
  return (side, name) => {
    show(side);
    const { size, frame: frames } = tree();
    for (let i = 0; i < size; i++) if (isLock(i) && frame(frames[i]).name === name) zoom(i);
    byId("flames").scrollIntoView();
    canvas.focus({ preventScroll: true });
  };
}
