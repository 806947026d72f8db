"""The speed comparison of the detector: that it runs, compares equals, and computes its figures as it says."""

import json
import sys

import pytest
import torch

from benchmarks import detector as benchmark
from mammo_ml.models.ssd import SsdParameters, build_detector


@pytest.fixture(autouse=True)
def threads_as_before():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_quick_comparison_writes_every_figure(tmp_path, monkeypatch, capsys):
    path = tmp_path / "detector.json"
    argv = ["benchmarks.detector", "--quick", "--threads", "1", "--bases", "small", "six_layer_cnn"]
    monkeypatch.setattr(sys, "argv", [*argv, "--report", str(path)])
    benchmark.main()
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["quick"] is True
    assert list(report["bases"]) == ["small", "six_layer_cnn"]
    for found in report["bases"].values():
        for task in ("training_step", "inference"):
            assert set(found[task]["seconds_per_image"]) == {"torchvision_float32", "float32", "bfloat16"}
            assert found[task]["ours_at_its_best"] in ("float32", "bfloat16")
            assert all(ratio["median"] > 0 for ratio in found[task]["torchvision_over_ours"].values())
        assert found["whole_film"]["tiles"] > 1
        assert found["whole_film"]["seconds"]["float32"]["median"] > 0
    assert "six_layer_cnn" in capsys.readouterr().out


def test_ratios_are_taken_turn_by_turn_with_their_spread():
    # A machine that slows down to a half in the last turn slows both.
    found = benchmark.compared({"torchvision_float32": [4.0, 6.0, 8.0], "float32": [2.0, 2.0, 4.0]}, n_images=2)
    assert found["torchvision_over_ours"] == {"float32": {"median": 2.0, "smallest": 2.0, "largest": 3.0}}
    assert found["seconds_per_image"]["float32"] == {"median": 1.0, "smallest": 1.0, "largest": 2.0}
    assert found["ours_at_its_best"] == "float32"


def test_networks_that_do_not_compute_the_same_are_not_compared():
    torch.manual_seed(0)
    ours = build_detector(SsdParameters(width=benchmark.WIDTH))
    theirs = benchmark.torchvisions("small", ours)
    with torch.no_grad():
        theirs.backbone.stem[0].weight.mul_(1.5).add_(0.1)
    with pytest.raises(AssertionError, match="not close"):
        benchmark.check_equal(ours, theirs, benchmark.lesions(1, 128)[0])
