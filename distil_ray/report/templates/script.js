"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // Theme: that of the system until the button is used. Pages opened from disk may have no storage.
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const storedTheme = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("theme", value);
      return localStorage.getItem("theme");
    } catch {
      return null;
    }
  };
  const isDark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  if (storedTheme()) root.dataset.theme = storedTheme();
  theme.hidden = false;
  label();
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    storedTheme(root.dataset.theme);
    label();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);

  // Tables: a click on a heading sorts by its column, a second click reverses the order.
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text.replaceAll(",", "").replace("−", "-"));
    return text !== "" && Number.isFinite(number) ? number : text.toLowerCase();
  };
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
  for (const heading of all("table.sortable thead th")) {
    heading.querySelector("button")?.addEventListener("click", () => {
      const body = heading.closest("table").tBodies[0];
      const column = heading.cellIndex;
      const before = heading.getAttribute("aria-sort");
      const down = before ? before === "ascending" : heading.classList.contains("num");
      for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      rows.sort((a, b) => (down ? compare(b[0], a[0]) : compare(a[0], b[0])));
      body.append(...rows.map((pair) => pair[1]));
    });
  }

  // Lists of records: sorted by their data attributes.
  for (const select of all("select[data-sorts]")) {
    const sort = () => {
      const list = document.getElementById(select.dataset.sorts);
      const key = select.value;
      const by = (item) => (key === "name" ? item.dataset.name : -Number(item.dataset[key]));
      list.append(...[...list.children].sort((a, b) => compare(by(a), by(b))));
    };
    select.addEventListener("change", sort);
  }

  // Filters: items that do not contain every typed word are hidden.
  for (const input of all("input[data-filters]")) {
    const target = document.getElementById(input.dataset.filters);
    const counter = document.querySelector(`[data-counts="${input.dataset.filters}"]`);
    const items = () => (target.tBodies ? [...target.tBodies[0].rows] : [...target.children]);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const item of items()) {
        const text = item.textContent.toLowerCase();
        item.hidden = !words.every((word) => text.includes(word));
        shown += !item.hidden;
      }
      counter.textContent = words.length ? `${shown} of ${items().length}` : String(items().length);
    });
  }

  // Audio: a button is replaced by a player. Only one player plays at a time.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.play");
    if (!button) return;
    const audio = document.createElement("audio");
    audio.controls = true;
    audio.src = document.getElementById(button.dataset.plays).dataset.source;
    audio.setAttribute("aria-label", button.getAttribute("aria-label"));
    button.replaceWith(audio);
    audio.focus();
    audio.play().catch(() => {});
  });
  document.addEventListener("play", (event) => {
    for (const other of all("audio")) if (other !== event.target) other.pause();
  }, true);

  // Printing: all details are open.
  addEventListener("beforeprint", () => { for (const one of all("details")) one.open = true; });
})();
