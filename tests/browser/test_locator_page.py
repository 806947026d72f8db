"""The page of the lesion locator in a real browser: from a dropped film to exported corrections."""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Download, FilePayload, Page, expect

from mammo_ml.datasets.catalog import LESIONS, names, read_table
from mammo_ml.feedback.importing import import_feedback
from mammo_ml.locator import LOCATED_COLUMNS, TILE_COLUMNS, Located
from mammo_ml.locator_bundle import open_bundle
from mammo_ml.web.app import create_app
from mammo_ml.web.models import ServedLocator
from mammo_ml.web.operating_points import operating_points
from tests.feedback.exports import workspace
from tests.web.web_toys import evidence, locator_folder, phantom_film, running, service, small_film

pytestmark = pytest.mark.slow
expect.set_options(timeout=60_000)
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"
WIDTHS = {"phone": (390, 844), "desktop": (1440, 900)}
FOUND = [
    (300.0, 400.0, 420.0, 500.0, 0.1, 0.6, 0.7),
    (350.0, 600.0, 450.0, 690.0, 0.4, 0.1, 0.5),
    (200.0, 200.0, 260.0, 250.0, 0.1, 0.05, 0.1),
]
DROP = """([target, film, name]) => {
  const bytes = Uint8Array.from(atob(film), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  for (const kind of ["dragover", "drop"]) {
    target.dispatchEvent(new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true }));
  }
}"""


class Seer(ServedLocator):
    """A locator that finds the same three boxes on every film."""

    def answer(self, film: Any) -> Located:
        tiles = [
            (x, y, x + 256, y + 256, 0.4, 0.3, 0.3, (x + y) / 1600, x > 100) for x in (0, 256) for y in (0, 256, 512)
        ]
        return Located(
            pd.DataFrame(FOUND, columns=LOCATED_COLUMNS),
            0.74,
            pd.DataFrame(tiles, columns=TILE_COLUMNS),
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    locator_folder(place)
    return place


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    bundle = open_bundle(folder / "locator")
    row = bundle.training_films.iloc[[0]].assign(sha256=sha256(phantom_film(1)).hexdigest())
    seen = replace(bundle, training_films=pd.concat([bundle.training_films, row]))
    seer = Seer("mammo-locator", 4, seen, operating_points(evidence()))
    with running(create_app(service(folder, seer))) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def complaints() -> list[str]:
    """Errors of the page, and requests to other hosts."""
    return []


@pytest.fixture(params=WIDTHS)
def locator_page(
    request: pytest.FixtureRequest, browser: Browser, address: str, complaints: list[str]
) -> Iterator[Page]:
    width, height = WIDTHS[request.param]
    touch = request.param == "phone"
    context = browser.new_context(viewport={"width": width, "height": height}, has_touch=touch, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith((address, "blob:")) else complaints.append(asked.url))
    page.goto(address)
    expect(page.locator("#model-name")).to_have_text("mammo-locator version 4")
    yield page
    context.close()


def drop(page: Page, film: bytes, name: str) -> None:
    page.locator("#drop").evaluate(f"(target, [film, name]) => ({DROP})([target, film, name])", [_text(film), name])


def _text(film: bytes) -> str:
    return base64.b64encode(film).decode()


def payload(film: bytes, name: str) -> FilePayload:
    return {"name": name, "mimeType": "application/octet-stream", "buffer": film}


def pinch(page: Page, x: float, y: float) -> None:
    """Two fingers on the film that move apart."""
    session = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), ("touchMove", 30), ("touchMove", 60), ("touchEnd", 0)):
        fingers = [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers if apart else []})
    session.detach()


def accessibility(page: Page) -> list[str]:
    """What axe finds against WCAG 2.1 A and AA."""
    # handed in by the debugger, for the page's own policy lets no other script in
    session = page.context.new_cdp_session(page)
    session.send("Runtime.evaluate", {"expression": AXE.read_text(encoding="utf-8")})
    told = session.send(
        "Runtime.evaluate",
        {
            "expression": "axe.run({runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice']})"
            ".then(({violations}) => JSON.stringify(violations.map(one => [one.id, one.nodes.map(n => n.html)])))",
            "awaitPromise": True,
            "returnByValue": True,
        },
    )
    session.detach()
    return [f"{rule}: {nodes}" for rule, nodes in json.loads(told["result"]["value"])]


