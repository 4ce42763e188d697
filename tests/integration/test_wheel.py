"""What `pip install` gives: the archives, and a wheel of them in an environment of its own.

There it has no compiler, no lwIP, no network and no privilege, and none of this directory.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import pifus
from tests import guard
from tests.conftest import START_SECONDS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
BUILD = (sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel")
NOBODY = "65534"
# Of an installation, and not of what was installed.
NOT_PACKED = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
SENDS_AND_RECEIVES = """
import pifus

with pifus.Client() as client:
    listener = client.socket(pifus.TCP)
    listener.bind(("127.0.0.1", 0))
    listener.wait(5).check()
    listener.listen()
    listener.wait(5).check()
    listener.accept()
    ours = client.socket(pifus.TCP)
    ours.connect(listener.local_address)
    ours.wait(5).check()
    theirs = listener.wait(5).check().accepted
    ours.write(b"there and back")
    theirs.recv(100)
    theirs.write(theirs.wait(5).check().data)
    ours.wait(5).check()
    ours.recv(100)
    print(ours.wait(5).check().data.decode(), end="")
"""
FETCHES = """
import sys, urllib.request

with urllib.request.urlopen(sys.argv[1]) as answer:
    sys.stdout.buffer.write(answer.read())
"""


# ---- the archives ----


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the source archive and the wheel, built as for a release."""
    place = tmp_path_factory.mktemp("archives")
    (place / "egg").mkdir()
    # The objects of the last build are used again, if they are current; nothing else of it is.
    options = place / "options.cfg"
    options.write_text(f"[build]\nbuild_base = {place}/build\n[egg_info]\negg_base = {place}/egg\n")
    done = subprocess.run(
        [*BUILD, "--outdir", str(place), str(ROOT)],
        env={**os.environ, "DIST_EXTRA_CONFIG": str(options)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def of_the_tree(directory: str) -> set[str]:
    """The names of all files of a directory, but those that a build or an interpreter made."""
    found = (path for path in (ROOT / directory).rglob("*") if path.is_file())
    names = {str(path.relative_to(ROOT)) for path in found if path.suffix not in (".so", ".pyc")}
    return {name for name in names if "__pycache__" not in name}


def test_the_source_archive_has_what_a_build_needs(archives: Path) -> None:
    (path,) = archives.glob("*.tar.gz")
    needed = of_the_tree("native") | of_the_tree("pifus") | of_the_tree("packaging")
    needed |= {"setup.py", "pyproject.toml", "dev", "LICENSE", "README.md", "CHANGELOG.md"}
    with tarfile.open(path) as archive:
        packed = {
            member.name.partition("/")[2]: archive.extractfile(member)
            for member in archive
            if member.isfile()
        }
        assert needed - set(packed) == set()
        for name in needed:
            file = packed[name]
            assert file is not None
            assert file.read() == (ROOT / name).read_bytes(), name
    assert [name for name in packed if name.endswith((".so", ".o", ".a", ".pyc"))] == []


def test_the_wheel_has_the_package_and_nothing_else(archives: Path) -> None:
    (path,) = archives.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {name for name in names if name.endswith(".so")}
    assert names - modules == of_the_tree("pifus")
    core = {"pifus/_core/_client", "pifus/_core/_lane"}
    places = core | {"pifus/backend/_stack", "pifus/bench/_bench"}
    assert {name.partition(".")[0] for name in modules} == places


# ---- the wheel, installed ----


class Installed:
    """An environment with the wheel, and a user who may do nothing but use it."""

    def __init__(self, place: Path, user: list[str]) -> None:
        self.home = place / "home"
        self.programs = place / "environment" / "bin"
        self.user = user
        self.environment = {
            "PATH": str(self.programs),
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "PIFUS_RUNTIME_DIR": str(self.home / "run"),
            guard.VARIABLE: os.environ[guard.VARIABLE],
        }

    def start(self, program: str, *words: str, **more: str) -> subprocess.Popen[str]:
        """Starts a program of the environment, as the user."""
        return subprocess.Popen(
            [*self.user, str(self.programs / program), *words],
            cwd=self.home,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs one to its end."""
        with self.start(program, *words) as process:
            out, err = process.communicate(timeout=SECONDS)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def pack(found: Distribution, place: Path) -> None:
    """The wheel that something was installed from, made from what is there."""
    files = [file for file in found.files or () if file.parts[0] != ".."]
    (wheel,) = (file for file in files if file.match("*.dist-info/WHEEL"))
    tag = re.findall("^Tag: (.+)$", wheel.read_text(), re.MULTILINE)[0]
    kept = [file for file in files if file.suffix != ".pyc" and file.name not in NOT_PACKED]
    name = wheel.parts[0].removesuffix(".dist-info")
    with zipfile.ZipFile(place / f"{name}-{tag}.whl", "w") as archive:
        for file in kept:
            archive.writestr(str(file), file.read_binary())
        record = "".join(f"{file},,\n" for file in kept)
        archive.writestr(f"{name}.dist-info/RECORD", record)


def pack_dependencies(of: str, place: Path, done: set[str]) -> None:
    """The wheels of all that a distribution asks for, and of what that asks for."""
    for text in distribution(of).requires or ():
        wanted = Requirement(text)
        if wanted.name in done or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        done.add(wanted.name)
        pack(distribution(wanted.name), place)
        pack_dependencies(wanted.name, place, done)


def ordinary_user(python: str) -> list[str] | None:
    """What a command begins with so that it runs without privilege; None: not this Python."""
    user: list[str] = []
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        assert setpriv is not None  # of util-linux, which is everywhere
        user = [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        user += ["--inh-caps=-all", "--bounding-set=-all", "--"]
    can = f"import sys, venv; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    # By a shell: what setpriv executes itself is still found with root's rights.
    shell = ["/bin/sh", "-c", 'exec "$@"', "sh"]
    command = [*user, *shell, python, "-c", can]
    done = subprocess.run(command, cwd="/", capture_output=True, check=False)
    return user if done.returncode == 0 else None


@pytest.fixture(scope="module")
def installed(archives: Path, runtime_dir: Path) -> Iterator[Installed]:
    """The wheel as an administrator installs it for everybody: the whole of its dependencies."""
    # Ours may be in the home of somebody who lets nobody in.
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    for python in (os.path.realpath(sys.executable), f"/usr/bin/{version}"):
        if (user := ordinary_user(python)) is not None:
            break
    else:
        pytest.skip(f"there is no {version} that a user without privilege may run")
    # Not pytest's directory, which is closed to others; the guard knows it by its name.
    place = Path(f"{runtime_dir}-wheel")
    place.mkdir(mode=0o755)
    environment = place / "environment"
    wheels = place / "wheels"
    wheels.mkdir()
    pack_dependencies("pifus", wheels, set())
    (wheel,) = archives.glob("*.whl")
    make = [python, "-m", "venv", "--without-pip", str(environment)]
    install = [sys.executable, "-m", "pip", "--python", str(environment), "--isolated", "install"]
    install += ["--quiet", "--no-index", f"--find-links={wheels}", str(wheel)]
    for command in (make, install):
        done = subprocess.run(command, umask=0o022, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    found = Installed(place, user)
    found.home.mkdir()
    if user:
        os.chown(found.home, int(NOBODY), int(NOBODY))
    yield found
    shutil.rmtree(place)


def test_nothing_but_the_wheel_is_there(installed: Installed) -> None:
    code = "import os, shutil, pifus; print(pifus.__file__, shutil.which('gcc'), os.geteuid())"
    done = installed.run("python", "-c", code)
    file, compiler, user = done.stdout.split()
    assert Path(file).is_relative_to(installed.programs.parent)
    assert compiler == "None"
    assert int(user) != 0
    assert installed.run("pifus", "--version").stdout == f"pifus {pifus.__version__}\n"


def test_doctor(installed: Installed) -> None:
    done = installed.run("pifus", "doctor", "-m", "http.server")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a private one starts with the program" in " ".join(done.stdout.split())


def test_completion_api_with_a_private_backend(installed: Installed) -> None:
    done = installed.run("python", "-c", SENDS_AND_RECEIVES)
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "there and back")


@pytest.fixture
def backend_of_the_user(installed: Installed) -> Iterator[str]:
    """One that the user has started, for several programs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
        ready.settimeout(START_SECONDS)
        ready.bind("")
        address = "@" + ready.getsockname()[1:].decode()
        with installed.start("pifus", "backend", "--name", "own", NOTIFY_SOCKET=address) as process:
            assert ready.recv(100) == b"READY=1"
            yield "own"
            process.terminate()
    assert process.returncode == 0


def test_a_server_and_a_client(installed: Installed, backend_of_the_user: str) -> None:
    (installed.home / "page").write_text("served by the stack", encoding="ascii")
    run = ("run", "--backend", backend_of_the_user, "--", "python")
    serve = ("-m", "http.server", "--bind", "127.0.0.1", "0")
    with installed.start("pifus", *run, *serve) as server:
        assert server.stdout is not None
        port = re.findall(r"port (\d+)", server.stdout.readline())[0]
        done = installed.run("pifus", *run, "-c", FETCHES, f"http://127.0.0.1:{port}/page")
        # The kernel knows nothing of it.
        with socket.socket() as other:
            refused = other.connect_ex(("127.0.0.1", int(port)))
        server.terminate()
    assert done.stderr == ""
    assert (done.returncode, done.stdout) == (0, "served by the stack")
    assert refused == errno.ECONNREFUSED


# What the user's opening of /dev/net/tun says, and what the backend then says.
TOLD = {
    "": "creating TAP device 'pifus77' needs CAP_NET_ADMIN: run as root, or let an administrator"
    " run: ip tuntap add dev pifus77 mode tap user $USER && ip addr add 10.77.0.1/24 dev pifus77"
    " && ip link set pifus77 up",
    "EACCES": "cannot open /dev/net/tun for TAP device 'pifus77': Permission denied: run as root,"
    " or let an administrator run: chmod 0666 /dev/net/tun",
    "ENOENT": "cannot open /dev/net/tun for TAP device 'pifus77': the kernel's tun driver is"
    " missing: load it with 'modprobe tun' (in a container, pass --device /dev/net/tun):"
    " No such file or directory",
}
OPENS = """
import errno, os

try:
    os.open("/dev/net/tun", os.O_RDWR)
except OSError as error:
    print(errno.errorcode[error.errno], end="")
"""


def test_a_tap_device_needs_a_privilege(installed: Installed) -> None:
    why = installed.run("python", "-c", OPENS).stdout
    options = ("--driver", "tap", "--tap-name", "pifus77", "--tap-ipv4", "10.77.0.2/24")
    done = installed.run("pifus", "backend", *options, "--tap-host-ipv4", "10.77.0.1/24")
    told = (done.returncode, done.stdout, done.stderr)
    assert told == (1, "", f"pifus backend: {TOLD[why]}\n")
