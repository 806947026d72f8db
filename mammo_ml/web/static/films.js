// A film that was opened: its pixels, its window, what the model said of it, and the findings of whoever reads it.

export const KINDS = [
  ["CIRC", "circumscribed mass"],
  ["SPIC", "spiculated mass"],
  ["MISC", "ill-defined or other mass"],
  ["MASS", "mass, not told which"],
  ["CALC", "calcification"],
  ["ARCH", "architectural distortion"],
  ["ASYM", "asymmetry"],
];
export const SEVERITIES = [
  ["malignant", "malignant"],
  ["benign", "benign"],
  ["unknown", "not known"],
];

let counter = 0;

/** Pixels of a binary PGM: { width, height, maxValue, pixels }. */
export function parsePgm(buffer) {
  const head = new TextDecoder("latin1").decode(buffer.slice(0, 64));
  const found = /^P5\n(\d+) (\d+)\n(\d+)\n/.exec(head);
  const [width, height, maxValue] = found.slice(1).map(Number);
  const bytes = new Uint8Array(buffer, found[0].length);
  if (maxValue < 256) return { width, height, maxValue, pixels: bytes };
  const pixels = new Uint16Array(width * height);
  for (let n = 0; n < pixels.length; n++) pixels[n] = (bytes[2 * n] << 8) | bytes[2 * n + 1];
  return { width, height, maxValue, pixels };
}

export class Film {
  constructor(file) {
    this.id = `film-${++counter}`;
    this.file = file;
    this.name = file.name;
    this.status = "reading"; // then looking, done, refused
    this.refusal = null;
    this.picture = null;
    this.answer = null;
    this.findings = [];
    this.complete = false;
    this.predictionShown = false;
    this.invert = false;
    this.selected = null;
    this.changed = false;
    this.history = [];
  }

  /** Name of the film in tables: the file's name without its ending. */
  get filmId() {
    return this.name.replace(/\.[a-z0-9]{1,5}$/i, "") || this.name;
  }

  setView(view) {
    this.picture = parsePgm(view.picture);
    this.width = view.width;
    this.height = view.height;
    this.spacing = view.spacing;
    // the server sends very large films reduced
    this.scale = this.picture.width / this.width;
    this.firstWindow = windowOf(this.picture);
    this.window = { ...this.firstWindow };
    this.content = contentOf(this.picture, this.firstWindow.low, this.scale);
  }

  setAnswer(answer) {
    this.answer = answer;
    this.spacing = answer.film.pixel_spacing_mm;
    this.findings = this.findings.filter((finding) => finding.source === "reader");
    const found = answer.boxes.map((box) => ({
      id: `finding-${++counter}`,
      source: "model",
      state: "proposed",
      box: { x1: box.x1, y1: box.y1, x2: box.x2, y2: box.y2 },
      original: { x1: box.x1, y1: box.y1, x2: box.x2, y2: box.y2 },
      score: box.score,
      guess: box.p_malignant > box.p_benign ? "malignant" : "benign",
      severity: box.p_malignant > box.p_benign ? "malignant" : "benign",
      kind: "",
      predictionShown: true,
    }));
    this.findings.unshift(...found);
    this.history = [];
  }

  /** Model's findings below the threshold are not there, unless the reader has decided about them. */
  visible(threshold, predictions) {
    return this.findings.filter((finding) => {
      if (finding.source === "reader" || finding.state === "accepted") return true;
      if (!predictions) return false;
      return finding.state === "rejected" || finding.score >= threshold;
    });
  }

  finding(id) {
    return this.findings.find((finding) => finding.id === id) ?? null;
  }

  remember() {
    this.history.push(JSON.stringify({ findings: this.findings, complete: this.complete }));
    if (this.history.length > 100) this.history.shift();
    this.changed = true;
  }

  undo() {
    const last = this.history.pop();
    if (!last) return;
    Object.assign(this, JSON.parse(last));
    if (!this.finding(this.selected)) this.selected = null;
  }

  add(box) {
    this.remember();
    const finding = {
      id: `finding-${++counter}`,
      source: "reader",
      state: "accepted",
      box,
      original: null,
      score: null,
      guess: "",
      severity: "unknown",
      kind: "",
      predictionShown: this.predictionShown,
    };
    this.findings.push(finding);
    this.selected = finding.id;
    return finding;
  }

  remove(id) {
    this.remember();
    this.findings = this.findings.filter((finding) => finding.id !== id);
    this.selected = null;
  }

  change(id, values) {
    this.remember();
    Object.assign(this.finding(id), values);
  }

  /** Move or resize a finding; a proposed one that was mended is accepted. */
  place(id, box) {
    const finding = this.finding(id);
    finding.box = this.inside(box);
    if (finding.state !== "accepted") finding.state = "accepted";
  }

  inside(box) {
    const [x1, x2] = [box.x1, box.x2].sort((a, b) => a - b).map((x) => Math.min(Math.max(x, 0), this.width));
    const [y1, y2] = [box.y1, box.y2].sort((a, b) => a - b).map((y) => Math.min(Math.max(y, 0), this.height));
    return { x1, y1, x2, y2 };
  }
}

/** Grey levels that are black and white at first: all but the darkest and brightest half percent of what is not black. */
function windowOf({ pixels, maxValue }) {
  const counts = new Uint32Array(maxValue + 1);
  const step = Math.max(1, Math.floor(pixels.length / 2_000_000));
  let total = 0;
  for (let n = 0; n < pixels.length; n += step) {
    counts[pixels[n]]++;
    total++;
  }
  total -= counts[0];
  if (total < 1) return { low: 0, high: maxValue };
  const level = (share) => {
    let seen = 0;
    for (let grey = 1; grey <= maxValue; grey++) {
      seen += counts[grey];
      if (seen >= share * total) return grey;
    }
    return maxValue;
  };
  const [low, high] = [level(0.005), level(0.995)];
  return high > low ? { low, high } : { low: 0, high: maxValue };
}

/** The part of a film that is not its black margin, in film px: films are padded, some to twice their width. */
function contentOf({ width, height, pixels }, low, scale) {
  const step = Math.max(1, Math.floor(Math.max(width, height) / 512));
  const [columns, rows] = [new Set(), new Set()];
  const [inColumn, inRow] = [new Map(), new Map()];
  for (let y = 0; y < height; y += step) {
    for (let x = 0; x < width; x += step) {
      if (pixels[y * width + x] <= low) continue;
      // a label's or a scratch's few pixels make no row or column
      inColumn.set(x, (inColumn.get(x) ?? 0) + 1);
      inRow.set(y, (inRow.get(y) ?? 0) + 1);
      if (inColumn.get(x) * step > 0.05 * height) columns.add(x);
      if (inRow.get(y) * step > 0.05 * width) rows.add(y);
    }
  }
  if (!columns.size || !rows.size) return { x1: 0, y1: 0, x2: width / scale, y2: height / scale };
  const [x1, y1] = [Math.min(...columns), Math.min(...rows)];
  const [x2, y2] = [Math.max(...columns) + step, Math.max(...rows) + step];
  return { x1: x1 / scale, y1: y1 / scale, x2: Math.min(x2, width) / scale, y2: Math.min(y2, height) / scale };
}

export function actionOf(finding) {
  if (finding.source === "reader") return "drawn";
  if (finding.state === "rejected") return "rejected";
  const moved = ["x1", "y1", "x2", "y2"].some((edge) => Math.abs(finding.box[edge] - finding.original[edge]) > 0.05);
  if (moved) return finding.severity === finding.guess ? "moved" : "moved and relabelled";
  return finding.severity === finding.guess ? "accepted" : "relabelled";
}
