// Links each card's list and picture. The page reads without it; this adds highlights and arrows.
"use strict";

for (const card of document.querySelectorAll(".card")) {
  const svg = card.querySelector(".frame svg");
  const rows = [...card.querySelectorAll("tbody tr[data-n]")];
  const list = card.querySelector(".scroll");
  const readout = card.querySelector(".readout");
  if (!svg || !rows.length) continue;
  const idle = readout.textContent;
  const shapes = new Map([...svg.querySelectorAll(".sp")].map((s) => [s.dataset.n, s]));
  const [halo, mark, dot] = ["halo", "mark", "dot"].map((name) => svg.querySelector("." + name));
  let pinned = null;

  const visible = () => rows.filter((row) => row.offsetParent !== null);

  function show(row) {
    for (const old of card.querySelectorAll(".on")) {
      old.classList.remove("on");
      old.removeAttribute("aria-selected");
    }
    const shape = row && shapes.get(row.dataset.n);
    svg.classList.toggle("picked", Boolean(shape));
    for (const line of [halo, mark]) line.setAttribute("d", shape ? shape.getAttribute("d") : "");
    dot.setAttribute("r", shape ? 7 : 0);
    readout.textContent = shape ? row.dataset.text : idle;
    if (!shape) return;
    shape.classList.add("on");
    row.classList.add("on");
    row.setAttribute("aria-selected", "true");
    dot.setAttribute("cx", shape.dataset.x);
    dot.setAttribute("cy", shape.dataset.y);
  }

  function reveal(row) {  // scrolls the list only, never the page
    const head = list.querySelector("thead").offsetHeight;
    const top = row.offsetTop - head;
    if (top < list.scrollTop) list.scrollTop = top;
    const end = row.offsetTop + row.offsetHeight - list.clientHeight;
    if (end > list.scrollTop) list.scrollTop = end;
  }

  function reach(row) {  // one row of the list is a tab stop, the one reached last
    for (const other of rows) other.tabIndex = other === row ? 0 : -1;
  }

  function pin(row) {
    pinned = row;
    reach(row);
    show(row);
    reveal(row);
  }

  reach(rows[0]);
  const rowOf = (shape) => rows.find((row) => row.dataset.n === shape.dataset.n);
  for (const row of rows) {
    row.addEventListener("focus", () => pin(row));
    row.addEventListener("mouseenter", () => show(row));
    row.addEventListener("mouseleave", () => show(pinned));
    row.addEventListener("click", () => row.focus({ preventScroll: true }));
  }
  for (const shape of shapes.values()) {
    shape.addEventListener("mouseenter", () => { show(rowOf(shape)); reveal(rowOf(shape)); });
    shape.addEventListener("mouseleave", () => show(pinned));
    shape.addEventListener("click", () => rowOf(shape).focus({ preventScroll: true }));
  }
  list.addEventListener("keydown", (event) => {
    const seen = visible();
    const at = seen.indexOf(document.activeElement);
    const goal = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: seen.length - 1 }[event.key];
    if (event.key === "Escape") { pinned = null; show(null); return; }
    if (goal === undefined || !seen.length) return;
    event.preventDefault();
    seen[Math.max(0, Math.min(goal, seen.length - 1))].focus({ preventScroll: true });
  });
  card.addEventListener("change", () => {
    const seen = visible();
    if (pinned && !seen.includes(pinned)) { pinned = null; show(null); }
    if (seen.length && !seen.some((row) => row.tabIndex === 0)) reach(seen[0]);
  });
}

const colour = document.querySelector("[data-opacity]");
if (colour) {
  const set = () => document.documentElement.style.setProperty("--opacity", colour.value / 100);
  colour.addEventListener("input", set);
}

const all = document.querySelector(".bar-all");
if (all) {
  all.hidden = false;
  all.addEventListener("change", (event) => {
    if (!event.target.dataset.all) return;
    for (const box of document.querySelectorAll(`.card [data-layer="${event.target.dataset.all}"]`)) {
      box.checked = event.target.checked;
      box.dispatchEvent(new Event("change", { bubbles: true }));
    }
  });
}
