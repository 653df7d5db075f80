"use strict";
// A click on a column's head sorts by it, numbers from the largest, names from A, a second click the other way round.
// What is not known stays last.
for (const head of document.querySelectorAll("th button")) {
  head.addEventListener("click", () => {
    const cell = head.parentElement, table = cell.closest("table"), body = table.tBodies[0];
    const numeric = cell.dataset.kind === "number", sorted = cell.getAttribute("aria-sort");
    const up = sorted ? sorted === "descending" : !numeric;
    const value = row => row.cells[cell.cellIndex].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const order = numeric ? x - y : x.localeCompare(y, undefined, { numeric: true });
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", up ? "ascending" : "descending");
  });
}
