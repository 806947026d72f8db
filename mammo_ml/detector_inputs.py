"""What a detector is taught on and how films are looked at, to be searched together with what it is made from.

The cuts of the pipeline are made once for all trainings. A study that asks how large they should be, how far off their
centre a lesion may lie, or how much the tiles of a film should overlap makes its own for each trial.
"""

from pydantic import Field

from mammo_ml.detector import DetectorRecipe
from mammo_ml.imaging.patches import CutParameters
from mammo_ml.parameters import Parameters, parse_section
from mammo_ml.prediction import FilmDetectionParameters
from mammo_ml.tuning import TuningParameters


class InputParameters(Parameters):
    """What may differ from trial to trial; px are canonical, 0.2 mm."""

    window_px: int = Field(ge=32, description="edge of cuts and of tiles: both show lesions at the same scale")
    jitter_px: int = Field(ge=0, description="largest offset of a jittered cut, along x and along y")
    overlap: float = Field(ge=0, le=0.9, description="share of a tile's edge that the next tile covers too")


class InputRecipe(DetectorRecipe):
    """A detector's recipe with its inputs."""

    inputs: InputParameters

    def cutting(self, like: CutParameters) -> CutParameters:
        """How films are cut: as `like`, but for the inputs."""
        own = {"window_px": self.inputs.window_px, "jitter_px": self.inputs.jitter_px}
        return like.model_copy(update=own | {"input_px": self.network.input_px})

    def looking(self, like: FilmDetectionParameters) -> FilmDetectionParameters:
        """How whole films are looked at: as `like`, but for the inputs."""
        window_px = self.inputs.window_px
        step_px = max(1, round(window_px * (1 - self.inputs.overlap)))
        own = {"window_px": window_px, "step_px": step_px}
        return like.model_copy(update={"tiles": like.tiles.model_copy(update=own)})


class InputTuningParameters(TuningParameters):
    """Section `tune_detector_inputs`; `space` may also name keys of `inputs`."""

    cut: CutParameters = Field(description="as cut of the project's params.yaml, but for the inputs")
    inputs: InputParameters = Field(description="those of trial 0")

    def recipe(self, defaults: DetectorRecipe) -> InputRecipe:
        """The recipe of trial 0."""
        sections = defaults.model_dump() | {"inputs": self.inputs.model_dump()}
        return parse_section(sections, InputRecipe, "train_detector with its inputs")
