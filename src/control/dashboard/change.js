// Changes to one rule: a form, the difference it makes, and only then the request. It is sent with
// the ETag under which the difference was seen: nobody overwrites what they have not looked at.

const MORE = { more: true };
const ALGORITHMS = ["random", "round_robin", "least_connections", "source"];
const ACCESS = [
  ["allow", "Allow", "words", "Networks that are served: 192.0.2.0/24, ::1", MORE],
  ["deny", "Deny", "words", "Networks that get a 403", MORE],
];
const FIELDS = new Map([
  ["proxy", [
    ["backends", "Backends", "lines", "One per line: host:port, [IPv6]:port or unix:/path"],
    ["algorithm", "Algorithm", ALGORITHMS, "", MORE],
    ["weights", "Weights", "numbers", "One per backend: 3, 1", MORE],
    ["attempts", "Attempts", "number", "Connections to try for a request (1)", MORE],
    ["delay", "Delay", "number", "Seconds between them (1)", MORE],
    ["max_connections", "Most connections", "number", "To each backend", MORE],
    ["max_requests_per_second", "Most requests/s", "number", "More get a 429", MORE],
    ["check", "Check", "text", "tcp, or a path: /health", MORE],
    ["healthcheck", "Pass over dead backends", ["true", "false"], "", MORE],
    ["hold", "Hold", "number", "Seconds to hold while none is reached (0)", MORE],
    ["idle", "Idle", "number", "Seconds without traffic until told", MORE],
    ["wake", "Wake", "text", "http://… that is told when it is idle", MORE],
    ["keep_alive", "Keep connections", ["true", "false"], "For the next request", MORE],
    ["send_proxy", "PROXY protocol", ["v1", "v2"], "Tells backends who connects", MORE],
    ...ACCESS,
  ]],
  ["spin", [
    ["timeout", "Time-out", "number", "Seconds a request is held at most (120)"],
    ["wake", "Wake", "text", "http://… that is told when a request starts to wait"],
    ["max_held", "Most held", "number", "Requests of this host", MORE],
    ["release_rate", "Release rate", "number", "Requests/s let through after the flip", MORE],
    ["idle", "Idle", "number", "Seconds without traffic until told again", MORE],
    ...ACCESS,
  ]],
  ["redirect", [
    ["redirect_to", "Redirect to", "text", "A host, with or without scheme and path"],
    ["code", "Code", ["301", "302", "303", "307", "308"], "302 if nothing is chosen"],
    ...ACCESS,
  ]],
  ["static", [["type", "Page", "text", "Its name, without .http"], ...ACCESS]],
  ["empty", [["code", "Code", "number", "A status from 200 to 599"], ...ACCESS]],
  ["alias", [["hostname", "Host", "text", "The host by whose rule it acts"]]],
  ["unknown", []],
  ["no_hosts", []],
]);

const listed = (text) => text.split(/[\s,]+/).filter(Boolean);
// What is no number goes as it is: the server says what it expected.
const number = (text) => (Number.isFinite(Number(text)) ? Number(text) : text);

function toText(kind, given, name) {
  if (given[name] === undefined) return "";
  if (kind === "lines") return backendsOf(given).join("\n");
  return Array.isArray(given[name]) ? given[name].join(", ") : String(given[name]);
}

function fromText(kind, text) {
  if (text.trim() === "") return undefined;
  if (kind === "lines" || kind === "words") return listed(text);
  if (kind === "numbers") return listed(text).map(number);
  if (text === "true" || text === "false") return text === "true";
  return kind === "text" ? text.trim() : number(text.trim());
}

// What the dialog is about: `origin` filled the form, `before` and `etag` are as the table has it,
// `after` is the rule to be (null: none).
let change = null;

function makeField([name, label, kind, hint, { more } = {}], given) {
  const properties = { id: `field-${name}`, autocomplete: "off", spellcheck: false };
  const value = toText(kind, given, name);
  let input;
  if (Array.isArray(kind)) {
    input = make("select", properties, make("option", { value: "", textContent: "default" }),
      ...kind.map((choice) => make("option", { value: choice, textContent: choice })));
  } else {
    input = make(kind === "lines" ? "textarea" : "input", properties);
    if (kind.startsWith("number")) input.inputMode = "decimal";
  }
  input.value = value;
  input.setAttribute("aria-describedby", `hint-${name} error-${name}`);
  const node = make("div", { className: "field" },
    make("label", { htmlFor: properties.id, textContent: label }), input,
    make("small", { id: `hint-${name}`, textContent: hint }),
    make("small", { id: `error-${name}`, className: "error" }));
  return { node, more, isFilled: value !== "" };
}

