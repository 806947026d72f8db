"""Bars M1 and M2: model files that were changed after registration, and weights that were made to do harm."""

import ast
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from mammo_ml import registry
from mammo_ml.errors import BadInputError
from mammo_ml.manifest import write_manifest
from mammo_ml.models.bundle import read_bundle
from mammo_ml.models.weights import load_into, read_safetensors, read_weights
from mammo_ml.registry import GateParameters
from mammo_ml.registry import files as registry_files
from mammo_ml.tracking import Store
from tests.toy_models import METRICS, NAME, REGISTER, toy_bundle, toy_network, toy_world

ROOT = Path(__file__).resolve().parents[2]
Tried = Callable[[str, object], None]

# ------------------------------------------------------------------------------------- M1: changed after registration


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry with two sound versions of other weights and equal figures."""
    folder = tmp_path_factory.mktemp("registry")
    with toy_world(tmp_path_factory.mktemp("configuration")):
        for number in (1, 2):
            bundle = toy_bundle(folder / f"bundle_{number}", seed=number)
            assert registry.register(bundle, NAME, METRICS, folder, **REGISTER) == number
        yield folder


@pytest.fixture
def model(workspace: Path) -> Iterator[Path]:
    """The folder of version 1 in the store, which is as it was again after the test."""
    folder = model_folder(workspace, 1)
    kept = workspace / "kept"
    shutil.copytree(folder, kept, symlinks=True)
    yield folder
    shutil.rmtree(folder)
    kept.rename(folder)
    assert registry.load_model(NAME, workspace, 1)[0] == 1


def model_folder(workspace: Path, number: int) -> Path:
    return registry.bundle_of(NAME, workspace, number)[1].parents[1]


def faults(workspace: Path, number: int = 1) -> list[str]:
    """What loading a version says, by every way there is; promotion must say the same."""
    with pytest.raises(BadInputError) as caught:
        registry.load_model(NAME, workspace, number)
    with pytest.raises(BadInputError) as again:
        registry.bundle_of(NAME, workspace, number)
    assert again.value.problems == caught.value.problems
    decision = registry.promote(NAME, workspace, GateParameters(), dataset="phantom", number=number, dry_run=True)
    (intact,) = [condition for condition in decision.conditions if condition.name == "files are intact"]
    assert not intact.passed
    assert intact.explanation.startswith("; ".join(caught.value.problems))
    return caught.value.problems


@contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    original = path.read_bytes()
    content = bytearray(original)
    content[offset] ^= 1
    path.write_bytes(content)
    yield
    path.write_bytes(original)


@pytest.mark.bar("M1")
def test_m1_one_byte_flipped_in_any_file_of_a_version_is_refused_by_its_name(
    workspace: Path, model: Path, record_property: Tried
) -> None:
    store = Store(workspace)
    version = store.client.get_model_version(NAME, "1")
    files = sorted(path for path in model.rglob("*") if path.is_file())
    generator = random.Random(0)
    tried = 0
    for path in files:
        size = path.stat().st_size
        for offset in {0, size - 1, generator.randrange(size)}:
            with flipped(path, offset), pytest.raises(BadInputError) as caught:
                registry_files.verified_folder(store, version)
            name = path.relative_to(model).as_posix()
            assert any(problem.startswith(f"{name} ") for problem in caught.value.problems), (name, offset)
            tried += 1
    record_property("tried", f"{tried} flips, at the first, the last and a random byte of each of {len(files)} files")
    assert {"MLmodel", "manifest.json", "signature.json", "requirements.txt", "python_env.yaml", "pyfunc_model.py"} < {
        path.name for path in files
    }
    with flipped(model / "MLmodel", 5):
        assert faults(workspace)[0].startswith("MLmodel was changed")


@pytest.mark.bar("M1")
@pytest.mark.parametrize(
    "swapped",
    ["artifacts/bundle/weights.safetensors", "artifacts/bundle", "manifest.json", "signature.json", "."],
)
def test_m1_files_swapped_between_two_versions_are_refused(
    workspace: Path, model: Path, swapped: str, record_property: Tried
) -> None:
    other = model_folder(workspace, 2)
    record_property("tried", f"{'whole folders' if swapped == '.' else swapped} swapped between two versions")
    (model / swapped).rename(workspace / "swapping")
    (other / swapped).rename(model / swapped)
    (workspace / "swapping").rename(other / swapped)
    try:
        expected = {
            ".": "signature.json was made for a version with bundle_sha256",
            "artifacts/bundle": "artifacts/bundle/weights.safetensors was changed",
            "manifest.json": "manifest.json is not the one that was signed",
            "signature.json": "manifest.json is not the one that was signed",
        }.get(swapped, f"{swapped} was changed")
        for number in (1, 2):
            assert any(problem.startswith(expected) for problem in faults(workspace, number))
    finally:
        (model / swapped).rename(workspace / "swapping")
        (other / swapped).rename(model / swapped)
        (workspace / "swapping").rename(other / swapped)


def _byte_code(model: Path) -> str:
    (model / "__pycache__").unlink()
    (model / "__pycache__").mkdir()
    (model / "__pycache__" / "pyfunc_model.cpython-311.pyc").write_bytes(b"run me")
    return "__pycache__/pyfunc_model.cpython-311.pyc was added"


def _added(model: Path) -> str:
    (model / "code" / "sitecustomize.py").write_text("import os\n")
    return "code/sitecustomize.py was added"


def _removed(model: Path) -> str:
    (model / "requirements.txt").unlink()
    return "requirements.txt is missing"


def _linked(model: Path) -> str:
    weights = model / "artifacts" / "bundle" / "weights.safetensors"
    weights.rename(model.parent / "elsewhere.safetensors")
    weights.symlink_to(model.parent / "elsewhere.safetensors")
    return "artifacts/bundle/weights.safetensors is a link or no file"


def _linked_folder(model: Path) -> str:
    shutil.copytree(model / "code", model.parent / "code_elsewhere", dirs_exist_ok=True)
    shutil.rmtree(model / "code")
    (model / "code").symlink_to(model.parent / "code_elsewhere")
    return "code was added and is a link"


def _linked_signature(model: Path) -> str:
    (model / "signature.json").rename(model.parent / "signature.json")
    (model / "signature.json").symlink_to(model.parent / "signature.json")
    return "signature.json is missing"


def _unsigned(model: Path) -> str:
    (model / "signature.json").unlink()
    return "signature.json is missing"


def _manifest_made_to_fit(model: Path) -> str:
    (model / "code" / "mammo_ml" / "prediction.py").write_text("import os\n")
    (model / "manifest.json").unlink()
    (model / "signature.json").rename(model.parent / "signature.json")
    write_manifest(model)
    (model.parent / "signature.json").rename(model / "signature.json")
    return "manifest.json is not the one that was signed"


@pytest.mark.bar("M1")
@pytest.mark.parametrize(
    "change",
    [
        _byte_code, _added, _removed, _linked, _linked_folder, _linked_signature, _unsigned, _manifest_made_to_fit,
    ],
)  # fmt: skip
def test_m1_a_file_added_removed_or_linked_is_refused_by_its_name(
    workspace: Path, model: Path, change: Callable[[Path], str], record_property: Tried
) -> None:
    expected = change(model)
    record_property("tried", expected)
    assert any(problem.startswith(expected) for problem in faults(workspace)), expected


@pytest.mark.bar("M1")
def test_m1_edited_code_that_mlflow_runs_is_refused_before_any_of_it_runs(
    workspace: Path, model: Path, tmp_path: Path, record_property: Tried
) -> None:
    import mlflow

    record_property("tried", "pyfunc_model.py edited in the store: MLflow runs it, we refuse it")
    marker = tmp_path / "the edited code ran"
    (model / "pyfunc_model.py").write_text(
        "import pathlib, mlflow\n"
        f"pathlib.Path({str(marker)!r}).touch()\n"
        "class Edited(mlflow.pyfunc.PythonModel):\n"
        "    def predict(self, context, model_input, params=None):\n"
        "        return model_input\n"
        "mlflow.models.set_model(Edited())\n"
    )
    assert faults(workspace)[0].startswith("pyfunc_model.py was changed")
    assert not marker.exists()
    with registry_files.fluent(Store(workspace)):
        mlflow.pyfunc.load_model(f"models:/{NAME}/1")
    assert marker.exists(), "MLflow verifies files by itself now: is this bar still ours?"


@pytest.mark.bar("M1")
def test_m1_mlflows_own_load_names_a_file_of_the_code_that_was_edited(
    workspace: Path, model: Path, record_property: Tried
) -> None:
    import mlflow

    record_property("tried", "code edited, pyfunc_model.py left as it was: MLflow's own load ends with the file's name")
    with (model / "code" / "mammo_ml" / "prediction.py").open("a") as file:
        file.write("# edited\n")
    with (
        registry_files.fluent(Store(workspace)),
        pytest.raises(BadInputError, match=r"code/mammo_ml/prediction\.py was changed"),
    ):
        mlflow.pyfunc.load_model(f"models:/{NAME}/1")


@pytest.mark.bar("M1")
@pytest.mark.parametrize("tag", ["leak_free", "metrics_sha256", "bundle_sha256", "dataset", "content_sha256"])
def test_m1_a_tag_changed_in_the_store_is_refused_by_its_name(
    workspace: Path, tag: str, record_property: Tried
) -> None:
    record_property("tried", f"tag {tag} of a version changed")
    client = Store(workspace).client
    before = client.get_model_version(NAME, "1").tags[tag]
    client.set_model_version_tag(NAME, "1", tag, "forged")
    try:
        assert faults(workspace)[0].startswith(f"signature.json was made for a version with {tag}")
    finally:
        client.set_model_version_tag(NAME, "1", tag, before)
    assert registry.load_model(NAME, workspace, 1)[0] == 1


# -------------------------------------------------------------------------------------------------- M2: hostile weights


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.bar("M2")
def test_m2_a_pickle_is_refused_under_every_name_and_nothing_of_it_runs(tmp_path: Path, record_property: Tried) -> None:
    marker = tmp_path / "unpickled"
    files = []
    for suffix in ("pt", "pkl", "safetensors"):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path = tmp_path / f"protocol_{protocol}.{suffix}"
            path.write_bytes(pickle.dumps(Payload(marker), protocol))
            files.append(path)
        zipped = tmp_path / f"zipped.{suffix}"
        torch.save(Payload(marker), zipped)
        files.append(zipped)
    for path in files:
        with pytest.raises(BadInputError, match=f"{path.name}: 1 problem\n  - not a safetensors file"):
            read_weights(path)
    folder = toy_bundle(tmp_path / "bundle", seed=1)
    shutil.copy2(tmp_path / "zipped.pt", folder / "weights.safetensors")
    write_manifest(folder)
    with pytest.raises(BadInputError, match="by its first byte it is a pickle"):
        read_bundle(folder)
    assert not marker.exists()
    pickle.loads((tmp_path / "protocol_0.pt").read_bytes())
    assert marker.exists(), "the payload does nothing: this test shows nothing"
    record_property("tried", f"{len(files)} pickles as .pt, .pkl, .safetensors, one of them in a bundle")


def safetensors_bytes(header: object, n_bytes: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(n_bytes)


def entry(first: int, last: int, shape: object = None, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": [(last - first) // 4] if shape is None else shape, "data_offsets": [first, last]}


HOSTILE: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "0 bytes"),
    "seven bytes": (b"\1" * 7, "7 bytes"),
    "header of 2^63 bytes": (struct.pack("<Q", 2**63) + b"{}", "announces a header of 9,223,372,036,854,775,808"),
    "header of 2^64 - 1 bytes": (struct.pack("<Q", 2**64 - 1) + b"{}", "announces a header"),
    "header longer than the file": (struct.pack("<Q", 100) + b"{}", "announces a header of 100"),
    "header longer than any": (safetensors_bytes(b"{" + b" " * 2**22 + b"}"), "announces a header of 4,194,306"),
    "no JSON": (safetensors_bytes(b"{{"), "header: "),
    "no UTF-8": (safetensors_bytes(b'{"\xff": 1}'), "header: "),
    "10,000 brackets": (safetensors_bytes(b"[" * 10_000), "header: "),
    "a list": (safetensors_bytes([]), "no list of tensors"),
    "a number of 5,000 digits": (safetensors_bytes(b'{"a": ' + b"9" * 5000 + b"}"), "header: "),
    "notes that are no text": (safetensors_bytes({"__metadata__": {"a": 1}}), "__metadata__"),
    "duplicate names": (
        safetensors_bytes(b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                          b' "a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4), "'a' stands there twice",
    ),
    "a key twice": (
        safetensors_bytes(b'{"a": {"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,4]}}', 4),
        "'dtype' stands there twice",
    ),
    "overlapping offsets": (safetensors_bytes({"a": entry(0, 8), "b": entry(4, 12)}, 12), "'b': begins at byte 4"),
    "the same bytes twice": (safetensors_bytes({"a": entry(0, 8), "b": entry(0, 8)}, 8), "'b': begins at byte 0"),
    "a hole": (safetensors_bytes({"a": entry(0, 4), "b": entry(8, 12)}, 12), "'b': begins at byte 8"),
    "a hole at the start": (safetensors_bytes({"a": entry(4, 8)}, 8), "'a': begins at byte 4"),
    "trailing bytes": (safetensors_bytes({"a": entry(0, 4)}, 8), "the tensors end at byte 4 of 8"),
    "too few bytes": (safetensors_bytes({"a": entry(0, 8)}, 4), "the tensors end at byte 8 of 4"),
    "no tensor but bytes": (safetensors_bytes({}, 4), "the tensors end at byte 0 of 4"),
    "a type of another size": (safetensors_bytes({"a": entry(0, 4, [1], "F64")}, 4), "F64 of shape [1] has 8 bytes"),
    "an unknown type": (safetensors_bytes({"a": entry(0, 4, [1], "F128")}, 4), "'F128' is none of"),
    "a type that is no text": (safetensors_bytes({"a": entry(0, 4, [1], ["F32"])}, 4), "is none of"),
    "a negative shape": (safetensors_bytes({"a": entry(0, 4, [-1, -1])}, 4), "not made of whole numbers"),
    "a shape of true": (safetensors_bytes({"a": entry(0, 4, [True])}, 4), "not made of whole numbers"),
    "a shape of 1.0": (safetensors_bytes({"a": entry(0, 4, [1.0])}, 4), "not made of whole numbers"),
    "a shape of NaN": (safetensors_bytes({"a": entry(0, 4, [float("nan")])}, 4), "not made of whole numbers"),
    "1,000 dimensions": (safetensors_bytes({"a": entry(0, 4, [1] * 1000)}, 4), "8 at most"),
    "a shape that overflows": (safetensors_bytes({"a": entry(0, 4, [2**31 - 1] * 8)}, 4), "data_offsets hold 4"),
    "an empty shape that overflows": (safetensors_bytes({"a": entry(0, 0, [2**31 - 1] * 7 + [0])}), ""),
    "a huge tensor": (safetensors_bytes({"a": entry(0, 4, [2**30, 2**30])}, 4), "data_offsets hold 4"),
    "a huge tensor with its offsets": (safetensors_bytes({"a": entry(0, 2**30)}), "end at byte 1,073,741,824 of 0"),
    "offsets turned round": (safetensors_bytes({"a": entry(0, 4) | {"data_offsets": [4, 0]}}, 4), "first and last"),
    "offsets of three": (safetensors_bytes({"a": entry(0, 4) | {"data_offsets": [0, 2, 4]}}, 4), "first and last"),
    "negative offsets": (safetensors_bytes({"a": entry(0, 4) | {"data_offsets": [-4, 0]}}, 4), "first and last"),
    "a key too many": (safetensors_bytes({"a": entry(0, 4) | {"run": "me"}}, 4), "expected dtype, shape"),
    "no keys": (safetensors_bytes({"a": None}), "expected dtype, shape"),
    "a name for a terminal": (safetensors_bytes({"\x1b[2J": None}), r"'\\x1b[2J'"),
    "NaN": (save({"a": torch.tensor([1.0, float("nan")])}), "a holds NaN or infinity"),
    "infinity in 16 bits": (save({"a": torch.tensor([float("-inf")], dtype=torch.bfloat16)}), "NaN or infinity"),
}  # fmt: skip


@pytest.mark.bar("M2")
@pytest.mark.parametrize("name", HOSTILE)
def test_m2_hostile_weights_are_refused_with_what_is_wrong(tmp_path: Path, name: str, record_property: Tried) -> None:
    record_property("tried", name)
    content, expected = HOSTILE[name]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(BadInputError) as caught:
        read_weights(path)
    assert expected.replace("\\\\", "\\") in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 5000


@pytest.mark.bar("M2")
def test_m2_weights_of_another_network_are_refused_by_tensor_and_shape(tmp_path: Path, record_property: Tried) -> None:
    good = toy_network().state_dict()
    wrong = {
        "weight is torch.float64 of (1, 3), this network's is torch.float64 of (3, 1)": {"weight": good["weight"].T},
        "weight is torch.float32 of (3, 1), this network's": {"weight": good["weight"].float()},
        "extra is not a weight of this network": {"extra": good["bias"]},
    }
    record_property("tried", f"{len(wrong)} state dicts of another shape, type or name, and one that lacks a tensor")
    for told, change in wrong.items():
        with pytest.raises(BadInputError) as caught:
            load_into(toy_network(), good | change, "weights.safetensors")
        assert told in str(caught.value)
    with pytest.raises(BadInputError, match="bias is missing"):
        load_into(toy_network(), {"weight": good["weight"]}, "weights.safetensors")
    assert not load_into(toy_network(), good, "weights.safetensors").training


@pytest.mark.bar("M2")
def test_m2_no_mutation_of_a_weights_file_ends_in_anything_but_a_refusal_or_a_sound_load(
    tmp_path: Path, record_property: Tried
) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path, metadata={"made": "for this test"})
    original = path.read_bytes()
    n_bytes = sum(tensor.nbytes for tensor in read_weights(path).values())
    generator = random.Random(20)
    refused = loaded = 0
    for n in range(1000):
        path.write_bytes(_mutated(original, generator, kind=n % 5))
        try:
            tensors, _ = read_safetensors(path)
        except BadInputError:
            refused += 1
            continue
        assert sum(tensor.nbytes for tensor in tensors.values()) == path.stat().st_size - len(original) + n_bytes
        loaded += 1
    assert refused > 500
    assert loaded > 50
    record_property("tried", f"1,000 seeded mutations of a file of {len(original)} bytes: {refused} refused")


def _mutated(content: bytes, generator: random.Random, kind: int) -> bytes:
    """One random change: bytes changed anywhere or in the header, cut off, put in, or a digit of the header changed."""
    header_end = 8 + struct.unpack("<Q", content[:8])[0]
    data = bytearray(content)
    match kind:
        case 0 | 1:
            for _ in range(generator.choice([1, 1, 4])):
                data[generator.randrange(len(data) if kind == 0 else header_end)] = generator.randrange(256)
        case 2:
            del data[generator.randrange(len(data)) :]
        case 3:
            place = generator.randrange(len(data))
            data[place:place] = generator.randbytes(generator.randrange(1, 9))
        case 4:
            digits = [place for place in range(8, header_end) if chr(data[place]).isdigit()]
            data[generator.choice(digits)] = ord(generator.choice('0123456789-.e"]'))
    return bytes(data)


@pytest.mark.bar("M2")
def test_m2_what_a_file_declares_is_never_allocated_before_it_is_checked(
    tmp_path: Path, record_property: Tried
) -> None:
    for n, (content, _) in enumerate(HOSTILE.values()):
        (tmp_path / f"{n}.safetensors").write_bytes(content)
    names = {f'"{number}": 0' for number in range(200_000)}
    crowd = safetensors_bytes(("{" + ",".join(sorted(names)) + "}").encode())
    (tmp_path / "crowd.safetensors").write_bytes(crowd)
    with (tmp_path / "sparse.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", 2))
        file.truncate(2**40)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from mammo_ml.errors import BadInputError\n"
        "from mammo_ml.models.weights import read_weights\n"
        "pages = int(Path('/proc/self/statm').read_text().split()[0])\n"
        "limit = pages * resource.getpagesize() + 256 * 2**20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "for path in map(Path, sys.argv[1:]):\n"
        "    try:\n"
        "        read_weights(path)\n"
        "    except BadInputError:\n"
        "        print('refused')\n"
    )
    files = sorted(tmp_path.iterdir())
    finished = subprocess.run(
        [sys.executable, "-c", code, *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.count("refused") == len(files)
    record_property("tried", f"{len(files)} files in a process that may allocate 256 MB, one of them of 1 TB")


# -------------------------------------------------------------------------------------------- M2: no unsafe load at all

EXECUTING_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "jsonpickle"}
FORBIDDEN_CALLS = {"torch.load", "torch.jit.load", "torch.hub.load", "pd.read_pickle", "pandas.read_pickle",
                   "eval", "exec", "yaml.unsafe_load", "yaml.full_load", "yaml.load_all"}  # fmt: skip


def unsafe_loads(code: str) -> Iterator[str]:
    """Everything in a module that could execute what it reads."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                yield from (f"import {name.name}" for name in names if name.name.split(".")[0] in EXECUTING_MODULES)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in EXECUTING_MODULES:
                yield f"from {module} import"
            case ast.Call(func=function, keywords=keywords):
                called = ast.unparse(function)
                values = {keyword.arg: ast.unparse(keyword.value) for keyword in keywords}
                if called in FORBIDDEN_CALLS:
                    yield called
                if called == "yaml.load" and "SafeLoader" not in values.get("Loader", ""):
                    yield "yaml.load without SafeLoader"
                if called in ("np.load", "numpy.load") and values.get("allow_pickle") != "False":
                    yield "np.load without allow_pickle=False"


