#!/usr/bin/env python3
"""Compile the C code: static libraries for the extension modules, sanitizer variants, native tests.

setuptools cannot give each file its own flags, and lwIP's own sources do not pass ours; so the
extensions are linked against static libraries made here.  Only what changed is compiled again: the
compiler writes which headers each object needs (-MMD), and the command is kept beside the object.
Only the standard library is used, because a build from the source archive runs this too.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

NATIVE = Path(__file__).resolve().parent
REPOSITORY = NATIVE.parent
RELEASE = REPOSITORY / "build" / "native" / "release"

# What each library is made of: directories here, and "core" for lwIP's own sources.  The client
# never contains the backend or lwIP.
CLIENT_PARTS = ("shm", "futex", "client")
STACK_PARTS = ("shm", "futex", "backend", "lwip", "core")
ALL_PARTS = ("shm", "futex", "client", "backend", "lwip", "bench", "core")
# The loops of `pifus bench`, over the client.
BENCH_PARTS = (*CLIENT_PARTS, "bench")

# lwIP's own files: the core and Ethernet; no applications, no sequential API.
LWIP_SOURCES = ("src/core", "src/core/ipv4", "src/core/ipv6")
LWIP_FILES = ("src/netif/ethernet.c",)

STRICT = ["-Wall", "-Wextra", "-Werror"]
BASE = ["-std=gnu11", "-g", "-fPIC", "-fvisibility=hidden"]
# lwIP is not ours to tidy: its warnings are shown only when they are errors.
FOREIGN = ["-w"]

# A test that finds nothing to do here (no privilege, no device) says so by this exit status.
SKIPPED = 77
TEST_SECONDS = 300

SANITIZER_ENVIRONMENT = {
    "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0:strict_string_checks=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


class BuildError(Exception):
    """The compiler refused; its output is the message."""


def load_fetch() -> ModuleType:
    path = NATIVE / "lwip" / "fetch.py"
    spec = importlib.util.spec_from_file_location("pifus_lwip_fetch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def lwip_directory(patched: bool = True) -> Path:
    fetch = load_fetch()
    try:
        return Path(fetch.prepare(REPOSITORY / "build" / "lwip", patched=patched))
    except fetch.FetchError as error:
        raise BuildError(str(error)) from error


@dataclass
class Variant:
    """One way to compile everything, in a directory of its own."""

    out: Path
    sanitize: str = ""
    optimize: str = ""
    lwip: Path | None = None
    defines: tuple[str, ...] = ()
    compiler: list[str] = field(default_factory=lambda: shlex.split(os.environ.get("CC", "gcc")))

    def lwip_source(self) -> Path:
        return self.lwip if self.lwip is not None else lwip_directory()

    def mode_flags(self) -> list[str]:
        # -O3 and no frame pointers: 10 of the 300 ns of a NOP.
        flags = [f"-O{self.optimize or ('1' if self.sanitize else '3')}"]
        flags += [f"-D{define}" for define in self.defines]
        if self.sanitize:
            flags += [
                f"-fsanitize={self.sanitize}",
                "-fno-sanitize-recover=all",
                "-fno-omit-frame-pointer",
                "-DPIFUS_SANITIZE",
            ]
        if "thread" in self.sanitize:
            # TSan does not model stand-alone fences, and gcc warns; the doorbell needs one anyway.
            flags.append("-Wno-tsan")
        return flags

    def include_flags(self, parts: Iterable[str]) -> list[str]:
        flags = [f"-I{NATIVE}"]
        if "lwip" in parts or "core" in parts:
            # "system" for lwIP's headers: our warnings are for our code.
            flags += [f"-I{NATIVE / 'lwip' / 'port'}", "-isystem"]
            flags += [str(self.lwip_source() / "src" / "include")]
        return flags

    def flags(self, parts: Iterable[str], *, foreign: bool = False) -> list[str]:
        warnings = FOREIGN if foreign else STRICT
        return [*BASE, *warnings, *self.mode_flags(), *self.include_flags(parts)]


@dataclass(frozen=True)
class Unit:
    """One file to compile."""

    source: Path
    object: Path
    command: tuple[str, ...]


# ---- what there is to compile ------------------------------------------------------------------


def part_sources(part: str) -> list[Path]:
    return sorted((NATIVE / part).glob("*.c"))


def lwip_sources(variant: Variant) -> list[Path]:
    root = variant.lwip_source()
    sources = [path for name in LWIP_SOURCES for path in sorted((root / name).glob("*.c"))]
    return sources + [root / name for name in LWIP_FILES]


def unit(variant: Variant, source: Path, root: Path, flags: Sequence[str]) -> Unit:
    name = source.relative_to(root).with_suffix(".o")
    target = variant.out / "obj" / root.name.split("-")[0] / name
    return Unit(source, target, (*variant.compiler, *flags, "-c", str(source), "-o", str(target)))


def units(variant: Variant, parts: Sequence[str]) -> list[Unit]:
    found = []
    for part in parts:
        foreign = part == "core"
        root = variant.lwip_source() if foreign else NATIVE
        sources = lwip_sources(variant) if foreign else part_sources(part)
        flags = variant.flags([part], foreign=foreign)
        found += [unit(variant, source, root, flags) for source in sources]
    return found


# ---- compiling ---------------------------------------------------------------------------------


def dependencies(text: str) -> list[Path]:
    """The files named in a make rule written by the compiler."""
    _, _, names = text.replace("\\\n", " ").partition(": ")
    return [Path(name.replace("\0", " ")) for name in names.replace("\\ ", "\0").split()]


def is_current(target: Path, command: str) -> bool:
    try:
        if target.with_suffix(target.suffix + ".cmd").read_text() != command:
            return False
        made = target.stat().st_mtime_ns
        needed = dependencies(target.with_suffix(".d").read_text())
        return all(path.stat().st_mtime_ns < made for path in needed)
    except OSError:
        return False


def invoke(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{done.stdout}")


def compile_unit(item: Unit) -> bool:
    """Compile one file unless its object is current; tells whether it did."""
    command = shlex.join(item.command)
    if is_current(item.object, command):
        return False
    item.object.parent.mkdir(parents=True, exist_ok=True)
    record = item.object.with_suffix(item.object.suffix + ".cmd")
    record.unlink(missing_ok=True)
    # Not -MMD: lwIP's headers are "system" headers here, and they include our lwipopts.h.
    invoke([*item.command, "-MD", "-MF", str(item.object.with_suffix(".d"))])
    record.write_text(command)
    return True


def compile_all(items: Sequence[Unit], label: str) -> None:
    workers = max(1, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(compile_unit, item) for item in items]
        errors = [str(e) for w in waiting if (e := w.exception()) is not None]
    if errors:
        raise BuildError("\n".join(errors))
    compiled = sum(w.result() for w in waiting)
    if compiled:
        print(f"native: {label}: compiled {compiled} of {len(items)} files", file=sys.stderr)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One build at a time in a directory: two would write the same objects."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def archive(variant: Variant, name: str, parts: Sequence[str]) -> Path:
    """Make lib<name>.a of these parts, and return its path."""
    with locked(variant.out):
        return archive_locked(variant, name, parts)


def archive_locked(variant: Variant, name: str, parts: Sequence[str]) -> Path:
    items = units(variant, parts)
    compile_all(items, f"{variant.out.name}/{name}")
    target = variant.out / f"lib{name}.a"
    objects = [item.object for item in items]
    record = target.with_suffix(".a.cmd")
    listing = "\n".join(map(str, objects))
    newest = max((path.stat().st_mtime_ns for path in objects), default=0)
    if (
        target.exists()
        and target.stat().st_mtime_ns > newest
        and record.exists()
        and record.read_text() == listing
    ):
        return target
    # `ar r` would keep the members of files that are gone.
    target.unlink(missing_ok=True)
    invoke(["ar", "rcs", str(target), *map(str, objects)])
    record.write_text(listing)
    return target


def client_library(variant: Variant) -> Path:
    return archive(variant, "pifus_client", CLIENT_PARTS)


def stack_library(variant: Variant) -> Path:
    return archive(variant, "pifus_stack", STACK_PARTS)


def bench_library(variant: Variant) -> Path:
    return archive(variant, "pifus_bench", BENCH_PARTS)


def library_for(variant: Variant, parts: Sequence[str]) -> Path:
    name = "pifus_all" if set(parts) == set(ALL_PARTS) else "pifus_" + "_".join(parts)
    return archive(variant, name, parts)


def write_compile_commands(variant: Variant) -> None:
    """For clang-tidy and editors; in the directory of the variant."""
    entries = [
        {"directory": str(REPOSITORY), "file": str(item.source), "arguments": list(item.command)}
        for item in units(variant, ALL_PARTS)
        if NATIVE in item.source.parents
    ]
    python = ["-isystem", sysconfig.get_path("include")]
    others = [(source, python) for source in part_sources("python")]
    tests = sorted((REPOSITORY / "tests" / "native").glob("*.c"))
    for source, more in [*others, *((source, []) for source in tests)]:
        command = [*variant.compiler, *program_flags(variant), *more, "-c", str(source)]
        entries.append({"directory": str(REPOSITORY), "file": str(source), "arguments": command})
    variant.out.mkdir(parents=True, exist_ok=True)
    (variant.out / "compile_commands.json").write_text(json.dumps(entries, indent=1))


# ---- programs: tests and C benchmarks ----------------------------------------------------------


def program_flags(variant: Variant) -> list[str]:
    return [*variant.flags(ALL_PARTS), f"-I{REPOSITORY / 'tests' / 'native'}"]


def program(variant: Variant, source: Path, library: Path) -> Path:
    """Build one C file with a main() against everything, and return the executable."""
    with locked(variant.out):
        return program_locked(variant, source.resolve(), library)


def program_locked(variant: Variant, source: Path, library: Path) -> Path:
    target_object = variant.out / "obj" / "programs" / source.with_suffix(".o").name
    command = (
        *variant.compiler,
        *program_flags(variant),
        "-c",
        str(source),
        "-o",
        str(target_object),
    )
    compile_all([Unit(source, target_object, command)], f"{variant.out.name}/{source.stem}")
    target = variant.out / "bin" / source.stem
    newest = max(path.stat().st_mtime_ns for path in (target_object, library))
    if not target.exists() or target.stat().st_mtime_ns <= newest:
        target.parent.mkdir(parents=True, exist_ok=True)
        link = [*variant.compiler, *variant.mode_flags(), str(target_object), str(library)]
        invoke([*link, "-o", str(target), "-pthread", "-lrt", "-lm"])
    return target


def native_tests(names: Sequence[str]) -> list[Path]:
    sources = sorted((REPOSITORY / "tests" / "native").glob("test_*.c"))
    if names:
        sources = [source for source in sources if source.stem in names]
    return sources


def run_test(executable: Path, sanitize: str) -> bool:
    environment = SANITIZER_ENVIRONMENT | dict(os.environ)
    command = [str(executable)]
    if "thread" in sanitize and shutil.which("setarch"):
        # Older TSan run-times refuse the address layouts of kernels that randomise more bits.
        command = ["setarch", "-R", *command]
    try:
        done = subprocess.run(
            command,
            env=environment,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            timeout=TEST_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        print(f"{text}\nFAIL  {executable.name}: not finished after {TEST_SECONDS} s", flush=True)
        return False
    if done.returncode == SKIPPED:
        print(f"skip  {executable.name}: {done.stdout.strip()}", flush=True)
        return True
    if done.returncode != 0:
        print(f"{done.stdout}\nFAIL  {executable.name}: exit {done.returncode}", flush=True)
        return False
    print(f"ok    {executable.name}", flush=True)
    return True


def run_tests(variant: Variant, names: Sequence[str], parts: Sequence[str]) -> bool:
    sources = native_tests(names)
    missing = set(names) - {source.stem for source in sources}
    if missing:
        raise BuildError(f"no such native test: {', '.join(sorted(missing))}")
    if not sources:
        print("native: no tests yet", flush=True)
        return True
    library = library_for(variant, parts)
    executables = [program(variant, source, library) for source in sources]
    # Every test runs, also after one has failed.
    results = [run_test(executable, variant.sanitize) for executable in executables]
    return all(results)


# ---- command line ------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="directory of this variant")
    parser.add_argument("--sanitize", default="", help="for example address,undefined or thread")
    parser.add_argument("--optimize", default="", help="level after -O (default 3; sanitized: 1)")
    parser.add_argument("--define", action="append", default=[], help="NAME or NAME=VALUE, for -D")
    parser.add_argument(
        "--pristine",
        action="store_true",
        help="lwIP alone, without our patches: test_lwip_patches must then fail",
    )
    parser.add_argument(
        "--test",
        nargs="*",
        metavar="NAME",
        help="build and run the native tests (all, or those named as in test_ring)",
    )
    parser.add_argument("--program", type=Path, action="append", default=[], help="a C file")
    parser.add_argument(
        "--parts",
        default="",
        help=f"what tests and programs are linked with (default: {','.join(ALL_PARTS)}; pristine: "
        "core, as our own code needs the patches)",
    )
    parser.add_argument(
        "--compile-commands", action="store_true", help="write compile_commands.json, no more"
    )
    return parser.parse_args()


def make_variant(options: argparse.Namespace) -> Variant:
    name = "-".join(
        [options.sanitize.replace(",", "-") or "release", *(["pristine"] * options.pristine)]
    )
    return Variant(
        out=(options.out or RELEASE.parent / name).resolve(),
        sanitize=options.sanitize,
        optimize=options.optimize,
        lwip=lwip_directory(patched=False) if options.pristine else None,
        defines=tuple(options.define),
    )


def main() -> int:
    options = parse_arguments()
    try:
        variant = make_variant(options)
        parts = tuple(options.parts.split(",")) if options.parts else ALL_PARTS
        if options.pristine:
            parts = ("core",)
        if options.compile_commands:
            write_compile_commands(variant)
            return 0
        for source in options.program:
            print(program(variant, source, library_for(variant, parts)))
        if options.test is not None:
            return 0 if run_tests(variant, options.test, parts) else 1
        if not options.program:
            print(client_library(variant))
            print(stack_library(variant))
            print(bench_library(variant))
    except BuildError as error:
        print(f"build.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
