// What both graphs share: a canvas as sharp as the screen, the theme's colours, the tip beside the pointer.

const themed = new Set(); // functions that draw anew when the theme changes

// The colour of a custom property, as the theme resolves it.
function colour(name) {
  const probe = byId("tip");
  const before = probe.style.color;
  probe.style.color = `var(--${name})`;
  const value = getComputedStyle(probe).color;
  probe.style.color = before;
  return value;
}

function palette(names) {
  return Object.fromEntries(names.map((name) => [name, colour(name)]));
}

// A context in which one unit is one CSS pixel.
function sized(canvas, height) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.parentElement.clientWidth;
  canvas.style.height = `${height}px`;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.textBaseline = "middle";
  return { context, width };
}

const FONT = '12px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif';

// The start of `label` that fits into `width`. Wide enough for every letter is quicker than measuring each time.
function fitting(context, label, width) {
  if (label.length * 11 <= width || context.measureText(label).width <= width) return label;
  let low = 0;
  let high = label.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (context.measureText(`${label.slice(0, middle)}…`).width <= width) low = middle;
    else high = middle - 1;
  }
  return low > 1 ? `${label.slice(0, low)}…` : "";
}

function showTip(event, words) {
  const tip = byId("tip");
  tip.hidden = !words;
  if (!words) return;
  tip.textContent = words;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - width - 8))}px`;
  const below = event.clientY + 18;
  tip.style.top = `${below + height < innerHeight ? below : Math.max(8, event.clientY - height - 10)}px`;
}

// Draws at most once a frame.
function lazily(draw) {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      draw();
    });
  };
}
