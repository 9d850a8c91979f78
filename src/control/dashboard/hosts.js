// The table of hosts, a page at a time. The server searches, sorts and counts; this file holds only
// what is shown. In order of name it has all rules, page by page; in any other order, only the
// hosts that come first.

// `starts` has, for each page up to this one, the name after which the page begins. It is needed to
// go back.
const view = { search: "", action: "", sort: "", filter: "", limit: 50, starts: [""] };
const page = { etag: null, matched: 0 };
const rows = new Map(); // name → its row, in the order shown
const selected = new Set();
let loading = null;

const relisten = later(250, listen);
const loadSoon = atMostEach(1000, load);

// Order in which the hosts of each filter come first.
const ORDER_OF = { failing: "errors", held: "held", down: "errors", limited: "limited" };
const isRanked = () => view.sort !== "" || view.filter !== "";

// Loads the table and shows it. Returns false after an error, or if a later request took its place.
async function load() {
  loading?.abort();
  const mine = (loading = new AbortController());
  $("rows").setAttribute("aria-busy", "true");
  try {
    const show = await (isRanked() ? ranked(mine.signal) : byName(mine.signal));
    if (mine !== loading) return false;
    show();
    return true;
  } catch (error) {
    if (mine !== loading) return false;
    showResult(`The table can't be read: ${error.message}.`, true);
    if (error.status === 401) lost(error);
    return false;
  } finally {
    if (mine === loading) $("rows").removeAttribute("aria-busy");
  }
}

async function byName(signal) {
  const query = new URLSearchParams({ limit: view.limit });
  for (const name of ["search", "action"]) if (view[name]) query.set(name, view[name]);
  if (view.starts.at(-1)) query.set("after", view.starts.at(-1));
  const answer = await call("GET", `hostname/?${query}`, { signal });
  const rules = await answer.json();
  return () => {
    page.etag = answer.headers.get("ETag");
    showPage(rules, answer.headers);
  };
}

async function ranked(signal) {
  const sort = view.sort || ORDER_OF[view.filter];
  const query = new URLSearchParams({ sort, limit: view.limit });
  for (const name of ["search", "action", "filter"]) if (view[name]) query.set(name, view[name]);
  const answer = await call("GET", `stats/?${query}`, { signal });
  const stats = new Map(Object.entries(await answer.json()));
  // JSON.parse puts names that look like numbers first; all others keep the server's order.
  const names = [...stats.keys()];
  const rules = await rulesOf(names, signal);
  return () => {
    const matched = Number(answer.headers.get("Mantrid-Matched"));
    const first = matched > names.length ? `the first ${whole.format(names.length)} of ` : "";
    showResult(`${first}${HOSTS_OF[view.filter](matched)}, by ${ORDERS[sort]}`);
    showRows(names, rules, stats);
    $("empty").hidden = names.length > 0;
    say($("empty"), view.filter === "" ? "No host matches." : `There are ${HOSTS_OF[view.filter](0)}.`);
    say($("range"), "");
    for (const id of ["first", "back", "next"]) $(id).disabled = true;
  };
}

const HOSTS_OF = {
  "": (n) => plural(n, "host"),
  failing: (n) => plural(n, "failing host"),
  held: (n) => `${plural(n, "host")} with held requests`,
  down: (n) => `${plural(n, "host")} with a backend down`,
  limited: (n) => plural(n, "limited host"),
};
const ORDERS = {
  requests: "requests per second", errors: "errors per second", latency: "latency",
  bytes: "bytes per second", open: "open requests", held: "held requests",
  limited: "requests turned away per second",
};

const isUnreached = (name, at) => down.has(at) || failing.has(`${name} ${at}`);

// ---- Rules of hosts that were not listed with them

const knownRules = new Map();

const hostsQuery = (names) => new URLSearchParams(names.map((name) => ["host", name]));

async function rulesOf(names, signal) {
  if (knownRules.size > 2000) knownRules.clear();
  const missing = names.filter((name) => !knownRules.has(name));
  if (missing.length > 0) {
    const answer = await call("GET", `hostname/?${hostsQuery(missing)}`, { signal });
    for (const [name, rule] of Object.entries(await answer.json())) knownRules.set(name, rule);
  }
  return new Map(names.map((name) => [name, knownRules.get(name) ?? null]));
}

function showResult(text, isError = false) {
  say($("result"), text);
  $("result").className = isError ? "error" : "";
}

