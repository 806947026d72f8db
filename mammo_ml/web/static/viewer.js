// One pane: a film on a canvas, with zoom, window, boxes and heat map, moved by mouse, fingers and keys.
import { heatMap } from "./heatmap.js";

const COLOURS = { proposed: "#ffb454", accepted: "#6fd08c", rejected: "#8b97a3", drawn: "#62c8ff" };
const SIGNS = { proposed: "", accepted: "✓ ", rejected: "✕ ", drawn: "✎ " };
const HANDLE_PX = 7;
const GRAB_PX = { mouse: 8, pen: 12, touch: 22 };
const SMALLEST_BOX_PX = 6;

/** How a finding is shown: as it came, accepted, rejected, or drawn by the reader. */
export function lookOf(finding) {
  return finding.source === "reader" ? "drawn" : finding.state;
}

export class Viewer {
  /** `host` gives what is shown: threshold, boxes, heat, tool; and is told what happens: onSelect, onChange … */
  constructor(host) {
    this.host = host;
    this.film = null;
    this.element = document.createElement("div");
    this.element.className = "pane";
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "film");
    this.banners = document.createElement("div");
    this.sheet = document.createElement("div");
    this.sheet.className = "sheet";
    this.caption = document.createElement("p");
    this.caption.className = "caption";
    const research = document.createElement("p");
    research.className = "small-print";
    research.textContent = "Research use only";
    this.readout = document.createElement("p");
    this.readout.className = "readout";
    this.busy = document.createElement("p");
    this.busy.className = "busy";
    this.busy.hidden = true;
    this.sheet.append(this.canvas, this.caption, research, this.readout, this.busy);
    this.element.append(this.banners, this.sheet);
    this.context = this.canvas.getContext("2d");
    this.pointers = new Map();
    this.action = null;
    this.zoom = 1; // device px per film px
    this.centre = { x: 0, y: 0 }; // film px
    this.fitted = true;
    this.source = document.createElement("canvas");
    this.sourceKey = "";
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.sheet);
  }

  // ------------------------------------------------------------------------------------------------------- what is shown

  show(film) {
    if (this.film !== film) {
      this.film = film;
      this.fitted = true;
      this.sourceKey = "";
      this.heat = null;
    }
    this.resize();
  }

  resize() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [this.sheet.clientWidth * ratio, this.sheet.clientHeight * ratio].map(Math.round);
    if (this.canvas.width !== width || this.canvas.height !== height) {
      this.canvas.width = width;
      this.canvas.height = height;
    }
    if (this.fitted) this.fit();
    this.redraw();
  }

  fit() {
    this.fitted = true;
    if (!this.film?.picture || !this.canvas.width) return;
    const { x1, y1, x2, y2 } = this.film.content;
    this.zoom = 0.98 * Math.min(this.canvas.width / (x2 - x1), this.canvas.height / (y2 - y1));
    this.centre = { x: (x1 + x2) / 2, y: (y1 + y2) / 2 };
    this.redraw();
  }

  /** Zoom by a factor about a point of the canvas, in device px; its middle by default. */
  zoomBy(factor, at = { x: this.canvas.width / 2, y: this.canvas.height / 2 }) {
    if (!this.film?.picture) return;
    const before = this.toFilm(at);
    const fitting = Math.min(this.canvas.width / this.film.width, this.canvas.height / this.film.height);
    this.zoom = Math.min(Math.max(this.zoom * factor, fitting / 3), 40);
    const after = this.toFilm(at);
    this.moveTo({ x: this.centre.x + before.x - after.x, y: this.centre.y + before.y - after.y });
  }

  moveTo(centre) {
    this.fitted = false;
    this.centre = {
      x: Math.min(Math.max(centre.x, 0), this.film.width),
      y: Math.min(Math.max(centre.y, 0), this.film.height),
    };
    this.redraw();
    this.host.onMoved(this);
  }

  /** Bring a box into sight where it is not. */
  reveal(box) {
    const [a, b] = [this.toCanvas({ x: box.x1, y: box.y1 }), this.toCanvas({ x: box.x2, y: box.y2 })];
    if (a.x >= 0 && a.y >= 0 && b.x <= this.canvas.width && b.y <= this.canvas.height) return;
    this.moveTo({ x: (box.x1 + box.x2) / 2, y: (box.y1 + box.y2) / 2 });
  }

  toFilm(point) {
    return {
      x: (point.x - this.canvas.width / 2) / this.zoom + this.centre.x,
      y: (point.y - this.canvas.height / 2) / this.zoom + this.centre.y,
    };
  }

  toCanvas(point) {
    return {
      x: (point.x - this.centre.x) * this.zoom + this.canvas.width / 2,
      y: (point.y - this.centre.y) * this.zoom + this.canvas.height / 2,
    };
  }

  // ------------------------------------------------------------------------------------------------------------ drawing

  redraw() {
    if (this.scheduled) return;
    this.scheduled = true;
    requestAnimationFrame(() => {
      this.scheduled = false;
      this.draw();
    });
  }

  draw() {
    const { context, canvas, film } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!film?.picture) return;
    this.applyWindow();
    const corner = this.toCanvas({ x: 0, y: 0 });
    const place = [corner.x, corner.y, film.width * this.zoom, film.height * this.zoom];
    context.imageSmoothingEnabled = this.zoom / film.scale < 4;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.source, ...place);
    if (this.host.heat && film.answer && !(this.host.blind(film))) {
      this.heat ??= heatMap(film);
      context.imageSmoothingEnabled = true;
      context.globalAlpha = 0.55;
      context.drawImage(this.heat, ...place);
      context.globalAlpha = 1;
    }
    this.drawFindings();
    if (this.action?.kind === "draw") this.drawBox(this.action.box, COLOURS.drawn, 2);
    this.tell();
  }

  /** Grey levels through the window, once for every change of it. */
  applyWindow() {
    const { film } = this;
    const { low, high } = film.window;
    const key = `${film.id} ${low} ${high} ${film.invert}`;
    if (key === this.sourceKey) return;
    this.sourceKey = key;
    const { width, height, pixels, maxValue } = film.picture;
    if (this.source.width !== width || this.source.height !== height) {
      this.source.width = width;
      this.source.height = height;
      this.image = null;
    }
    const context = this.source.getContext("2d");
    this.image ??= context.createImageData(width, height);
    const table = new Uint32Array(maxValue + 1);
    for (let grey = 0; grey <= maxValue; grey++) {
      const share = Math.min(Math.max((grey - low) / Math.max(high - low, 1), 0), 1);
      const shown = Math.round(255 * (film.invert ? 1 - share : share));
      table[grey] = 0xff000000 | (shown << 16) | (shown << 8) | shown;
    }
    const out = new Uint32Array(this.image.data.buffer);
    for (let n = 0; n < pixels.length; n++) out[n] = table[pixels[n]];
    context.putImageData(this.image, 0, 0);
  }

  drawFindings() {
    const shown = this.host.shown(this.film);
    const selected = shown.find((finding) => finding.id === this.film.selected);
    for (const finding of shown.filter((one) => one !== selected)) this.drawFinding(finding, false);
    if (selected) this.drawFinding(selected, true);
  }

  drawFinding(finding, selected) {
    const { context } = this;
    const ratio = window.devicePixelRatio || 1;
    const look = lookOf(finding);
    const colour = COLOURS[look];
    this.drawBox(finding.box, colour, selected ? 3 : 2, look === "rejected");
    const corner = this.toCanvas({ x: finding.box.x1, y: finding.box.y1 });
    const number = this.host.numberOf(this.film, finding);
    const score = finding.score === null ? "" : `: ${percent(finding.score)}`;
    const text = `${SIGNS[look]}${number}${score}`;
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    const wide = context.measureText(text).width + 8 * ratio;
    const high = 19 * ratio;
    const y = corner.y - high >= 0 ? corner.y - high : corner.y;
    context.fillStyle = "rgb(0 0 0 / 0.72)";
    context.fillRect(corner.x - ratio, y, wide, high);
    context.fillStyle = colour;
    context.textBaseline = "middle";
    context.fillText(text, corner.x + 3 * ratio, y + high / 2);
    if (!selected) return;
    for (const point of corners(finding.box)) {
      const at = this.toCanvas(point);
      context.fillStyle = "#000";
      context.strokeStyle = colour;
      context.lineWidth = 2 * ratio;
      const half = (HANDLE_PX * ratio) / 2;
      context.fillRect(at.x - half, at.y - half, 2 * half, 2 * half);
      context.strokeRect(at.x - half, at.y - half, 2 * half, 2 * half);
    }
  }

  drawBox(box, colour, width, dashed = false) {
    const { context } = this;
    const ratio = window.devicePixelRatio || 1;
    const [a, b] = [this.toCanvas({ x: box.x1, y: box.y1 }), this.toCanvas({ x: box.x2, y: box.y2 })];
    context.setLineDash(dashed ? [6 * ratio, 5 * ratio] : []);
    // a dark line below keeps it in sight on white tissue
    for (const [stroke, wide] of [["rgb(0 0 0 / 0.6)", width + 2], [colour, width]]) {
      context.strokeStyle = stroke;
      context.lineWidth = wide * ratio;
      context.strokeRect(a.x, a.y, b.x - a.x, b.y - a.y);
    }
    context.setLineDash([]);
  }

  tell() {
    const { film } = this;
    const ratio = window.devicePixelRatio || 1;
    const n = this.host.shown(film).length;
    const label = `Film ${film.name}: ${n} finding${n === 1 ? "" : "s"} shown. The list of findings tells them all.`;
    if (this.canvas.getAttribute("aria-label") !== label) this.canvas.setAttribute("aria-label", label);
    const { low, high } = film.window;
    const text = `${Math.round((100 * this.zoom) / ratio)} %   L ${Math.round((low + high) / 2)}   W ${Math.round(high - low)}`;
    if (this.readout.textContent !== text) this.readout.textContent = text;
  }

  // ----------------------------------------------------------------------------------------------------- mouse, fingers

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.moved(event));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.up(event));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("focus", () => this.host.onActive(this));
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.at(event));
      },
      { passive: false },
    );
  }

  at(event) {
    const place = this.canvas.getBoundingClientRect();
    const ratio = this.canvas.width / place.width;
    return { x: (event.clientX - place.left) * ratio, y: (event.clientY - place.top) * ratio };
  }

  down(event) {
    this.host.onActive(this);
    if (!this.film?.picture) return;
    try {
      this.canvas.setPointerCapture(event.pointerId);
    } catch {
      // a pointer that is gone already
    }
    this.pointers.set(event.pointerId, this.at(event));
    if (this.pointers.size === 2) {
      this.cancel();
      this.action = { kind: "pinch", ...this.span() };
      return;
    }
    if (this.pointers.size > 2) return;
    this.action = this.begin(event);
  }

  begin(event) {
    const at = this.at(event);
    const spot = this.toFilm(at);
    if (event.button === 2 || event.button === 1 || this.host.tool === "window") {
      return { kind: "window", from: at, window: { ...this.film.window } };
    }
    const grab = (GRAB_PX[event.pointerType] ?? 8) * (window.devicePixelRatio || 1);
    const chosen = this.host.shown(this.film).find((finding) => finding.id === this.film.selected);
    if (chosen) {
      const corner = this.cornerAt(chosen.box, at, grab);
      if (corner !== null) return { kind: "resize", finding: chosen, corner, box: { ...chosen.box }, from: at };
    }
    if (this.host.tool === "draw") return { kind: "draw", from: spot, box: { x1: spot.x, y1: spot.y, x2: spot.x, y2: spot.y } };
    const hit = this.findingAt(spot, grab / this.zoom);
    if (hit && hit === chosen) return { kind: "move", finding: chosen, box: { ...chosen.box }, from: at };
    return { kind: "pan", from: at, centre: { ...this.centre }, hit, still: true };
  }

  moved(event) {
    if (!this.film?.picture) return;
    const at = this.at(event);
    if (!this.pointers.has(event.pointerId)) {
      this.hover(event, at);
      return;
    }
    this.pointers.set(event.pointerId, at);
    const { action } = this;
    if (!action) return;
    const far = action.from && Math.hypot(at.x - action.from.x, at.y - action.from.y);
    if (action.kind === "pinch" && this.pointers.size === 2) {
      const now = this.span();
      this.zoomBy(now.distance / action.distance, now.middle);
      const shift = { x: (now.middle.x - action.middle.x) / this.zoom, y: (now.middle.y - action.middle.y) / this.zoom };
      this.moveTo({ x: this.centre.x - shift.x, y: this.centre.y - shift.y });
      Object.assign(action, now);
    } else if (action.kind === "pan") {
      if (action.still && far < 5) return;
      action.still = false;
      this.moveTo({
        x: action.centre.x - (at.x - action.from.x) / this.zoom,
        y: action.centre.y - (at.y - action.from.y) / this.zoom,
      });
    } else if (action.kind === "window") {
      const { maxValue } = this.film.picture;
      const step = maxValue / 600 / (window.devicePixelRatio || 1);
      const width = Math.max(action.window.high - action.window.low + (at.x - action.from.x) * step, maxValue / 64);
      const level = (action.window.low + action.window.high) / 2 + (at.y - action.from.y) * step;
      this.film.window = { low: level - width / 2, high: level + width / 2 };
      this.host.onWindow(this);
    } else if (action.kind === "draw") {
      const spot = this.toFilm(at);
      action.box = this.film.inside({ x1: action.from.x, y1: action.from.y, x2: spot.x, y2: spot.y });
      this.redraw();
    } else if (action.kind === "move" || action.kind === "resize") {
      if (!action.begun && far < 3) return;
      if (!action.begun) this.film.remember();
      action.begun = true;
      const [dx, dy] = [(at.x - action.from.x) / this.zoom, (at.y - action.from.y) / this.zoom];
      this.film.place(action.finding.id, action.kind === "move" ? this.shifted(action.box, dx, dy) : stretched(action, dx, dy));
      this.redraw();
    }
  }

  shifted(box, dx, dy) {
    const x = Math.min(Math.max(dx, -box.x1), this.film.width - box.x2);
    const y = Math.min(Math.max(dy, -box.y1), this.film.height - box.y2);
    return { x1: box.x1 + x, y1: box.y1 + y, x2: box.x2 + x, y2: box.y2 + y };
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const { action } = this;
    this.action = null;
    if (!action || event.type === "pointercancel") return;
    if (action.kind === "draw") {
      const { x1, y1, x2, y2 } = action.box;
      if (Math.min(x2 - x1, y2 - y1) * this.zoom >= SMALLEST_BOX_PX) this.host.onDrawn(this, action.box);
      this.redraw();
    } else if (action.kind === "pan" && action.still) {
      this.host.onSelect(this, action.hit?.id ?? null);
    } else if (action.begun) {
      this.host.onChange(this);
    }
  }

  cancel() {
    if (this.action?.begun) this.host.onChange(this);
    this.action = null;
  }

  hover(event, at) {
    if (event.pointerType !== "mouse") return;
    const chosen = this.film.finding(this.film.selected);
    const grab = GRAB_PX.mouse * (window.devicePixelRatio || 1);
    const corner = chosen ? this.cornerAt(chosen.box, at, grab) : null;
    const hit = this.findingAt(this.toFilm(at), grab / this.zoom);
    const tool = { window: "ns-resize", draw: "crosshair" }[this.host.tool] ?? (hit ? "pointer" : "grab");
    this.canvas.style.cursor =
      corner !== null ? (corner % 2 ? "nesw-resize" : "nwse-resize") : hit && hit === chosen && this.host.tool === "pan" ? "move" : tool;
  }

  span() {
    const [a, b] = [...this.pointers.values()];
    return { distance: Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1), middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
  }

  cornerAt(box, at, grab) {
    const near = corners(box).findIndex((point) => {
      const there = this.toCanvas(point);
      return Math.hypot(there.x - at.x, there.y - at.y) <= grab;
    });
    return near < 0 ? null : near;
  }

  /** The smallest finding at a spot of the film. */
  findingAt(spot, margin) {
    const size = ({ box }) => (box.x2 - box.x1) * (box.y2 - box.y1);
    const inside = ({ box }) =>
      spot.x >= box.x1 - margin && spot.x <= box.x2 + margin && spot.y >= box.y1 - margin && spot.y <= box.y2 + margin;
    return this.host.shown(this.film).filter(inside).sort((a, b) => size(a) - size(b))[0] ?? null;
  }
}

export function percent(share) {
  return share > 0 && share < 0.01 ? "<1\u00a0%" : `${Math.round(100 * share)}\u00a0%`;
}

/** Clockwise from the top left one. */
function corners({ x1, y1, x2, y2 }) {
  return [{ x: x1, y: y1 }, { x: x2, y: y1 }, { x: x2, y: y2 }, { x: x1, y: y2 }];
}

function stretched({ box, corner }, dx, dy) {
  const left = corner === 0 || corner === 3;
  const top = corner < 2;
  return {
    x1: box.x1 + (left ? dx : 0),
    x2: box.x2 + (left ? 0 : dx),
    y1: box.y1 + (top ? dy : 0),
    y2: box.y2 + (top ? 0 : dy),
  };
}
