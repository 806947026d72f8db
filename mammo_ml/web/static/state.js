// What the page knows: the model that answers, the films that are open, the panes they are in, the tools.

export const $ = (id) => document.getElementById(id);

export const state = {
  model: null,
  threshold: null,
  films: [],
  panes: [],
  active: null,
  pair: false,
  tool: "pan",
  boxes: true,
  heat: false,
  asking: 0,
};

/** The film that is being read. */
export const film = () => state.active?.film ?? null;

/** Tell those who do not see the page. */
export function say(text) {
  $("live").textContent = text;
}

export function redraw() {
  for (const viewer of state.panes) viewer.redraw();
}

export function pressed(id, on) {
  $(id).setAttribute("aria-pressed", String(on));
}
