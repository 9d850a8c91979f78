// Changes to one rule: first a form, then the difference that the change makes, and only then the
// request. The request carries the ETag under which the difference was seen, so that nobody
// overwrites what they have not looked at.

// Labels that say more than the name of the argument. Below: arguments that are not under "More".
const LABELS = {
  max_connections: "Most connections", max_requests_per_second: "Most requests/s",
  max_held: "Most held", healthcheck: "Pass over dead backends", send_proxy: "PROXY protocol",
  keep_alive: "Keep connections", type: "Page", redirect_to: "Redirect to", hostname: "Host",
  timeout: "Timeout",
};
const FIRST = new Set(["timeout", "wake", "code"]);
const PROXY_FIRST = new Set(["backends"]);
const OF_BACKENDS = new Set(["backends", "backup"]);

const labelOf = (name) =>
  LABELS[name] ?? `${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")}`;

// Fields of the form: one for each argument in the daemon's table (arguments.js), except `then`,
// which is the rule that a flip brings back.
function fieldsOf(action) {
  const isFirst = ({ name, required }) =>
    required || (action === "proxy" ? PROXY_FIRST : FIRST).has(name);
  return (ARGUMENTS[action] ?? []).filter(({ name }) => name !== "then").map((argument) => {
    const { name, takes, words, expects, fallback, hint, required } = argument;
    const isLines = OF_BACKENDS.has(name);
    const isChoice = words.length > 0 && takes !== "form";
    const kind = isChoice ? words : isLines ? "lines" : takes;
    const isFree = ["form", "numbers", "texts"].includes(takes);
    const expected = isFree && !isLines ? `${expects}: ` : "";
    const by = required || fallback === "none" ? "" : ` (${fallback})`;
    const help = isLines
      ? "One per line: host:port, [IPv6]:port or unix:/path" : `${expected}${hint}${by}`;
    return { name, label: labelOf(name), kind, hint: help, more: !isFirst(argument) };
  });
}

const listed = (text) => text.split(/[\s,]+/).filter(Boolean);
// Text that is not a number is sent as it is: the server says what it expected.
const number = (text) => (Number.isFinite(Number(text)) ? Number(text) : text);

