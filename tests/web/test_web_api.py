"""The REST interface answers what the library answers, says what its scores mean, and refuses with reasons."""

import json
import re
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from mammo_ml.errors import BadInputError, MammoError
from mammo_ml.imaging.readers import format_pgm, parse_film
from mammo_ml.locator_bundle import locator_of, open_bundle
from mammo_ml.models.bundle import read_bundle
from mammo_ml.prediction import predict_with_bundle
from mammo_ml.web.app import STATIC, Service, create_app
from mammo_ml.web.models import ServedLocator
from mammo_ml.web.operating_points import operating_points
from mammo_ml.web.sandbox import Sandbox
from mammo_ml.web.server import is_loopback, token_of
from mammo_ml.web.slots import Slot
from tests.web.web_toys import KnownLocator, evidence, locator_folder, phantom_film, service, small_film

TOKEN = "a token of some length"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    locator_folder(place)
    return place


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[TestClient]:
    served = service(folder)
    with TestClient(create_app(served), base_url="http://127.0.0.1") as client:
        yield client


def test_locate_answers_what_the_library_finds_for_a_body_and_for_a_form_alike(
    client: TestClient, folder: Path
) -> None:
    film = phantom_film()
    here = locator_of(open_bundle(folder / "locator")).locate(replace(parse_film(film, "film"), pixel_spacing_mm=0.2))
    raw = client.post("/v1/locate", content=film)
    form = client.post("/v1/locate", files={"film": ("a name.pgm", film)}, data={"pixel_spacing_mm": "0.2"})
    assert raw.status_code == form.status_code == 200, raw.text
    assert len(here.boxes) >= 1
    for answer in (raw.json(), form.json()):
        found = pd.DataFrame(answer["boxes"])
        pd.testing.assert_frame_equal(found, here.boxes, check_dtype=False, atol=1e-6, rtol=0)
        assert answer["p_abnormal"] == pytest.approx(here.p_abnormal, abs=1e-6)
        assert [tile["searched"] for tile in answer["tiles"]] == here.tiles["searched"].tolist()
        assert answer["model"] == {
            "name": "mammo-locator", "version": 1, "bundle_sha256": open_bundle(folder / "locator").content_sha256
        }  # fmt: skip
    assert raw.json()["film"]["spacing_source"] == "mini-MIAS"
    assert form.json()["film"]["spacing_source"] == "told"
    assert "Research use only" in raw.json()["research_use_only"]


def test_classify_answers_what_the_library_predicts(client: TestClient, folder: Path) -> None:
    film = phantom_film(1)
    asked = pd.DataFrame([{"film_id": "one", "image": b64encode(film).decode()}])
    here = predict_with_bundle(read_bundle(folder / "classifier"), asked).iloc[0]
    answer = client.post("/v1/classify", content=film).json()
    for name in ("p_normal", "p_benign", "p_malignant"):
        assert answer[name] == pytest.approx(here[name], abs=1e-6)


def test_a_film_the_model_learned_from_is_answered_so(folder: Path) -> None:
    film = small_film()
    bundle = open_bundle(folder / "locator")
    row = bundle.training_films.iloc[[0]].assign(sha256=sha256(film).hexdigest())
    seen = replace(bundle, training_films=pd.concat([bundle.training_films, row]))
    with TestClient(create_app(service(folder, KnownLocator("mammo-locator", 2, seen)))) as client:
        answers = [client.post("/v1/locate?pixel_spacing_mm=0.2", content=one) for one in (film, film[:-1] + b"\1")]
    assert [answer.json()["seen_in_training"] for answer in answers] == [True, False]


def test_view_gives_the_grey_levels_of_the_film_and_a_large_one_reduced(client: TestClient) -> None:
    pixels = (np.arange(300 * 260).reshape(300, 260) % 4096).astype(np.uint16)
    deep = client.post("/v1/view", content=format_pgm(pixels))
    head, stored = b"P5\n260 300\n4095\n", deep.content
    assert stored.startswith(head)
    np.testing.assert_array_equal(np.frombuffer(stored, ">u2", offset=len(head)).reshape(300, 260), pixels)
    wide = client.post("/v1/view", content=format_pgm(np.full((100, 8192), 7, np.uint8)))
    assert wide.content == b"P5\n4096 50\n255\n" + b"\7" * (4096 * 50)
    assert (wide.headers["Film-width-px"], wide.headers["Film-height-px"]) == ("8192", "100")


