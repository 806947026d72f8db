// Corrections as files: the catalog's tables (three CSV files in a ZIP), or COCO.
import { actionOf, SEVERITIES } from "./films.js";

/** Columns of lesions.csv in the catalog, then what is told of a correction. */
const LESION_COLUMNS = [
  ...["lesion_id", "film_id", "kind", "severity", "has_location", "x_px", "y_px", "radius_px", "x1", "y1", "x2", "y2", "source"],
  ...["action", "score", "author", "model", "prediction_shown"],
];
const FILM_COLUMNS = [
  ...["film_id", "sha256", "width_px", "height_px", "pixel_spacing_mm", "chest_wall", "label"],
  ...["complete", "threshold", "author", "model", "prediction_shown", "seen_in_training", "read_at"],
];
const REJECTED_COLUMNS = ["film_id", "x1", "y1", "x2", "y2", "score", "source", "author", "model", "prediction_shown"];

/** Films whose reading holds something to tell. */
export function readFilms(films) {
  return films.filter((film) => film.answer && (film.complete || film.findings.some((one) => one.state !== "proposed")));
}

const kept = (film) => film.findings.filter((finding) => finding.state === "accepted");

/** Accepted findings whose kind was not told, which the catalog asks for: [film, finding]. */
export function withoutKind(films) {
  return readFilms(films).flatMap((film) => kept(film).filter((one) => !one.kind).map((one) => [film, one]));
}

function modelOf(film) {
  return `${film.answer.model.name}/${film.answer.model.version}`;
}

const round = (value) => Math.round(value * 100) / 100;

function labelOf(film) {
  const severities = kept(film).map((finding) => finding.severity);
  if (severities.includes("malignant")) return "malignant";
  // an unknown one might be malignant, and unread parts of a film might hold one
  if (severities.includes("unknown") || !film.complete) return "";
  return severities.includes("benign") ? "benign" : "normal";
}

export function tables(films, author, threshold, now) {
  const chosen = readFilms(films);
  const lesions = chosen.flatMap((film) =>
    kept(film).map((finding, n) => {
      const { x1, y1, x2, y2 } = finding.box;
      return {
        lesion_id: `${film.filmId}_feedback_${n + 1}`,
        film_id: film.filmId,
        kind: finding.kind,
        severity: finding.severity,
        has_location: true,
        x_px: round((x1 + x2) / 2),
        y_px: round((y1 + y2) / 2),
        radius_px: round(Math.max(x2 - x1, y2 - y1) / 2),
        x1: round(x1),
        y1: round(y1),
        x2: round(x2),
        y2: round(y2),
        source: "feedback",
        action: actionOf(finding),
        score: finding.score ?? "",
        author,
        model: modelOf(film),
        prediction_shown: finding.predictionShown,
      };
    }),
  );
  const read = chosen.map((film) => ({
    film_id: film.filmId,
    ...film.answer.film,
    label: labelOf(film),
    complete: film.complete,
    threshold,
    author,
    model: modelOf(film),
    prediction_shown: film.predictionShown,
    seen_in_training: film.answer.seen_in_training,
    read_at: now.toISOString(),
  }));
  const rejected = chosen.flatMap((film) =>
    film.findings
      .filter((finding) => finding.state === "rejected")
      .map((finding) => ({
        film_id: film.filmId,
        ...Object.fromEntries(Object.entries(finding.box).map(([edge, value]) => [edge, round(value)])),
        score: finding.score,
        source: "feedback",
        author,
        model: modelOf(film),
        prediction_shown: true,
      })),
  );
  return {
    "films.csv": csv(FILM_COLUMNS, read),
    "lesions.csv": csv(LESION_COLUMNS, lesions),
    "rejected.csv": csv(REJECTED_COLUMNS, rejected),
  };
}

export function coco(films, author, threshold, now) {
  const chosen = readFilms(films);
  const names = SEVERITIES.map(([name]) => name);
  let number = 0;
  return {
    info: {
      description: "Corrections of the lesion locator. Research use only.",
      date_created: now.toISOString(),
      contributor: author,
      source: "feedback",
      threshold,
    },
    licenses: [],
    categories: names.map((name, n) => ({ id: n + 1, name, supercategory: "lesion" })),
    images: chosen.map((film, n) => ({
      id: n + 1,
      file_name: film.name,
      width: film.width,
      height: film.height,
      sha256: film.answer.film.sha256,
      complete: film.complete,
      prediction_shown: film.predictionShown,
      model: modelOf(film),
    })),
    annotations: chosen.flatMap((film, n) =>
      kept(film).map((finding) => {
        const { x1, y1, x2, y2 } = finding.box;
        return {
          id: ++number,
          image_id: n + 1,
          category_id: names.indexOf(finding.severity) + 1,
          bbox: [round(x1), round(y1), round(x2 - x1), round(y2 - y1)],
          area: round((x2 - x1) * (y2 - y1)),
          iscrowd: 0,
          kind: finding.kind,
          action: actionOf(finding),
          model_score: finding.score,
          prediction_shown: finding.predictionShown,
        };
      }),
    ),
  };
}

function csv(columns, rows) {
  const cell = (value) => {
    // as Python writes them
    const text = value === true ? "True" : value === false ? "False" : String(value ?? "");
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return `${[columns, ...rows.map((row) => columns.map((name) => row[name]))].map((row) => row.map(cell).join(",")).join("\n")}\n`;
}

export function download(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

// ------------------------------------------------------------------------------------------------------------------ ZIP

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});

/** Files by name as a ZIP, not compressed (PKWARE's APPNOTE 6.3, sections 4.3.7, 4.3.12 and 4.3.16). */
export function zip(files) {
  const encoder = new TextEncoder();
  const [local, central] = [[], []];
  let offset = 0;
  for (const [name, text] of Object.entries(files)) {
    const [path, data] = [encoder.encode(name), encoder.encode(text)];
    const crc = (data.reduce((sum, byte) => CRC[(sum ^ byte) & 255] ^ (sum >>> 8), 0xffffffff) ^ 0xffffffff) >>> 0;
    // version 2.0, names in UTF-8, stored, 1980-01-01, sizes
    const common = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, crc], [4, data.length], [4, data.length], [2, path.length], [2, 0]];
    const head = numbers([[4, 0x04034b50], ...common]);
    local.push(head, path, data);
    central.push(numbers([[4, 0x02014b50], [2, 20], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, offset]]), path);
    offset += head.length + path.length + data.length;
  }
  const length = central.reduce((sum, part) => sum + part.length, 0);
  const n = Object.keys(files).length;
  const end = numbers([[4, 0x06054b50], [2, 0], [2, 0], [2, n], [2, n], [4, length], [4, offset], [2, 0]]);
  return new Blob([...local, ...central, end], { type: "application/zip" });
}

function numbers(fields) {
  const bytes = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let at = 0;
  for (const [size, value] of fields) {
    if (size === 2) bytes.setUint16(at, value, true);
    else bytes.setUint32(at, value, true);
    at += size;
  }
  return new Uint8Array(bytes.buffer);
}
