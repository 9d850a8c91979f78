// The page of a host: its problems, its last hour, its backends, held requests, last changes and
// rule, and the actions on it.

const SLOW_SECONDS = 1;
const CHANGES_SHOWN = 20;
const HELD_SHOWN = 100;

// Host that is shown. `counters` are the newest ones, `before` those of the tick before.
let shown = null;

function openHost(name) {
  if (shown?.name === name) return;
  shown = {
    name, rule: undefined, which: null, counters: {}, before: null, changes: null, held: null,
    charts: {
      traffic: new Chart("Requests per second", rate, ["requests", "errors"]),
      codes: new Chart("Responses per second", rate, ["2xx", "3xx", "4xx", "5xx"]),
      latency: new Chart("Latency", seconds, ["p50", "p95", "p99"]),
      open: new Chart("Requests under way", count, ["open", "held"]),
    },
  };
  say($("host-title"), name);
  say($("host-said"), "");
  $("host-charts").replaceChildren(...Object.values(shown.charts).map(({ node }) => node));
  for (const id of ["host-wrong", "host-backends", "host-changes", "host-held", "host-numbers",
    "host-rule", "host-deeds", "host-last"]) $(id).replaceChildren();
  say($("host-does"), "");
  relisten();
  readHistory(`host=${encodeURIComponent(name)}`, shown, ({ time, ...columns }) => {
    const { traffic, codes, latency, open } = shown.charts;
    const at = (column, index) => columns[column]?.[index] ?? null;
    for (const [index, then] of time.entries()) {
      traffic.add(then, [at("requests_per_second", index), at("errors_per_second", index)]);
      codes.add(then, CLASSES.map((name) => columns.answers_per_second?.[name]?.[index] ?? null));
      latency.add(then, PERCENTILES.map((name) => at(name, index)));
      open.add(then, [at("open_requests", index), at("held_requests", index)]);
    }
  });
  refreshHost(true);
}

const CLASSES = ["2xx", "3xx", "4xx", "5xx"];
const PERCENTILES = ["p50", "p95", "p99"];

function leaveHost() {
  if (shown === null) return;
  shown = null;
  relisten();
}

// Passes the history of the last hour to `put`, for the charts, if the daemon has one. `of` is the
// host or backend that was shown at the request: a response that comes after another one is shown
// is dropped.
async function readHistory(query, of, put) {
  try {
    const history = await (await call("GET", `history/?${query}`)).json();
    if (of === shown || of === shownBackend) put(history);
  } catch {
    // Without a history, the charts begin now.
  }
}

async function refreshHost(isWhole) {
  const mine = shown;
  if (mine === null || document.hidden) return;
  const take = async (path, use) => {
    const answer = await call("GET", path).then((answer) => answer.json());
    if (mine === shown) use(answer);
  };
  const name = encodeURIComponent(mine.name);
  const wanted = [
    take(`stats/${name}/`, (counters) => Object.assign(mine.counters, counters)),
    take(`held/?host=${name}&limit=${HELD_SHOWN}`, (held) => (mine.held = held))
      .catch(() => (mine.held = null)),
  ];
  if (isWhole) {
    wanted.push(
      take(hostPath(mine.name), (rule) => (mine.rule = rule)),
      take(whichPath(mine.name), (which) => (mine.which = which)).catch(() => (mine.which = null)),
      take(`changes/?host=${name}&limit=${CHANGES_SHOWN}`, (list) => (mine.changes = list)),
      loadBackends(),
    );
  }
  const results = await Promise.allSettled(wanted);
  if (mine !== shown) return;
  const failed = results.find(({ status }) => status === "rejected")?.reason;
  say($("host-said"), failed && failed.name !== "AbortError" ? `${failed.message}.` : "");
  if (isWhole) {
    showHostRule();
    showHostChanges();
  }
  showHostBackends();
  showHostNumbers();
  showHostHeld();
}
setInterval(() => refreshHost(false), 2000);

// Called at each change of rules, by any client.
const refreshSoon = later(300, () => refreshHost(true));
function onHostChange(change) {
  const isOf = change.hosts === undefined || (shown && Object.hasOwn(change.hosts, shown.name));
  if (shown && isOf) refreshSoon();
}

