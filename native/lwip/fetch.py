#!/usr/bin/env python3
"""Obtain lwIP 2.2.1, check it, apply our patches, and print where the result lies.

lwIP is a pinned input and not part of this repository.  Whatever place it comes from, its `src`
directory is compared with a hash recorded here, so that all places are equally safe.  Only the
standard library is used: this runs before anything of ours is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

VERSION = (2, 2, 1)
VERSION_TEXT = "2.2.1"
TARBALL = "lwip_2.2.1+dfsg1.orig.tar.xz"
TARBALL_SHA256 = "83729c274c499d3348e9fbbe043a3113f3fa8953e7efddc7c21c7fcbb1f2b7b1"
# tree_hash() of the directory `src` in that tarball: what any other place must also deliver.
TREE_SHA256 = "b85171c96f71118fd6d532fd0f2261a27c53660c1434fce17c6c0f6de8a893eb"
UPSTREAM = "https://download.savannah.nongnu.org/releases/lwip/lwip-2.2.1.zip"
# The Debian release whose source package is the tarball above.
DEBIAN_SUITE = "trixie"

HERE = Path(__file__).resolve().parent
PATCHES = HERE / "patches"
REPOSITORY = HERE.parent.parent


class FetchError(Exception):
    """One place could not deliver; the message says why."""


def say(message: str) -> None:
    """Progress goes to standard error: standard output is only the resulting path."""
    print(f"lwip: {message}", file=sys.stderr, flush=True)


def tree_hash(directory: Path) -> str:
    """Hash of all file names and contents below a directory, whatever the line ends."""
    digest = hashlib.sha256()
    for path in sorted(p for p in directory.rglob("*") if p.is_file()):
        content = path.read_bytes().replace(b"\r\n", b"\n")
        name = path.relative_to(directory).as_posix()
        digest.update(f"{hashlib.sha256(content).hexdigest()}  {name}\n".encode())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def patch_files() -> list[Path]:
    return sorted(PATCHES.glob("*.patch"))


def source_key(tree: str) -> str:
    """Name of a patched tree: other lwIP files or other patches give another directory."""
    digest = hashlib.sha256(tree.encode())
    for patch in patch_files():
        digest.update(patch.name.encode() + b"\0" + patch.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def cache_directory() -> Path:
    own = os.environ.get("PIFUS_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "pifus"


def check_version(directory: Path) -> None:
    header = directory / "src" / "include" / "lwip" / "init.h"
    try:
        text = header.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise FetchError(f"{directory} is no lwIP source tree: {error}") from error
    found = []
    for part in ("MAJOR", "MINOR", "REVISION"):
        match = re.search(rf"#define\s+LWIP_VERSION_{part}\s+(\d+)", text)
        if match is None:
            raise FetchError(f"{header} does not tell its version")
        found.append(int(match.group(1)))
    if tuple(found) != VERSION:
        text_found = ".".join(map(str, found))
        raise FetchError(f"{directory} holds lwIP {text_found}; {VERSION_TEXT} is needed")


def normalise_line_ends(directory: Path) -> None:
    """Our patches are written for plain newlines; a release archive may carry CR LF."""
    for path in directory.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if b"\r\n" in content:
                path.write_bytes(content.replace(b"\r\n", b"\n"))


def copy_sources(origin: Path, destination: Path) -> None:
    shutil.copytree(origin / "src", destination / "src")
    for path in (destination, *destination.rglob("*")):
        # The origin may be read-only (a system directory): `patch` has to write here.
        path.chmod(path.stat().st_mode | 0o200)


# ---- archives ----------------------------------------------------------------------------------


def unpack_tarball(archive: Path, destination: Path) -> None:
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        with lzma.open(archive) as stream, tarfile.open(fileobj=stream) as tar:
            # The hash is checked before; the filter only quiets newer Pythons' warning.
            if hasattr(tarfile, "data_filter"):
                tar.extractall(scratch, filter="data")
            else:
                tar.extractall(scratch)
        copy_sources(only_child(Path(scratch)), destination)


def unpack_zip(archive: Path, destination: Path) -> None:
    with tempfile.TemporaryDirectory(dir=destination.parent) as scratch:
        with zipfile.ZipFile(archive) as bundle:
            bundle.extractall(scratch)
        copy_sources(only_child(Path(scratch)), destination)


def only_child(directory: Path) -> Path:
    for path in sorted(directory.iterdir()):
        if (path / "src").is_dir():
            return path
    raise FetchError("the archive holds no directory with lwIP's src")


def run(command: list[str], *, cwd: Path, env: dict[str, str]) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        tail = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise FetchError(f"`{' '.join(command)}` failed: {tail}")


# ---- Debian's source package -------------------------------------------------------------------


def debian_mirrors() -> list[str]:
    """The archives this machine itself uses, those that look like Debian's main archive first."""
    found: list[str] = []
    directory = Path("/etc/apt/sources.list.d")
    files = [Path("/etc/apt/sources.list")]
    if directory.is_dir():
        files += sorted(directory.iterdir())
    for file in files:
        if file.suffix not in (".list", ".sources"):
            continue
        try:
            text = file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parse = parse_deb822 if file.suffix == ".sources" else parse_one_line
        found += [uri.rstrip("/") for uri in parse(text)]
    mirrors = list(dict.fromkeys(found))
    named = [uri for uri in mirrors if uri.endswith("/debian")]
    return named or [uri for uri in mirrors if "debian" in uri and "security" not in uri]


