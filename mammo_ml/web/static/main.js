// The page: films that are opened, the panes they are shown in, and everything around them.
import { askLocate, askView, Refused } from "./api.js";
import { exportAs, recallAuthor, updateExport } from "./export_panel.js";
import { Film, KINDS } from "./films.js";
import { FindingsList } from "./findings.js";
import { onKey } from "./keys.js";
import { start } from "./server.js";
import { $, film, pressed, redraw, say, state } from "./state.js";
import { Threshold } from "./threshold.js";
import { banners, facts, mayBeSpacing, notes, paragraph, thumbnail } from "./told.js";
import { percent, Viewer } from "./viewer.js";

const MOST_AT_ONCE = 2;

/** What panes and list ask of the page, and tell it. */
const host = {
  get tool() {
    return state.tool;
  },
  get heat() {
    return state.heat;
  },
  blind: (film) => film.hidden,
  shown: (film) => (film.answer || film.findings.length ? film.visible(state.threshold?.value ?? 0, state.boxes && !film.hidden) : []),
  numberOf: (film, finding) => film.findings.indexOf(finding) + 1,
  onActive(viewer) {
    if (state.active !== viewer) activate(viewer);
  },
  onMoved(viewer) {
    if (!state.pair) return;
    const other = state.panes.find((one) => one !== viewer);
    if (!other?.film?.picture || !viewer.film) return;
    // the two breasts mirror each other
    const mirrored = sideOf(viewer.film) !== sideOf(other.film);
    const share = viewer.centre.x / viewer.film.width;
    other.fitted = false;
    other.zoom = (viewer.zoom * viewer.film.height) / other.film.height;
    other.centre = {
      x: (mirrored ? 1 - share : share) * other.film.width,
      y: (viewer.centre.y / viewer.film.height) * other.film.height,
    };
    other.redraw();
  },
  onWindow: () => redraw(),
  onSelect: (viewer, id) => host.select(viewer.film, id),
  onChange: (viewer) => updateFindings(viewer.film),
  onDrawn(viewer, box) {
    const finding = viewer.film.add(box);
    setTool("pan");
    updateFindings(viewer.film);
    say(`Finding ${host.numberOf(viewer.film, finding)} added.`);
  },
  select(film, id) {
    film.selected = id;
    const finding = film.finding(id);
    if (finding) state.panes.find((viewer) => viewer.film === film)?.reveal(finding.box);
    updateFindings(film);
    if (finding) $("findings").querySelector(".selected")?.scrollIntoView({ block: "nearest" });
  },
  decide(film, finding, decision) {
    film.change(finding.id, { state: finding.state === decision ? "proposed" : decision });
    updateFindings(film);
    say(`Finding ${host.numberOf(film, finding)} ${finding.state}.`);
  },
  relabel(film, finding, values) {
    // whoever says what it is has accepted it
    film.change(finding.id, { ...values, state: "accepted" });
    updateFindings(film);
  },
  remove(film, finding) {
    film.remove(finding.id);
    updateFindings(film);
    say("Finding removed.");
  },
};

const findings = new FindingsList(host);
const sideOf = (one) => one.answer?.film.chest_wall ?? "left";

// ------------------------------------------------------------------------------------------------------------- films

function openFiles(files) {
  const opened = [...files].map((file) => new Film(file));
  if (!opened.length) return;
  for (const one of opened) {
    one.hidden = $("blind").checked;
    state.films.push(one);
  }
  $("drop").hidden = true;
  for (const id of ["tools", "film-panel", "findings-panel", "export-panel"]) $(id).hidden = false;
  $("threshold-panel").hidden = !state.threshold;
  if (opened.length === 2 && state.films.length === 2 && innerWidth > 900) state.pair = true;
  layOut(state.films.indexOf(opened[0]));
  say(`${opened.length} film${opened.length > 1 ? "s" : ""} opened.`);
  work();
}

/** Ask the server for films that wait, a few at once. */
function work() {
  while (state.asking < MOST_AT_ONCE) {
    const next = state.films.find((one) => one.status === "reading" && !one.begun);
    if (!next) return;
    next.begun = true;
    state.asking++;
    ask(next).finally(() => {
      state.asking--;
      work();
    });
  }
}

