"use strict";
// A click on a column's head sorts by it, a second one the other way; what is not known stays last.
for (const head of document.querySelectorAll("th button")) {
  head.addEventListener("click", () => {
    const cell = head.parentElement, table = cell.closest("table"), body = table.tBodies[0];
    const down = cell.getAttribute("aria-sort") === "descending" ? 1 : -1;
    const value = row => row.cells[cell.cellIndex].dataset.value;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
      const order = cell.dataset.kind === "number" ? x - y : y.localeCompare(x, undefined, { numeric: true });
      return order * down;
    };
    body.append(...[...body.rows].sort(compare));
    for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
  });
}
