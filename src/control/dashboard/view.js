// Part of the page that is shown: the list, a host, or a backend. The address names it, behind `#`.

const hostLink = (host) => `#${new URLSearchParams({ host })}`;
const backendLink = (backend) => `#${new URLSearchParams({ backend })}`;

function showPart(id) {
  for (const part of ["list", "host-page", "backend-page"]) $(part).hidden = part !== id;
}

let cameFrom = null; // the host or backend whose page was left

function route() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const [host, backend] = [wanted.get("host"), wanted.get("backend")];
  for (const away of document.querySelectorAll("a.away")) away.href = listHash();
  if (host) {
    showPart("host-page");
    cameFrom = host;
    openHost(host);
    $("host-title").focus();
    scrollTo(0, 0);
    return;
  }
  leaveHost();
  if (backend) {
    showPart("backend-page");
    openBackend(backend);
    $("backend-title").focus();
    scrollTo(0, 0);
    return;
  }
  leaveBackend();
  const wasHidden = $("list").hidden;
  showPart("list");
  const before = listHash();
  readView(wanted);
  const isOther = before !== listHash();
  if (isOther || wasHidden) load().then((isShown) => isShown && focusList(isOther));
}

// After the page of a host, its row in the list gets the focus. If a tile led here, or the row is
// missing, the first row gets it.
function focusList(isOther) {
  if ($("change").open) return;
  const row = isOther ? undefined : rows.get(cameFrom);
  cameFrom = null;
  const first = row?.tr.querySelector(".name a") ?? firstName();
  (first ?? $("hosts-title")).focus();
}

window.addEventListener("hashchange", route);
