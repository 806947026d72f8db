// The panel that corrections are exported from.
import { coco, download, readFilms, tables, withoutKind, zip } from "./exports.js";
import { $, state } from "./state.js";

const AUTHOR = "mammo-author";

/** Fill in who read last. */
export function recallAuthor() {
  $("author").value = stored(AUTHOR);
}

/** What there is to export. */
export function updateExport() {
  const chosen = readFilms(state.films);
  const accepted = chosen.flatMap((one) => one.findings.filter((finding) => finding.state === "accepted")).length;
  const lacking = withoutKind(state.films).length;
  for (const id of ["export-tables", "export-coco"]) $(id).disabled = !chosen.length;
  $("export-state").textContent = chosen.length
    ? `${chosen.length} film${chosen.length > 1 ? "s" : ""}, ${accepted} finding${accepted === 1 ? "" : "s"}${lacking ? `, ${lacking} without a kind` : ""}.`
    : "Accept, reject or add a finding, or mark a film as read.";
}

function author() {
  const told = $("author").value.trim();
  if (!told) {
    $("export-state").textContent = "Say who has read the films: the tables keep it.";
    $("author").focus();
    return null;
  }
  try {
    localStorage.setItem(AUTHOR, told);
  } catch {
    // a browser that keeps nothing
  }
  return told;
}

/** Hand corrections out as a file; `show` brings a finding into sight that lacks something. */
export function exportAs(kind, show) {
  const told = author();
  if (!told) return;
  const now = new Date();
  const stamp = now.toISOString().slice(0, 19).replace(/[:T]/g, "-");
  if (kind === "tables") {
    const [lacking] = withoutKind(state.films);
    if (lacking) {
      const [one, finding] = lacking;
      show(one, finding);
      $("export-state").textContent = `Finding ${one.findings.indexOf(finding) + 1} on ${one.name} needs a kind: the catalog asks for one. COCO goes without.`;
      $("findings").querySelector(`[data-focus="${finding.id} kind"]`)?.focus();
      return;
    }
    download(`corrections-${stamp}.zip`, zip(tables(state.films, told, state.threshold.value, now)), "application/zip");
  } else {
    const content = JSON.stringify(coco(state.films, told, state.threshold.value, now), null, 2);
    download(`corrections-${stamp}.coco.json`, `${content}\n`, "application/json");
  }
  for (const one of state.films) one.changed = false;
  $("export-state").textContent = "Exported: look among your downloads.";
}

function stored(name) {
  try {
    return localStorage.getItem(name) ?? "";
  } catch {
    return "";
  }
}
