"use strict";
// Shows what the table has no room for. The address names what is shown: #/RULE, or #/RULE/KERNEL's place.
const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);

// Texts are only ever text: much of this comes from a guest.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
const mark = (verdict) => make("span", { class: "mark", "data-verdict": verdict }, verdict);
const pre = (text) => make("pre", {}, text);
function fold(title, content, open = false) {
  const details = make("details", {}, make("summary", {}, title), content);
  details.open = open;
  return details;
}
function difference(text) {
  const kinds = { "+": "plus", "-": "minus", "@": "part" };
  const line = (text) => make("span", { class: "line " + (kinds[text[0]] ?? "") }, text);
  return make("pre", { class: "difference" }, ...text.trimEnd().split("\n").map(line));
}

// The table.
const rows = [...get("rules").rows];
const words = data.rules.map((rule) =>
  [rule.id, rule.law, ...rule.cases.flatMap((at) => [data.cases[at].path, data.cases[at].title])].join("\n").toLowerCase());

function filter() {
  const wanted = get("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [group, verdict, differs] = [get("group").value, get("verdict").value, get("differs").checked];
  let shown = 0;
  data.rules.forEach((rule, at) => {
    const fits = wanted.every((word) => words[at].includes(word))
      && (!group || rule.group === group)
      && (!verdict || hasVerdict(rule, verdict))
      && (!differs || rule.differs);
    rows[at].hidden = !fits;
    shown += fits;
  });
  get("shown").textContent = shown === rows.length ? `${shown} rules` : `${shown} of ${rows.length} rules`;
}
const ended = (one, run) => (run ? one.seen[run.seen].verdict : "not run");
// Of any of its cases on any kernel.
function hasVerdict(rule, verdict) {
  return rule.cases.some((at) => data.cases[at].runs.some((run) => ended(data.cases[at], run) === verdict));
}

// How two neighbours differ in a case: `at` is the place of the first.
function change(one, at) {
  const [before, after] = [one.runs[at], one.runs[at + 1]];
  const [from, to] = [data.kernels[at], data.kernels[at + 1]];
  const silent = [[before, from], [after, to]].filter(([run]) => !run || !one.seen[run.seen].transcript);
  if (silent.length) {
    const why = ([run, name]) => `${ended(one, run)} on ${name}${run?.reason ? `: ${run.reason}` : ""}`;
    return make("p", {}, silent.map(why).join("; "));
  }
  const verdicts = [before, after].map((run) => ended(one, run));
  const head = verdicts[0] === verdicts[1] ? [] : [make("p", {}, mark(verdicts[0]), " → ", mark(verdicts[1]))];
  return make("div", {}, ...head, one.changes[at] ? difference(one.changes[at]) : make("p", {}, "The transcripts are the same."));
}
const same = (one, at) => one.runs[at]?.seen === one.runs[at + 1]?.seen;

// One rule: its law, which kernels behave alike, its cases.
function showRule(rule) {
  const history = make("ol", { class: "history" }, ...data.kernels.map((name, at) => {
    const cell = rule.cells[at];
    const item = make("li", at && cell.alike === rule.cells[at - 1].alike ? { class: "same" } : {});
    item.append(make("a", { href: `#/${rule.id}/${at}` }, `${name} `, mark(cell.verdict), make("b", {}, ` ${cell.alike}`)));
    return item;
  }));
  const alike = new Map();
  rule.cells.forEach((cell, at) => alike.set(cell.alike, [...(alike.get(cell.alike) ?? []), data.kernels[at]]));
  const groups = [...alike].map(([letter, kernels]) => `${letter}: ${kernels.join(", ")}`).join(" · ");
  const changes = data.kernels.slice(1).flatMap((name, at) => {
    const changed = rule.cases.map((place) => data.cases[place]).filter((one) => !same(one, at));
    if (!changed.length) return [];
    const title = `${data.kernels[at]} → ${name}: ${changed.length} of ${rule.cases.length} cases`;
    const folds = changed.map((one) => fold(one.path, change(one, at), changed.length === 1));
    return [fold(title, make("div", {}, ...folds), true)];
  });
  const cases = rule.cases.map((place) => {
    const one = data.cases[place];
    return fold(`${one.path}: ${one.title}`, pre(one.text));
  });
  return [
    make("p", { id: "law" }, rule.law || "The law of this rule is not known here."),
    make("h3", {}, "Across kernels"), history,
    make("p", { class: "legend" }, rule.differs ? `Alike: ${groups}` : "All kernels behave alike."), ...changes,
    make("h3", {}, "Cases"), ...cases,
  ];
}

// One rule on one kernel: what it did in each case, and how that differs from its neighbour.
function showCell(rule, kernel) {
  const tabs = make("nav", { "aria-label": "kernels" }, make("a", { href: `#/${rule.id}` }, "all kernels"),
    ...data.kernels.map((name, at) =>
      make("a", { href: `#/${rule.id}/${at}`, ...(at === kernel ? { "aria-current": "true" } : {}) }, name)));
  const parts = rule.cases.flatMap((place) => {
    const one = data.cases[place];
    const run = one.runs[kernel];
    const parts = [make("h3", {}, one.path), make("p", {}, mark(ended(one, run)), ` ${one.title}`)];
    if (run?.failure) parts.push(pre(run.failure));
    else if (run?.reason) parts.push(make("p", {}, run.reason));
    if (run?.complaints) parts.push(fold("What the kernel complained of", pre(run.complaints), true));
    parts.push(fold("The case", pre(one.text)));
    if (run && one.seen[run.seen].transcript) parts.push(fold("Transcript", pre(one.seen[run.seen].transcript), true));
    if (data.kernels.length > 1) {
      const first = Math.max(kernel - 1, 0);
      const [from, to] = [data.kernels[first], data.kernels[first + 1]];
      if (same(one, first)) parts.push(make("p", { class: "legend" }, `Same on ${from} and ${to}.`));
      else parts.push(fold(`Difference ${from} → ${to}`, change(one, first), true));
    }
    return parts;
  });
  return [tabs, ...parts];
}

function route() {
  const [, id, kernel] = decodeURIComponent(location.hash).match(/^#\/([^/]+)(?:\/(\d+))?$/) ?? [];
  const rule = data.rules.find((rule) => rule.id === id);
  const panel = get("panel");
  if (!rule || Number(kernel) >= data.kernels.length) return panel.close();
  get("panel-title").textContent = kernel === undefined ? rule.id : `${rule.id} on ${data.kernels[kernel]}`;
  get("panel-body").replaceChildren(...(kernel === undefined ? showRule(rule) : showCell(rule, Number(kernel))));
  if (!panel.open) panel.showModal();
  panel.scrollTop = 0;
}

get("filters").hidden = false;
get("filters").addEventListener("input", filter);
get("filters").addEventListener("submit", (event) => event.preventDefault());
get("close").addEventListener("click", () => get("panel").close());
// Closed by hand: what is shown has no address any more.
get("panel").addEventListener("close", () => history.replaceState(null, "", location.pathname + location.search));
window.addEventListener("hashchange", route);
route();
