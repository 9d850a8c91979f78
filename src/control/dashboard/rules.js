// Rules in words.

function backendsOf({ backends }) {
  const list = typeof backends === "string" ? backends.split(",") : (backends ?? []);
  return list.map((item) => {
    const [host, port] = item.__backend__ ?? (typeof item === "string" ? [item.trim()] : item);
    if (port === undefined) return host;
    return host.includes(":") && !host.startsWith("[") ? `[${host}]:${port}` : `${host}:${port}`;
  });
}

const AIMS = new Map([
  ["proxy", (given) => {
    const all = backendsOf(given);
    return all.length > 1 ? `${all[0]} +${all.length - 1}` : `${all[0] ?? ""}`;
  }],
  ["redirect", (given) => `${given.code ?? 302} → ${given.redirect_to}`],
  ["static", (given) => `${given.type}`],
  ["empty", (given) => `${given.code}`],
  ["alias", (given) => `= ${given.hostname}`],
  ["spin", (given) => `holds up to ${given.timeout ?? 120} s`],
]);

const aim = ([action, given]) => AIMS.get(action)?.(given) ?? "";

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
