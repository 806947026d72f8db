"""A wrong parameter stops the run, and the message says where it stands and what was meant."""

from pathlib import Path

import pytest
from pydantic import Field, model_validator

from mammo_ml.errors import BadInputError
from mammo_ml.parameters import Parameters, parse_section, read_section, read_yaml


class Inner(Parameters):
    learning_rate: float = Field(gt=0)
    patience: int = Field(3, ge=1)


class Outer(Parameters):
    window_px: int = Field(ge=32)
    step_px: int = Field(1, ge=1)
    training: Inner

    @model_validator(mode="after")
    def _no_gaps(self) -> "Outer":
        if self.step_px > self.window_px:
            raise ValueError("steps leave gaps")
        return self


GOOD = "cut:\n  window_px: 64\n  training:\n    learning_rate: 0.1\n"


def _read(folder: Path, text: str, section: str = "cut") -> Outer:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    return read_section(path, section, Outer)


def _message(folder: Path, text: str, section: str = "cut") -> str:
    with pytest.raises(BadInputError) as caught:
        _read(folder, text, section)
    return str(caught.value)


def test_a_good_section_is_read_with_its_defaults(tmp_path):
    assert _read(tmp_path, GOOD) == Outer(window_px=64, training=Inner(learning_rate=0.1, patience=3))


def test_parameters_cannot_be_changed_after_they_were_checked(tmp_path):
    with pytest.raises(ValueError, match="frozen"):
        _read(tmp_path, GOOD).window_px = 1


def test_a_misspelt_key_is_named_with_file_section_and_the_key_that_was_meant(tmp_path):
    message = _message(tmp_path, GOOD.replace("window_px", "windw_px"))
    assert "params.yaml, section 'cut'" in message
    assert "unknown key 'windw_px'; did you mean 'window_px'?" in message
    assert "key 'window_px' is missing" in message


def test_a_misspelt_key_inside_another_is_compared_with_its_neighbours(tmp_path):
    message = _message(tmp_path, GOOD.replace("learning_rate", "learnin_rate"))
    assert "unknown key 'training.learnin_rate'; did you mean 'learning_rate'?" in message
    assert "key 'training.learning_rate' is missing" in message


def test_a_key_like_no_other_is_answered_with_those_that_are_known(tmp_path):
    message = _message(tmp_path, GOOD + "  colour: red\n")
    assert "unknown key 'colour'; known: step_px, training, window_px" in message


@pytest.mark.parametrize("value", ["0", "-1.0", ".nan", ".inf", "fast"])
def test_a_value_out_of_range_is_named_with_what_was_found(tmp_path, value):
    message = _message(tmp_path, GOOD.replace("0.1", value))
    assert "key 'training.learning_rate': " in message
    assert f"found {value.lstrip('.').replace('fast', repr('fast'))}" in message


def test_every_wrong_key_is_in_one_message(tmp_path):
    message = _message(tmp_path, "cut:\n  window_px: 8\n  training:\n    learning_rate: 0\n    patience: 0\n")
    assert message.startswith(f"{tmp_path / 'params.yaml'}, section 'cut': 3 problems")


def test_a_rule_about_two_keys_speaks_for_itself(tmp_path):
    message = _message(tmp_path, GOOD + "  step_px: 65\n")
    assert "steps leave gaps" in message
    assert "key ''" not in message


def test_a_missing_section_is_named_with_the_one_that_was_meant(tmp_path):
    assert "section 'cutt' is missing; did you mean 'cut'?" in _message(tmp_path, GOOD, "cutt")


def test_a_section_named_by_a_number_does_not_hide_the_missing_one(tmp_path):
    assert "section 'cut' is missing; known: 7" in _message(tmp_path, "7: {}\n")


def test_an_empty_section_is_said_to_be_empty(tmp_path):
    assert "expected a mapping of keys, found None" in _message(tmp_path, "cut:\n")


@pytest.mark.parametrize(("text", "expected"), [("cut: [1\n", "not valid YAML"), ("- 1\n", "expected sections")])
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, expected):
    message = _message(tmp_path, text)
    assert "params.yaml" in message
    assert expected in message


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(BadInputError, match=r"params\.yaml.*\n.*no such file"):
        read_yaml(tmp_path / "params.yaml")


def test_values_from_elsewhere_are_checked_by_the_same_rules():
    with pytest.raises(BadInputError, match="best values"):
        parse_section({"learning_rate": 0}, Inner, "best values")