async function ask(one, spacing = null) {
  one.refusal = null;
  one.status = one.picture ? "looking" : "reading";
  update(one);
  try {
    if (!one.picture) one.setView(await askView(one.file, spacing));
    one.status = "looking";
    update(one);
    one.setAnswer(await askLocate(one.file, spacing));
    one.status = "done";
    for (const viewer of state.panes) if (viewer.film === one) viewer.heat = null;
    say(`${one.name}: ${one.answer.boxes.length} boxes found.`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    one.status = "refused";
    one.refusal = error;
    say(`${one.name}: ${error.message}`);
  }
  update(one);
}

/** Put films into one pane or two, the chosen one among them. */
function layOut(index) {
  state.pair = state.pair && state.films.length > 1;
  const first = state.pair ? Math.min(index - (index % 2), state.films.length - 2) : index;
  const chosen = state.films.slice(first, first + (state.pair ? 2 : 1));
  while (state.panes.length > chosen.length) state.panes.pop().element.remove();
  while (state.panes.length < chosen.length) {
    const viewer = new Viewer(host);
    state.panes.push(viewer);
    $("panes").append(viewer.element);
  }
  $("panes").classList.toggle("single", !state.pair);
  chosen.forEach((one, n) => state.panes[n].show(one));
  pressed("pair", state.pair);
  $("pair").disabled = state.films.length < 2;
  activate(state.panes.find((viewer) => viewer.film === state.films[index]) ?? state.panes[0]);
  for (const one of chosen) update(one);
}

function activate(viewer) {
  state.active = viewer;
  for (const one of state.panes) one.element.classList.toggle("active", one === viewer);
  updatePanel();
  updateFindings(viewer.film);
  updateStrip();
}

function update(one) {
  for (const viewer of state.panes) {
    if (viewer.film !== one) continue;
    if (one.picture && viewer.fitted) viewer.fit();
    viewer.banners.replaceChildren(...banners(one));
    viewer.caption.textContent = one.name;
    viewer.busy.hidden = !["reading", "looking"].includes(one.status);
    viewer.busy.textContent = one.status === "reading" ? "Reading the film" : "Looking for lesions";
    viewer.readout.hidden = !one.picture;
    viewer.redraw();
  }
  if (!one.hidden) noteShown(one);
  if (one === film()) {
    updatePanel();
    updateFindings(one);
  }
  updateStrip();
}

/** Once what the model found was in sight, findings that follow are no longer made without it. */
function noteShown(one) {
  const inSight = state.panes.some((viewer) => viewer.film === one);
  if (one.answer && inSight && !one.hidden && (state.boxes || state.heat)) one.predictionShown = true;
}

function updatePanel() {
  const one = film();
  if (!one) return;
  $("film-name").textContent = one.name;
  const words = { reading: "Being read …", looking: "Being looked at …", refused: "" };
  if (one.status === "done" && one.hidden) {
    const show = document.createElement("button");
    show.type = "button";
    show.textContent = "Show what the model found";
    show.addEventListener("click", reveal);
    $("film-state").replaceChildren(show);
  } else if (one.status === "done") {
    const strong = document.createElement("strong");
    strong.textContent = percent(one.answer.p_abnormal);
    $("film-state").replaceChildren("Chance of a lesion on this film: ", strong);
  } else {
    $("film-state").textContent = words[one.status];
  }
  $("film-notes").replaceChildren(...notes(one, state.heat && !one.hidden, () => ask(one)));
  $("film-about").hidden = !one.answer;
  if (one.answer) $("film-facts").replaceChildren(...facts(one));
  $("spacing-form").hidden = !(one.status === "refused" && mayBeSpacing(one.refusal));
  pressed("invert", one.invert);
  $("complete").checked = one.complete;
  $("complete").disabled = !one.answer;
}

function updateFindings(one) {
  redraw();
  updateStrip();
  if (one !== film()) return;
  findings.update(one);
  $("undo").disabled = !one.history.length;
  $("add").disabled = !one.picture;
  $("complete").checked = one.complete;
  updateExport();
}

function updateStrip() {
  $("strip").hidden = state.films.length < 2;
  const buttons = state.films.map((one, n) => {
    const made = document.createElement("button");
    made.type = "button";
    if (one === film()) made.setAttribute("aria-current", "true");
    const mark = { reading: "…", looking: "…", refused: "refused" }[one.status] ?? (one.complete ? "read" : "");
    made.append(thumbnail(one), one.name);
    if (mark) made.append(paragraph(mark, "mark"));
    made.addEventListener("click", () => layOut(n));
    return made;
  });
  $("strip").replaceChildren(...buttons);
}

// ---------------------------------------------------------------------------------------------------------- controls

function setTool(tool) {
  state.tool = tool;
  for (const one of document.querySelectorAll("[data-tool]")) one.setAttribute("aria-checked", String(one.dataset.tool === tool));
}

function toggle(name) {
  state[name] = !state[name];
  pressed(name, state[name]);
  for (const one of state.films) noteShown(one);
  if (film()) {
    updatePanel();
    updateFindings(film());
  }
}

function reveal() {
  const one = film();
  one.hidden = false;
  state.boxes = true;
  pressed("boxes", true);
  update(one);
}

function turnFilm(by) {
  const next = state.films.indexOf(film()) + by * (state.pair ? 2 : 1);
  if (next >= 0 && next < state.films.length) layOut(next);
}

function nextFinding(by) {
  const one = film();
  const shown = host.shown(one);
  if (!shown.length) return;
  const at = shown.findIndex((finding) => finding.id === one.selected);
  const next = at < 0 ? (by > 0 ? 0 : shown.length - 1) : (at + by + shown.length) % shown.length;
  host.select(one, shown[next].id);
  const { score, severity } = shown[next];
  say(`Finding ${host.numberOf(one, shown[next])}, ${severity}${score === null ? "" : `, ${percent(score)}`}`);
}

function nudge(event) {
  const one = film();
  const finding = one.finding(one.selected);
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  const far = event.shiftKey ? 10 : 1;
  if (!finding) {
    const step = (60 * far * devicePixelRatio) / state.active.zoom;
    state.active.moveTo({ x: state.active.centre.x + dx * step, y: state.active.centre.y + dy * step });
    return;
  }
  one.remember();
  const { x1, y1, x2, y2 } = finding.box;
  const box = event.altKey
    ? { x1, y1, x2: Math.max(x2 + dx * far, x1 + 2), y2: Math.max(y2 + dy * far, y1 + 2) }
    : state.active.shifted(finding.box, dx * far, dy * far);
  one.place(finding.id, box);
  updateFindings(one);
}

function undo() {
  film().undo();
  updateFindings(film());
  say("Undone.");
}

function addInTheMiddle() {
  const one = film();
  const { x, y } = state.active.centre;
  const half = Math.max(10, 0.08 * Math.min(one.width, one.height));
  host.onDrawn(state.active, one.inside({ x1: x - half, y1: y - half, x2: x + half, y2: y + half }));
  state.active.canvas.focus();
}

function showFinding(one, finding) {
  layOut(state.films.indexOf(one));
  host.select(one, finding.id);
}

const onChosen = (what) => () => {
  const one = film();
  const finding = one.finding(one.selected);
  if (finding) what(one, finding);
};

const decideKey = (decision) =>
  onChosen((one, finding) => {
    if (finding.source === "model") host.decide(one, finding, decision);
  });

const KEYS = {
  "?": () => $("help").showModal(),
  o: () => $("files").click(),
  v: () => setTool("pan"),
  w: () => setTool("window"),
  d: () => setTool("draw"),
  i: () => $("invert").click(),
  r: () => $("reset-window").click(),
  b: () => (film().hidden ? reveal() : toggle("boxes")),
  h: () => toggle("heat"),
  s: () => $("pair").click(),
  "+": () => state.active.zoomBy(1.25),
  "=": () => state.active.zoomBy(1.25),
  "-": () => state.active.zoomBy(0.8),
  0: () => state.active.fit(),
  "[": () => state.threshold?.step(-1),
  "]": () => state.threshold?.step(1),
  n: () => nextFinding(1),
  p: () => nextFinding(-1),
  a: decideKey("accepted"),
  x: decideKey("rejected"),
  m: onChosen((one, finding) => host.relabel(one, finding, { severity: "malignant" })),
  g: onChosen((one, finding) => host.relabel(one, finding, { severity: "benign" })),
  u: onChosen((one, finding) => host.relabel(one, finding, { severity: "unknown" })),
  delete: onChosen((one, finding) => (finding.source === "reader" ? host.remove(one, finding) : host.decide(one, finding, "rejected"))),
  escape: () => host.select(film(), null),
  pageup: () => turnFilm(-1),
  pagedown: () => turnFilm(1),
};

function wire() {
  const click = (id, what) => $(id).addEventListener("click", what);
  click("choose", () => $("files").click());
  click("open", () => $("files").click());
  click("fit", () => state.active.fit());
  click("zoom-in", () => state.active.zoomBy(1.25));
  click("zoom-out", () => state.active.zoomBy(0.8));
  click("boxes", () => (film().hidden ? reveal() : toggle("boxes")));
  click("heat", () => toggle("heat"));
  click("add", addInTheMiddle);
  click("undo", undo);
  click("help-open", () => $("help").showModal());
  click("export-tables", () => exportAs("tables", showFinding));
  click("export-coco", () => exportAs("coco", showFinding));
  click("invert", () => {
    film().invert = !film().invert;
    pressed("invert", film().invert);
    redraw();
  });
  click("reset-window", () => {
    Object.assign(film(), { window: { ...film().firstWindow }, invert: false });
    pressed("invert", false);
    redraw();
  });
  click("pair", () => {
    state.pair = !state.pair;
    layOut(state.films.indexOf(film()));
    for (const viewer of state.panes) viewer.fit();
  });
  for (const one of document.querySelectorAll("[data-tool]")) one.addEventListener("click", () => setTool(one.dataset.tool));
  $("files").addEventListener("change", (event) => {
    openFiles(event.target.files);
    event.target.value = "";
  });
  $("complete").addEventListener("change", (event) => {
    film().remember();
    film().complete = event.target.checked;
    updateFindings(film());
  });
  $("spacing-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask(film(), $("spacing").value.trim().replace(",", "."));
  });
  recallAuthor();
  document.addEventListener("keydown", onKey(KEYS, {
    film,
    nudge,
    undo,
    kind: (n) => onChosen((one, finding) => host.relabel(one, finding, { kind: KINDS[n][0] }))(),
  }));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    openFiles(event.dataTransfer.files);
  });
  addEventListener("beforeunload", (event) => {
    if (state.films.some((one) => one.changed)) event.preventDefault();
  });
}

wire();
start(() => {
  state.threshold = new Threshold(state.model, () => {
    for (const one of state.films) if (!one.hidden) noteShown(one);
    redraw();
    if (film()) updateFindings(film());
  });
});