function showPage(listed, headers) {
  // JSON.parse puts names that look like numbers first, but the table is sorted by bytes.
  const names = Object.keys(listed).sort();
  if (names.length === 0 && view.starts.length > 1) {
    turn(-1);
    return;
  }
  const all = Number(headers.get("Mantrid-Rules"));
  page.matched = Number(headers.get("Mantrid-Matched"));
  const filtered = view.search !== "" || view.action !== "";
  const found = filtered ? `${whole.format(page.matched)} of ` : "";
  showResult(`${found}${plural(all, "rule")}${filtered ? " match" : ""}`);
  showRows(names, new Map(names.map((name) => [name, listed[name]])), new Map());
  $("empty").hidden = names.length > 0;
  const none = "There is no rule yet: every request gets the no-hosts page.";
  say($("empty"), filtered ? "No rule matches." : none);
  const from = (view.starts.length - 1) * view.limit;
  const to = from + names.length;
  const range = `${whole.format(from + 1)}–${whole.format(to)} of ${whole.format(page.matched)}`;
  say($("range"), names.length > 0 ? range : "");
  $("first").disabled = $("back").disabled = view.starts.length === 1;
  $("next").disabled = to >= page.matched || names.length < view.limit;
}

function showRows(names, rules, stats) {
  const shown = [...rows.keys()];
  const isSame = names.length === shown.length && names.every((name, at) => name === shown[at]);
  if (!isSame) {
    const focused = document.activeElement?.closest("#rows :is(a, button, input)");
    const known = new Map(rows);
    rows.clear();
    for (const name of names) rows.set(name, known.get(name) ?? makeRow(name));
    $("rows").replaceChildren(...[...rows.values()].map((row) => row.tr));
    if (focused?.isConnected) focused.focus();
    else {
      activate($("rows").firstElementChild);
      if (focused) (firstName() ?? $("search")).focus();
    }
    relisten();
    askMinutes();
  }
  // With few hosts the other panels stand below them, so that no column is half empty.
  $("list").classList.toggle("few", names.length < 9);
  for (const [name, row] of rows) {
    row.tr.classList.remove("gone");
    showRule(row, rules.get(name) ?? null);
    showNumbers(row, stats.get(name) ?? {});
  }
  if (!$("rows").querySelector("tr[data-active]")) activate($("rows").firstElementChild);
  showSelection();
}

const seconds = (n) => (n >= 99.95 ? `${(n / 60).toFixed(0)} min`
  : n >= 0.9995 ? `${n.toFixed(1)} s` : n >= 0.00995 ? `${(n * 1000).toFixed(0)} ms`
    : `${(n * 1000).toFixed(1)} ms`);
const known = (value, format) => ((value ?? null) === null ? "–" : format(value));
const optional = (format) => (value) => known(value, format);

const NUMBERS = [
  ["Req/s", (c) => c.requests_per_second, rate],
  ["Err/s", (c) => c.errors_per_second ?? null, optional(rate)],
  ["p95", (c) => c.p95 ?? null, optional(seconds)],
  ["Bytes/s", (c) => c.bytes_sent_per_second + c.bytes_received_per_second, bytes],
  ["Limited/s", (c) => c.limited_per_second ?? null, optional(rate)],
  ["Open", (c) => c.open_requests, count],
  ["Held", (c) => c.held_requests, count],
];

function makeRow(name) {
  const cell = (className, ...children) => make("td", { className, role: "cell" }, ...children);
  const button = (deed, text, label) => {
    const node = make("button", { type: "button", textContent: text, tabIndex: -1 });
    node.ariaLabel = label;
    node.dataset.deed = deed;
    return node;
  };
  const pick = make("input", { type: "checkbox", tabIndex: -1, ariaLabel: `Select ${name}` });
  const open = make("a", { href: hostLink(name), textContent: name, tabIndex: -1 });
  const chip = make("span", { className: "chip", textContent: "+sub" });
  chip.title = "and its subdomains";
  const [kind, space] = [make("span", { className: "kind" }), " "];
  const target = make("span", { className: "aim" });
  const spin = button("spin", "Spin", "");
  const title = cell("name", open, chip);
  const does = cell("does", kind, space, target);
  const numbers = NUMBERS.map(([label]) => {
    const node = cell(`number zero ${label.replace("/", "-").toLowerCase()}`, "–");
    node.dataset.label = label;
    return node;
  });
  const remove = button("delete", "Delete", `Delete the rule of ${name}`);
  remove.className = "delete";
  const deeds = cell("deeds", button("edit", "Edit", `Edit the rule of ${name}`), spin, remove);
  const tr = make("tr", { role: "row" }, cell("pick", pick), title, does, ...numbers, deeds);
  tr.dataset.host = name;
  return { name, tr, pick, title, chip, kind, target, does, numbers, spin, deeds, rule: null,
    counters: {} };
}