def test_the_model_tells_what_its_scores_were_calibrated_on_and_what_a_threshold_is_worth(client: TestClient) -> None:
    told = client.get("/v1/model").json()["locate"]
    assert told["dataset"] == "mini_mias"
    assert told["judged"] == {
        "films": 4, "women": 3, "lesions": 3, "share_of_films_with_lesion": 0.5, "boxes": 5,
        "share_of_boxes_in_lesion": 0.6,
    }  # fmt: skip
    # scores at which a lesion is found: 0.9, 0.6 and 0.4; the false positive at 0.8 is one on four films
    points = [(row["threshold"], row["sensitivity"], row["fp_per_film"]) for row in told["operating_points"]]
    assert points == [(0.9, 0.33333, 0.0), (0.6, 0.66667, 0.25), (0.4, 1.0, 0.25)]
    assert told["default_threshold"] == 0.4
    for row in told["operating_points"]:
        assert row["sensitivity_lo"] <= row["sensitivity"] <= row["sensitivity_hi"]
        assert row["fp_per_film_lo"] <= row["fp_per_film"] <= row["fp_per_film_hi"]


def test_operating_points_exist_where_nothing_was_hit_and_where_there_is_no_lesion() -> None:
    known = evidence()
    missed = replace(known, predictions=known.predictions.assign(x1=900.0, x2=920.0))
    assert (operating_points(missed).table["sensitivity"] == 0).all()
    healthy = operating_points(replace(known, lesions=known.lesions[:0]))
    assert healthy.judged["lesions"] == 0
    assert healthy.table["sensitivity"].isna().all()
    assert healthy.table["fp_per_film"].tolist() == [0.25, 0.5, 0.75, 1.0, 1.25]


def test_a_version_without_stored_predictions_is_served_and_says_that_nothing_is_known(folder: Path) -> None:
    bare = ServedLocator("mammo-locator", 3, open_bundle(folder / "locator"), None, "no predictions.csv")
    facts = bare.facts()
    assert (facts["operating_points"], facts["judged"]) == ([], None)
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/v1/locate", b"", 422, "empty"),
        ("/v1/locate", b"<svg onload=alert(1)>", 422, "no kind of film"),
        ("/v1/locate", small_film(), 422, "pixel spacing is not known"),
        ("/v1/locate?pixel_spacing_mm=200", small_film(), 422, "mm long"),
        ("/v1/locate?pixel_spacing_mm=nan", small_film(), 422, "not a positive number"),
        ("/v1/locate?pixel_spacing_mm=0.2", small_film()[:-1], 422, "1 missing"),
        ("/v1/nothing", b"", 404, "nothing at this path"),
        ("/health", b"", 405, "another method"),
    ],
)
def test_every_refusal_says_what_is_wrong_and_what_to_do(
    client: TestClient, path: str, body: bytes, status: int, told: str
) -> None:
    answer = client.post(path, content=body)
    assert answer.status_code == status
    assert told in answer.json()["error"]
    assert answer.json()["remedy"]


def test_a_form_without_a_film_is_refused_and_names_the_field(client: TestClient) -> None:
    for sent in ({"files": {"image": ("a.pgm", b"P5")}}, {"data": {"film": "P5"}, "files": {"x": ("y", b"")}}):
        answer = client.post("/v1/locate", **sent)
        assert (answer.status_code, "'film'" in answer.json()["remedy"]) == (400, True)


