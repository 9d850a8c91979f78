// The page of a backend: its state, its last hour, and the rules that use it. Also its drain, which
// gives it weight 0 in these rules.

const RULES_OF_BACKEND = 200;

let shownBackend = null;

function openBackend(address) {
  if (shownBackend?.address === address) return;
  shownBackend = {
    address, rules: null, matched: 0,
    charts: {
      traffic: new Chart("Requests per second", rate, ["requests", "errors"]),
      latency: new Chart("Latency", seconds, PERCENTILES),
      open: new Chart("Requests under way", count, ["open"]),
    },
  };
  say($("backend-title"), address);
  say($("backend-said"), "");
  $("drain").disabled = true; // until its rules are known
  const { charts } = shownBackend;
  $("backend-charts").replaceChildren(...Object.values(charts).map(({ node }) => node));
  for (const id of ["backend-state", "backend-wrong", "backend-rules", "backend-numbers"]) {
    $(id).replaceChildren();
  }
  readHistory(`backend=${encodeURIComponent(address)}`, shownBackend, ({ time, ...columns }) => {
    const at = (column, index) => columns[column]?.[index] ?? null;
    for (const [index, then] of time.entries()) {
      charts.traffic.add(then, [at("requests_per_second", index), at("errors_per_second", index)]);
      charts.latency.add(then, PERCENTILES.map((name) => at(name, index)));
      charts.open.add(then, [at("open_requests", index)]);
    }
  });
  readRulesOfBackend();
  loadBackends();
}

function leaveBackend() {
  shownBackend = null;
}

// Rules that name this address, the busiest first.
async function readRulesOfBackend() {
  const mine = shownBackend;
  try {
    const query = new URLSearchParams({
      search: mine.address, sort: "requests", limit: RULES_OF_BACKEND,
    });
    const answer = await call("GET", `stats/?${query}`);
    const stats = Object.entries(await answer.json());
    const rules = await rulesOf(stats.map(([name]) => name));
    if (mine !== shownBackend) return;
    mine.matched = Number(answer.headers.get("Mantrid-Matched"));
    mine.rules = stats.filter(([name]) =>
      targetsOf(behind(rules.get(name))).includes(mine.address))
      .map(([name, counters]) => ({ name, counters, rule: rules.get(name) }));
    showRulesOfBackend();
  } catch (error) {
    if (mine === shownBackend) say($("backend-said"), `${error.message}.`);
  }
}

function showRulesOfBackend() {
  const { rules, matched } = shownBackend;
  const shownOf = matched > rules.length ? ` of ${whole.format(matched)}` : "";
  say($("backend-rules-sum"), `${whole.format(rules.length)}${shownOf}`);
  const rowOf = ({ name, counters, rule }) => make("tr", {}, ...cells("td", [
    make("a", { href: hostLink(name), textContent: name }), rule[0],
    isDrained(shownBackend.address, rule) ? "0, drained" : weightOf(shownBackend.address, rule),
    rate(counters.requests_per_second ?? 0), rate(counters.errors_per_second ?? 0),
    known(counters.p95, seconds), count(counters.held_requests ?? 0),
  ]));
  listInTable($("backend-rules"), ["Host", "Action", "Weight", "Req/s", "Err/s", "p95", "Held"],
    rules.map(rowOf), "None by this address; a rule may use it by a name.");
  const drained = rules.filter(({ rule }) => isDrained(shownBackend.address, rule)).length;
  $("drain").disabled = rules.length === 0;
  $("drain").dataset.weight = drained > 0 && drained === rules.length ? "1" : "0";
  say($("drain"), $("drain").dataset.weight === "1" ? "Take back" : "Drain");
}

