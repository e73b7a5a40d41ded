"use strict";
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