def parse_one_line(text: str) -> Iterator[str]:
    for line in text.splitlines():
        match = re.match(r"\s*deb(?:-src)?\s+(?:\[[^\]]*\]\s+)?(\S+)\s", line)
        if match:
            yield match.group(1)


def parse_deb822(text: str) -> Iterator[str]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        fields: dict[str, str] = {}
        name = ""
        for line in lines:
            if line[:1].isspace():
                fields[name] = fields.get(name, "") + " " + line.strip()
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0", "off"):
            continue
        yield from fields.get("uris", "").split()


def debian_keyring() -> Path:
    for name in ("debian-archive-keyring.gpg", "debian-archive-keyring.pgp"):
        path = Path("/usr/share/keyrings") / name
        if path.exists():
            return path
    raise FetchError("Debian's archive keyring is not installed (package debian-archive-keyring)")


def download_with_apt(destination: Path) -> None:
    """Download by apt, with its own state: needs no root and changes nothing on the machine."""
    if shutil.which("apt-get") is None:
        raise FetchError("apt-get is not installed")
    mirrors = debian_mirrors()
    if not mirrors:
        raise FetchError("the machine's apt sources name no Debian archive")
    keyring = debian_keyring()
    problems = []
    for mirror in mirrors:
        try:
            download_from_mirror(mirror, keyring, destination)
            return
        except FetchError as error:
            problems.append(f"{mirror}: {error}")
    raise FetchError("; ".join(problems))


