// A selection of hosts, and one change to all of them: one review and one request, which changes
// all of them or none.

const HOSTS_IN_REVIEW = 200;

function showSelection() {
  for (const [name, row] of rows) row.pick.checked = selected.has(name);
  const picked = [...rows.keys()].filter((name) => selected.has(name)).length;
  $("pick-all").checked = picked > 0 && picked === rows.size;
  $("pick-all").indeterminate = picked > 0 && picked < rows.size;
  $("bulk").hidden = selected.size === 0;
  const elsewhere = selected.size - picked;
  const others = elsewhere > 0 ? `, ${elsewhere} of them not shown here` : "";
  say($("bulk-count"), `${plural(selected.size, "host")} selected${others}`);
}

$("rows").addEventListener("change", (event) => {
  const name = event.target.closest("tr").dataset.host;
  if (event.target.checked) selected.add(name);
  else selected.delete(name);
  showSelection();
});
$("pick-all").addEventListener("change", () => {
  for (const name of rows.keys()) {
    if ($("pick-all").checked) selected.add(name);
    else selected.delete(name);
  }
  showSelection();
});

// For each deed: the new rule, or the reason why a rule stays as it is.
const BULK = {
  spin: {
    verb: "Spin", title: (n) => `Hold the requests of ${n}?`,
    after: (rule) => (rule[0] === "spin" ? "it spins already" : keeping(["spin", {}, rule[2]], rule)),
  },
  flip: {
    verb: "Flip back", title: (n) => `Flip ${n} back?`,
    after: (rule) => {
      if (rule[0] !== "spin") return "it does not spin";
      return rule[1].then ?? "what it did before is not in its rule";
    },
  },
  delete: { verb: "Delete", title: (n) => `Delete the rules of ${n}?`, after: () => null },
};

$("bulk").addEventListener("click", (event) => {
  const deed = event.target.closest("button")?.dataset.bulk;
  if (deed === "none") {
    selected.clear();
    showSelection();
    $("hosts-title").focus();
  } else if (deed) proposeAll([...selected], BULK[deed]);
});

// Reads the rules of these hosts, all from one table, and the ETag of this table.
async function readRules(names) {
  const answer = await call("GET", `hostname/?${hostsQuery(names)}`);
  const before = new Map(Object.entries(await answer.json()));
  return { before, etag: answer.headers.get("ETag") };
}

function edits(names, before, makeAfter) {
  const [after, left] = [new Map(), []];
  for (const name of names) {
    const rule = before.get(name) ?? null;
    const then = rule === null ? "it has no rule" : makeAfter(rule);
    if (typeof then === "string") left.push(`${name}: ${then}`);
    else after.set(name, then);
  }
  return { after, left };
}

function proposeAll(names, { verb, title, after: makeAfter }) {
  attempt(async () => {
    if (names.length > HOSTS_IN_REVIEW) {
      throw new Error(`at most ${HOSTS_IN_REVIEW} hosts fit into one review`);
    }
    const { before, etag } = await readRules(names);
    const { after, left } = edits(names, before, makeAfter);
    const mine = { many: { names, makeAfter }, before, after, etag, verb };
    const text = left.length > 0 ? `As they are stay: ${left.join("; ")}.` : "";
    begin(mine, title(after.size === 1 ? [...after.keys()][0] : plural(after.size, "host")), text);
    if (after.size === 0) throw new Error(text || "Nothing is selected.");
    await call("PATCH", "hostname/?dry_run=1", { body: Object.fromEntries(after) });
    showDifference();
    showPane(true);
    $("change").showModal();
    $("go").focus();
  });
}

async function applyAll(mine) {
  for (let attempt = 1; ; attempt++) {
    try {
      const body = Object.fromEntries(mine.after);
      await call("PATCH", "hostname/", { body, match: mine.etag });
      break;
    } catch (error) {
      if (error.status === undefined) throw lostChange();
      if (error.status !== 412) throw error;
      const before = JSON.stringify([...mine.before].sort());
      Object.assign(mine, await readRules(mine.many.names));
      if (JSON.stringify([...mine.before].sort()) === before && attempt < 4) continue;
      Object.assign(mine, edits(mine.many.names, mine.before, mine.many.makeAfter));
      if (change === mine) showDifference();
      throw new Error("The table changed meanwhile: above is how these hosts are now. Look again.");
    }
  }
  if (change === mine) $("change").close();
  for (const name of mine.after.keys()) selected.delete(name);
  say($("said"), `${plural(mine.after.size, "host")}: ${mine.verb.toLowerCase()} is done.`);
  showSelection();
  if (shownBackend !== null) readRulesOfBackend();
  load();
}
