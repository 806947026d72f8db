"""The audit names every planted leak of a split with both items, and says what it could not compare."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from mammo_ml.cli import app
from mammo_ml.split_audit import NAMED, audit_split
from mammo_ml.split_file import read_split

WOMEN = "item,role,patient_id\na.png,train,anna\nb.png,train,berta\nc.png,test,clara\nd.png,test,{}\n"


def _texture(seed):
    values = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(120, 100)), 1.0)
    return np.clip(120 + 100 * values, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Four unlike pictures a to d, a turned copy of a, a crop of b, and one black picture."""
    pictures = {name: _texture(seed) for seed, name in enumerate("abcd")}
    pictures["a_turned"] = np.rot90(pictures["a"][:, ::-1])
    pictures["b_crop"] = pictures["b"][15:, 5:90]
    pictures["black"] = np.zeros((120, 100), np.uint8)
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return tmp_path


def _run(folder, text, *options):
    (folder / "split.csv").write_text(text, encoding="utf-8")
    return CliRunner().invoke(app, ["audit-split", str(folder / "split.csv"), *map(str, options)])


def test_a_split_that_shares_nothing_ends_with_0_and_says_what_was_compared(folder):
    result = _run(folder, WOMEN.format("dora"), "--films", folder)
    assert result.exit_code == 0
    assert "compared: test (2 items) against train (2 items)" in result.output
    assert "compared: 4 women, 4 items, 4 pictures\n" in result.output
    assert "texture of 4 pairs of pictures, in every turn" in result.output
    assert "not checkable: films: film_id not given" in result.output
    assert "not checkable: tuned on: a foreign file does not say on which items settings were chosen" in result.output
    assert "women:" not in result.output
    assert "No leak found" in result.output


def test_without_women_and_pictures_nothing_is_claimed_of_them(folder):
    result = _run(folder, "item,role\na,train\nb,train\nc,test\nd,test\n")
    assert result.exit_code == 0
    assert "not checkable: women: patient_id not given" in result.output
    assert "not checkable: pixels, near-duplicates: no pictures given (--films FOLDER)" in result.output


def test_no_figure_stands_for_what_was_not_compared(folder):
    result = _run(folder, "item,role\na.png,train\nb.png,train\na_turned.png,test\nd.png,test\n", "--films", folder)
    assert "LEAK: items_shared 0, pictures_shared 1, near_duplicates 0\n" in result.output


def test_a_woman_on_both_sides_is_named_with_her_items(folder):
    result = _run(folder, WOMEN.format("anna"))
    assert result.exit_code == 1
    assert "  - woman anna is on both sides: d.png (test); a.png (train)" in result.output
    assert "Split by patient first" in result.output


def test_both_breasts_of_a_mini_mias_woman_are_found_by_number_alone(folder):
    result = _run(folder, "item,fold\nmdb001_0.png,0\nmdb004_0.png,0\nmdb002_7.png,1\nmdb009_0.png,1\n")
    assert result.exit_code == 1
    assert "woman p001 is on both sides: mdb001_0.png (fold 0); mdb002_7.png (fold 1)" in result.output
    assert "women of 4 items follow from the film's number in their name" in result.output


def test_a_models_record_tells_what_it_was_tuned_on(folder):
    record = "film_id,sha256,dataset,patient_id,step\nmdb001,0,mini_mias,p001,training\nx1,0,cbis,x,pretraining\n"
    (folder / "training_films.csv").write_text(record, encoding="utf-8")
    result = _run(folder, "item\nmdb002.png\nmdb009.png\n", "--against", folder / "training_films.csv")
    assert result.exit_code == 1
    assert "tuned on: one side is a model's record of every film" in result.output
    assert f"woman p001 is on both sides: mdb002.png ({folder / 'split.csv'}); mdb001 (" in result.output
    assert "not checkable: tuned on" not in result.output


def test_unknown_women_are_not_one_woman(folder):
    rows = "item,role,patient_id\na,train,\nb,train,berta\nc,test,\nd,test,clara\n"
    result = _run(folder, rows)
    assert result.exit_code == 0
    assert "women of 2 of 4 items: patient_id not given" in result.output


def test_one_item_in_two_roles_is_found_whatever_else_is_known(folder):
    result = _run(folder, "item,role\na,train\nb,train\na,test\nd,test\n")
    assert result.exit_code == 1
    assert "item a is on both sides: a (test); a (train)" in result.output


def test_a_turned_copy_is_one_picture_and_a_crop_a_near_duplicate(folder):
    rows = "item,role\na.png,train\nb.png,train\nc.png,train\na_turned.png,test\nb_crop.png,test\n"
    result = _run(folder, rows, "--films", folder, "--pairs", folder / "pairs.csv")
    assert result.exit_code == 1
    assert "is on both sides: a_turned.png (test); a.png (train)" in result.output
    assert "near-duplicate: b_crop.png (test) is like b.png 0." in result.output
    pairs = pd.read_csv(folder / "pairs.csv")
    assert list(pairs["leak"]) == ["pictures_shared", "near_duplicates"]
    found = [set(pair) for pair in pairs[["first", "second"]].itertuples(index=False)]
    assert found == [{"a.png", "a_turned.png"}, {"b.png", "b_crop.png"}]


def test_pairs_too_plain_to_compare_are_counted(folder):
    rows = "item,role\na.png,train\nb.png,train\nc.png,test\nblack.png,test\n"
    result = _run(folder, rows, "--films", folder)
    assert result.exit_code == 0
    assert "near-duplicates of 2 pairs: a picture is too small or too plain for it" in result.output


def test_a_longer_list_is_cut_short_and_whole_in_the_table(tmp_path):
    rows = "".join(f"mdb001_{n}.png,{'test' if n < 2 else 'train'}\n" for n in range(12))
    (tmp_path / "split.csv").write_text("item,role\n" + rows, encoding="utf-8")
    result = audit_split(read_split(tmp_path / "split.csv"))
    assert f"and {10 - NAMED} more (train)" in str(result)
    assert "--pairs FILE writes every pair" in str(result)
    assert list(result.pairs["leak"].value_counts()) == [20, 20]
    assert result.audit.figures["films_shared"] == result.audit.figures["women_shared"] == 1.0


def test_bad_input_ends_with_1_and_audits_nothing(folder):
    result = _run(folder, "item,role\na.png,train\ngone.png,train\na.png,train\n", "--films", folder)
    assert result.exit_code == 1
    assert "compared" not in result.output
    for fault in ("a.png is there 2 times", "every item is train", "no picture 'gone.png'", "Nothing was audited"):
        assert fault in result.output
