"use strict";
const tip = document.getElementById("tip");
function show(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const top = event.clientY + 16 + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 10 : event.clientY + 16;
  tip.style.left = Math.max(4, left) + "px";
  tip.style.top = top + "px";
}
const hide = () => { tip.hidden = true; };

for (const svg of document.querySelectorAll("svg[data-lines]")) {
  const lines = JSON.parse(svg.dataset.lines);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let at = "";
    const rows = lines.map((line) => {
      let best = 0;
      line.x.forEach((value, i) => { if (Math.abs(value - x) < Math.abs(line.x[best] - x)) best = i; });
      at = svg.dataset.x + " " + line.t[best];
      return (line.n ? line.n + ": " : "") + line.v[best];
    });
    show(event, [at, ...rows].join("\n"));
  });
  svg.addEventListener("pointerleave", hide);
}
for (const figure of document.querySelectorAll("figure[data-map]")) {
  const map = JSON.parse(figure.dataset.map);
  const image = figure.querySelector("img");
  image.addEventListener("pointermove", (event) => {
    const box = image.getBoundingClientRect();
    const row = Math.min(map.rows.length - 1, Math.max(0, Math.floor((event.clientY - box.top) / box.height * map.rows.length)));
    const col = Math.min(map.cols.length - 1, Math.max(0, Math.floor((event.clientX - box.left) / box.width * map.cols.length)));
    const value = map.v[row][col];
    show(event, map.rows[row] + "\n" + map.cols[col] + "\n" + (value === null ? "–" : value) + " " + map.cells);
  });
  image.addEventListener("pointerleave", hide);
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const area = document.createElement("textarea");
    area.value = button.dataset.copy;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
}
for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("th").forEach((th, column) => th.addEventListener("click", () => {
    const body = table.tBodies[0];
    const up = th.dataset.up !== "1";
    th.dataset.up = up ? "1" : "0";
    const key = (row) => row.cells[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const numbers = !isNaN(parseFloat(x)) && !isNaN(parseFloat(y));
      return (numbers ? parseFloat(x) - parseFloat(y) : x.localeCompare(y)) * (up ? 1 : -1);
    });
    body.append(...rows);
  }));
}