def tables(download: Download) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(Path(download.path()).read_bytes())) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_a_dropped_film_is_read_and_its_corrections_come_out_as_catalog_tables_and_coco(
    locator_page: Page, complaints: list[str], tmp_path: Path
) -> None:
    page = locator_page
    expect(page.get_by_text("Research use only").first).to_be_in_viewport()
    assert accessibility(page) == []
    drop(page, phantom_film(), "woman, right.pgm")

    # at most one false positive per film is where the hand-made evidence has its threshold of 0.4
    items = page.locator("#findings > li")
    expect(items).to_have_count(2)
    expect(page.locator("#film-state")).to_contain_text("74")
    expect(page.locator("#point")).to_contain_text("found 100")
    expect(page.locator("#meaning")).to_contain_text("50 % of those 4 films have a lesion".replace(" %", "\u00a0%"))
    expect(page.get_by_text("Research use only").last).to_be_in_viewport()

    slider = page.get_by_role("slider", name="Threshold on the score")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(items).to_have_count(1)
    expect(page.locator("#point")).to_contain_text("found 67")
    assert "67" in str(slider.get_attribute("aria-valuetext"))
    page.keyboard.press("ArrowLeft")
    expect(items).to_have_count(2)

    # accepted by button and told its kind; rejected by key; undone and done again
    items.nth(0).get_by_role("button").first.click()
    page.get_by_role("button", name="Accept", exact=True).click()
    page.get_by_label("Kind").select_option("SPIC")
    page.locator("canvas").first.focus()
    page.keyboard.press("n")
    page.keyboard.press("x")
    expect(items.nth(1)).to_contain_text("rejected")
    page.keyboard.press("Control+z")
    expect(items.nth(1)).to_contain_text("found by the model")
    page.keyboard.press("x")
    expect(items.nth(1)).to_contain_text("rejected")

    # drawn by hand
    page.get_by_role("radio", name="Draw").click()
    place = page.locator("canvas").first.bounding_box()
    assert place is not None
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30, steps=4)
    page.mouse.up()
    expect(items).to_have_count(3)
    assert accessibility(page) == []

    # the catalog asks for a kind and a name
    page.get_by_role("button", name="Catalog tables").click()
    expect(page.locator("#export-state")).to_contain_text("Say who has read")
    page.get_by_label("Read by").fill('Dr. "A", B')
    page.get_by_role("button", name="Catalog tables").click()
    expect(page.locator("#export-state")).to_contain_text("needs a kind")
    page.get_by_label("Kind").select_option("CALC")
    page.get_by_label("I have read this whole film").check()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Catalog tables").click()
    files = tables(saved.value)
    check_comes_back(saved.value, tmp_path / "by_tables")
    with page.expect_download() as saved:
        page.get_by_role("button", name="COCO").click()
    coco = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    check_comes_back(saved.value, tmp_path / "by_coco")
    check_tables(files, tmp_path)
    check_coco(coco)
    assert complaints == []


def check_comes_back(export: Download, folder: Path) -> None:
    export.save_as(folder / export.suggested_filename)
    sha = sha256(phantom_film()).hexdigest()
    project = workspace(folder / "project", {"phantom": sha}, (1024, 1024))
    done = import_feedback([folder / export.suggested_filename], project)
    assert done.films[["film", "accepted", "drawn", "shown"]].to_numpy().tolist() == [["phantom", 1, 1, "yes"]]


def check_tables(files: dict[str, str], folder: Path) -> None:
    assert set(files) == {"films.csv", "lesions.csv", "rejected.csv"}
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    lesions = pd.read_csv(folder / "lesions.csv")
    (lesions[names(LESIONS)]).to_csv(folder / "catalog.csv", index=False)
    known = read_table(folder / "catalog.csv", LESIONS)
    for column in LESIONS:
        assert not column.allowed or set(known[column.name]) <= set(column.allowed)
    model = lesions.iloc[0]
    assert (model["x1"], model["y1"], model["x2"], model["y2"]) == FOUND[0][:4]
    assert (model["x_px"], model["radius_px"], model["kind"], model["severity"]) == (360, 60, "SPIC", "malignant")
    assert lesions["action"].tolist() == ["accepted", "drawn"]
    assert lesions["source"].tolist() == ["feedback"] * 2
    assert lesions["author"].tolist() == ['Dr. "A", B'] * 2
    assert lesions["model"].tolist() == ["mammo-locator/4"] * 2
    assert lesions["prediction_shown"].tolist() == [True, True]
    film = pd.read_csv(folder / "films.csv").iloc[0]
    assert (film["film_id"], film["sha256"]) == ("woman, right", sha256(phantom_film()).hexdigest())
    assert (film["label"], film["complete"], film["threshold"]) == ("malignant", True, 0.4)
    rejected = pd.read_csv(folder / "rejected.csv")
    assert rejected[["x1", "y1", "x2", "y2", "score"]].to_numpy().tolist() == [[*FOUND[1][:4], 0.5]]


