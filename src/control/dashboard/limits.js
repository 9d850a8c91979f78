// Limits, how much of them is in use, and what was turned away, from the metrics. Also the nodes of
// a fleet.

const LIMITS_EACH_MS = 10000;

// Reads the samples with the wanted names from a text of metrics: `name{labels}` → value.
function samplesOf(text, names) {
  const found = new Map();
  for (const line of text.split("\n")) {
    const name = /^[a-z_]+/.exec(line)?.[0];
    if (!names.has(name)) continue;
    const at = line.lastIndexOf(" ");
    found.set(line.slice(0, at), Number(line.slice(at + 1)));
  }
  return found;
}

// Columns: title, samples that are added up, samples with the limit (the first that exists),
// format.
const LIMITS = [
  ["Connections", ["mantrid_connections_open"], ["mantrid_max_connections"], count],
  ["Descriptors", ["process_open_fds"], ["process_max_fds"], count],
  ["Memory", ["process_resident_memory_bytes"], [], bytes],
  ["Held requests", ["mantrid_requests_held"], ["mantrid_max_held"], count],
  ["Management connections", ["mantrid_management_connections_open"],
    ["mantrid_max_management_connections"], count],
];
const SHED = "mantrid_shed_total";
// Reasons that are counted per host.
const SHED_OF_HOSTS = new Set(["max_requests_per_second", "max_requests_per_second_per_source",
  "backend_queue"]);
const WANTED = new Set([SHED, ...LIMITS.flatMap(([, used, limit]) => [...used, ...limit])]);

const shedBefore = new Map();

async function loadLimits() {
  if (document.hidden || $("list").hidden) return;
  let text;
  try {
    text = await (await call("GET", "metrics")).text();
  } catch {
    return; // the stream shows that the connection is lost
  }
  const samples = samplesOf(text, WANTED);
  const sum = (names) => {
    const values = [...samples].filter(([key]) =>
      names.some((name) => key === name || key.startsWith(`${name}{`))).map(([, value]) => value);
    return values.length === 0 ? null : values.reduce((sum, value) => sum + value, 0);
  };
  const items = [];
  for (const [title, used, limits, format] of LIMITS) {
    const now = sum(used);
    if (now === null) continue;
    const most = limits.map((name) => sum([name])).find((value) => value !== null) ?? null;
    const text = most > 0 ? `${format(now)} of ${format(most)}` : format(now);
    const item = make("li", {}, make("span", { textContent: title }),
      make("output", { textContent: text }));
    if (most > 0) {
      const meter = make("meter", { max: most, value: now, high: most * 0.8, optimum: 0 });
      meter.setAttribute("aria-label", `${title}: ${text}`);
      item.append(meter);
    }
    items.push(item);
  }
  for (const [key, value] of samples) {
    const reason = /^mantrid_shed_total\{reason="([^"]*)"/.exec(key)?.[1];
    if (reason === undefined) continue;
    const grew = shedBefore.has(reason) && value > shedBefore.get(reason);
    shedBefore.set(reason, value);
    if (value === 0) continue;
    const title = `Shed: ${reason.replaceAll("_", " ")}`;
    const label = SHED_OF_HOSTS.has(reason)
      ? make("a", { href: "#sort=limited&filter=limited", textContent: title })
      : make("span", { textContent: title });
    items.push(make("li", { className: grew ? "shed grew" : "shed" }, label,
      make("output", { textContent: total(value) })));
  }
  if (items.every((item) => !item.classList.contains("shed"))) {
    items.push(make("li", { className: "none" }, "Nothing was shed."));
  }
  $("limits").replaceChildren(...items);
}
setInterval(loadLimits, LIMITS_EACH_MS);

let inFleet = true; // until we know that there is no fleet

async function loadFleet() {
  if (document.hidden || !inFleet) return;
  let fleet;
  try {
    fleet = await (await call("GET", "fleet/")).json();
  } catch {
    return;
  }
  inFleet = fleet !== null;
  $("fleet").hidden = !inFleet;
  if (!inFleet) return;
  const state = fleet.lost ? `lost: ${fleet.lost}`
    : fleet.connected ? "connected" : "etcd is out of reach: changes are refused";
  say($("fleet-sum"), `${fleet.fleet}, ${state}`);
  $("fleet-sum").classList.toggle("error", Boolean(fleet.lost) || !fleet.connected);
  const items = Object.entries(fleet.nodes ?? {}).map(([name, node]) => {
    const behind = Math.max(0, fleet.sequence - node.sequence);
    const isSilent = node.age > 10;
    const text = isSilent ? `silent for ${node.age.toFixed(0)} s` : behind > 0 ? `behind by ${behind}` : "up";
    const mark = healthMark(text);
    mark.dataset.health = isSilent ? "down" : behind > 0 ? "ejected" : "up";
    const why = `${rate(node.requests_per_second ?? 0)} req/s, ${count(node.held ?? 0)} held, `
      + `${count(node.connections ?? 0)} connections, ${node.version}`;
    const at = make("span", { className: "at",
      textContent: name === fleet.node ? `${name} (this one)` : name });
    return make("li", {}, at, mark, make("span", { className: "why", textContent: why }));
  });
  $("nodes").replaceChildren(...items);
}
setInterval(loadFleet, 5000);
