// The report's page: sort and filter the table of variants, switch between light and dark. Without this script
// the page is complete and in the order of the report.
"use strict";
(() => {
  const root = document.documentElement;
  const toggle = document.querySelector(".toggle");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const name = () => { toggle.textContent = isDark() ? "Light" : "Dark"; };
  toggle.hidden = false;
  toggle.setAttribute("aria-label", "Switch between light and dark");
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("report-theme", root.dataset.theme); } catch { /* a page without storage */ }
    name();
  });
  prefersDark.addEventListener("change", name);
  name();

  const table = document.getElementById("rows");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const given = new Map(rows.map((row, place) => [row, place]));
    const heads = [...table.tHead.rows[0].cells];
    const tools = document.querySelector(".tools");
    const [filter, passes, baselines] = ["filter", "passes", "baselines"].map((id) => document.getElementById(id));
    const passing = new Set(["reference", "pass", "equal"]);
    tools.hidden = false;

    const value = (row, column) => {
      const cell = row.cells[column];
      return cell.dataset.sort === undefined ? null : Number(cell.dataset.sort);
    };
    const compare = (column, sign) => (first, second) => {
      const [a, b] = [value(first, column), value(second, column)];
      if (a === null && b === null) {
        const words = first.cells[column].textContent.localeCompare(second.cells[column].textContent);
        return sign * words || given.get(first) - given.get(second);
      }
      if (a === null || b === null) return a === null ? 1 : -1; // rows without a figure come last
      return sign * (a - b) || given.get(first) - given.get(second);
    };
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const isNumber = rows.some((row) => value(row, column) !== null);
      const first = isNumber ? "descending" : "ascending";
      const other = isNumber ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((each) => each.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", order);
      body.append(...rows.slice().sort(compare(column, order === "ascending" ? 1 : -1)));
    }));

    const show = () => {
      const wanted = filter.value.trim().toLowerCase();
      let count = 0;
      for (const row of rows) {
        const { name: label, verdict } = row.dataset;
        row.hidden = !label.includes(wanted)
          || (passes.checked && !passing.has(verdict) && verdict !== "baseline")
          || (baselines !== null && !baselines.checked && verdict === "baseline");
        count += row.hidden ? 0 : 1;
      }
      tools.querySelector("output").textContent = `${count} of ${rows.length} rows`;
    };
    filter.addEventListener("input", show);
    for (const box of [passes, baselines]) if (box) box.addEventListener("change", show);
    show();
  }
  root.dataset.ready = "yes";
})();
