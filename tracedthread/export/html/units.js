// Numbers and names as text: the same words as tracedthread/export/units.py.

const data = JSON.parse(document.getElementById("data").textContent);

function byId(id) {
  return document.getElementById(id);
}

// An element with a class, text and children. Text is never markup.
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

function duration(seconds) {
  if (!seconds) return "0";
  for (const [factor, unit] of [[1e9, "ns"], [1e6, "µs"], [1e3, "ms"], [1, "s"]]) {
    const value = seconds * factor;
    if (Math.abs(value) < 999.5) return `${unit !== "ns" && value < 9.95 ? value.toFixed(1) : value.toFixed(0)} ${unit}`;
  }
  return seconds < 7200 ? `${(seconds / 60).toFixed(0)} min` : `${(seconds / 3600).toFixed(0)} h`;
}

function percent(part, whole) {
  if (!part || !whole) return "0";
  const value = part === whole ? 100 : (100 * part) / whole;
  if (value < 0.95) return value < 0.05 ? "<0.1 %" : `${value.toFixed(1)} %`;
  return value < 99 ? `${value.toFixed(0)} %` : value < 100 ? "99 %" : "100 %"; // 99.9 % is not all of it
}

function grouped(number) {
  return number.toLocaleString("en-US");
}

function count(number, what) {
  return `${grouped(number)} ${what}${number === 1 ? "" : "s"}`;
}

function text(number) {
  return data.texts[number];
}

// Frames are function, path and line, flat.
function frame(number) {
  const path = text(data.frames[3 * number + 1]);
  const file = path.replaceAll("\\", "/").split("/").pop();
  const line = data.frames[3 * number + 2];
  return { name: text(data.frames[3 * number]), path, line, place: file ? `${file}:${line}` : "" };
}

function frameText(number) {
  const { name, place } = frame(number);
  return place ? `${name} (${place})` : name;
}
