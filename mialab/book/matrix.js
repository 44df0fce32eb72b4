(() => {
  "use strict";
  const root = document.currentScript.closest(".mia-view");
  const part = (name) => root.querySelector(`[data-part="${name}"]`);
  const all = JSON.parse(part("data").textContent).datasets;
  const [data, metric, kind, rate] = ["dataset", "metric", "kind", "rate"].map(part);
  const table = root.querySelector("table"), told = part("told");
  const KINDS = [...kind.options].map((o) => o.value).filter(Boolean);
  // What is sorted by: an attack for the rows, a defense for the columns; 1 is falling, -1 rising.
  let rows = null, columns = null, at = [0, 0];

  const words = (name) => name.replaceAll("_", " ");
  const percent = (x) => (x < 0.001 ? (100 * x).toPrecision(2) : (100 * x).toFixed(1)) + " %";
  const set = () => all[data.value];
  const plain = () => metric.value === "auc" || metric.value === "balanced_accuracy";
  const moving = () => metric.value === "roc";
  const grid = () => set().roc_fpr;
  const option = (value, text) => new Option(text, value);

  function fill() {
    const known = new Set();
    for (const row of Object.values(set().cells)) for (const cell of Object.values(row)) Object.keys(cell.values).forEach((m) => known.add(m));
    const titles = [["auc", "AUC"], ["balanced_accuracy", "balanced accuracy"]];
    for (const r of set().fprs) titles.push([`tpr@${r}`, `TPR at ${percent(r)} FPR`], [`calibrated_tpr@${r}`, `TPR at ${percent(r)} FPR, calibrated`]);
    const before = metric.value;
    metric.replaceChildren(...titles.filter(([m]) => known.has(m)).map(([m, t]) => option(m, t)));
    if (grid().length) metric.add(option("roc", "TPR at the rate of the slider"));
    if ([...metric.options].some((o) => o.value === before)) metric.value = before;
    for (const o of kind.options) o.hidden = o.value && !Object.values(set().attacks).some((a) => a.sees === o.value);
    rate.min = 0; rate.max = Math.max(grid().length - 1, 0);
  }

  // Value, low, high of a cell by what is chosen; null where it is not measured, value null where not resolvable.
  function value(defense, attack) {
    const cell = set().cells[defense]?.[attack];
    if (!cell) return null;
    if (!moving()) return cell.values[metric.value] ?? [null, null, null];
    const r = grid()[rate.value], stated = cell.values[`tpr@${r}`];
    return stated ?? [cell.roc ? cell.roc[rate.value] : null, null, null];
  }

  function shade(v) {
    if (v === null) return "";
    const floor = moving() ? grid()[rate.value] : Number(metric.value.split("@")[1]);
    const t = plain() ? 2 * Math.abs(v - 0.5) : floor < 1 ? Math.max(0, Math.log(Math.max(v, floor) / floor) / Math.log(1 / floor)) : 0;
    const hue = plain() && v < 0.5 ? "var(--mia-below)" : "var(--mia-hue)";
    const share = Math.round(88 * Math.min(1, t));
    return `background:color-mix(in oklab, ${hue} ${share}%, var(--mia-page));color:${share > 50 ? "var(--mia-page)" : "inherit"}`;
  }

  const short = (v) => (v === null ? "n/a" : plain() ? v.toFixed(2).replace(/^0/, "") : (100 * v).toFixed(v < 0.0995 ? 1 : 0));
  const long = (v) => (plain() ? v.toFixed(3) : percent(v));

  function order(names, by, of) {
    if (!by) return names;
    const key = (name) => { const v = of(name); return v === null || v[0] === null ? -Infinity : v[0]; };
    return [...names].sort((a, b) => (key(b) - key(a)) * by[1]);
  }

  function say(defense, attack) {
    const cell = set().cells[defense]?.[attack], v = value(defense, attack);
    const who = `${words(attack)} against ${words(defense)}, ${words(data.value)}`;
    if (v === null) {
      const why = set().missing.find((m) => m.defense === defense && (m.attack === attack || m.attack === "all"));
      return `${who}: not measured. ${why ? why.reason : ""}`;
    }
    const title = moving() ? `TPR at ${percent(grid()[rate.value])} FPR` : metric.selectedOptions[0].text;
    const n = `${cell.n_member} members and ${cell.n_nonmember} others of ${set().models} targets`;
    if (v[0] === null) return `${who}: ${title} is not resolvable with ${n}.`;
    const ends = v[1] === null ? "" : ` [${long(v[1])}, ${long(v[2])}]`;
    const problem = set().defenses[defense].problem;
    return `${who}: ${title} ${long(v[0])}${ends}; ${n}.${problem ? ` Training: ${problem}.` : ""}`;
  }

  function draw() {
    part("rate-shown").textContent = grid().length ? percent(grid()[rate.value]) : "";
    rate.disabled = !moving();
    const groups = KINDS.filter((k) => !kind.value || k === kind.value);
    const attacks = groups.flatMap((k) => order(Object.keys(set().attacks).filter((a) => set().attacks[a].sees === k), columns, (a) => value(columns[0], a)));
    const lost = set().missing.filter((m) => m.attack === "all").map((m) => m.defense);
    const defenses = order([...new Set([...Object.keys(set().defenses), ...lost])], rows && attacks.includes(rows[0]) ? rows : null, (d) => value(d, rows[0]));
    const starts = (i) => i > 0 && set().attacks[attacks[i]].sees !== set().attacks[attacks[i - 1]].sees;
    const kinds = document.createElement("tr"), head = document.createElement("tr");
    const corner = document.createElement("td");
    corner.rowSpan = 2;
    kinds.append(corner);
    for (const k of groups) {
      const n = attacks.filter((a) => set().attacks[a].sees === k).length;
      if (!n) continue;
      const th = document.createElement("th");
      th.scope = "colgroup"; th.colSpan = n; th.textContent = k;
      if (kinds.cells.length > 1) th.classList.add("mia-new");
      kinds.append(th);
    }
    attacks.forEach((attack, i) => head.append(button("col", attack, rows, starts(i), () => { rows = turn(rows, attack); draw(); })));
    table.tHead.replaceChildren(kinds, head);
    table.tBodies[0].replaceChildren(...defenses.map((defense, i) => {
      const row = document.createElement("tr");
      row.append(button("row", defense, columns, false, () => { columns = turn(columns, defense); draw(); }));
      attacks.forEach((attack, j) => {
        const cell = document.createElement("td"), v = value(defense, attack);
        cell.tabIndex = i === at[0] && j === at[1] ? 0 : -1;
        if (starts(j)) cell.classList.add("mia-new");
        if (v === null) cell.classList.add("mia-absent");
        else { const span = document.createElement("span"); span.textContent = short(v[0]); span.style.cssText = shade(v[0]); cell.append(span); }
        cell.dataset.defense = defense; cell.dataset.attack = attack;
        const tell = () => { told.textContent = say(defense, attack); };
        cell.addEventListener("mouseenter", tell);
        cell.addEventListener("focus", () => { at = [i, j]; tell(); });
        cell.addEventListener("click", () => cell.focus());
        row.append(cell);
      });
      return row;
    }));
    if (!told.textContent) told.textContent = `${defenses.length} defenses against ${attacks.length} attacks; ${set().members} members a model, ${set().models} models a defense.`;
  }

  function turn(by, name) { return by && by[0] === name ? (by[1] === 1 ? [name, -1] : null) : [name, 1]; }

  function button(scope, name, by, isNew, call) {
    const th = document.createElement("th"), b = document.createElement("button");
    th.scope = scope; b.type = "button"; b.textContent = words(name); b.title = words(name);
    if (isNew) th.classList.add("mia-new");
    if (by && by[0] === name) th.setAttribute("aria-sort", by[1] === 1 ? "descending" : "ascending");
    b.addEventListener("click", () => { call(); root.querySelector(`th[scope="${scope}"] button[title="${CSS.escape(words(name))}"]`)?.focus(); });
    th.append(b);
    return th;
  }

  table.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step || event.target.tagName !== "TD") return;
    event.preventDefault();
    const line = table.tBodies[0].rows[at[0] + step[0]], next = line?.cells[at[1] + step[1] + 1];
    if (next?.tagName !== "TD") return;
    event.target.tabIndex = -1; next.tabIndex = 0; next.focus();
  });
  data.replaceChildren(...Object.keys(all).map((name) => option(name, words(name))));
  data.addEventListener("change", () => { rows = columns = null; at = [0, 0]; told.textContent = ""; fill(); draw(); });
  for (const control of [metric, kind]) control.addEventListener("change", () => { at = [0, 0]; told.textContent = ""; draw(); });
  rate.addEventListener("input", draw);
  fill();
  rate.value = Math.max(0, grid().findIndex((r) => r >= 0.01));
  draw();
})();
