"""The report: all is in it, every figure is that of metrics.json, what is missing is named, nothing is fetched."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mammo_ml import tracking
from mammo_ml.errors import MammoError
from mammo_ml.leaky_protocols import FIGURE_OF, PROTOCOLS
from mammo_ml.reporting.blocks import Value
from mammo_ml.reporting.gallery import failures
from mammo_ml.reporting.leakage import CLAIMS, lab, leakage
from mammo_ml.reporting.looked_at import PICTURE
from mammo_ml.reporting.outputs import Outputs
from mammo_ml.reporting.report import PARTS, REPORT, report_html, report_of_pass, write_report
from tests.reporting.small_pass import make_pass, metrics

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}


class Page(HTMLParser):
    """A page as read: what is open, every address, every table's cells, text outside of style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        self.addresses += [str(found[name]) for name in ("src", "href", "srcset", "data", "action") if name in found]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pass(tmp_path_factory.mktemp("pass"))


@pytest.fixture(scope="module")
def html(whole: Path) -> str:
    return report_html(whole, "2026-01-31")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def workspace(whole: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return shutil.copytree(whole, tmp_path / "pass")


def test_every_section_is_there_and_only_the_times_are_missing(html: str, page: Page) -> None:
    for name, title, _ in PARTS:
        assert f'<section id="{name}"' in html
        assert f">{title}</h2>" in html
    assert page.text.count("Not shown") == 0
    assert "No times: MLflow" in page.text
    assert "1 thing is missing" in page.text
    assert "Written 2026-01-31" in page.text


def test_the_page_is_well_formed_and_fits_a_phone(page: Page) -> None:
    assert (page.faults, page.open) == ([], [])
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags


def test_nothing_is_fetched_from_anywhere(html: str, page: Page) -> None:
    assert {address.partition(":")[0] for address in page.addresses if not address.startswith("#")} == {"data"}
    assert not re.search(r"@import|url\(|<script|<link|<iframe", html)


def test_every_picture_has_words_and_every_table_has_headings(page: Page) -> None:
    pictures = [found for tag, found in page.tags if tag == "img"]
    drawings = [found for tag, found in page.tags if tag == "svg"]
    assert len(pictures) >= 10
    assert len(drawings) == 12
    assert all(len(str(found["alt"])) > 30 for found in pictures)
    assert all(len(str(found["aria-label"])) > 30 for found in drawings)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("table") == tags.count("caption") == tags.count("thead")
    assert all(found.get("scope") in ("row", "col") for tag, found in page.tags if tag == "th")


def test_leaky_subgroups_are_a_table_and_no_chart(page: Page) -> None:
    assert "normal (patches_at_random_leaky)" in page.text
    charts = [str(found["alt"]) for tag, found in page.tags if tag == "img"]
    # One chart for each model.
    assert sum("in brackets the number of lesions" in alt for alt in charts) == 2


def test_every_figure_of_metrics_json_stands_in_the_report_with_its_bounds(html: str) -> None:
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.replace("<wbr>", "")))
    for stage in ("evaluate_classifier", "evaluate_detector"):
        for protocol, found in metrics()[stage].items():
            for name in found:
                if name.endswith(("_lo", "_hi", "_baseline")) or name.startswith("n_"):
                    continue
                value, low, high, nothing = (f"{found[name + end]:.3f}" for end in ("", "_lo", "_hi", "_baseline"))
                assert f" {name} {value} [{low}, {high}] {nothing} " in shown, (protocol, name)


def test_the_leakage_chart_sets_the_claim_beside_leaky_by_patient_and_nothing(whole: Path) -> None:
    table = leakage(Outputs(whole))[-1]
    for row, claim in zip(table.rows, CLAIMS, strict=True):
        found = metrics()[f"evaluate_{claim.model}"]
        cells = [cell for cell in row[1:] if isinstance(cell, Value)]
        leaky, honest = found[claim.leaky[0]], found[claim.honest[0]]
        expected = [claim.value, leaky[claim.leaky[1]], honest[claim.honest[1]], honest[f"{claim.honest[1]}_baseline"]]
        assert [cell.point for cell in cells] == expected
        reached = leaky[f"{claim.leaky[1]}_hi"] >= claim.value
        assert cells[1].remark == ("" if reached else "not reached in this budget")


def test_the_leakage_lab_is_shown_where_it_was_run_with_what_leaks_and_how_much(workspace: Path) -> None:
    assert lab(Outputs(workspace)) == []
    figures: dict[str, dict[str, dict[str, float | None]]] = {}
    for protocol in PROTOCOLS.values():
        value = 0.3 if protocol.can_be_promoted else 0.8
        name = FIGURE_OF[protocol.task]
        own = {name: value, f"{name}_lo": value - 0.1, f"{name}_hi": value + 0.1, f"{name}_baseline": None}
        figures.setdefault(protocol.model, {})[protocol.name] = own | {
            "film_in_training": value,
            "woman_in_training": None,
        }
    path = workspace / "reports" / "studies" / "leakage_lab" / "metrics.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(figures), encoding="utf-8")

    _, chart, table, shares, leaks = lab(Outputs(workspace))
    told = {str(row[0]): row for row in table.rows}
    row = told["copies_90_10_leaky, map_50"]
    assert [getattr(cell, "point", cell) for cell in row[1:]] == [0.987, 0.8, 0.3, "-"]
    assert row[2].remark == "not reached in this budget"
    assert "claimed 0.987" in chart.alt
    assert {str(row[0]): list(row[1:]) for row in shares.rows}["cuts_by_patient"] == ["-", "30%", "-", "-"]
    assert [row[0] for row in leaks.rows] == [one.name for one in PROTOCOLS.values() if not one.can_be_promoted]


