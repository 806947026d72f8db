"""CLAIM 2024 and TRIPOD+AI as tables: where each item is answered, in our words, or that it is open.

An answer may name facts of the run in braces; where the run lacks one of them, the item is open. What nobody wrote down
stays open: a checklist that is all ticks says nothing.
"""

from collections.abc import Mapping, Sequence

OPEN = "open"
Item = tuple[str, str]
"""Topic and answer, an empty one where it is open; the number of an item is its place, from 1."""

CLAIM: Sequence[Item] = (
    ("identified as AI, with the technique", "{technique}"),
    ("structured summary", ""),
    ("background and intended use", "Intended use; the clinical background is open"),
    ("aims and hypotheses", "docs/experiments.md: what was expected, written down before each look"),
    ("prospective or retrospective", "retrospective"),
    ("study goal", "making a model, and judging it by patient"),
    ("data sources", "{source}"),
    ("inclusion and exclusion", "every film; detection leaves out films with a lesion nobody located (docs/data.md)"),
    ("preprocessing", "Made from; docs/architecture.md"),
    ("selection of data subsets", "patches, cuts and tiles: docs/architecture.md"),
    ("de-identification", ""),
    ("missing data", "docs/data.md; nothing is left out in silence"),
    ("image acquisition", ""),
    ("definition of the reference standard", "class and circle of each abnormality, as the collection gives them"),
    ("rationale for the reference standard", ""),
    ("source of the annotations", ""),
    ("annotation of the test set", "the collection's own; checked against the pixels, data valid: {data_valid}"),
    ("variability between and within raters", ""),
    ("assignment to partitions", "five folds of women, `{folds}`"),
    ("level at which partitions are disjoint", "the woman; leak audit passed: {leak_free}"),
    ("intended sample size", ""),
    ("description of the model", "docs/architecture.md; config.json of the bundle"),
    ("software", "requirements.txt beside this card"),
    ("initialisation", "{initialised}"),
    ("training", "docs/architecture.md; parameters of its runs: `mammo-ml lineage`"),
    ("selection of the final model", "by the inner part of each fold, then by the gate: docs/mlflow.md"),
    ("ensembling", "{ensemble}"),
    ("metrics", "All figures; docs/hit-rules.md"),
    ("significance and uncertainty", "95 % intervals, women resampled; paired differences between models"),
    ("robustness or sensitivity", ""),
    ("explainability", ""),
    ("evaluation on internal data", "{primary}"),
    ("testing on external data", ""),
    ("registration of a clinical trial", "no trial"),
    ("numbers of participants", "judged: {judged}"),
    ("demographic and clinical characteristics", ""),
    ("performance and its uncertainty", "All figures"),
    ("diagnostic performance and its precision", "{primary}"),
    ("failure analysis", "the report of the pass, docs/report.md"),
    ("limitations", "Limits"),
    ("implications for practice", "none: Intended use"),
    ("full protocol or technical details", "docs/, commit {commit}"),
    ("availability of software, model and data", "README.md; data from their owners, for research only"),
    ("funding", ""),
)
"""Tejani et al. (2024), Radiology: Artificial Intelligence 6(4) e240300; 44 items."""
TRIPOD_AI: Sequence[Item] = (
    ("title", "{technique}"),
    ("abstract", ""),
    ("background: context, population, inequalities", ""),
    ("objectives", "docs/experiments.md"),
    ("data: sources and dates", "{source}; dates are open"),
    ("participants: setting, eligibility, treatment", ""),
    ("data preparation", "docs/data.md, docs/architecture.md; data valid: {data_valid}"),
    ("outcome", "class and place of lesions, as the collection gives them"),
    ("predictors", "the pixels of one film, its scale and the side of its chest wall"),
    ("sample size", ""),
    ("missing data", "docs/data.md"),
    ("analytical methods", "docs/architecture.md, docs/hit-rules.md"),
    ("class imbalance", "figures beside what knowing nothing scores; no resampling of test items"),
    ("fairness", "{subgroups}; nothing is known of age or origin"),
    ("model output", "Intended use"),
    ("training versus evaluation", "folds of women; leak audit passed: {leak_free}"),
    ("ethical approval", ""),
    ("open science", "code, parameters and folds: the repository; funding, conflicts, registration are open"),
    ("patient and public involvement", ""),
    ("participants in the results", "judged: {judged}; trained on {trained}"),
    ("model development", "trained on {trained}; {initialised}"),
    ("model specification", "the bundle itself: weights, config.json, code"),
    ("model performance", "{primary}; {subgroups}"),
    ("model updating", ""),
    ("interpretation", "the report of the pass"),
    ("limitations", "Limits"),
    ("usability in the context of current care", ""),
)
"""Collins et al. (2024), BMJ 385 e078378; 27 items."""
LISTS: Mapping[str, Sequence[Item]] = {"CLAIM 2024": CLAIM, "TRIPOD+AI": TRIPOD_AI}


def answers(items: Sequence[Item], facts: Mapping[str, str]) -> list[tuple[int, str, str]]:
    """Number, topic and answer of each item of a list; the answer is `OPEN` where the run has no fact for it."""
    return [(number, topic, _answer(answer, facts)) for number, (topic, answer) in enumerate(items, start=1)]


def checklist_tables(facts: Mapping[str, str]) -> str:
    """Both checklists as Markdown, with the number of items that are answered; `facts` by name."""
    parts = []
    for name, items in LISTS.items():
        found = answers(items, facts)
        n_open = sum(answer == OPEN for _, _, answer in found)
        lines = [f"| {name} | item | where answered |", "| ---: | --- | --- |"]
        lines += [
            f"| {number} | {topic} | {'**open**' if answer == OPEN else answer} |" for number, topic, answer in found
        ]
        parts.append(f"{len(found) - n_open} of {len(found)} items of {name} are answered, {n_open} are open.")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _answer(answer: str, facts: Mapping[str, str]) -> str:
    try:
        return answer.format_map(facts) or OPEN
    except KeyError:
        return OPEN