// Called at each tick of the stream.
function showHostTraffic({ time, hosts }) {
  if (shown === null || !Object.hasOwn(hosts, shown.name)) return;
  const tick = hosts[shown.name];
  const counters = Object.assign(shown.counters, tick);
  const before = shown.before;
  shown.before = { time, answers: tick.answers ?? {} };
  const { traffic, codes, latency, open } = shown.charts;
  traffic.add(time, [tick.requests_per_second ?? 0, counters.errors_per_second ?? 0]);
  if (before && before.time < time) {
    const per = (name) => Math.max(0,
      ((tick.answers?.[name] ?? 0) - (before.answers[name] ?? 0)) / (time - before.time));
    codes.add(time, CLASSES.map(per));
  }
  latency.add(time, PERCENTILES.map((name) => counters[name] ?? null));
  open.add(time, [counters.open_requests ?? 0, counters.held_requests ?? 0]);
  for (const chart of Object.values(shown.charts)) chart.draw();
  showHostNumbers();
}

function entries(list, pairs) {
  const items = pairs.flatMap(([name, value]) => [
    make("dt", { textContent: name }), make("dd", { textContent: value })]);
  list.replaceChildren(...items);
}

function showHostNumbers() {
  const c = shown.counters;
  entries($("host-numbers"), [
    ["Requests", `${known(c.requests_per_second, rate)}/s, ${known(c.completed_requests, total)} in all`],
    ["Errors", `${known(c.errors_per_second, rate)}/s, ${known(c.errors ?? c.answers?.["5xx"], total)} in all`],
    ["Limited", `${known(c.limited_per_second, rate)}/s, ${known(c.limited, total)} in all`],
    ["Latency", PERCENTILES.map((name) => `${name} ${known(c[name], seconds)}`).join(", ")],
    ["Open, held", `${known(c.open_requests, count)}, ${known(c.held_requests, count)}`],
    ["Responses", CLASSES.map((name) => `${known(c.answers?.[name] ?? 0, total)} ${name}`).join(", ")],
    ["Received", `${known(c.bytes_received_per_second, perSecond)}, ${known(c.bytes_received, bytes)} in all`],
    ["Sent", `${known(c.bytes_sent_per_second, perSecond)}, ${known(c.bytes_sent, bytes)} in all`],
  ]);
  showWrong($("host-wrong"), hostFindings());
}

function whichPath(name) {
  const [, scheme, host] = /^(?:(\w+):\/\/)?(.*)$/.exec(name);
  const query = scheme ? `?scheme=${scheme}` : "";
  return `which/${encodeURIComponent(host)}${query}`;
}

// Backends that the host's requests go to, or went to before the host was held. Each has its text
// in the rule (`label`) and its address.
function hostTargets() {
  const { rule, which } = shown;
  if (which?.action === "proxy" && which.backends) {
    return which.backends.map(({ backend, address }) =>
      ({ label: backend, address: address ?? backend }));
  }
  return targetsOf(behind(rule)).map((target) => ({ label: target, address: target }));
}

// Arguments of a rule that may turn its requests away.
const LIMITING = ["max_requests_per_second", "max_requests_per_second_per_source",
  "max_connections", "max_open_requests", "max_held"];

