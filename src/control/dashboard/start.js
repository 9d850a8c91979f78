// The start: theme, lists of actions, the view that the address names, and the first requests.

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
for (const action of Object.keys(ARGUMENTS)) {
  for (const list of [$("action"), $("field-action")]) list.append(make("option", {}, action));
}
say($("where"), location.host);
$("forget").hidden = sessionStorage.getItem(TOKEN) === null;
for (const list of [$("log"), $("backends")]) {
  list.append(make("li", { className: "none" }, "Nothing yet."));
}
const first = new URLSearchParams(location.hash.slice(1));
if (!first.has("host") && !first.has("backend")) readView(first);
await load();
// A user who has just given no token is not asked for it again at once.
if ($("light").dataset.state !== "lost") {
  readPast();
  if (first.has("host") || first.has("backend")) route();
  relisten();
  loadLimits();
  loadFleet();
}
