"""The command lines of the pipeline's stages, as DVC fills them in."""

import re
from functools import reduce
from operator import getitem
from pathlib import Path

import yaml

NAMED = re.compile(r"\$\{([\w.]+)\}")


def command_of(workspace: Path, stage: str) -> list[str]:
    """A stage's words in a workspace's dvc.yaml, for fold 0, with what they take from its params.yaml."""
    stages = yaml.safe_load((workspace / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    known = yaml.safe_load((workspace / "params.yaml").read_text(encoding="utf-8")) | {"item": {"fold": 0}}
    return NAMED.sub(lambda found: str(reduce(getitem, found[1].split("."), known)), stages[stage]["cmd"]).split()