// Problems of the host, the most important first: [how bad, text, backend that it is about].
function hostFindings() {
  const { rule, counters: c } = shown;
  const found = [];
  if (rule === undefined) return found;
  if (rule === null) {
    const falls = shown.which?.name ? `; requests fall under ${shown.which.name}` : "";
    found.push(["quiet", `It has no rule of its own${falls}.`, null]);
  }
  const targets = hostTargets().map(({ address }) => address);
  const known = targets.filter((target) => backends.has(target));
  const bad = known.filter((target) => trouble(backends.get(target), shown.name) !== null);
  for (const target of bad) {
    const why = trouble(backends.get(target), shown.name);
    found.push(["bad", `is ${why.state} ${sinceWhen(why)}`.trim(), target]);
  }
  if (targets.length > 0 && bad.length === targets.length) {
    found.unshift(["bad", "No backend of it can be reached.", null]);
  }
  if (rule?.[0] === "spin") {
    const then = rule[1].then ? ` The rule before was ${inShort(rule[1].then)}.` : "";
    found.push(["warn", `Its rule is spin: ${plural(c.held_requests ?? 0, "request")} held until `
      + `it is flipped.${then}`, null]);
  } else if (c.held_requests > 0) {
    found.push(["warn", `${plural(c.held_requests, "request")} held: until a backend can be `
      + "reached, or behind others.", null]);
  }
  const failing = known.filter((target) => backends.get(target).errors_per_second > 0);
  for (const target of failing) {
    const backend = backends.get(target);
    const codes = CLASSES.slice(2).filter((name) => backend.answers?.[name] > 0)
      .map((name) => `${total(backend.answers[name])} ${name}`).join(", ");
    found.push(["bad", `answers with errors: ${rate(backend.errors_per_second)} of `
      + `${rate(backend.requests_per_second)} requests/s${codes ? ` (in all ${codes})` : ""}`, target]);
  }
  if (c.limited_per_second > 0) {
    const limits = LIMITING.filter((name) => name in (rule?.[1] ?? {}))
      .map((name) => `${name} ${rule[1][name]}`).join(", ");
    found.push(["warn", `Limits turn ${rate(c.limited_per_second)} requests/s away`
      + `${limits ? `: ${limits}` : ""}.`, null]);
  }
  if (c.errors_per_second > (c.limited_per_second ?? 0) && failing.length === 0 && bad.length === 0) {
    found.push(["bad", `${rate(c.errors_per_second)} errors/s, of no backend that is known: replies `
      + "of Mantrid itself.", null]);
  }
  const slow = known.filter((target) => backends.get(target).p95 >= SLOW_SECONDS);
  for (const target of slow) {
    const { p50, p95 } = backends.get(target);
    found.push(["warn", `is slow: half of its responses take ${seconds(p50)}, one of twenty `
      + `${seconds(p95)} or more`, target]);
  }
  if (slow.length === 0 && c.p95 >= SLOW_SECONDS && !(c.held_requests > 0)) {
    found.push(["warn", `Slow: one response of twenty takes ${seconds(c.p95)} or more.`, null]);
  }
  return found;
}

// Returns the state, reason and time of what keeps requests of this rule from a backend; null if
// nothing does. A check belongs to rules, so an address may be down for one rule and up for
// another.
function trouble(backend, name) {
  if (isBad(backend)) return backend;
  if (backend?.state !== "partly_down") return null;
  return backend.checks?.find((check) => isBad(check) && check.rules.includes(name)) ?? null;
}

const isBad = (backend) => backend?.state === "down" || backend?.state === "ejected";
// Backends of a rule, those of `backup` last.
const targetsOf = (rule) => (rule?.[0] === "proxy"
  ? [...backendsOf(rule[1]), ...backendsOf({ backends: rule[1].backup })] : []);

function showWrong(list, found) {
  const text = found.map(([how, text, backend]) => `${how}${backend}${text}`).join("\n");
  if (list.dataset.text === text && list.childElementCount > 0) return;
  list.dataset.text = text;
  const items = found.map(([how, text, backend]) => {
    const item = make("li", { className: how });
    if (backend !== null) {
      item.append(make("a", { href: backendLink(backend), textContent: backend }), " ");
    }
    item.append(text);
    return item;
  });
  if (items.length === 0) items.push(make("li", { className: "quiet" }, "Nothing that shows here."));
  list.replaceChildren(...items);
}

function showHostRule() {
  const { name, rule } = shown;
  say($("host-does"), rule ? inShort(rule) : "");
  entries($("host-rule"), [...inLines(rule ?? null)]);
  const deed = (what, text, className = "") => {
    const button = make("button", { type: "button", textContent: text, className });
    button.dataset.deed = what;
    button.addEventListener("click", () => DEEDS[what]({ name, rule: shown.rule }));
    return button;
  };
  const spins = rule?.[0] === "spin";
  const isKnown = rule !== undefined && rule !== null;
  const deeds = isKnown
    ? [deed("edit", "Edit", "main"), spins ? deed("flip", "Flip") : deed("spin", "Spin"),
      deed("delete", "Delete", "delete")]
    : [];
  const focused = [...$("host-deeds").children].indexOf(document.activeElement);
  $("host-deeds").replaceChildren(...deeds);
  if (focused >= 0) (deeds[focused] ?? $("host-title")).focus();
}