@pytest.mark.bar("M2")
def test_m2_no_code_of_the_project_unpickles_or_executes_what_it_reads(record_property: Tried) -> None:
    files = [
        path for folder in ("mammo_ml", "pipelines", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    record_property("tried", f"{len(files)} modules searched for pickle, torch.load, yaml.load, np.load, eval, exec")
    assert len(files) > 60
    found = {path.relative_to(ROOT).as_posix(): list(unsafe_loads(path.read_text(encoding="utf-8"))) for path in files}
    assert {name: loads for name, loads in found.items() if loads} == {}


def test_the_search_for_unsafe_loads_finds_each_kind() -> None:
    bad = [
        "import pickle", "from joblib import load", "torch.load(p, weights_only=True)", "eval(text)", "exec(text)",
        "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "np.load(p)", "np.load(p, allow_pickle=True)",
        "pd.read_pickle(p)",
    ]  # fmt: skip
    for code in bad:
        assert list(unsafe_loads(code)), code
    good = ["model.eval()", "yaml.safe_load(text)", "yaml.load(text, Loader=yaml.CSafeLoader)",
            "np.load(p, allow_pickle=False)", "json.load(file)"]  # fmt: skip
    for code in good:
        assert not list(unsafe_loads(code)), code


@pytest.mark.bar("M2")
def test_m2_tensors_are_read_by_the_checking_reader_alone(record_property: Tried) -> None:
    readers = ("load_file", "safe_open", "safetensors.torch.load", "deserialize")
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("mammo_ml", "pipelines", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if any(reader in path.read_text(encoding="utf-8") for reader in readers)
    }
    record_property("tried", f"the calls that read tensors: in {', '.join(sorted(found))}")
    assert found == {"mammo_ml/models/weights.py"}
