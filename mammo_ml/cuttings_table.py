"""The table of the ways of cutting: what each does to lesions, and its figures under both protocols."""

from collections.abc import Mapping

HONEST, LEAKY, BASELINE, KEPT = "by_patient", "patches_at_random_leaky", "logistic_baseline", "lesions"
COLUMNS = {
    "auc_normal_vs_abnormal_patch": "normal against abnormal",
    "auc_benign_vs_malignant": "benign against malignant",
}


def cuttings_table(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Markdown table, a row for each configuration.

    Args:
        found: figures by configuration, then by protocol, the lesions kept among them as `lesions`.
    """
    head = ["cut", "patches", "lesions whole / broken / lost"]
    for name in ("balanced accuracy", *COLUMNS.values()):
        head += [f"{name}, by patient [95 %]", "five numbers"]
    lines = [[*head, "balanced accuracy, leaky", "accuracy, leaky"]]
    lines.append(["---"] * len(lines[0]))
    for name, own in found.items():
        honest, leaky, nothing, kept = own[HONEST], own[LEAKY], own[BASELINE], own[KEPT]
        lesions = " / ".join(f"{kept[f'lesions_{what}']:.0f}" for what in ("whole", "broken", "lost"))
        cells = [f"`{name}`", f"{honest['n_patches']:,.0f}", lesions]
        for figure in ("balanced_accuracy", *COLUMNS):
            low, high = honest[f"{figure}_lo"], honest[f"{figure}_hi"]
            cells += [f"{honest[figure]:.3f} [{low:.3f}, {high:.3f}]", f"{nothing[figure]:.3f}"]
        lines.append([*cells, f"{leaky['balanced_accuracy']:.3f}", f"{leaky['accuracy']:.3f}"])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