def check_coco(coco: dict[str, Any]) -> None:
    assert [one["name"] for one in coco["categories"]] == ["malignant", "benign", "unknown"]
    first = coco["annotations"][0]
    assert (first["bbox"], first["category_id"], first["kind"]) == ([300, 400, 120, 100], 1, "SPIC")
    assert (coco["images"][0]["width"], coco["images"][0]["file_name"]) == (1024, "woman, right.pgm")
    assert (coco["info"]["contributor"], len(coco["annotations"])) == ('Dr. "A", B', 2)


def test_films_side_by_side_window_heat_map_and_what_is_said_of_films_and_keys(
    locator_page: Page, complaints: list[str]
) -> None:
    page = locator_page
    page.get_by_label("Read first: hide what the model found on new films").check()
    page.locator("#files").set_input_files(
        [payload(phantom_film(0), "left.pgm"), payload(phantom_film(1), "right.pgm"), payload(small_film(), "odd.pgm")]
    )
    strip = page.get_by_role("navigation", name="Films opened").get_by_role("button")
    expect(strip).to_have_count(3)
    strip.filter(has_text="right.pgm").click()
    expect(page.locator("#film-notes")).to_contain_text("Seen in training")
    expect(page.get_by_text("learned from this very film")).to_be_visible()
    expect(page.locator("#findings > li")).to_have_count(0)
    page.get_by_role("button", name="Add a finding").click()
    page.get_by_role("button", name="Show what the model found").click()
    expect(page.locator("#findings > li")).to_have_count(3)

    # a film of unknown spacing is shown, and looked at once that is told
    strip.filter(has_text="odd.pgm").click()
    expect(page.locator("#film-notes")).to_contain_text("pixel spacing is not known")
    page.get_by_label("Edge of a pixel, mm").fill("0,2")
    page.get_by_role("button", name="Look again").click()
    expect(page.get_by_role("button", name="Show what the model found")).to_be_visible()
    strip.filter(has_text="right.pgm").click()

    pair = page.get_by_role("button", name="Side by side")
    pair.click()
    expect(page.locator(".pane")).to_have_count(2)
    page.get_by_role("button", name="Heat map").click()
    expect(page.locator("#film-notes")).to_contain_text("Heat map")
    canvas = page.locator(".pane.active canvas")
    canvas.focus()
    readout = page.locator(".pane.active .readout")
    before = readout.inner_text()
    page.get_by_role("radio", name="Window").click()
    place = canvas.bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + 60, place["y"] + 60)
    page.mouse.down()
    page.mouse.move(place["x"] + 90, place["y"] + 140, steps=4)
    page.mouse.up()
    expect(readout).not_to_have_text(before)
    canvas.focus()
    for key in ("r", "v", "+", "+"):
        page.keyboard.press(key)
    expect(readout).not_to_have_text(before)
    page.keyboard.press("0")
    expect(readout).to_have_text(before)
    pinch(page, place["x"] + 90, place["y"] + 120)
    expect(readout).not_to_have_text(before)
    page.keyboard.press("0")
    expect(readout).to_have_text(before)
    page.keyboard.press("i")
    expect(page.get_by_role("button", name="Invert")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("n")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#findings > li.selected")).to_contain_text("moved")
    assert accessibility(page) == []
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    assert accessibility(page) == []
    page.get_by_role("button", name="Close").click()

    # a finding made before the model's were shown says so
    page.get_by_label("Read by").fill("B")
    with page.expect_download() as saved:
        page.get_by_role("button", name="COCO").click()
    told = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))["annotations"]
    assert {(one["action"], one["prediction_shown"]) for one in told} == {("drawn", False), ("moved", True)}
    # the answer that a film is refused is an error to the browser, and to nobody else
    assert [text for text in complaints if "422" not in text] == []


def test_a_server_that_asks_for_a_token_gets_it_once_and_it_leaves_the_address(browser: Browser, folder: Path) -> None:
    token = "a token of some length"
    with running(create_app(service(folder, token=token))) as port:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_role("textbox", name="Token").fill("a wrong one")
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("textbox", name="Token").fill(token)
        page.get_by_role("button", name="Go on").click()
        expect(page.locator("#model-name")).to_have_text("mammo-locator version 1")
        page.goto(f"http://127.0.0.1:{port}/docs")
        page.get_by_text("/v1/locate").click()
        expect(page.get_by_text("Find lesions on a film")).to_be_visible()
        other = browser.new_context().new_page()
        other.goto(f"http://127.0.0.1:{port}/#token={token.replace(' ', '%20')}")
        expect(other.locator("#model-name")).to_have_text("mammo-locator version 1")
        assert "token" not in other.url
        other.context.close()
        context.close()
