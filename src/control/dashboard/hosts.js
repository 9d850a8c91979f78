// The table of hosts, a page at a time: the server searches and counts, this holds what is shown.

// `starts` has, for each page up to this one, the name it comes after: the way back.
const view = { search: "", action: "", limit: 50, starts: [""] };
const page = { etag: null, matched: 0 };
const rows = new Map(); // name → what is shown of it, in the order shown
let loading = null;

const relisten = later(250, listen);
const loadSoon = atMostEach(1000, load);

async function load() {
  loading?.abort();
  const mine = (loading = new AbortController());
  const query = new URLSearchParams({ limit: view.limit });
  for (const name of ["search", "action"]) if (view[name]) query.set(name, view[name]);
  if (view.starts.at(-1)) query.set("after", view.starts.at(-1));
  $("rows").setAttribute("aria-busy", "true");
  try {
    const answer = await call("GET", `hostname/?${query}`, { signal: mine.signal });
    const rules = await answer.json();
    if (mine !== loading) return;
    page.etag = answer.headers.get("ETag");
    showPage(rules, answer.headers);
  } catch (error) {
    if (mine !== loading) return;
    showResult(`The table can't be read: ${error.message}.`, true);
    if (error.status === 401) lost(error);
  } finally {
    if (mine === loading) $("rows").removeAttribute("aria-busy");
  }
}

function showResult(text, isError = false) {
  say($("result"), text);
  $("result").className = isError ? "error" : "";
}

