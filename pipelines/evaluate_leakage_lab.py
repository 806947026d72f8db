"""The leakage lab's committed figures: every protocol side by side, with its claim, in one chart and one table."""

from pathlib import Path

import pandas as pd

from mammo_ml.cutting import PatchSet
from mammo_ml.evaluation import EvaluateParameters, check_complete
from mammo_ml.leakage_figures import (
    LabFigures,
    chart_rows,
    leakage_figure,
    leakage_table,
    protocol_figures,
    write_lab_metrics,
)
from mammo_ml.leaky_protocols import PROTOCOLS, Protocol
from pipelines import stage
from pipelines.recording import save_figure

NAMES = dict.fromkeys(["item", "film_id", "patient_id", "lesion_id"], "str")


def evaluate_leakage_lab() -> None:
    paths = stage.arguments(__doc__, "patches", "protocols", "out")
    parameters = stage.section("evaluate_leakage_lab", EvaluateParameters)
    check_complete({folder.name for folder in paths.protocols.iterdir()}, set(PROTOCOLS), str(paths.protocols))
    input_px = PatchSet.load(paths.patches).pictures.shape[-1]
    metrics: LabFigures = {}
    with (
        stage.run("evaluate_leakage_lab", parameters, [paths.protocols], protocol="leakage_lab") as run,
        stage.bar(len(PROTOCOLS), "protocols judged", "protocol") as advance,
    ):
        for name, protocol in PROTOCOLS.items():
            own = _figures(protocol, paths.protocols / name, input_px, parameters)
            metrics.setdefault(protocol.model, {})[name] = own
            advance(1)
        write_lab_metrics(metrics, paths.out / "metrics.json")
        (paths.out / "table.md").write_text(leakage_table(metrics), encoding="utf-8")
        save_figure(leakage_figure(chart_rows(metrics)), paths.out / "chart.png")
        run.log_metrics(metrics)
        run.log_files(sorted(paths.out.iterdir()))


def _figures(protocol: Protocol, folder: Path, input_px: int, parameters: EvaluateParameters) -> dict[str, float]:
    tested, predictions = (_read(folder / f"{name}.csv") for name in ("tested", "predictions"))
    truth = _read(folder / "truth.csv") if protocol.model == "detector" else None
    return protocol_figures(protocol, tested, predictions, truth, input_px, parameters)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=NAMES)


if __name__ == "__main__":
    stage.main(evaluate_leakage_lab)
