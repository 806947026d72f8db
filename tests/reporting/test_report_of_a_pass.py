"""The report of a whole pass on phantoms: written at its end, recorded with it, and complete."""

from typing import TYPE_CHECKING

from mammo_ml.reporting.report import PARTS, REPORT
from mammo_ml.tracking import FOLDER

if TYPE_CHECKING:
    from tests.pipelines.phantom_run import PhantomRun


def test_a_pass_ends_with_the_address_of_its_report(run: "PhantomRun") -> None:
    assert f"Report: {(run.workspace / REPORT).as_uri()}" in run.said.splitlines()


def test_the_report_of_phantoms_lacks_nothing_and_says_what_it_is(run: "PhantomRun") -> None:
    html = (run.workspace / REPORT).read_text(encoding="utf-8")
    assert html.index("PHANTOM FILMS") < html.index("<h1>")
    for name, _, _ in PARTS:
        assert f'<section id="{name}"' in html
    assert "Not shown" not in html
    assert "Nothing is missing" in html
    assert '<th scope="row">train_<wbr>detector</th>' in html, "times come from the live runs of the pass"
    for stage, protocol, figure in (
        ("evaluate_classifier", "by_patient", "auc_macro"),
        ("evaluate_detector", "films_by_patient", "froc_mean"),
    ):
        found = run.metrics(stage)[protocol]
        assert f'{found[figure]:.3f}</span> <span class="interval">[{found[f"{figure}_lo"]:.3f}' in html


def test_the_report_is_an_artifact_of_the_pass(run: "PhantomRun") -> None:
    kept = list((run.workspace / FOLDER / "artifacts").glob("*/artifacts/report.html"))
    assert [path.read_bytes() for path in kept] == [(run.workspace / REPORT).read_bytes()]
