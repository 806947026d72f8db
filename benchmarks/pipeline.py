"""Time the whole commands of the README as a user meets them, one after another in a fresh clone.

`set_up` makes the environment, `ingest_to_split` is the first minute, `real` what `make repro` still has to do after
these two (`real_from_clean_clone` is their sum), `test` is `make test`.

Run as `python -m benchmarks.pipeline [--parts …]`; figures go to reports/benchmarks/pipeline.json, part by part, so
that a part can be measured again alone. `real` and `ingest_to_split` need MIAS_ARCHIVE.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

REPORT = Path("reports/benchmarks/pipeline.json")
PARTS = ("set_up", "ingest_to_split", "real", "second_repro", "phantom", "test")
LEFT_OUT = ("PYTHONPATH", "VIRTUAL_ENV", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "PYTHONDONTWRITEBYTECODE")
COMMANDS = {
    "set_up": ["make", "setup"],
    "ingest_to_split": [".venv/bin/mammo-ml", "repro", "split"],
    "real": ["make", "repro"],
    "second_repro": [".venv/bin/dvc", "repro"],
    "phantom": ["make", "phantom"],
    "test": ["make", "test"],
}


def seconds(command: list[str], folder: Path) -> float:
    """Wall-clock seconds of a command that must succeed."""
    kept = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    kept["PATH"] = f"{folder / '.venv' / 'bin'}{os.pathsep}{kept['PATH']}"
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, env=kept, check=True)
    return round(time.perf_counter() - start, 1)


def main() -> None:
    """Clone this checkout, run the parts in their order, and add what they took to the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    asked = set(parser.parse_args().parts)
    parts = asked | {"set_up"} | ({"real"} if "second_repro" in asked else set())
    found = json.loads(REPORT.read_text(encoding="utf-8")) if REPORT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "mammo_ml"
        subprocess.run(["git", "clone", "--quiet", str(Path.cwd()), str(clone)], check=True)
        found.setdefault("seconds", {})
        for part in PARTS:
            if part in parts:
                found["seconds"][part] = seconds(COMMANDS[part], clone)
                print(f"{part}: {found['seconds'][part]} s", flush=True)
    if asked >= {"ingest_to_split", "real"}:
        whole = sum(found["seconds"][part] for part in ("set_up", "ingest_to_split", "real"))
        found["seconds"]["real_from_clean_clone"] = round(whole, 1)
    found["machine"] = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