def download_from_mirror(mirror: str, keyring: Path, destination: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pifus-apt-") as scratch_name:
        scratch = Path(scratch_name)
        for name in ("state/lists/partial", "cache/archives/partial", "work"):
            (scratch / name).mkdir(parents=True)
        (scratch / "sources.list").write_text(
            f"deb-src [signed-by={keyring}] {mirror} {DEBIAN_SUITE} main\n"
        )
        (scratch / "apt.conf").write_text(
            f'Dir::State "{scratch}/state";\n'
            f'Dir::Cache "{scratch}/cache";\n'
            f'Dir::Etc::sourcelist "{scratch}/sources.list";\n'
            'Dir::Etc::sourceparts "-";\n'
            'Acquire::Languages "none";\n'
            # Root's apt would drop to a user that may not write in this private directory.
            f'APT::Sandbox::User "{"root" if os.geteuid() == 0 else ""}";\n'
        )
        env = os.environ | {"APT_CONFIG": str(scratch / "apt.conf"), "LC_ALL": "C"}
        work = scratch / "work"
        run(["apt-get", "-qq", "update"], cwd=work, env=env)
        run(["apt-get", "-qq", "source", "--download-only", "lwip"], cwd=work, env=env)
        tarball = work / TARBALL
        if not tarball.is_file():
            names = ", ".join(sorted(p.name for p in work.iterdir())) or "nothing"
            raise FetchError(f"{DEBIAN_SUITE} delivered {names} and not {TARBALL}")
        check_tarball(tarball)
        store(tarball, destination)


def check_tarball(path: Path) -> None:
    found = file_hash(path)
    if found != TARBALL_SHA256:
        raise FetchError(f"{path.name} has SHA-256 {found}; {TARBALL_SHA256} is expected")


def store(origin: Path, destination: Path) -> None:
    """Into the cache in one step: a build at the same time sees the whole file or none."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=destination.parent, prefix=".incoming-")
    os.close(handle)
    try:
        shutil.copyfile(origin, name)
        Path(name).replace(destination)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


# ---- upstream's release ------------------------------------------------------------------------


def download_from_upstream(destination: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="pifus-lwip-") as scratch:
        partial = Path(scratch) / "release.zip"
        try:
            with (
                urllib.request.urlopen(UPSTREAM, timeout=30) as response,
                partial.open("wb") as file,
            ):
                shutil.copyfileobj(response, file)
        except OSError as error:
            raise FetchError(f"{UPSTREAM}: {error}") from error
        if not zipfile.is_zipfile(partial):
            raise FetchError(f"{UPSTREAM} did not deliver a zip archive")
        store(partial, destination)


# ---- the places, in order ----------------------------------------------------------------------


def verified(unpack: Callable[[Path, Path], None], archive: Path, destination: Path) -> None:
    """Unpack and compare with the recorded hash; a bad archive does not stay in the cache."""
    try:
        unpack(archive, destination)
        normalise_line_ends(destination)
        check_version(destination)
        found = tree_hash(destination / "src")
        if found != TREE_SHA256:
            raise FetchError(f"{archive.name}: its src hashes to {found}, not {TREE_SHA256}")
    except (FetchError, OSError, tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError) as error:
        shutil.rmtree(destination, ignore_errors=True)
        with contextlib.suppress(OSError):
            archive.unlink()
        raise FetchError(str(error)) from error


def from_cached_tarball(destination: Path) -> None:
    archive = cache_directory() / TARBALL
    if not archive.is_file():
        raise FetchError(f"no {TARBALL} in {cache_directory()}")
    if file_hash(archive) != TARBALL_SHA256:
        archive.unlink()
        raise FetchError("the cached tarball was damaged, and is removed")
    verified(unpack_tarball, archive, destination)


def from_cached_release(destination: Path) -> None:
    archive = cache_directory() / Path(UPSTREAM).name
    if not archive.is_file():
        raise FetchError(f"no {archive.name} in {cache_directory()}")
    verified(unpack_zip, archive, destination)


def from_debian(destination: Path) -> None:
    say(f"downloading Debian's source package ({DEBIAN_SUITE}) through a private apt directory")
    download_with_apt(cache_directory() / TARBALL)
    from_cached_tarball(destination)


def from_upstream(destination: Path) -> None:
    say(f"downloading {UPSTREAM}")
    download_from_upstream(cache_directory() / Path(UPSTREAM).name)
    from_cached_release(destination)


PLACES: tuple[tuple[str, Callable[[Path], None]], ...] = (
    ("cached Debian tarball", from_cached_tarball),
    ("cached upstream release", from_cached_release),
    ("Debian's source package", from_debian),
    ("upstream's release archive", from_upstream),
)


def obtain(destination: Path) -> None:
    """Fill `destination` with the pristine source, from the first place that delivers."""
    problems = []
    for name, place in PLACES:
        try:
            place(destination)
            return
        except (FetchError, OSError) as error:
            problems.append(f"  - {name}: {error}")
    raise FetchError(
        f"lwIP {VERSION_TEXT} could not be obtained. Tried:\n"
        + "\n".join(problems)
        + f"\nUnpack lwIP {VERSION_TEXT} yourself and name its directory (the one that holds src/)"
        " in the environment variable PIFUS_LWIP_SOURCE, or put Debian's"
        f" {TARBALL} into {cache_directory()}."
    )


def apply_patches(directory: Path) -> None:
    if shutil.which("patch") is None:
        raise FetchError("the program `patch` is not installed (Debian package patch)")
    for patch in patch_files():
        try:
            run(
                ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "-i", str(patch)],
                cwd=directory,
                env=dict(os.environ),
            )
        except FetchError as error:
            raise FetchError(f"our patch {patch.name} does not apply: {error}") from error
    for leftover in directory.rglob("*.orig"):
        leftover.unlink()


def prepare(parent: Path, *, patched: bool = True) -> Path:
    """Return a directory below `parent` with lwIP's source, made now unless already there."""
    own = os.environ.get("PIFUS_LWIP_SOURCE")
    tree = TREE_SHA256
    if own:
        check_version(Path(own))
        tree = tree_hash(Path(own) / "src")
    target = parent / (f"src-{source_key(tree)}" if patched else f"pristine-{tree[:12]}")
    if target.is_dir():
        return target
    parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=parent, prefix=".incoming-"))
    try:
        place = scratch / "lwip"
        if own:
            say(f"copying {own}")
            place.mkdir()
            copy_sources(Path(own), place)
            normalise_line_ends(place)
        else:
            obtain(place)
        if patched:
            apply_patches(place)
            say(f"applied {len(patch_files())} patches")
        try:
            place.rename(target)
        except OSError:
            # Another build was faster; its result is the same by construction.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        default=REPOSITORY / "build" / "lwip",
        help="where to put the source tree (default: build/lwip in the repository)",
    )
    parser.add_argument(
        "--pristine",
        action="store_true",
        help="without our patches: to see that the tests of the patches fail",
    )
    options = parser.parse_args()
    try:
        print(prepare(options.directory, patched=not options.pristine))
    except FetchError as error:
        print(f"fetch.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
