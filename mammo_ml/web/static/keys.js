// Which key does what: single letters, so that the film is read without looking away from it.

/** A listener for keys; `actions` has one for each key, `others` those that more than one key or a modifier has. */
export function onKey(actions, { film, nudge, undo, kind }) {
  return (event) => {
    const typing = event.target.closest("input:not([type=range], [type=checkbox]), select");
    if (typing || document.querySelector("dialog[open]")) return;
    const key = event.key.toLowerCase();
    const what = meant(key, event);
    if (!what) return;
    event.preventDefault();
    what();
  };

  function meant(key, event) {
    if (key === "?") return actions["?"];
    const command = event.ctrlKey || event.metaKey;
    if (!film()?.picture) return key === "o" && !command ? actions.o : null;
    if (command) return key === "z" ? undo : null;
    if (key.startsWith("arrow")) return event.target.matches("[type=range]") ? null : () => nudge(event);
    if (event.altKey) return null;
    return /^[1-7]$/.test(key) ? () => kind(Number(key) - 1) : actions[key];
  }
}