function showRule(row, rule = row.rule) {
  row.rule = rule;
  knownRules.set(row.name, rule);
  row.deeds.classList.toggle("none", rule === null);
  if (rule === null) {
    say(row.kind, row.name === "unknown" ? "" : "no rule");
    say(row.target, row.name === "unknown" ? "requests that no rule matches" : "");
    row.chip.hidden = true;
    return;
  }
  const [action, , subdomains] = rule;
  say(row.kind, action);
  row.kind.dataset.action = action;
  const unreached = down.size + failing.size > 0 && action === "proxy"
    ? targetsOf(rule).filter((at) => isUnreached(row.name, at)).length : 0;
  say(row.target, `${aim(rule)}${unreached > 0 ? `, ${unreached} down` : ""}`);
  row.does.title = `${action} ${action === "proxy" ? targetsOf(rule).join(", ") : aim(rule)}`;
  row.does.classList.toggle("down", unreached > 0);
  row.chip.hidden = !subdomains;
  const spins = action === "spin";
  row.spin.dataset.deed = spins ? "flip" : "spin";
  say(row.spin, spins ? "Flip" : "Spin");
  row.spin.ariaLabel = spins ? `Flip ${row.name} back` : `Spin ${row.name}: hold its requests`;
}

function showNumbers(row, counters) {
  Object.assign(row.counters, counters);
  for (const [index, [, value, format]] of NUMBERS.entries()) {
    const node = row.numbers[index];
    const now = value(row.counters);
    const text = format(now === null ? null : now || 0);
    if (node.textContent === text) continue;
    node.textContent = text;
    node.classList.toggle("zero", !(now > 0));
  }
}

// Called at each tick of the stream. A host without a request so far has no counters.
function showTraffic(hosts) {
  for (const row of rows.values()) {
    if (Object.hasOwn(hosts, row.name)) showNumbers(row, hosts[row.name]);
  }
}

// A tick has no errors, latency and limits of the last minute. In order of name they are asked for
// here, for all rows at once. In any other order they come with the table.
let isAsking = false;
async function askMinutes() {
  const isLive = $("light").dataset.state === "live";
  if (document.hidden || $("list").hidden || isRanked() || isAsking || rows.size === 0 || !isLive) return;
  isAsking = true;
  try {
    const answer = await call("GET", `stats/?${hostsQuery([...rows.keys()])}`);
    for (const [name, counters] of Object.entries(await answer.json())) {
      const { errors_per_second, p95, limited_per_second } = counters;
      const row = rows.get(name);
      if (row) showNumbers(row, { errors_per_second, p95, limited_per_second });
    }
  } catch {
    // The stream shows that the connection is lost.
  } finally {
    isAsking = false;
  }
}
setInterval(askMinutes, 2000);

// In an order that changes, rows move only while nobody uses one of them.
setInterval(() => {
  const isBusy = document.hidden || $("list").hidden || $("change").open || selected.size > 0
    || $("rows").matches(":hover, :focus-within") || loading?.signal.aborted === false
    && $("rows").hasAttribute("aria-busy");
  if (isRanked() && !isBusy && $("light").dataset.state === "live") load();
}, 3000);

function onChange(change) {
  page.etag = change.etag;
  const hosts = Object.entries(change.hosts ?? {});
  if (change.hosts === undefined) knownRules.clear();
  for (const [name, rule] of hosts) knownRules.set(name, rule);
  noteEvent("change", change);
  say(TILES.at(-1).under, `changed ${clock(new Date())}`);
  onHostChange(change);
  // Rules that are shown change in place. The page is loaded again if it now has other names.
  let differs = change.hosts === undefined;
  const last = [...rows.keys()].at(-1) ?? "";
  for (const [name, rule] of hosts) {
    const row = rows.get(name);
    const fits = rule && (!view.action || rule[0] === view.action);
    if (row && rule) showRule(row, rule);
    row?.tr.classList.toggle("gone", rule === null);
    const belongs = name > view.starts.at(-1) && (rows.size < view.limit || name < last);
    // The daemon searches more than names, so only it can say what a search finds.
    differs ||= isRanked() ? Boolean(row) && !rule
      : view.search !== "" || (row ? !fits : fits && belongs);
  }
  if (differs) loadSoon();
}