// Called as often as backends are read.
function showBackend() {
  if (shownBackend === null) return;
  const { address, charts } = shownBackend;
  const backend = backends.get(address);
  if (!backend) {
    say($("backend-state"), "not used yet");
    showWrong($("backend-wrong"), []);
    return;
  }
  $("backend-state").replaceChildren(healthMark(backend.state));
  const now = Date.now() / 1000;
  charts.traffic.add(now, [backend.requests_per_second ?? null, backend.errors_per_second ?? null]);
  charts.latency.add(now, PERCENTILES.map((name) => backend[name] ?? null));
  charts.open.add(now, [backend.open_requests]);
  for (const chart of Object.values(charts)) chart.draw();
  const found = [];
  for (const { check, state, rules, rules_count: all, ...why } of backend.checks ?? []) {
    if (!isBad({ state }) || isBad(backend)) continue;
    const others = all > rules.length ? ` and ${all - rules.length} more` : "";
    const subject = check === "requests" ? "It is ejected" : `Its check ${check} is down`;
    found.push(["bad", `${subject} ${sinceWhen(why)}, for ${rules.join(", ")}${others}.`, null]);
  }
  if (isBad(backend)) found.push(["bad", `It is ${backend.state} ${sinceWhen(backend)}`, null]);
  if (backend.errors_per_second > 0) {
    found.push(["bad", `${rate(backend.errors_per_second)} of ${rate(backend.requests_per_second)} `
      + "requests/s end with an error.", null]);
  }
  if (backend.p95 >= SLOW_SECONDS) {
    found.push(["warn", `It is slow: half of its responses take ${seconds(backend.p50)}, one of `
      + `twenty ${seconds(backend.p95)} or more.`, null]);
  }
  showWrong($("backend-wrong"), found);
  entries($("backend-numbers"), [
    ["State", `${backend.state} ${sinceWhen(backend)}`.trim()],
    ["Probes", probesOf(backend)],
    ["Requests", `${known(backend.requests_per_second, rate)}/s, ${total(backend.requests)} in all`],
    ["Errors", `${known(backend.errors_per_second, rate)}/s, ${known(backend.errors, total)} in all`],
    ["Responses", CLASSES.map((name) => `${total(backend.answers?.[name] ?? 0)} ${name}`).join(", ")],
    ["Latency", PERCENTILES.map((name) => `${name} ${known(backend[name], seconds)}`).join(", ")],
    ["Open requests", count(backend.open_requests)],
    ["Connections", `${known(backend.connections, total)} opened, ${total(backend.failures)} failed, `
      + `${count(backend.idle_connections)} idle`],
  ]);
}

// Returns a rule with another weight for one of its backends, or the reason why it stays as it is.
// A backend with weight 0 gets no requests: it is drained, but keeps its place in the rule.
function weighted(address, rule, weight) {
  if (rule[0] !== "proxy") return "it does not pass requests on now";
  const all = backendsOf(rule[1]);
  const at = all.indexOf(address);
  if (at < 0) return targetsOf(rule).includes(address) ? "it is its backup, without a weight" : "it does not use it";
  const weights = all.map((_, index) => Number(rule[1].weights?.[index] ?? 1));
  if ((weights[at] === 0) === (weight === 0)) return weight === 0 ? "it is drained" : "it is not drained";
  weights[at] = weight;
  const isLast = weights.every((weight) => weight === 0) && targetsOf(rule).length === all.length;
  if (isLast) return "it has no other backend";
  const { weights: _, ...given } = rule[1];
  // Weights that are all 1 are the default, and left out.
  if (weights.some((weight) => weight !== 1)) given.weights = weights;
  return ["proxy", given, rule[2]];
}

function weightOf(address, rule) {
  const at = backendsOf(behind(rule)[1]).indexOf(address);
  return at < 0 ? "backup" : String(behind(rule)[1].weights?.[at] ?? 1);
}

const isDrained = (address, rule) =>
  typeof weighted(address, rule, 1) !== "string";

$("drain").addEventListener("click", () => {
  const { address, rules } = shownBackend;
  const weight = $("drain").dataset.weight === "1" ? 1 : 0;
  proposeAll(rules.map(({ name }) => name), {
    verb: weight === 0 ? "Drain" : "Take back",
    title: (n) => (weight === 0 ? `Send no new requests of ${n} to ${address}?`
      : `Send requests of ${n} to ${address} again?`),
    after: (rule) => weighted(address, rule, weight),
  });
});