function showFields() {
  const action = $("field-action").value;
  const [of, origin] = change.origin ?? [];
  const fields = FIELDS.get(action).map((field) => makeField(field, of === action ? origin : {}));
  const pair = (list) => make("div", { className: "pair" }, ...list);
  const [first, rest] = [false, true].map((more) =>
    fields.filter((field) => Boolean(field.more) === more).map(({ node }) => node));
  // Backends need the width; the few fields of other actions stand side by side.
  const main = action === "proxy" ? first : [pair(first)];
  if (rest.length > 0) {
    const open = fields.some((field) => field.more && field.isFilled);
    main.push(make("details", { open }, make("summary", { textContent: "More" }), pair(rest)));
  }
  $("arguments").replaceChildren(...main);
}

function collect() {
  const action = $("field-action").value;
  // Arguments that the form has no field for stay as they are.
  const given = change.origin?.[0] === action ? { ...change.origin[1] } : {};
  for (const [name, , kind] of FIELDS.get(action)) {
    const value = fromText(kind, $(`field-${name}`).value);
    if (value === undefined) delete given[name];
    else given[name] = value;
  }
  return [action, given, $("field-subdomains").checked];
}

function showProblem(error) {
  const text = error === null ? "" : `${error.message}`;
  for (const input of $("edit").querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    say($(input.id.replace("field-", "error-")), "");
  }
  const [, argument] = /host_kwarg_\w+:(\w+)$/.exec(error?.code ?? "") ?? [];
  const input = !$("edit").hidden && argument && $(`field-${argument}`);
  say($("change-error"), input ? "" : text);
  if (!input) return;
  say($(`error-${argument}`), text);
  input.setAttribute("aria-invalid", "true");
  const details = input.closest("details");
  if (details) details.open = true;
  input.focus();
}

function showPane(isReview) {
  $("edit").hidden = isReview;
  $("review").hidden = !isReview;
  $("revise").hidden = !isReview || change.after === null;
  say($("go"), isReview ? change.verb : "Review");
  $("go").classList.toggle("danger", isReview && change.after === null);
}

function begin(what, title, text) {
  change = what;
  say($("change-title"), title);
  say($("change-note"), text);
  $("change-note").hidden = text === "";
}

function edit(host, rule, title, text = "") {
  begin({ host, origin: rule, after: rule, verb: "Apply" }, title, text);
  $("field-host").value = host;
  $("field-host").parentElement.hidden = host !== "";
  $("field-action").value = rule?.[0] ?? "proxy";
  $("field-subdomains").checked = rule?.[2] ?? false;
  showFields();
  showPane(false);
  showProblem(null);
  $("change").showModal();
  const first = $("arguments").querySelector("input, textarea") ?? $("go");
  (host === "" ? $("field-host") : first).focus();
}

async function readRule(host) {
  const answer = await call("GET", hostPath(host));
  return { before: await answer.json(), etag: answer.headers.get("ETag") };
}

// Who makes a host spin keeps in the rule what it did before: for whoever flips it back, from anywhere.
function keeping(after, before) {
  if (after?.[0] !== "spin" || !before || before[0] === "spin") return after;
  return ["spin", { ...after[1], then: before }, after[2]];
}

// Has the server check it, then shows what would be different.
async function review(host, wanted) {
  const mine = change;
  const found = await readRule(host);
  const after = keeping(wanted, found.before);
  const method = after === null ? "DELETE" : "PUT";
  await call(method, `${hostPath(host)}?dry_run=1`, { body: after ?? undefined });
  if (change !== mine) return; // another dialog was opened meanwhile
  Object.assign(change, { host, after }, found);
  showDifference();
  showPane(true);
  if (!$("change").open) $("change").showModal();
  $("go").focus();
}

function showDifference() {
  const [now, then] = [inLines(change.before), inLines(change.after)];
  const names = new Set([...now.keys(), ...then.keys()]);
  // Last, also where one side has arguments that the other lacks.
  if (names.delete("subdomains")) names.add("subdomains");
  $("difference").replaceChildren(...[...names].map((name) => {
    const [left, right] = [now.get(name) ?? "–", then.get(name) ?? "–"];
    return make("tr", { className: left === right ? "" : "differs" },
      make("th", { scope: "row", textContent: name }),
      make("td", { textContent: left }), make("td", { textContent: right }));
  }));
}

