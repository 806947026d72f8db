"""Serve a registered model over HTTP with MLflow's own server, after its files and its promotion were verified."""

import os
import subprocess
import sys
from pathlib import Path

from mammo_ml import registry
from mammo_ml.errors import MammoError

HOW_TO_ASK = """\
{name} version {number}: its files are those that were registered, signed with our key.
Ask it, on this machine alone (Ctrl-C ends it):

  python -c 'import base64, json, sys
  image = base64.b64encode(open(sys.argv[1], "rb").read()).decode()
  print(json.dumps({{"dataframe_records": [{{"film_id": "mine", "image": image}}]}}))' FILM.pgm |
    curl --silent --header 'Content-Type: application/json' --data @- http://127.0.0.1:{port}/invocations
"""


def serve(name: str, which: int | str, workspace: Path, port: int) -> None:
    """Serve a version on this machine alone until it is interrupted.

    `mlflow models serve --model-uri models:/NAME@champion` answers the same, but runs whatever lies in the store, and
    takes any version that has the alias for the champion.

    Args:
        name: registered model.
        which: version, or alias.
        workspace: the project's folder.
        port: on 127.0.0.1.

    Raises:
        BadInputError: when there is no such version, its files are not those that were registered, each named, or the
            champion is one that the audit does not know.
        MammoError: when the server ends with an error.
    """
    number, bundle = registry.bundle_of(name, workspace, which)
    print(HOW_TO_ASK.format(name=name, number=number, port=port), flush=True)
    # the server starts its workers by name
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    where = ["--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(bundle.parents[1]), *where]
    try:
        ended = subprocess.run([*command, "--env-manager", "local"], env={**os.environ, "PATH": path}, check=False)
    except KeyboardInterrupt:
        return
    if ended.returncode > 0:
        raise MammoError(f"MLflow ended with {ended.returncode}; is port {port} taken? Choose one with --port.")
