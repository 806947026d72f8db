// The findings of the film that is being read, as a list: what canvas and mouse do, this does for keys and screen readers.
import { actionOf, KINDS, SEVERITIES } from "./films.js";
import { lookOf, percent } from "./viewer.js";

const CLASSES = {
  malignant: (look) => (look === "proposed" ? "rather malignant" : "malignant"),
  benign: (look) => (look === "proposed" ? "rather benign" : "benign"),
  unknown: () => "class not known",
};
const WORDS = { proposed: "found by the model", accepted: "accepted", rejected: "rejected", drawn: "added by you" };

export class FindingsList {
  constructor(host) {
    this.host = host;
    this.list = document.getElementById("findings");
    this.empty = document.getElementById("findings-empty");
  }

  update(film) {
    const focused = document.activeElement?.closest?.("#findings") ? document.activeElement.dataset.focus : null;
    const shown = film ? this.host.shown(film) : [];
    this.empty.textContent = this.explain(film, shown);
    this.list.replaceChildren(...shown.map((finding) => this.item(film, finding)));
    if (focused) this.list.querySelector(`[data-focus="${focused}"]`)?.focus();
  }

  explain(film, shown) {
    if (film.hidden) return "What the model found is hidden until you show it.";
    const below = film.findings.filter((one) => one.state === "proposed").length - shown.filter((one) => one.state === "proposed").length;
    if (!film.answer) return "";
    const less = below ? `${below} more below the threshold.` : "";
    return shown.length ? less : `Nothing at this threshold. ${less}`;
  }

  item(film, finding) {
    const look = lookOf(finding);
    const selected = film.selected === finding.id;
    const item = document.createElement("li");
    item.className = `${look}${selected ? " selected" : ""}`;
    const head = button("", () => this.host.select(film, selected ? null : finding.id), "head");
    head.dataset.focus = `${finding.id} head`;
    head.setAttribute("aria-expanded", String(selected));
    const { x1, y1, x2, y2 } = finding.box;
    const size = `${Math.round((x2 - x1) * film.spacing)} × ${Math.round((y2 - y1) * film.spacing)} mm`;
    const action = actionOf(finding);
    const told = look === "accepted" && action !== "accepted" ? action : WORDS[look];
    head.append(
      span(String(this.host.numberOf(film, finding)), "score"),
      span(`${CLASSES[finding.severity](look)}, ${size}, ${told}`, "what"),
      span(finding.score === null ? "" : percent(finding.score), "score"),
    );
    item.append(head);
    if (selected) item.append(this.editor(film, finding));
    return item;
  }

  editor(film, finding) {
    const edit = document.createElement("div");
    edit.className = "edit";
    const decide = document.createElement("p");
    decide.className = "row";
    if (finding.source === "model") {
      for (const [state, word] of [["accepted", "Accept"], ["rejected", "Reject"]]) {
        const one = button(word, () => this.host.decide(film, finding, state));
        one.setAttribute("aria-pressed", String(finding.state === state));
        one.dataset.focus = `${finding.id} ${state}`;
        decide.append(one);
      }
    } else {
      decide.append(button("Remove", () => this.host.remove(film, finding)));
    }
    edit.append(decide);
    edit.append(
      this.choice(finding, "severity", "Class", SEVERITIES, (value) => this.host.relabel(film, finding, { severity: value })),
      this.choice(finding, "kind", "Kind", [["", "not told"], ...KINDS], (value) => this.host.relabel(film, finding, { kind: value })),
    );
    if (finding.state === "accepted" && !finding.kind) {
      const lack = document.createElement("p");
      lack.className = "fine lack row";
      lack.textContent = "The catalog's tables ask for its kind.";
      edit.append(lack);
    }
    return edit;
  }

  choice(finding, name, title, options, onChange) {
    const label = document.createElement("label");
    label.textContent = title;
    const select = document.createElement("select");
    select.dataset.focus = `${finding.id} ${name}`;
    for (const [value, word] of options) select.add(new Option(word, value, false, finding[name] === value));
    select.addEventListener("change", () => onChange(select.value));
    label.append(select);
    return label;
  }
}

function button(text, onClick, kind = "") {
  const made = document.createElement("button");
  made.type = "button";
  made.className = kind;
  made.textContent = text;
  made.addEventListener("click", onClick);
  return made;
}

function span(text, kind) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = text;
  return made;
}
