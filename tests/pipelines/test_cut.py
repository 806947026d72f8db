"""What stage `cut` tells a person of the patches it made."""

import pandas as pd
import pytest

from pipelines.cut import tell_what_holds_too_little_breast

PATCHES = pd.DataFrame(
    {
        "patch_id": ["mdb001_1", "mdb110_1", "mdb003_like_mdb001_1_0"],
        "kind": ["lesion", "lesion", "normal"],
        "breast_share": [0.95, 0.8125, 0.7],
    }
)


@pytest.mark.parametrize(
    ("least", "told"),
    [
        (0.9, "1 of 2 patches of lesions hold less breast than the 90% of normal ones: mdb110_1 81%\n"),
        (0.8, ""),
    ],
)
def test_lesions_whose_share_of_breast_can_tell_their_class_are_named(
    least: float, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_what_holds_too_little_breast(PATCHES, least)
    assert capsys.readouterr().err == told
