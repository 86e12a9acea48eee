"use strict";
// The page is whole without this: it only adds sorting, filters, the switch to dark, and printing what is folded.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const controls = document.getElementById("controls");
  controls.hidden = false;

  const theme = document.getElementById("theme");
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const showTheme = () => theme.setAttribute("aria-pressed", String(isDark()));
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  showTheme();

  // On a phone the results come first: the menu is folded.
  const menu = document.getElementById("menu");
  const narrow = matchMedia("(max-width: 40rem)");
  const fold = () => { menu.open = !narrow.matches; };
  narrow.addEventListener("change", fold);
  fold();

  const selects = all("select", controls);
  const fits = (element, chosen) =>
    Object.entries(chosen).every(([key, wanted]) => {
      const own = element.dataset[key];
      return own === undefined || wanted === "" || own.split("\n").includes(wanted);
    });
  const filter = () => {
    const chosen = Object.fromEntries(selects.map((select) => [select.dataset.key, select.value]));
    for (const element of all("[data-dataset], [data-access]")) element.hidden = !fits(element, chosen);
    if (!selects.length) return;
    const told = document.getElementById("shown");
    const rows = all(`#${told.dataset.section} table.sortable tbody tr`);
    const shown = rows.filter((row) => !row.hidden).length;
    told.textContent = `${shown} ${shown === 1 ? "row" : "rows"} of ${told.dataset.of}`;
  };
  for (const select of selects) select.addEventListener("change", filter);
  filter(); // a browser may have kept the choices of an earlier visit

  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.v ?? cell.textContent;
    return cell.dataset.v === undefined ? text : text === "" ? null : Number(text);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const sort = (table, column, head) => {
    const turn = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const keyed = [...table.tBodies[0].rows].map((row) => [value(row, column), row]);
    // What is not known comes last, whichever way.
    keyed.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : turn * compare(a, b)));
    table.tBodies[0].append(...keyed.map(([, row]) => row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", turn === 1 ? "ascending" : "descending");
  };
  for (const table of all("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, column, head));
    });
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not([open])");
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
