// Base of the script: small tools, requests with a token, the event stream. The files are one
// module, in the order of dashboard/mod.rs.
//
// - Texts that came over the network (above all host names) only ever become text nodes.
// - Host names are looked up in Maps, or with Object.hasOwn: "constructor" is a valid host name.
// - A tick of the stream changes a node only if its text differs, and never adds or removes one.

const HISTORY_SECONDS = 120;
const BUSIEST = 8;
const BACKENDS_SHOWN = 60;
const LOG_MAX = 100;
// An event comes every second. After this much silence the connection is gone, even if TCP does not
// say so.
const SILENCE_MS = 8000;
// Time for which a new stream waits until the old one has caught up with it.
const TAKE_OVER_MS = 4000;
const RETRY_MS = [500, 1000, 2000, 4000, 8000, 15000];

// ---- Small tools

const root = document.documentElement;
const $ = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Delays `act` until it has not been asked for during `ms`.
function later(ms, act) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(act, ms);
  };
}

// Runs `act` at most once in `ms`, however often it is asked for.
function atMostEach(ms, act) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => {
      timer = 0;
      act();
    }, ms);
  };
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

function scaled(value, units) {
  let unit = 0;
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  const digits = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return value.toFixed(digits) + units[unit];
}

const count = (n) => (n < 9999.5 ? whole.format(n) : scaled(n, ["", "k", "M", "G", "T"]));
const rate = (n) => (n > 0 && n < 9.95 ? n.toFixed(1) : count(n));
const total = (n) => (n < 9999999.5 ? whole.format(n) : count(n));
const bytes = (n) => scaled(n, [" B", " kB", " MB", " GB", " TB"]);
const plural = (n, one) => `${whole.format(n)} ${one}${n === 1 ? "" : "s"}`;
const clock = (date) => date.toLocaleTimeString("en-GB");
const DAY_MS = 86400000;

// Time of day, with the date if it is not within the last 24 hours.
function moment(seconds) {
  const date = new Date(seconds * 1000);
  const day = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  return Date.now() - date < DAY_MS ? clock(date) : `${day}, ${clock(date)}`;
}

// ---- Requests

const TOKEN = "mantrid-token";

class Refused extends Error {
  constructor(status, answer) {
    super(answer?.message ?? answer?.error ?? `the answer was ${status}`);
    this.status = status;
    this.code = answer?.error ?? "";
  }
}

