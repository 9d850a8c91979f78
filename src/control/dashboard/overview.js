// The overview: totals, shards, the busiest hosts, backends, and the log of changes and health.

let failures = null; // last sum of 5xx responses, and its time

function failuresPerSecond({ time, totals }) {
  if (totals.errors_per_second !== undefined) return totals.errors_per_second;
  const sum = totals.answers?.["5xx"] ?? 0;
  const { then, before } = failures ?? { then: time, before: sum };
  failures = { then: time, before: sum };
  return time > then ? Math.max(0, sum - before) / (time - then) : 0;
}

const perSecond = (n) => `${bytes(n)}/s`;
// Tiles, each with the list of hosts to which it leads.
const TILES = [
  ["Requests/s", (t) => t.totals.requests_per_second, rate, "sort=requests",
    "requests_per_second"],
  ["Errors/s", failuresPerSecond, rate, "sort=errors&filter=failing", "errors_per_second"],
  ["Latency, p95", (t) => t.totals.p95 ?? 0, (n) => (n > 0 ? seconds(n) : "–"), "sort=latency",
    "p95"],
  ["Held", (t) => t.held, count, "sort=held&filter=held", "held_requests"],
  ["Open requests", (t) => t.totals.open_requests, count, "sort=open", "open_requests"],
  ["Traffic", ({ totals }) => totals.bytes_sent_per_second + totals.bytes_received_per_second,
    perSecond, "sort=bytes", "bytes_sent_per_second"],
  ["Connections", (t) => t.totals.open_connections, count, ""],
  ["Rules", (t) => t.rules, total, ""],
].map(([label, value, format, leads, column], index, all) => {
  const output = make("output", { textContent: "–" });
  const under = make("p", { className: "note" });
  output.setAttribute("aria-live", "off");
  output.setAttribute("aria-label", label);
  // The number of rules gets no plot: two minutes of it say nothing.
  const plot = index < all.length - 1 ? new Plot(`${label}, last two minutes`) : null;
  const caption = make("figcaption");
  const node = make("figure", { className: "tile" }, caption, output, under);
  if (leads === "") caption.textContent = label;
  else {
    const link = make("a", { href: `#${leads}`, textContent: label });
    link.title = "Show the hosts";
    caption.append(link);
    node.classList.add("leads");
  }
  node.append(plot?.node ?? make("p", { className: "note" }));
  if (value === failuresPerSecond) {
    node.classList.add("alarm");
    node.id = "errors-tile";
  }
  $("tiles").append(node);
  return { node, value, format, output, under, plot, column };
});

let started = 0;

function uptime(seconds) {
  const [days, hours] = [Math.floor(seconds / 86400), Math.floor(seconds / 3600) % 24];
  const minutes = Math.floor(seconds / 60) % 60;
  if (days > 0) return `${days} d ${hours} h`;
  return hours > 0 ? `${hours} h ${minutes} min` : `${minutes} min`;
}

function showTiles(traffic, visible) {
  for (const tile of TILES) {
    const value = tile.value(traffic);
    tile.plot?.add(traffic.time, value);
    if (!visible) continue;
    say(tile.output, tile.format(value));
    if (!tile.plot) continue;
    const peak = tile.plot.peak;
    say(tile.under, `peak ${tile.format(peak)}`);
    tile.node.classList.toggle("some", value > 0);
    tile.plot.draw(peak);
  }
  say(TILES.at(-1).node.lastElementChild, `running ${uptime(traffic.time - started)}`);
}

let shards = [];

function showShards(list, time, visible) {
  if (shards.length !== list.length) {
    shards = list.map((_, index) => {
      const plot = new Plot(`Load of shard ${index}, last two minutes`);
      const [busy, speed] = [make("output"), make("output")];
      const node = make("li", {}, make("b", { textContent: index }), plot.node, busy, speed);
      return { node, plot, busy, speed };
    });
    $("shards").replaceChildren(...shards.map(({ node }) => node));
  }
  for (const [index, { busy, requests_per_second }] of list.entries()) {
    const shard = shards[index];
    shard.plot.add(time, busy);
    if (!visible) continue;
    say(shard.busy, `${Math.round(busy * 100)} %`);
    say(shard.speed, rate(requests_per_second));
    shard.plot.draw(1);
  }
}

const busiest = Array.from({ length: BUSIEST }, () => {
  const [name, speed] = [make("a"), make("output")];
  $("busiest").append(make("li", {}, name, speed));
  return { name, speed };
});
let ticks = 0;

// Ranks change only at each third tick, because names that change places every second can't be
// read.
function showBusiest(list) {
  const speeds = new Map(list.map((entry) => [entry.host, entry.requests_per_second]));
  const isShort = busiest.some(({ name }) => name.textContent && !speeds.has(name.textContent));
  const reorder = ticks++ % 3 === 0 || isShort;
  for (const [index, { name, speed }] of busiest.entries()) {
    if (reorder) {
      const host = list[index]?.host ?? "";
      say(name, host);
      if (host === "") name.removeAttribute("href");
      else name.href = hostLink(host);
    }
    const known = speeds.get(name.textContent);
    say(speed, name.textContent === "" ? "" : rate(known ?? 0));
  }
}

let down = new Set();
// Rules with the backends at which their checks fail.
let failing = new Set();