def test_the_gallery_shows_misses_before_weak_hits_and_one_false_positive_a_film(whole: Path) -> None:
    _, misses, false, source = failures(Outputs(whole))
    assert len(misses.crops) == 6
    assert all("no box hits it" in crop.caption for crop in misses.crops)
    captions = [crop.caption for crop in false.crops]
    # f11 is not judged: nobody located its lesion
    assert captions[0].startswith("f10, benign film: score 0.55")
    assert len({caption.split(",")[0] for caption in captions}) == 6
    assert "f11" not in " ".join(captions)
    assert [box.kind for box in false.crops[0].boxes] == ["lesion", "false_positive"]
    assert "Suckling" in source.text


def test_a_lesion_that_is_hit_is_a_miss_only_after_those_that_nothing_hits(workspace: Path) -> None:
    path = workspace / "data" / "evaluate_detector" / "lesions.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(lines[:3]) + "\n", encoding="utf-8")
    misses = failures(Outputs(workspace))[1]
    assert [crop.caption.rpartition(": ")[2] for crop in misses.crops] == ["no box hits it", "best score 0.90"]
    assert "hit" in [box.kind for box in misses.crops[1].boxes]


def test_what_the_classifier_looks_at_is_shown_beside_places_that_know_nothing(workspace: Path) -> None:
    html = report_html(workspace)
    section = html.partition('<section id="looked_at"')[2].partition("</section>")[0]
    shown = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", section))
    assert "9 cuts of 12 women" in shown
    for what, point, less in (("strongest place", "0.411", "-"), ("middle of the cut", "0.412", "0.111")):
        assert re.search(rf"{what}.*?{point} \[.*?{less}", shown)
    assert section.count("data:image/jpeg") == 1
    (workspace / PICTURE).unlink()
    assert f"{PICTURE} is not here" in report_html(workspace)


def test_what_is_missing_or_was_changed_is_named_and_the_rest_is_shown(workspace: Path) -> None:
    shutil.rmtree(workspace / "data" / "tune_detector")
    (workspace / "reports" / "evaluate_detector" / "froc.csv").unlink()
    (workspace / "reports" / "evaluate_classifier" / "metrics.json").write_text("{", encoding="utf-8")
    (workspace / "reports" / "evaluate_detector" / "subgroups.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    (workspace / "data" / "ingest" / "f10.pgm").write_bytes(b"P5 1 1 255 0")
    page = Page(report_html(workspace))
    for told in (
        "data/tune_detector is not here",
        "reports/evaluate_detector/froc.csv is not here",
        "reports/evaluate_classifier/metrics.json cannot be read",
        "reports/evaluate_detector/subgroups.csv is not what dvc.lock says",
        "f10.pgm: sha256",
        "Lesions found, mean",
    ):
        assert told.lower() in page.text.lower()
    assert page.faults == []
    assert "Detector on whole films, by patient: 12 women" in page.text


def test_a_workspace_in_which_nothing_ran_gives_a_report_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("dataset: mini_mias\n", encoding="utf-8")
    page = Page(report_html(tmp_path))
    assert page.text.count("Not shown") >= 10
    assert "Neither evaluation is here" in page.text
    assert "dvc.lock holds no finished stage" in page.text


def test_phantoms_are_told_loudly_and_never_set_beside_claims(workspace: Path, html: str) -> None:
    (workspace / "params.yaml").write_text("dataset: phantom\nfolds: [0]\n", encoding="utf-8")
    phantom = report_html(workspace)
    assert phantom.index("PHANTOM FILMS") < phantom.index("<h1>")
    assert "PHANTOM FILMS" not in html
    assert "Ting" in html
    assert "Ting" not in phantom


def test_names_out_of_files_are_text_and_never_markup(workspace: Path) -> None:
    path = workspace / "data" / "catalog" / "films.csv"
    path.write_text(path.read_text(encoding="utf-8").replace("benign", "<b onclick=x>"), encoding="utf-8")
    assert "<b onclick" not in report_html(workspace)


def test_the_same_outputs_give_the_same_bytes(whole: Path, html: str) -> None:
    assert report_html(whole, "2026-01-31") == html


def test_the_end_of_a_run_records_the_report_with_the_pass_and_names_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded: list[object] = []
    monkeypatch.setattr(tracking, "log_to_pass", lambda *arguments: recorded.append(arguments))
    monkeypatch.setattr("mammo_ml.reporting.report.report_html", lambda folder, day: "<p>short</p>")
    path = workspace / REPORT
    assert report_of_pass(workspace, "") == f"Report: {path.as_uri()}"
    assert recorded == [(workspace, "mini_mias", [path])]


def test_no_fault_of_the_report_or_the_store_fails_the_pipeline(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mammo_ml.reporting.report.report_html", lambda folder, day: "<p>short</p>")
    monkeypatch.setattr(tracking, "log_to_pass", broken)
    assert "the report is not recorded: OSError: disk full" in report_of_pass(workspace, "")
    monkeypatch.setattr("mammo_ml.reporting.report.report_html", broken)
    assert report_of_pass(workspace, "") == "The report could not be written: OSError: disk full"


def test_a_folder_that_is_no_workspace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MammoError, match="has no params"):
        write_report(tmp_path)