// ---- Search, order and pages

const KEPT = ["search", "action", "sort", "filter"];

function listHash() {
  const kept = new URLSearchParams();
  for (const name of KEPT) if (view[name]) kept.set(name, view[name]);
  return `#${kept}`;
}

function restart() {
  view.starts = [""];
  // A reload, or a link sent to a colleague, is to show the same.
  history.replaceState(null, "", listHash());
  showOrder();
  load();
}

// Takes over the view from an address, without loading the table.
function readView(wanted) {
  view.search = (wanted.get("search") ?? "").trim().toLowerCase();
  if ($("search").value.trim().toLowerCase() !== view.search) $("search").value = view.search;
  for (const name of KEPT.slice(1)) {
    $(name).value = wanted.get(name) ?? "";
    if ($(name).selectedIndex < 0) $(name).value = ""; // an unknown value counts as none
    view[name] = $(name).value;
  }
  view.starts = [""];
  showOrder();
}

function showOrder() {
  const sort = view.sort || ORDER_OF[view.filter] || "";
  // The column of limits takes the place of another one.
  $("list").classList.toggle("by-limits", sort === "limited" || view.filter === "limited");
  for (const th of $("heads").querySelectorAll("[data-sort]")) {
    const isBy = th.dataset.sort === sort;
    if (isBy) th.ariaSort = sort === "" ? "ascending" : "descending";
    else th.removeAttribute("aria-sort");
  }
}

function turn(by) {
  if (by > 0) view.starts.push([...rows.keys()].at(-1));
  else view.starts = view.starts.slice(0, by === 0 ? 1 : -1);
  load();
}

function search(text) {
  $("search").value = text;
  view.search = text.trim().toLowerCase();
  restart();
}

$("search").addEventListener("input", later(200, () => search($("search").value)));
for (const name of KEPT.slice(1)) {
  $(name).addEventListener("change", () => {
    view[name] = $(name).value;
    restart();
  });
}
$("limit").addEventListener("change", () => {
  view.limit = Number($("limit").value);
  restart();
});
$("first").addEventListener("click", () => turn(0));
$("back").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));

for (const th of $("heads").querySelectorAll("[data-sort]")) {
  const by = make("button", { type: "button", className: "by", textContent: th.textContent });
  by.addEventListener("click", () => {
    view.sort = $("sort").value = th.dataset.sort;
    restart();
  });
  th.replaceChildren(by);
}

// ---- Keys: one row at a time is in the tab order, arrows choose which

const CONTROLS = "a, button, input";

function activate(tr) {
  const before = $("rows").querySelector("tr[data-active]");
  for (const [row, index] of [[before, -1], [tr, 0]]) {
    for (const control of row?.querySelectorAll(CONTROLS) ?? []) control.tabIndex = index;
  }
  if (before) delete before.dataset.active;
  if (tr) tr.dataset.active = "";
}

$("rows").addEventListener("focusin", (event) => activate(event.target.closest("tr")));

$("rows").addEventListener("keydown", (event) => {
  const tr = event.target.closest("tr");
  const next = {
    ArrowDown: tr.nextElementSibling,
    ArrowUp: tr.previousElementSibling ?? $("search"),
    Home: $("rows").firstElementChild,
    End: $("rows").lastElementChild,
  }[event.key];
  if (!next) return;
  event.preventDefault();
  const column = [...tr.querySelectorAll(CONTROLS)].indexOf(event.target);
  (next.querySelectorAll(CONTROLS)[column] ?? next).focus();
});

const firstName = () => $("rows").querySelector("tr[data-active] .name a");

$("search").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "Enter") return;
  event.preventDefault();
  firstName()?.focus();
});

document.addEventListener("keydown", (event) => {
  const types = event.target.closest?.("input:not([type=checkbox]), textarea, dialog");
  if (types || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && $("list").hidden) location.hash = listHash();
  if (event.key !== "/") return;
  event.preventDefault();
  if ($("list").hidden) location.hash = listHash();
  showPart("list");
  $("search").focus();
  $("search").select();
});