function cells(tag, texts) {
  return texts.map((text) => make(tag, {}, text));
}

function showHostBackends() {
  if (shown === null || shown.rule === undefined) return;
  const rowOf = ({ label, address }) => {
    const backend = backends.get(address);
    const link = make("a", { href: backendLink(address), textContent: address });
    const first = label === address ? link : make("span", {}, `${label}: `, link);
    if (!backend) {
      return make("tr", {}, ...cells("td", [first, "not used yet", "", "", "", "", ""]));
    }
    const bad = trouble(backend, shown.name);
    return make("tr", {}, ...cells("td", [
      first, make("span", {}, healthMark(bad?.state ?? backend.state), bad ? ` ${sinceWhen(bad)}` : ""),
      probesOf(backend, shown.name), count(backend.open_requests),
      known(backend.requests_per_second, rate), known(backend.errors_per_second, rate),
      known(backend.p95, seconds),
    ]));
  };
  const none = "It passes no requests on.";
  listInTable($("host-backends"), ["Backend", "State", "Probes", "Open", "Req/s", "Err/s", "p95"],
    hostTargets().map(rowOf), none);
  showWrong($("host-wrong"), hostFindings());
}

// Checks that probe an address: all of them, or those that this rule goes by.
function probesOf(backend, name = null) {
  const checks = (backend.checks ?? []).filter(({ rules }) => name === null || rules.includes(name));
  if (checks.length === 0) return backend.is_probed ? "yes" : "none";
  return checks.map(({ check, check_host: host, state }) =>
    `${check}${host ? ` of ${host}` : ""}: ${state}`).join(", ");
}

function listInTable(place, heads, trs, none) {
  if (trs.length === 0) {
    place.replaceChildren(make("p", { className: "quiet", textContent: none }));
    return;
  }
  const focused = document.activeElement?.closest("a")?.getAttribute("href");
  const isInside = place.contains(document.activeElement);
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text)));
  place.replaceChildren(make("table", { className: "small" }, make("thead", {}, head),
    make("tbody", {}, ...trs)));
  if (isInside) {
    [...place.querySelectorAll("a")].find((a) => a.getAttribute("href") === focused)?.focus();
  }
}

function showHostChanges() {
  const list = shown.changes ?? [];
  const items = list.map((change) => make("li", {},
    make("time", { textContent: moment(change.time) }),
    make("div", {},
      make("b", { textContent: `${change.verb} by ${change.who}` }),
      make("small", { textContent: whatOf(change) }))));
  if (items.length === 0) {
    const none = "None that is remembered: since the daemon started, or among the last thousands.";
    items.push(make("li", { className: "none" }, none));
  }
  $("host-changes").replaceChildren(...items);
  const [last] = list;
  say($("host-last"), last
    ? `Last change: ${moment(last.time)}, ${last.verb} by ${last.who}: ${whatOf(last)}` : "");
}

const whatOf = ({ host, changed, before, rule }) => (host === "*"
  ? `${plural(changed ?? 0, "rule")} of the table at once`
  : `${inShort(before)} → ${inShort(rule)}`);

function ageOf(secondsSince1970) {
  const age = Math.max(0, Date.now() / 1000 - secondsSince1970);
  return age < 90 ? `${age.toFixed(0)} s` : `${(age / 60).toFixed(0)} min`;
}

const AWAITED = { rule: "another rule", backend: "a backend", turn: "its turn" };

function showHostHeld() {
  const held = shown.held;
  const all = shown.counters.held_requests ?? 0;
  say($("host-held-sum"), all > 0 ? whole.format(all) : "");
  const rowOf = ({ since, source, name, awaits }) =>
    make("tr", {}, ...cells("td", [ageOf(since), source, name, AWAITED[awaits] ?? awaits]));
  const none = all > 0 ? "Which they are is not known." : "None.";
  listInTable($("host-held"), ["Held for", "From", "Host", "Waits for"], (held ?? []).map(rowOf), none);
}
