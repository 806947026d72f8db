"""DVC remotes between two clones, through a folder and through a real SSH server on loopback: is anything lost?"""

import getpass
import hashlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mammo_ml.cache_check import damaged_outputs

WAIT_S = 20
N_FILMS = 24
N_TRIES = 20  # on a busy machine a push may end before the test looks again
STAGES = """
stages:
  ingest:
    cmd: python make.py films data/films
    deps: [make.py]
    outs: [data/films]
  count:
    cmd: python make.py count data/films data/counts.csv
    deps: [make.py, data/films]
    outs: [data/counts.csv]
    metrics: [{counts.json: {cache: false}}]
"""
MAKE = f"""
import pathlib, random, sys
if sys.argv[1] == "films":
    folder = pathlib.Path(sys.argv[2])
    folder.mkdir(parents=True)
    for n in range({N_FILMS}):
        (folder / f"mdb{{n:03d}}.pgm").write_bytes(random.Random(n).randbytes(1 << 20))
else:
    films = sorted(pathlib.Path(sys.argv[2]).iterdir())
    pathlib.Path(sys.argv[3]).write_text("".join(f"{{f.name}},{{f.stat().st_size}}\\n" for f in films))
    pathlib.Path("counts.json").write_text('{{"films": %d}}' % len(films))
"""


@dataclass(frozen=True)
class Server:
    """An SSH server of this test's own: address, a key it knows and one it does not."""

    port: int
    key: Path
    other_key: Path


@dataclass(frozen=True)
class Remote:
    """Where objects are pushed: the settings of DVC, and the folder they arrive in."""

    settings: dict[str, str]
    objects: Path

    def hashes(self) -> dict[str, str]:
        """Name (md5 by address) and true md5 of every file in the remote."""
        files = [path for path in self.objects.rglob("*") if path.is_file()]
        return {
            path.relative_to(self.objects / "files" / "md5").as_posix().replace("/", "").removesuffix(".dir"): md5(path)
            for path in files
        }

    def arrived(self) -> dict[str, str]:
        """The hashes of what arrived whole; other names are drafts of pushes that were killed."""
        return {name: true for name, true in self.hashes().items() if len(name) == 32}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def environment(**more: str) -> dict[str, str]:
    """No SSH agent, no git settings of this machine; stages find this environment's python."""
    left_out = ("SSH_AUTH_SOCK", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return kept | {"PATH": path, "GIT_CONFIG_GLOBAL": os.devnull} | more


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", *command) if command[0] == "dvc" else command
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)


def done(folder: Path, *command: str) -> str:
    finished = run(folder, *command)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout + finished.stderr


def sshd() -> str:
    found = shutil.which("sshd", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        pytest.skip("sshd is not installed (package openssh-server)")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """sshd as the user who runs the tests, on a free port of 127.0.0.1, with keys of its own."""
    program, folder = sshd(), tmp_path_factory.mktemp("sshd")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd started by root asks for it
    for name in ("host", "known", "unknown"):
        done(folder, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name)
    shutil.copy(folder / "known.pub", folder / "authorized")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder / 'host'}\nAuthorizedKeysFile {folder / 'authorized'}\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        "PermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        wait_for(lambda: listens(port) or process.poll() is not None)
        assert process.poll() is None, (folder / "log").read_text()
        yield Server(port, folder / "known", folder / "unknown")
    finally:
        process.terminate()
        process.wait(WAIT_S)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, f"nothing happened in {WAIT_S} s"
        time.sleep(0.005)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clone in which the pipeline ran and whose results are committed; no remote yet."""
    folder = tmp_path_factory.mktemp("clones") / "first"
    folder.mkdir()
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "make.py").write_text(MAKE)
    done(folder, "git", "init", "--quiet")
    done(folder, "dvc", "init", "--quiet")
    done(folder, "dvc", "config", "core.analytics", "false")
    done(folder, "dvc", "repro", "--quiet")
    done(folder, "git", "add", "--all")
    author = ("-c", "user.name=tester", "-c", "user.email=tester@localhost", "-c", "commit.gpgsign=false")
    done(folder, "git", *author, "commit", "--quiet", "-m", "run")
    return folder


def clone(first: Path, folder: Path) -> Path:
    done(folder.parent, "git", "clone", "--quiet", str(first), str(folder))
    return folder


@pytest.fixture(params=["folder", "ssh"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    objects = tmp_path / "store"
    objects.mkdir()
    if request.param == "folder":
        return Remote({"url": str(objects)}, objects)
    return through_ssh(request.getfixturevalue("server"), objects)


def through_ssh(server: Server, objects: Path) -> Remote:
    address = f"ssh://{getpass.getuser()}@127.0.0.1:{server.port}{objects}"
    return Remote({"url": address, "keyfile": str(server.key)}, objects)


def connect(project: Path, remote: Remote, **changes: str) -> Path:
    """Write the remote into .dvc/config.local, as a person does whose key is nobody else's."""
    lines = [f"{name} = {value}" for name, value in (remote.settings | changes).items()]
    text = "\n".join(["[core]", "remote = store", "['remote \"store\"']", *lines])
    (project / ".dvc" / "config.local").write_text(text + "\n")
    return project