async function apply() {
  const mine = change;
  const { host, after, before } = mine;
  const method = after === null ? "DELETE" : "PUT";
  for (let attempt = 1; ; attempt++) {
    try {
      await call(method, hostPath(host), { body: after ?? undefined, match: mine.etag });
      break;
    } catch (error) {
      if (error.status === undefined) {
        throw new Error("The connection was lost: the change may have been made, or not.");
      }
      if (error.status !== 412) throw error;
      // The ETag is of the whole table. If this rule is still the one that was looked at, the other
      // change was elsewhere and nothing is overwritten unseen.
      Object.assign(mine, await readRule(host));
      const isSame = JSON.stringify(mine.before) === JSON.stringify(before);
      if (isSame && attempt < 4) continue;
      mine.after = keeping(mine.after, mine.before);
      if (change === mine) showDifference();
      throw new Error(`The table changed meanwhile: above is how ${host} is now. Look again.`);
    }
  }
  if (change === mine) $("change").close();
  const deed = after?.[0] === "spin" ? "holds its requests now" : "is set";
  say($("said"), `${host} ${after === null ? "is deleted" : deed}.`);
  load();
}

let busy = false;

// One thing at a time; what goes wrong is said in the dialog, or beside the table if there is none.
async function attempt(act) {
  if (busy) return;
  busy = true;
  $("go").setAttribute("aria-disabled", "true");
  try {
    showProblem(null);
    say($("said"), "");
    await act();
  } catch (error) {
    if ($("change").open) showProblem(error);
    else showResult(error.message, true);
  } finally {
    busy = false;
    $("go").removeAttribute("aria-disabled");
  }
}

// A click in a row that needs no form: what will change, at once.
function propose(host, after, verb, title, text = "") {
  attempt(async () => {
    begin({ host, origin: after, after, verb }, title, text);
    await review(host, after);
  });
}

const DEEDS = {
  edit: ({ name, rule }) => edit(name, rule, `Edit ${name}`),
  delete: ({ name }) => propose(name, null, "Delete", `Delete the rule of ${name}?`,
    "Its requests then go by the rule of a parent for subdomains, or get the unknown page."),
  spin: ({ name, rule }) => propose(name, ["spin", {}, rule[2]], "Spin",
    `Hold the requests of ${name}?`, "They wait until it is flipped back, each for 120 s at most."),
  flip: ({ name, rule }) => {
    const before = rule[1].then;
    if (before) propose(name, before, "Flip back", `Flip ${name} back?`);
    else edit(name, ["proxy", {}, rule[2]], `Flip ${name} back`,
      "What it did before is not in its rule: where do its requests go?");
  },
};

$("rows").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) DEEDS[button.dataset.deed](rows.get(button.closest("tr").dataset.host));
});
$("add").addEventListener("click", () => edit("", null, "Add a rule"));
$("field-action").addEventListener("change", showFields);
$("cancel").addEventListener("click", () => $("change").close());
$("revise").addEventListener("click", () => {
  const { host, after } = change;
  $("change").close();
  edit(host, after, `Edit ${host}`);
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt($("review").hidden ? () => review($("field-host").value.trim(), collect()) : apply);
});

// ---- Start

const THEME = "mantrid-theme";

function showTheme() {
  const theme = localStorage.getItem(THEME) ?? "auto";
  root.dataset.theme = theme;
  say($("theme"), `${theme[0].toUpperCase()}${theme.slice(1)}`);
  $("theme").ariaLabel = `Colours: ${theme}`;
}
$("theme").addEventListener("click", () => {
  const after = { auto: "light", light: "dark", dark: "auto" };
  localStorage.setItem(THEME, after[localStorage.getItem(THEME) ?? "auto"]);
  showTheme();
});

showTheme();
for (const action of FIELDS.keys()) {
  for (const list of [$("action"), $("field-action")]) list.append(make("option", {}, action));
}
say($("where"), location.host);
$("forget").hidden = sessionStorage.getItem(TOKEN) === null;
const wanted = new URLSearchParams(location.hash.slice(1));
view.search = $("search").value = (wanted.get("search") ?? "").trim().toLowerCase();
view.action = $("action").value = wanted.get("action") ?? "";
view.action = $("action").value; // one that does not exist is none
for (const list of [$("log"), $("backends")]) {
  list.append(make("li", { className: "none" }, "Nothing since this page was opened."));
}
await load();
// Who would not give a token is not asked at once for another.
if ($("light").dataset.state !== "lost") relisten();