function onTraffic(traffic) {
  const visible = !document.hidden;
  showTiles(traffic, visible);
  showShards(traffic.shards, traffic.time, visible);
  if (!visible) return;
  showBusiest(traffic.busiest);
  const pairs = (traffic.checks_down ?? []).map(({ rule, backend }) => `${rule} ${backend}`);
  const list = [...traffic.down, ...pairs].join(" ");
  if (list !== [...down, ...failing].join(" ")) {
    down = new Set(traffic.down);
    failing = new Set(pairs);
    for (const row of rows.values()) showRule(row);
  }
  const warning = down.size > 0 ? `(${down.size} down) ` : "";
  const title = `${warning}Mantrid · ${location.host}`;
  if (document.title !== title) document.title = title;
  showTraffic(traffic.hosts);
  showHostTraffic(traffic);
}

const RANK = ["down", "ejected", "partly_down", "unknown", "up"];

let backends = new Map(); // address → its entry in `/backends/`

async function loadBackends() {
  if (document.hidden) return;
  let known;
  try {
    known = Object.entries(await (await call("GET", "backends/")).json());
  } catch {
    return; // the stream shows that the connection is lost
  }
  const rank = ([, { state }]) => RANK.indexOf(state) >>> 0; // an unknown state comes last
  known.sort((a, b) => rank(a) - rank(b) || b[1].open_requests - a[1].open_requests);
  backends = new Map(known);
  const sums = RANK.map((state) => [known.filter(([, b]) => b.state === state).length, state]);
  say($("backends-sum"), sums.filter(([n]) => n).map(([n, state]) => `${n} ${state}`).join(", "));
  const items = known.slice(0, BACKENDS_SHOWN).map(([address, backend]) => {
    const { open_requests, idle_connections, requests } = backend;
    const isWell = backend.state === "up" || backend.state === "unknown";
    const why = isWell
      ? `${open_requests} open, ${idle_connections} idle, ${count(requests)} ${requests === 1 ? "request" : "requests"}`
      : sinceWhen(backend);
    const at = make("a", { className: "at", href: backendLink(address), textContent: address });
    return make("li", {}, at, healthMark(backend.state),
      make("span", { className: "why", textContent: why }));
  });
  if (known.length > items.length) {
    items.push(make("li", { className: "none" }, `and ${known.length - items.length} more`));
  }
  if (items.length === 0) items.push(make("li", { className: "none" }, "None seen yet."));
  $("backends").replaceChildren(...items);
  showHostBackends();
  showBackend();
}
setInterval(loadBackends, 5000);

function healthMark(state) {
  const mark = make("span", { textContent: state.replace("_", " ") });
  mark.dataset.health = state;
  return mark;
}

const sinceWhen = ({ since, reason }) =>
  [since ? `since ${moment(since)}` : "", reason ?? ""].filter(Boolean).join(": ");

// Log entry for each kind of event: [text, detail, state of health].
const NOTES = {
  change: ({ verb, who, changed, hosts }) => {
    const texts = Object.entries(hosts ?? {}).slice(0, 3).map(([name, rule]) =>
      rule ? `${name}: ${inShort(rule)}` : `${name}: deleted`);
    const others = changed - texts.length;
    if (others > 0) texts.push(`${texts.length > 0 ? "and " : ""}${plural(others, "rule")}`);
    return [texts.join("; "), `${verb} by ${who}`];
  },
  health: ({ backend, state, reason }) => [`${backend} is ${state}`, reason, state],
  held: ({ host }) => [`${host}: requests wait`],
  idle: ({ host, idle }) => [`${host} is idle`, `nothing open for ${idle} s`],
  wake: ({ host, url, event, ok, reason }) => {
    const whom = ok ? `${url} was told` : `${url} was not told: ${reason}`;
    return [`${host} is ${event}`, whom, ok ? "" : "down"];
  },
  fleet: ({ node, nodes, connected, lost }) => [
    lost ? `The fleet's store is lost: ${lost}`
      : connected === false ? "etcd is out of reach" : `The fleet has ${nodes?.length ?? nodes} nodes`,
    node ? `as ${node} sees it` : ""],
};

function noteEvent(kind, data, time = undefined) {
  const [text, detail, health] = NOTES[kind]?.(data) ?? [];
  if (text) note(text, detail ?? "", health ?? "", time);
}

// Adds an entry to the log. An entry with a `time` is from the past, and goes below all that came
// since.
function note(text, detail = "", health = "", time = undefined) {
  const what = make("span", {}, text);
  if (health) what.dataset.health = health;
  const body = make("div", {}, what, ...(detail ? [make("small", { textContent: detail })] : []));
  const isKnown = time !== undefined && [...$("log").children].some((item) =>
    item.lastElementChild?.textContent === body.textContent);
  if (isKnown) return;
  $("log").querySelector(".none")?.remove();
  const at = time === undefined ? clock(new Date()) : moment(time);
  const item = make("li", {}, make("time", { textContent: at }), body);
  if (time === undefined) $("log").prepend(item);
  else $("log").append(item);
  while ($("log").childElementCount > LOG_MAX) $("log").lastElementChild.remove();
}

// Reads what happened before this page was opened, so that the log and the plots of the tiles begin
// with it.
async function readPast() {
  let past;
  try {
    past = await (await call("GET", `history/?events=${LOG_MAX}`)).json();
  } catch {
    return; // older daemon, or token not allowed: log and plots begin empty
  }
  for (const { plot, column } of TILES) {
    const values = column && past[column];
    if (!plot || !values) continue;
    const before = plot.samples[0]?.[0] ?? Date.now() / 1000;
    const known = past.time.map((time, index) => [time, values[index] ?? 0]);
    plot.samples.unshift(...known.filter(([time]) =>
      time < before && time > before - HISTORY_SECONDS));
  }
  // Events come newest first. The stream may have sent some of them already.
  for (const { event, time, ...data } of past.events ?? []) noteEvent(event, data, time);
}