function toText(kind, given, name) {
  const value = given[name];
  if (value === undefined) return "";
  if (kind === "lines") return backendsOf({ backends: value }).join("\n");
  const isList = Array.isArray(value) && value.every((item) => typeof item !== "object");
  if (isList && kind === "numbers") return value.join(", ");
  if (isList && kind === "texts" && value.every((item) => typeof item === "string")) {
    return value.join("\n");
  }
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

function fromText(kind, text) {
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  if (kind === "lines") return listed(text);
  if (kind === "numbers") return listed(text).map(number);
  if (/^[[{]/.test(trimmed)) {
    try {
      return JSON.parse(trimmed);
    } catch {
      return trimmed; // the server says what it expected
    }
  }
  if (kind === "texts") return trimmed.split("\n").map((line) => line.trim()).filter(Boolean);
  if (trimmed === "true" || trimmed === "false") return trimmed === "true";
  return kind === "form" ? trimmed : number(trimmed);
}

// Change in the dialog. `origin` is the rule that filled the form, `before` and `etag` are the rule
// and the ETag of the table, and `after` is the new rule (null: none).
let change = null;

function makeField({ name, label, kind, hint, more }, given) {
  const properties = { id: `field-${name}`, autocomplete: "off", spellcheck: false };
  const value = toText(kind, given, name);
  let input;
  if (Array.isArray(kind)) {
    input = make("select", properties, make("option", { value: "", textContent: "default" }),
      ...kind.map((choice) => make("option", { value: choice, textContent: choice })));
  } else {
    input = make(["lines", "texts"].includes(kind) ? "textarea" : "input", properties);
    if (["seconds", "count", "whole", "status"].includes(kind)) input.inputMode = "decimal";
  }
  input.value = value;
  input.dataset.was = input.value;
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
  const fields = fieldsOf(action).map((field) => makeField(field, of === action ? origin : {}));
  const pair = (list) => make("div", { className: "pair" }, ...list);
  const [first, rest] = [false, true].map((more) =>
    fields.filter((field) => Boolean(field.more) === more).map(({ node }) => node));
  // Backends need the whole width. The few fields of other actions stand side by side.
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
  for (const { name, kind } of fieldsOf(action)) {
    const field = $(`field-${name}`);
    // A field that was not edited is sent back in the form in which it came.
    if (field.dataset.was === field.value) continue;
    const value = fromText(kind, field.value);
    if (value === undefined) delete given[name];
    else given[name] = value;
  }
  return [action, given, $("field-subdomains").checked];
}

// Returns the field that an error code is about.
function fieldOfError(code) {
  const [, argument] = /host_kwarg_\w+:(\w+)$/.exec(code) ?? [];
  if (argument) return argument;
  if (/host_action/.test(code)) return "action";
  if (/:alias_/.test(code)) return "hostname";
  if (/:hostname_|:host_aliased/.test(code)) return "rule-name";
  return null;
}

function showProblem(error) {
  const text = error === null ? "" : `${error.message}`;
  for (const input of $("edit").querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    say($(input.id.replace("field-", "error-")), "");
  }
  const argument = fieldOfError(error?.code ?? "");
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
  $("revise").hidden = !isReview || change.after === null || change.many !== undefined;
  say($("go"), isReview ? change.verb : "Review");
  $("go").classList.toggle("danger", isReview && (change.after === null || change.verb === "Delete"));
  const names = change.many ? [...change.after.keys()] : [change.host];
  const of = names.length === 1 ? names[0] : plural(names.length, "host");
  say($("review-of"), isReview ? `What changes for ${of}` : "");
}

function begin(what, title, text) {
  change = what;
  say($("change-title"), title);
  say($("change-note"), text);
  $("change-note").hidden = text === "";
}

function edit(host, rule, title, text = "") {
  begin({ host, origin: rule, after: rule, verb: "Apply" }, title, text);
  $("field-rule-name").value = host;
  $("field-rule-name").parentElement.hidden = host !== "";
  $("field-action").value = rule?.[0] ?? "proxy";
  $("field-subdomains").checked = rule?.[2] ?? false;
  showFields();
  showPane(false);
  showProblem(null);
  $("change").showModal();
  const first = $("arguments").querySelector("input, textarea") ?? $("go");
  (host === "" ? $("field-rule-name") : first).focus();
}

async function readRule(host) {
  const answer = await call("GET", hostPath(host));
  return { before: await answer.json(), etag: answer.headers.get("ETag") };
}

// A rule that becomes `spin` keeps the rule from before in `then`, so that anybody can flip it
// back, from any client.
function keeping(after, before) {
  if (after?.[0] !== "spin" || !before || before[0] === "spin") return after;
  return ["spin", { ...after[1], then: before }, after[2]];
}

// Has the server check the change, then shows the difference.
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

const weights = (rule) => (rule?.[1].weights ? `, weights ${rule[1].weights.join(", ")}` : "");

function showDifference() {
  if (change.many) {
    $("difference").replaceChildren(...[...change.after].map(([name, after]) =>
      make("tr", { className: "differs" }, make("th", { scope: "row", textContent: name }),
        make("td", { textContent: inShort(change.before.get(name)) + weights(change.before.get(name)) }),
        make("td", { textContent: inShort(after) + weights(after) }))));
    return;
  }
  const [now, then] = [inLines(change.before), inLines(change.after)];
  const names = new Set([...now.keys(), ...then.keys()]);
  // Subdomains come last, even if one side has arguments that the other lacks.
  if (names.delete("subdomains")) names.add("subdomains");
  $("difference").replaceChildren(...[...names].map((name) => {
    const [left, right] = [now.get(name) ?? "–", then.get(name) ?? "–"];
    return make("tr", { className: left === right ? "" : "differs" },
      make("th", { scope: "row", textContent: name }),
      make("td", { textContent: left }), make("td", { textContent: right }));
  }));
}

const lostChange = () =>
  new Error("The connection was lost: the change may have been made, or not.");

async function apply() {
  const mine = change;
  if (mine.many) {
    await applyAll(mine);
    return;
  }
  const { host, after, before } = mine;
  const method = after === null ? "DELETE" : "PUT";
  for (let attempt = 1; ; attempt++) {
    try {
      await call(method, hostPath(host), { body: after ?? undefined, match: mine.etag });
      break;
    } catch (error) {
      if (error.status === undefined) {
        throw lostChange();
      }
      if (error.status !== 412) throw error;
      // The ETag is that of the whole table. If this rule is still the one that was looked at, the
      // other change was elsewhere, and sending the request again overwrites nothing unseen.
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
  const said = `${host} ${after === null ? "is deleted" : deed}.`;
  say($("said"), said);
  if (shown !== null) refreshSoon();
  load();
}

let busy = false;

// Runs one action at a time. An error is shown in the dialog, or beside the table if no dialog is
// open.
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
    else if (!$("host-page").hidden) say($("host-said"), error.message);
    else if (!$("backend-page").hidden) say($("backend-said"), error.message);
    else showResult(error.message, true);
  } finally {
    busy = false;
    $("go").removeAttribute("aria-disabled");
  }
}

// Handles a click in a row that needs no form: shows the difference at once.
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
  attempt($("review").hidden ? () => review($("field-rule-name").value.trim(), collect()) : apply);
});
