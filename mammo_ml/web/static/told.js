// What the page says of a model and of a film, as elements.
import { GRADIENT } from "./heatmap.js";
import { percent } from "./viewer.js";

const SCREENING =
  "In screening about 1 woman in 150 has cancer: there the same score stands for far less.";
/** A refusal that another edge of a pixel may mend. */
const SPACING = /pixel spacing|mm long/;

/** Whether another edge of a pixel may mend a refusal. */
export function mayBeSpacing(refusal) {
  return SPACING.test(refusal.message);
}

/** What the scores of a model mean, and what it learned from. */
export function meaning(model) {
  const lines = [];
  if (model.phantom) lines.push(["alarm", "This model was made from phantoms: on films of women its scores mean nothing."]);
  if (model.judged) {
    const { films, share_of_films_with_lesion, share_of_boxes_in_lesion, boxes } = model.judged;
    lines.push(["", `Scores are calibrated on films of ${model.dataset}: of boxes with a score of 40 %, about 40 in 100 had their centre ` +
      `in a lesion. ${percent(share_of_films_with_lesion)} of those ${films} films have a lesion, and ${percent(share_of_boxes_in_lesion ?? 0)} of all ${boxes} boxes lie in one.`]);
    lines.push(["", `Where lesions are rarer, every score is too high. ${SCREENING}`]);
  } else {
    lines.push(["warn", "This version keeps no predictions, so nothing can be said of what its scores are worth."]);
  }
  const learned = model.learned_from.map((one) => `${one.films} films of ${one.dataset}${one.step === "pretraining" ? " (pre-training)" : ""}`);
  lines.push(["", `It learned from ${learned.join(" and ")}. A film among them gets a banner: what the model says there proves nothing.`]);
  return lines.map(([kind, text]) => paragraph(text, kind ? `note ${kind}` : "fine"));
}

/** Across the top of a film. */
export function banners(one) {
  const parts = [];
  if (one.answer?.seen_in_training) {
    parts.push(paragraph("The model learned from this very film: what it shows here is memory, and no evidence.", "banner alarm"));
  }
  if (one.answer?.warnings.length) {
    parts.push(paragraph("This film is unlike those the model learned from: see the notes beside it.", "banner warn"));
  }
  if (one.refusal) parts.push(paragraph(sentences(one.refusal), "banner alarm"));
  return parts;
}

/** Notes beside a film: why it was refused, warnings, the colours of its heat map. */
export function notes(one, heat, again) {
  const found = [];
  if (one.refusal) {
    found.push(paragraph(sentences(one.refusal), "note alarm"));
    // not the film's fault, so it may go better
    if (one.refusal.status !== 422) found.push(tryAgain(again));
  }
  if (!one.answer) return found;
  if (one.answer.seen_in_training) found.push(paragraph("Seen in training: its score and boxes show memory.", "note alarm"));
  for (const warning of one.answer.warnings) found.push(paragraph(warning, "note warn"));
  if (heat) {
    const legend = document.createElement("div");
    legend.className = "legend";
    legend.style.background = GRADIENT;
    found.push(paragraph("Heat map: the classifier's chance that a tile is abnormal, 0 to 100 %", "fine"), legend);
  }
  return found;
}

/** What is known of a film that was answered. */
export function facts({ answer, width, height }) {
  const { chest_wall, laterality, view, pixel_spacing_mm, spacing_source, notes } = answer.film;
  const breast = laterality && { L: "left breast", R: "right breast" }[laterality];
  const told = [breast, view, `chest wall on the ${chest_wall}`].filter(Boolean).join(", ");
  const source = { told: "as you said", file: "as the file says", "mini-MIAS": "taken for a film of mini-MIAS: the file does not say" };
  const searched = answer.tiles.filter((tile) => tile.searched).length;
  const lines = [
    `${width} × ${height} px of ${pixel_spacing_mm} mm, ${source[spacing_source]}.`,
    `${told.charAt(0).toUpperCase()}${told.slice(1)}.`,
    ...notes,
    `The classifier found ${searched} of ${answer.tiles.length} tiles worth a search; ${answer.seconds.toFixed(1)} s.`,
  ];
  return lines.map((line) => paragraph(line, "fine"));
}

function tryAgain(again) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = "Try again";
  made.addEventListener("click", again);
  return made;
}

export function sentences({ message, remedy }) {
  const first = message.charAt(0).toUpperCase() + message.slice(1).replace(/\.$/, "");
  const todo = SPACING.test(message) ? "Say the edge of a pixel beside the film." : remedy ?? "";
  return `${first}. ${todo}`.trim();
}

export function paragraph(text, kind) {
  const made = document.createElement("p");
  made.className = kind;
  made.textContent = text;
  return made;
}

/** A small picture of a film, made once. */
export function thumbnail(one) {
  if (one.thumbnail) return one.thumbnail;
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 64;
  canvas.setAttribute("aria-hidden", "true");
  if (!one.picture) return canvas;
  const { width, height, pixels } = one.picture;
  const { low, high } = one.firstWindow;
  const context = canvas.getContext("2d");
  const image = context.createImageData(64, 64);
  const step = Math.max(width, height) / 64;
  for (let y = 0; y < 64; y++) {
    for (let x = 0; x < 64; x++) {
      const [column, row] = [Math.floor((x - 32) * step + width / 2), Math.floor((y - 32) * step + height / 2)];
      if (column < 0 || row < 0 || column >= width || row >= height) continue;
      const shown = (255 * (pixels[row * width + column] - low)) / (high - low);
      image.data.set([shown, shown, shown, 255], 4 * (64 * y + x));
    }
  }
  context.putImageData(image, 0, 0);
  one.thumbnail = canvas;
  return canvas;
}
