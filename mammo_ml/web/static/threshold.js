// The threshold on the score, and what it was worth on films that the model had not seen.
import { percent } from "./viewer.js";

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [330, 138, 34, 8, 6, 31];
const [LOWEST_FP, HIGHEST_FP] = [0.05, 8];
const TICKS = [0.125, 0.25, 0.5, 1, 2, 4, 8];

export class Threshold {
  /** Ascending thresholds; the slider counts them. */
  constructor(model, onChange) {
    this.points = [...model.operating_points].reverse();
    this.slider = document.getElementById("threshold");
    this.judged = model.judged;
    const known = this.points.length > 0;
    // without stored predictions the slider still works, but nothing can be said of it
    this.values = known ? this.points.map((point) => point.threshold) : Array.from({ length: 101 }, (_, n) => n / 100);
    this.slider.max = this.values.length - 1;
    this.slider.value = Math.max(0, this.values.findIndex((value) => value >= model.default_threshold));
    // of the slider's handlers the last one counts: another version has another table
    this.slider.oninput = () => {
      this.tell();
      onChange();
    };
    if (known) this.draw();
    this.tell();
  }

  get value() {
    return this.values[Number(this.slider.value)];
  }

  step(by) {
    this.slider.value = Number(this.slider.value) + by;
    this.slider.dispatchEvent(new Event("input"));
  }

  tell() {
    const point = this.points[Number(this.slider.value)];
    const score = `score from ${(100 * this.value).toFixed(this.value < 0.1 ? 1 : 0)}\u00a0%`;
    if (!point) {
      this.slider.setAttribute("aria-valuetext", score);
      document.getElementById("point").textContent = `${score}; this version keeps no predictions to tell what that is worth.`;
      return;
    }
    const fp = (value) => value.toFixed(value < 0.1 ? 2 : 1);
    const sensitivity = `${percent(point.sensitivity)} of lesions`;
    const false_ = `${fp(point.fp_per_film)} false ones per film`;
    this.slider.setAttribute("aria-valuetext", `${score}: finds ${sensitivity}, ${false_}`);
    document.getElementById("point").innerHTML =
      `Boxes with a ${score} <b>found ${sensitivity}</b> (${percent(point.sensitivity_lo)} to ${percent(point.sensitivity_hi)})` +
      ` with <b>${false_}</b> (${fp(point.fp_per_film_lo)} to ${fp(point.fp_per_film_hi)}).`;
    const { films, women, lesions } = this.judged;
    document.getElementById("judged").textContent =
      `${lesions} lesions on ${films} films of ${women} women, each judged by a model that had not seen her; ` +
      "95 % intervals, women resampled.";
    this.mark(point);
  }

  x(fp) {
    const share = Math.log(Math.max(fp, LOWEST_FP) / LOWEST_FP) / Math.log(HIGHEST_FP / LOWEST_FP);
    return LEFT + Math.min(share, 1) * (WIDTH - LEFT - RIGHT);
  }

  y(sensitivity) {
    return HEIGHT - BOTTOM - sensitivity * (HEIGHT - BOTTOM - TOP);
  }

  draw() {
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "FROC: share of lesions found over false positives per film" });
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(element("path", { class: "axis", d: `M${LEFT} ${this.y(share)}H${WIDTH - RIGHT}` }));
      svg.append(text(LEFT - 5, this.y(share) + 4, `${100 * share}`, "end"));
    }
    for (const fp of TICKS) svg.append(text(this.x(fp), HEIGHT - BOTTOM + 14, { 0.125: "⅛", 0.25: "¼", 0.5: "½" }[fp] ?? fp, "middle"));
    svg.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 3, "false positives per film; lesions found, %", "middle"));
    const rows = this.points.filter((point) => point.fp_per_film <= HIGHEST_FP).reverse();
    const steps = (name) => rows.map((point, n) => `${n ? "H" : `M${this.x(LOWEST_FP)} ${this.y(point[name])}H`}${this.x(point.fp_per_film)}V${this.y(point[name])}`);
    const back = [...rows].reverse().map((point) => `L${this.x(point.fp_per_film)} ${this.y(point.sensitivity_lo)}`);
    svg.append(element("path", { class: "band", d: `${steps("sensitivity_hi").join("")}${back.join("")}Z` }));
    svg.append(element("path", { class: "line", d: steps("sensitivity").join("") }));
    this.whiskers = element("path", { class: "whisker" });
    this.dot = element("circle", { class: "dot", r: 5 });
    svg.append(this.whiskers, this.dot);
    document.getElementById("curve").replaceChildren(svg);
  }

  mark(point) {
    const [x, y] = [this.x(point.fp_per_film), this.y(point.sensitivity)];
    this.dot.setAttribute("cx", x);
    this.dot.setAttribute("cy", y);
    const across = `M${this.x(point.fp_per_film_lo)} ${y}H${this.x(point.fp_per_film_hi)}`;
    this.whiskers.setAttribute("d", `${across}M${x} ${this.y(point.sensitivity_lo)}V${this.y(point.sensitivity_hi)}`);
  }
}

function element(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function text(x, y, content, anchor) {
  const made = element("text", { x, y, "text-anchor": anchor });
  made.textContent = content;
  return made;
}