def test_every_path_is_described_and_the_pages_load_nothing_from_elsewhere(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/v1/locate", "/v1/classify", "/v1/view", "/v1/model", "/health"}
    assert "multipart/form-data" in described["paths"]["/v1/locate"]["post"]["requestBody"]["content"]
    own = [path for path in STATIC.rglob("*") if path.is_file() and "vendor" not in path.parts]
    assert len(own) >= 10
    for path in own:
        strangers = re.findall(r"https?://(?!www\.w3\.org/2000/svg)[^\s\"']+", path.read_text(encoding="utf-8"))
        assert not strangers, path.name
    for page in ("/", "/docs"):
        answer = client.get(page)
        sources = re.findall(r"(?:src|href)=\"([^\"]+)\"", answer.text)
        assert sources
        assert all(client.get(f"/{source}").status_code == 200 for source in sources)
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_token_is_asked_for_where_one_is_set_and_faults_are_told_to_its_bearer_alone(folder: Path) -> None:
    served = service(folder, token=TOKEN)
    served.classifier.fault = "its folder /srv/models is gone"
    film = {"content": small_film(), "params": {"pixel_spacing_mm": 0.2}}
    with TestClient(create_app(served)) as client:
        for wrong in ({}, {"Authorization": "Bearer nothing"}, {"Authorization": TOKEN}):
            assert client.post("/v1/locate", headers=wrong, **film).status_code == 401
            assert client.get("/v1/model", headers=wrong).status_code == 401
            assert client.get("/health", headers=wrong).json() == {"status": "degraded", "models": []}
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/v1/locate", headers=right, **film).status_code == 200
        assert client.get("/health", headers=right).json()["models"][1]["fault"] == "its folder /srv/models is gone"
        assert client.get("/").status_code == 200


def test_a_server_that_others_can_reach_does_not_start_without_a_good_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAMMO_TOKEN", raising=False)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "films.example")] == [
        True, True, True, False, False
    ]  # fmt: skip
    assert token_of(None, "127.0.0.1") == ""
    with pytest.raises(BadInputError, match="is not set, and others can reach"):
        token_of(None, "0.0.0.0")
    file = tmp_path / "token.txt"
    for bad in ("", "short", "ä" * 20):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(BadInputError, match=r"token\.txt"):
            token_of(file, "0.0.0.0")
    file.write_text(f"{TOKEN}\n", encoding="utf-8")
    assert token_of(file, "0.0.0.0") == TOKEN
    monkeypatch.setenv("MAMMO_TOKEN", TOKEN)
    assert token_of(None, "0.0.0.0") == TOKEN


def test_a_film_that_takes_too_long_or_too_much_ends_its_process_and_no_other() -> None:
    sandbox = Sandbox(processes=1, seconds=20, memory_bytes=900_000_000)
    small = parse_film(small_film(), "film").pixels.astype(np.uint16) * 257
    huge = format_pgm(np.kron(small, np.ones((22, 22), np.uint16)))
    asked = {"what": "prepare", "suffix": "", "spacing_mm": 0.2}
    try:
        assert sandbox.ask(asked, small_film()).facts["chest_wall"] == "left"
        with pytest.raises(BadInputError, match=r"memory|cannot be read"):
            sandbox.ask(asked | {"spacing_mm": 0.03}, huge)
        assert sandbox.ask(asked, small_film()).facts["chest_wall"] == "left"
        sandbox.seconds = 0.0
        with pytest.raises(BadInputError, match="took longer"):
            sandbox.ask(asked, phantom_film())
        sandbox.seconds = 20.0
        assert sandbox.ask(asked, small_film()).facts["chest_wall"] == "left"
    finally:
        sandbox.close()


def test_a_failure_of_our_own_is_a_500_without_its_text_and_the_next_request_is_answered(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    served = service(folder, KnownLocator("mammo-locator", 2, open_bundle(folder / "locator")))
    film = {"content": small_film(), "params": {"pixel_spacing_mm": 0.2}}
    with TestClient(create_app(served)) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(KnownLocator, "answer", lambda *_: (_ for _ in ()).throw(RuntimeError("of Mustermann")))
        failed = client.post("/v1/locate", **film)
        assert (failed.status_code, failed.json()["error"]) == (500, "the server failed on this request")
        patch.undo()
        assert client.post("/v1/locate", **film).status_code == 200
    assert "RuntimeError in test_web_api.py" in caplog.text
    assert "Mustermann" not in caplog.text + failed.text


def test_without_a_champion_there_is_no_answer_but_a_reason(folder: Path) -> None:
    def none() -> tuple[int, Path]:
        raise MammoError("no version has the alias 'champion'")

    served = service(folder)
    empty: Slot[ServedLocator] = Slot("mammo-locator", none, lambda number, found: pytest.fail("nothing to load"))
    empty.refresh()
    app = create_app(Service(empty, served.classifier, served.sandbox, poll_s=0))
    with TestClient(app) as client:
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (503, "down")
        answer = client.post("/v1/locate?pixel_spacing_mm=0.2", content=small_film())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "60")
        assert "no version has the alias" in answer.json()["remedy"]
        assert client.post("/v1/classify?pixel_spacing_mm=0.2", content=small_film()).status_code == 200
