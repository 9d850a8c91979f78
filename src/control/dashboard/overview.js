// The overview: totals, shards, the busiest hosts, backends, and the log of changes and health.

const SVG = "http://www.w3.org/2000/svg";

// A line over the last two minutes, from zero up to its peak. Time runs along x, so that a lost
// connection shows as a gap.
class Plot {
  constructor(label) {
    this.samples = [];
    this.node = document.createElementNS(SVG, "svg");
    for (const [name, value] of [["class", "plot"], ["role", "img"], ["aria-label", label],
      ["viewBox", `0 0 ${HISTORY_SECONDS} 20`], ["preserveAspectRatio", "none"]]) {
      this.node.setAttribute(name, value);
    }
    [this.area, this.line] = ["area", "line"].map((name) => {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      this.node.append(path);
      return path;
    });
  }

  add(time, value) {
    this.samples.push([time, value]);
    while (this.samples[0][0] < time - HISTORY_SECONDS) this.samples.shift();
  }

  get peak() {
    return this.samples.reduce((peak, [, value]) => Math.max(peak, value), 0);
  }

  draw(peak) {
    const now = this.samples.at(-1)[0];
    let [line, area, before] = ["", "", -Infinity];
    for (const [time, value] of this.samples) {
      const x = (HISTORY_SECONDS - (now - time)).toFixed(1);
      const y = (19 - (18 * Math.min(value, peak)) / (peak || 1)).toFixed(1);
      const follows = time - before < 3.5;
      if (!follows && area) area += `V20Z`;
      line += `${follows ? "L" : "M"}${x} ${y}`;
      area += `${follows ? `H${x}V${y}` : `M${x} 20V${y}`}`;
      before = time;
    }
    this.line.setAttribute("d", line);
    this.area.setAttribute("d", `${area}V20Z`);
  }
}

let failures = null; // the last sum of 5xx answers, and when it was told

function failuresPerSecond({ time, totals }) {
  const sum = totals.answers?.["5xx"] ?? 0;
  const { then, before } = failures ?? { then: time, before: sum };
  failures = { then: time, before: sum };
  return time > then ? Math.max(0, sum - before) / (time - then) : 0;
}

const perSecond = (n) => `${bytes(n)}/s`;
const TILES = [
  ["Requests/s", (t) => t.totals.requests_per_second, rate],
  ["5xx answers/s", failuresPerSecond, rate],
  ["Received", (t) => t.totals.bytes_received_per_second, perSecond],
  ["Sent", (t) => t.totals.bytes_sent_per_second, perSecond],
  ["Connections", (t) => t.totals.open_connections, count],
  ["Open requests", (t) => t.totals.open_requests, count],
  ["Held", (t) => t.held, count],
  ["Rules", (t) => t.rules, total],
].map(([label, value, format], index, all) => {
  const output = make("output", { textContent: "–" });
  const under = make("p", { className: "note" });
  output.setAttribute("aria-live", "off");
  output.setAttribute("aria-label", label);
  // The number of rules says nothing over two minutes.
  const plot = index < all.length - 1 ? new Plot(`${label}, last two minutes`) : null;
  const caption = make("figcaption", { textContent: label });
  const node = make("figure", { className: "tile" }, caption, output, under);
  node.append(plot?.node ?? make("p", { className: "note" }));
  if (value === failuresPerSecond) node.classList.add("alarm");
  $("tiles").append(node);
  return { node, value, format, output, under, plot };
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
  const [name, speed] = [make("button", { type: "button" }), make("output")];
  name.addEventListener("click", () => search(name.textContent));
  $("busiest").append(make("li", {}, name, speed));
  return { name, speed };
});
let ticks = 0;

// Ranks change each third tick only: names that change places each second can't be read.
function showBusiest(list) {
  const speeds = new Map(list.map((entry) => [entry.host, entry.requests_per_second]));
  const isShort = busiest.some(({ name }) => name.textContent && !speeds.has(name.textContent));
  const reorder = ticks++ % 3 === 0 || isShort;
  for (const [index, { name, speed }] of busiest.entries()) {
    if (reorder) {
      say(name, list[index]?.host ?? "");
      name.title = name.textContent;
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
}

const RANK = ["down", "ejected", "partly_down", "unknown", "up"];

async function loadBackends() {
  if (document.hidden) return;
  let known;
  try {
    known = Object.entries(await (await call("GET", "backends/")).json());
  } catch {
    return; // the stream tells that the connection is lost
  }
  const rank = ([, { state }]) => RANK.indexOf(state);
  known.sort((a, b) => rank(a) - rank(b) || b[1].open_requests - a[1].open_requests);
  const sums = RANK.map((state) => [known.filter(([, b]) => b.state === state).length, state]);
  say($("backends-sum"), sums.filter(([n]) => n).map(([n, state]) => `${n} ${state}`).join(", "));
  const items = known.slice(0, BACKENDS_SHOWN).map(([address, backend]) => {
    const state = make("span", { textContent: backend.state });
    state.dataset.health = backend.state;
    const { open_requests, idle_connections, requests, reason } = backend;
    const why = backend.state === "up" || backend.state === "unknown"
      ? `${open_requests} open, ${idle_connections} idle, ${count(requests)} ${requests === 1 ? "request" : "requests"}`
      : `since ${moment(backend.since)}${reason ? `: ${reason}` : ""}`;
    const at = make("span", { className: "at", textContent: address });
    return make("li", {}, at, state, make("span", { className: "why", textContent: why }));
  });
  if (known.length > items.length) {
    items.push(make("li", { className: "none" }, `and ${known.length - items.length} more`));
  }
  if (items.length === 0) items.push(make("li", { className: "none" }, "None seen yet."));
  $("backends").replaceChildren(...items);
}
setInterval(loadBackends, 10000);

function note(text, detail, health) {
  $("log").querySelector(".none")?.remove();
  const what = make("span", {}, text);
  if (health) what.dataset.health = health;
  const body = make("div", {}, what, ...(detail ? [make("small", { textContent: detail })] : []));
  $("log").prepend(make("li", {}, make("time", { textContent: clock(new Date()) }), body));
  while ($("log").childElementCount > LOG_MAX) $("log").lastElementChild.remove();
}
