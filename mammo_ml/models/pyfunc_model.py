"""The registered model, as MLflow's "models from code" runs it: `mlflow models serve` and `mlflow.pyfunc.load_model`.

Run by mlflow, never imported by this package: its last line makes this file's model the one that is logged.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Predict with the bundle that was logged beside this file."""

    def load_context(self, context: Any) -> None:
        """Read and verify the bundle; raises BadInputError naming a file that is not what the manifest says."""
        from mammo_ml.models.bundle import read_bundle

        self.bundle = read_bundle(Path(context.artifacts["bundle"]))

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Rows of predictions for the films in columns film_id and image (base64 of a PGM or PNG file's bytes)."""
        from mammo_ml.prediction import predict_with_bundle

        return predict_with_bundle(self.bundle, model_input)


mlflow.models.set_model(BundleModel())