function showPage(rules, headers) {
  // JSON.parse puts names that look like numbers first; the table's order is that of bytes.
  const names = Object.keys(rules).sort();
  if (names.length === 0 && view.starts.length > 1) {
    turn(-1);
    return;
  }
  const all = Number(headers.get("Mantrid-Rules"));
  page.matched = Number(headers.get("Mantrid-Matched"));
  const filtered = view.search !== "" || view.action !== "";
  const found = filtered ? `${whole.format(page.matched)} of ` : "";
  showResult(`${found}${plural(all, "rule")}${filtered ? " match" : ""}`);
  showRows(names, rules);
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

function showRows(names, rules) {
  const shown = [...rows.keys()];
  const isSame = names.length === shown.length && names.every((name, at) => name === shown[at]);
  if (!isSame) {
    const focused = document.activeElement?.closest("#rows button");
    const known = new Map(rows);
    rows.clear();
    for (const name of names) rows.set(name, known.get(name) ?? makeRow(name));
    $("rows").replaceChildren(...[...rows.values()].map((row) => row.tr));
    if (focused?.isConnected) focused.focus();
    else if (focused) $("search").focus();
    relisten();
  }
  for (const [name, row] of rows) {
    row.tr.classList.remove("gone");
    showRule(row, rules[name]);
  }
  activate($("rows").querySelector("tr[data-active]") ?? $("rows").firstElementChild);
}

const NUMBERS = [
  ["Req/s", (c) => c.requests_per_second, rate],
  ["Bytes/s", (c) => c.bytes_sent_per_second + c.bytes_received_per_second, bytes],
  ["Completed", (c) => c.completed_requests, total],
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
  const open = button("edit", name, `Edit ${name}`);
  open.title = name;
  const chip = make("span", { className: "chip", textContent: "+sub" });
  chip.title = "and its subdomains";
  const [kind, space] = [make("span", { className: "kind" }), " "];
  const target = make("span", { className: "aim" });
  const spin = button("spin", "Spin", "");
  const title = cell("name", open, chip);
  const does = cell("does", kind, space, target);
  const numbers = NUMBERS.map(([label]) => {
    const node = cell(`number zero${label === "Held" ? " held" : ""}`, "–");
    node.dataset.label = label;
    return node;
  });
  const deeds = cell("deeds", button("edit", "Edit", `Edit the rule of ${name}`), spin,
    button("delete", "Delete", `Delete the rule of ${name}`));
  const tr = make("tr", { role: "row" }, title, does, ...numbers, deeds);
  tr.dataset.host = name;
  return { name, tr, title, chip, kind, target, does, numbers, spin, rule: null };
}

function showRule(row, rule = row.rule) {
  row.rule = rule;
  const [action, given, subdomains] = rule;
  say(row.kind, action);
  row.kind.dataset.action = action;
  const isDown = (backend) => down.has(backend) || failing.has(`${row.name} ${backend}`);
  const unreached = down.size + failing.size > 0 && action === "proxy"
    ? backendsOf(given).filter(isDown).length : 0;
  say(row.target, `${aim(rule)}${unreached > 0 ? `, ${unreached} down` : ""}`);
  row.does.title = `${action} ${action === "proxy" ? backendsOf(given).join(", ") : aim(rule)}`;
  row.does.classList.toggle("down", unreached > 0);
  row.chip.hidden = !subdomains;
  row.title.classList.toggle("also", subdomains);
  const spins = action === "spin";
  row.spin.dataset.deed = spins ? "flip" : "spin";
  say(row.spin, spins ? "Flip" : "Spin");
  row.spin.ariaLabel = spins ? `Flip ${row.name} back` : `Spin ${row.name}: hold its requests`;
}

// Each tick of the stream. A host that was never hit has no counters.
function showTraffic(hosts) {
  for (const row of rows.values()) {
    const counters = Object.hasOwn(hosts, row.name) ? hosts[row.name] : {};
    for (const [index, [, value, format]] of NUMBERS.entries()) {
      const [node, now] = [row.numbers[index], value(counters) || 0];
      const text = format(now);
      if (node.textContent === text) continue;
      node.textContent = text;
      node.classList.toggle("zero", now === 0);
    }
  }
}

function onChange(change) {
  page.etag = change.etag;
  const hosts = Object.entries(change.hosts ?? {});
  const texts = hosts.slice(0, 3).map(([name, rule]) =>
    rule ? `${name}: ${rule[0]} ${aim(rule)}` : `${name}: deleted`);
  const others = change.changed - texts.length;
  if (others > 0) texts.push(`${texts.length > 0 ? "and " : ""}${plural(others, "rule")}`);
  note(texts.join("; "), `${change.verb} by ${change.who}`);
  say(TILES.at(-1).under, `changed ${clock(new Date())}`);
  // Rules that are shown change in place; the page is asked for again if it has other names now.
  let differs = change.hosts === undefined;
  const last = [...rows.keys()].at(-1) ?? "";
  for (const [name, rule] of hosts) {
    const row = rows.get(name);
    const fits = rule && name.includes(view.search) && (!view.action || rule[0] === view.action);
    if (row && rule) showRule(row, rule);
    row?.tr.classList.toggle("gone", rule === null);
    const belongs = name > view.starts.at(-1) && (rows.size < view.limit || name < last);
    differs ||= row ? !fits : fits && belongs;
  }
  if (differs) loadSoon();
}

// ---- Search and pages

function restart() {
  view.starts = [""];
  const kept = new URLSearchParams();
  for (const name of ["search", "action"]) if (view[name]) kept.set(name, view[name]);
  // So that a reload, or a link sent to a colleague, shows the same.
  history.replaceState(null, "", `#${kept}`);
  load();
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
$("action").addEventListener("change", () => {
  view.action = $("action").value;
  restart();
});
$("limit").addEventListener("change", () => {
  view.limit = Number($("limit").value);
  restart();
});
$("first").addEventListener("click", () => turn(0));
$("back").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));

// ---- Keys: one row at a time is in the tab order, arrows choose which

function activate(tr) {
  const before = $("rows").querySelector("tr[data-active]");
  for (const [row, index] of [[before, -1], [tr, 0]]) {
    for (const button of row?.querySelectorAll("button") ?? []) button.tabIndex = index;
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
  const column = [...tr.querySelectorAll("button")].indexOf(event.target);
  (next.querySelectorAll("button")[column] ?? next).focus();
});

$("search").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" && event.key !== "Enter") return;
  event.preventDefault();
  $("rows").querySelector("tr[data-active] button")?.focus();
});

document.addEventListener("keydown", (event) => {
  const types = event.target.closest?.("input, textarea, dialog");
  if (event.key !== "/" || types || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  $("search").focus();
  $("search").select();
});