def test_what_one_clone_pushes_the_other_pulls_byte_by_byte_and_runs_nothing(first, remote, tmp_path):
    done(connect(first, remote), "dvc", "push")
    second = connect(clone(first, tmp_path / "second"), remote)
    assert not (second / "data/films").exists()
    done(second, "dvc", "pull")

    files = {path.relative_to(first): path.read_bytes() for path in (first / "data").rglob("*") if path.is_file()}
    pulled = {path.relative_to(second): path.read_bytes() for path in (second / "data").rglob("*") if path.is_file()}
    assert len(files) == N_FILMS + 2  # and counts.csv and its .gitignore
    assert pulled == files
    assert "Data and pipelines are up to date." in done(second, "dvc", "status")
    assert "in sync" in done(second, "dvc", "status", "--cloud")
    assert "Running stage" not in done(second, "dvc", "repro", "--dry")
    assert done(second, "git", "status", "--porcelain") == ""


@pytest.mark.slow
def test_a_push_that_was_killed_is_completed_by_the_next(first, remote, tmp_path):
    connect(first, remote)
    for n_arrived in (1, 8, 16):
        push_and_kill(first, remote, n_arrived)
    done(first, "dvc", "push")
    arrived = remote.arrived()
    assert len(arrived) == N_FILMS + 2  # films, their list, counts.csv
    assert [name for name, true in arrived.items() if name != true] == []
    second = connect(clone(first, tmp_path / "second"), remote)
    done(second, "dvc", "pull")
    for film in (first / "data" / "films").iterdir():
        assert md5(second / "data" / "films" / film.name) == md5(film)


def push_and_kill(project: Path, remote: Remote, n_arrived: int) -> None:
    """Kill a push, all its processes, as soon as this many files are in the remote; one that was faster, anew."""
    command = [sys.executable, "-m", "dvc", "push", "--jobs", "1", "--quiet"]
    for _ in range(N_TRIES):
        with subprocess.Popen(command, cwd=project, env=environment(), process_group=0) as push:
            wait_for(lambda push=push: len([*remote.objects.rglob("??/*")]) >= n_arrived or push.poll() is not None)
            os.killpg(push.pid, signal.SIGKILL)
        if len(remote.arrived()) < N_FILMS + 2:
            return
        shutil.rmtree(remote.objects)
        remote.objects.mkdir()
    raise AssertionError(f"{N_TRIES} pushes were over before they were killed")


def test_a_key_that_the_server_does_not_know_stops_push_and_pull_and_says_so(first, server, tmp_path):
    remote = through_ssh(server, tmp_path / "store")
    second = connect(clone(first, tmp_path / "second"), remote, keyfile=str(server.other_key))
    for folder, command in ((connect(first, remote, keyfile=str(server.other_key)), "push"), (second, "pull")):
        finished = run(folder, "dvc", command)
        assert finished.returncode != 0
        assert "Permission denied" in finished.stdout + finished.stderr
    assert not (tmp_path / "store").exists()
    assert not (second / "data/films").exists()


def flip_byte(path: Path) -> None:
    """Change a byte in the middle of a file and leave its mode as it is."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    path.chmod(mode)


@pytest.mark.bar("D4")
def test_d4_an_object_damaged_on_the_remote_is_refused_where_the_remote_is_verified_and_can_be_pushed_again(
    first, remote, tmp_path, record_property
):
    record_property("tried", f"1 of {N_FILMS} films on a remote, folder and SSH, pulled with `verify`")
    done(connect(first, remote), "dvc", "push")
    name = md5(first / "data" / "films" / "mdb007.pgm")
    damaged = remote.objects / "files" / "md5" / name[:2] / name[2:]
    flip_byte(damaged)
    second = connect(clone(first, tmp_path / "second"), remote, verify="true")
    finished = run(second, "dvc", "pull")
    assert finished.returncode != 0
    assert "data/films" in finished.stderr
    assert not (second / "data" / "films" / "mdb007.pgm").exists()

    damaged.unlink()
    (listing,) = remote.objects.rglob("*.dir")
    listing.unlink()  # while it is there, DVC takes every file it lists for there too, and pushes none of them
    done(first, "dvc", "push")
    done(second, "dvc", "pull")
    assert md5(second / "data" / "films" / "mdb007.pgm") == name


@pytest.mark.bar("D4")
def test_d4_an_object_damaged_on_a_remote_that_is_not_verified_arrives_and_is_named(first, tmp_path, record_property):
    record_property("tried", f"1 of {N_FILMS} films on a remote, pulled without `verify`")
    remote = Remote({"url": str(tmp_path / "store")}, tmp_path / "store")
    done(connect(first, remote), "dvc", "push")
    name = md5(first / "data" / "films" / "mdb007.pgm")
    flip_byte(remote.objects / "files" / "md5" / name[:2] / name[2:])
    second = connect(clone(first, tmp_path / "second"), remote)
    done(second, "dvc", "pull")
    assert [line.partition(": ")[0] for line in damaged_outputs(second)] == [
        "data/films/mdb007.pgm",
        f".dvc/cache/files/md5/{name[:2]}/{name[2:]} (of data/films/mdb007.pgm)",
    ]
