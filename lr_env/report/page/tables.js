// Tables: rows in another order by a click or a key on a head, and a box of text that leaves rows out.
"use strict";

const FEWEST_TO_FILTER = 8; // rows

// Make the tables of a part of the page sortable, and long ones filterable; `state` says how they were left.
function prepareTables(part, state) {
  for (const table of part.querySelectorAll("table")) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const left = (state[table.id] ??= { column: -1, descending: false, words: "" });
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.key = `${table.id}/${column}`;
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const again = left.column === column;
        const restored = again && left.descending;
        left.descending = again && !left.descending;
        left.column = restored ? -1 : column;
        sortRows(table, rows, left);
      });
    });
    if (left.column >= 0) sortRows(table, rows, left);
    if (rows.length >= FEWEST_TO_FILTER) addFilter(table, rows, left);
  }
}

// Put the rows into the order of a column, or into their first order; what has no value comes last.
function sortRows(table, rows, { column, descending }) {
  const ordered = [...rows];
  if (column >= 0) {
    const sign = descending ? -1 : 1;
    ordered.sort((one, other) => {
      const [a, b] = [one, other].map((row) => sortValue(row.cells[column]));
      if (a === null || b === null) return (a === null) - (b === null);
      return sign * (typeof a === "number" ? a - b || 0 : a.localeCompare(b, "en", { numeric: true }));
    });
  }
  table.tBodies[0].append(...ordered);
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    if (at === column) head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

// The value of a cell: a number where it has one, otherwise its text; null where it is empty.
function sortValue(cell) {
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  if (cell.classList.contains("number")) return null;
  return cell.textContent.trim().toLowerCase() || null;
}

function addFilter(table, rows, left) {
  const label = document.createElement("label");
  label.className = "filter";
  const box = document.createElement("input");
  box.type = "search";
  box.value = left.words;
  box.dataset.key = `${table.id}/filter`;
  const count = document.createElement("output");
  label.append("Show rows with ", box, " ", count);
  const apply = () => {
    left.words = box.value;
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = words.length ? `${shown} of ${rows.length}` : "";
  };
  box.addEventListener("input", apply);
  table.closest(".scroll").before(label);
  apply();
}
