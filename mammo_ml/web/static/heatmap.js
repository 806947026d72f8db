// The classifier's P(abnormal) of every tile, as a picture to lay over the film.

const CELLS = 96;
/** Dark violet to yellow (the ends and quarters of matplotlib's inferno), and how much of the film each leaves to see. */
const STOPS = [
  [0.0, [20, 11, 53, 0]],
  [0.25, [101, 21, 110, 150]],
  [0.5, [186, 54, 85, 200]],
  [0.75, [243, 118, 27, 230]],
  [1.0, [246, 215, 70, 255]],
];

export const GRADIENT = `linear-gradient(to right, ${STOPS.map(([at, [r, g, b]]) => `rgb(${r} ${g} ${b}) ${100 * at}%`).join(", ")})`;

function colour(share) {
  const next = Math.max(1, STOPS.findIndex(([at]) => at >= share));
  const [[from, a], [to, b]] = [STOPS[next - 1], STOPS[next]];
  const part = (share - from) / (to - from);
  return a.map((value, n) => Math.round(value + part * (b[n] - value)));
}

/** A small canvas of the film's shape: each cell has the mean of the tiles over it, the nearer to their middle the more. */
export function heatMap(film) {
  const factor = CELLS / Math.max(film.width, film.height);
  const [width, height] = [film.width, film.height].map((edge) => Math.max(1, Math.round(edge * factor)));
  const sums = new Float64Array(width * height);
  const weights = new Float64Array(width * height);
  for (const tile of film.answer.tiles) {
    const [left, right] = [tile.x1, tile.x2].map((x) => (x * width) / film.width);
    const [top, bottom] = [tile.y1, tile.y2].map((y) => (y * height) / film.height);
    const near = (at, from, to) => 1.02 - Math.abs((2 * (at + 0.5 - from)) / (to - from) - 1);
    for (let y = Math.max(Math.floor(top), 0); y < Math.min(bottom, height); y++) {
      for (let x = Math.max(Math.floor(left), 0); x < Math.min(right, width); x++) {
        const weight = Math.max(near(x, left, right), 0) * Math.max(near(y, top, bottom), 0);
        sums[y * width + x] += weight * tile.p_abnormal;
        weights[y * width + x] += weight;
      }
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  weights.forEach((weight, n) => {
    if (weight && isBright(film, (n % width) / width, Math.floor(n / width) / height)) {
      image.data.set(colour(sums[n] / weight), 4 * n);
    }
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Whether a spot, in shares of the film, is more than its black: tiles reach beyond the breast. */
function isBright({ picture, firstWindow }, x, y) {
  const grey = picture.pixels[Math.floor(y * picture.height) * picture.width + Math.floor(x * picture.width)];
  return grey > firstWindow.low + 0.05 * (firstWindow.high - firstWindow.low);
}