// Returns a successful response, or throws an error with the reason. Asks for a token as often as
// the API wants one.
async function call(method, path, { body, match, signal } = {}) {
  for (;;) {
    const token = sessionStorage.getItem(TOKEN);
    const headers = {};
    if (token !== null) headers.Authorization = `Bearer ${token}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (match) headers["If-Match"] = match;
    const options = { method, headers, signal, cache: "no-store", body: JSON.stringify(body) };
    const answer = await fetch(path, options).catch((error) => {
      throw error.name === "AbortError" ? error : new Error("there is no connection to Mantrid");
    });
    if (answer.ok) return answer;
    if (answer.status !== 401) {
      throw new Refused(answer.status, await answer.json().catch(() => null));
    }
    await askToken(token);
  }
}

// A browser removes `.` and `..` from a path, and the remaining path might mean all hosts.
function hostPath(host) {
  if (/^\.*$/.test(host)) {
    throw Object.assign(new Error("a host name is needed"), { code: ":hostname_invalid" });
  }
  return `hostname/${encodeURIComponent(host)}/`;
}

let asking = null;

// Several requests may need a token at the same time; one dialog serves them all.
function askToken(refused) {
  if (sessionStorage.getItem(TOKEN) !== refused) return undefined;
  asking ??= new Promise((resolve, reject) => {
    say($("ask-error"), refused === null ? "" : "This token was not accepted.");
    $("token").value = $("ask").returnValue = "";
    $("ask").onclose = () => {
      asking = null;
      if ($("ask").returnValue === "given") resolve();
      else reject(new Refused(401, { message: "a token is needed" }));
    };
    $("ask").showModal();
  });
  return asking;
}

$("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) {
    say($("ask-error"), "A token is printable ASCII without spaces, and not empty.");
    return;
  }
  sessionStorage.setItem(TOKEN, token);
  $("forget").hidden = false;
  $("ask").close("given");
});
$("ask-cancel").addEventListener("click", () => $("ask").close());
$("forget").addEventListener("click", () => {
  sessionStorage.removeItem(TOKEN);
  location.reload();
});

// ---- The event stream

// `next` is the new stream. It takes the place of `current` once that has sent everything that
// happened before `next` began; until then, events of `next` wait. So each change is shown once,
// even while the user turns pages.
const stream = {
  current: null, next: null, waiting: [], patience: 0, etag: null, timer: 0, attempt: 0, due: 0,
};

function showState(state, text) {
  $("light").dataset.state = state;
  say($("state"), text);
  $("retry").hidden = state !== "lost";
  if (state !== "lost") say($("countdown"), "");
  root.toggleAttribute("data-stale", state === "lost");
}

// Opens a new stream in place of the present one, because the wanted hosts may have changed.
async function listen() {
  clearTimeout(stream.timer);
  stream.next?.abort();
  const controller = new AbortController();
  Object.assign(stream, { next: controller, waiting: [], patience: Date.now() + TAKE_OVER_MS });
  const query = new URLSearchParams({ busiest: BUSIEST });
  for (const name of new Set([...(shown ? [shown.name] : []), ...rows.keys()])) {
    query.append("host", name);
  }
  let silence = 0;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => controller.abort(), SILENCE_MS);
  };
  try {
    heard();
    const answer = await call("GET", `events?${query}`, { signal: controller.signal });
    await readEvents(answer.body, heard, (name, data) => {
      if (controller === stream.next) stream.waiting.push([name, data]);
      else if (controller === stream.current) tell(name, data);
      takeOver();
    });
    throw new Error("the stream ended");
  } catch (error) {
    if (controller === stream.current || controller === stream.next) lost(error);
  } finally {
    clearTimeout(silence);
  }
}

// Events that carry the table's ETag, at the point of the stream at which the table got it.
const MARKS = new Set(["hello", "change"]);

function tell(name, data) {
  if (MARKS.has(name)) stream.etag = data.etag;
  EVENTS.get(name)?.(data);
}

function takeOver() {
  const { current, next, waiting, patience } = stream;
  if (next === null || waiting.length === 0) return;
  // If both streams are at the same state of the table, `next` goes on where `current` stops.
  const met = waiting.findLastIndex(([name, { etag }]) => MARKS.has(name) && etag === stream.etag);
  if (current !== null && met < 0 && Date.now() < patience) return;
  current?.abort();
  Object.assign(stream, { current: next, next: null, waiting: [] });
  const [hello, ...rest] = waiting;
  for (const event of [hello, ...rest.slice(Math.max(met, 0))]) tell(...event);
}

async function readEvents(body, heard, act) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const field = (name) => lines.find((line) => line.startsWith(name))?.slice(name.length);
      const data = field("data: ");
      if (data !== undefined) act(field("event: "), JSON.parse(data));
    }
  }
}

function lost(error) {
  stream.current?.abort();
  stream.next?.abort();
  Object.assign(stream, { current: null, next: null });
  clearTimeout(stream.timer);
  if (error.status === 401) {
    showState("lost", "A token is needed");
    return;
  }
  const wait = RETRY_MS[Math.min(stream.attempt++, RETRY_MS.length - 1)];
  // Dashboards that lost the same Mantrid must not all come back at the same moment.
  stream.due = Date.now() + wait * (0.75 + Math.random() / 2);
  showState("lost", error instanceof Refused ? `Refused: ${error.message}` : "Connection lost");
  countDown();
}

function countDown() {
  const left = stream.due - Date.now();
  if (left <= 0) {
    listen();
    return;
  }
  say($("countdown"), `${Math.ceil(left / 1000)} s`);
  stream.timer = setTimeout(countDown, Math.min(left, 1000));
}

function retryNow() {
  if ($("light").dataset.state === "lost") listen();
}
$("retry").addEventListener("click", retryNow);
window.addEventListener("online", retryNow);

// Shows what the token allows. Controls that it does not allow are hidden.
function showRole(asker) {
  const { role = "admin", name, suffix } = asker ?? {};
  root.dataset.role = role;
  const where = suffix ? `, below ${suffix}` : "";
  say($("role"), `${name ?? ""}${name ? ", " : ""}${role}${where}`);
  $("role").hidden = !name && role === "admin";
}

const EVENTS = new Map([
  ["hello", (hello) => {
    if (stream.attempt > 0) note("Connected again", `Mantrid ${hello.version}`);
    stream.attempt = 0;
    showState("live", "Live");
    say($("version"), hello.version);
    started = hello.since;
    showRole(hello.asker);
    // There are no events for what happened while no stream was open.
    if (hello.etag !== page.etag) {
      knownRules.clear();
      load();
    }
    refreshHost(true);
    loadBackends();
    askMinutes();
  }],
  ["traffic", onTraffic],
  ["change", onChange],
  ["health", (health) => {
    noteEvent("health", health);
    loadBackends();
  }],
  ...["held", "idle", "wake", "fleet"].map((name) => [name, (data) => noteEvent(name, data)]),
  ["lagged", ({ missed }) => {
    note(`${plural(missed, "event")} missed`, "this page was too slow to take them");
    knownRules.clear();
    load();
  }],
]);
