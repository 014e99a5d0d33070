// Search, filters and order of the items of a page. Without it, all items are shown in order.
"use strict";

for (const tools of document.querySelectorAll("[data-tools]")) {
  const root = document.getElementById(tools.dataset.tools);
  const items = [...root.querySelectorAll("[data-item]")];
  const find = tools.querySelector("[data-find]");
  const sort = tools.querySelector("[data-sort]");
  const facets = [...tools.querySelectorAll("[data-facet]")];
  const homes = items.map((item) => item.parentElement);
  const told = tools.querySelector("output");

  const has = (item, facet) => !facet.value ||
    (item.dataset[facet.dataset.facet] ?? "").split("|").includes(facet.value);

  function order() {
    const key = sort ? sort.value : "";
    const name = key.replace("-", ""), sign = key.startsWith("-") ? -1 : 1;
    const sorted = [...items.keys()];
    if (key) sorted.sort((a, b) => sign * (items[a].dataset[name] - items[b].dataset[name]) || a - b);
    for (const k of sorted) homes[k].append(items[k]);
  }

  function apply() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      const text = item.dataset.text.toLowerCase();
      item.hidden = !(words.every((word) => text.includes(word)) &&
        facets.every((facet) => has(item, facet)));
      shown += !item.hidden;
    }
    for (const shelf of root.querySelectorAll("[data-shelf]")) {
      shelf.hidden = !shelf.querySelector("[data-item]:not([hidden])");
    }
    told.textContent = shown === items.length ? `${shown} shown` : `${shown} of ${items.length} shown`;
  }

  function reveal() {  // an address of an item that a filter hides
    const item = items.find((one) => "#" + one.id === location.hash);
    if (!item || !item.hidden) return;
    find.value = "";
    for (const facet of facets) facet.value = "";
    apply();
    item.scrollIntoView();
  }

  tools.hidden = false;
  find.addEventListener("input", apply);
  for (const facet of facets) facet.addEventListener("change", apply);
  if (sort) sort.addEventListener("change", order);
  addEventListener("hashchange", reveal);
  for (const link of document.querySelectorAll(`a[data-set-tools="${tools.dataset.tools}"]`)) {
    link.addEventListener("click", () => {
      for (const facet of facets) {
        facet.value = facet.dataset.facet === link.dataset.facet ? link.dataset.value : "";
      }
      find.value = "";
      apply();
    });
  }
  apply();
}
