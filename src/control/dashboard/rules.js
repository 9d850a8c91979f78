// Rules as text.

function backendsOf({ backends }) {
  const list = typeof backends === "string" ? backends.split(",") : (backends ?? []);
  return list.map((item) => {
    const [host, port] = item.__backend__ ?? (typeof item === "string" ? [item.trim()] : item);
    if (port === undefined) return host;
    return host.includes(":") && !host.startsWith("[") ? `[${host}]:${port}` : `${host}:${port}`;
  });
}

// Backends of a rule that are named in its row.
const AIMS_SHOWN = 1;

const AIMS = new Map([
  ["proxy", (given) => {
    const all = backendsOf(given);
    const shown = all.slice(0, AIMS_SHOWN).join(", ");
    return all.length > AIMS_SHOWN ? `${shown} +${all.length - AIMS_SHOWN}` : shown;
  }],
  ["redirect", (given) => `${given.code ?? 302} → ${given.redirect_to}`],
  ["static", (given) => `${given.type}`],
  ["empty", (given) => `${given.code}`],
  ["alias", (given) => `= ${given.hostname}`],
  ["spin", (given) => `holds up to ${given.timeout ?? 120} s`],
]);

const aim = ([action, given]) => AIMS.get(action)?.(given) ?? "";
const inShort = (rule) => (rule ? `${rule[0]} ${aim(rule)}`.trim() : "no rule");

// Returns the rule that serves the host. For a held host, this is the `then` of its rule.
const behind = (rule) => (rule?.[0] === "spin" ? rule[1].then ?? rule : rule);

function inLines(rule) {
  if (rule === null) return new Map([["action", "no rule of its own"]]);
  const [action, given, subdomains] = rule;
  const lines = new Map([["action", action]]);
  for (const [name, value] of Object.entries(given)) {
    const text = name === "backends" || name === "backup"
      ? backendsOf({ backends: value }).join("\n")
      : name === "then" ? `${value[0]} ${aim(value)}` : value;
    lines.set(name, typeof text === "string" ? text : JSON.stringify(text));
  }
  return lines.set("subdomains", subdomains ? "yes" : "no");
}
