"""The registered model, as MLflow's "models from code" runs it: `mlflow models serve` and `mlflow.pyfunc.load_model`.

Run by mlflow, never imported by this package: its last line makes this file's model the one that is logged.

What it checks, it checks after mlflow has run this file, so it finds damage but cannot stop an attacker: one who edits
code in the store has his code run by mlflow before. `mammo-ml` commands verify a version's signature first and run no
code out of the store.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd


class BundleModel(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """Predict with the bundle that was logged beside this file."""

    def load_context(self, context: Any) -> None:
        """Read the bundle; raises BadInputError naming each file of the version that is not what its manifest says."""
        from mammo_ml.locator_bundle import open_bundle
        from mammo_ml.manifest import MANIFEST
        from mammo_ml.registry.files import verify_files

        bundle = Path(context.artifacts["bundle"])
        model = bundle.parents[1]
        # mlflow tries the model while it logs it, before it has a manifest
        if (model / MANIFEST).exists():
            verify_files(model)
        self.bundle = open_bundle(bundle)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:
        """Rows of predictions; the columns of `model_input` are those of `predict_with_bundle`."""
        from mammo_ml.locator_bundle import answer

        return answer(self.bundle, model_input)


mlflow.models.set_model(BundleModel())
