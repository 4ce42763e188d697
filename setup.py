"""The four extension modules; everything else is in pyproject.toml."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext


class BuildNative(build_ext):
    """Compile the static libraries that the extensions link against, first."""

    def run(self):
        # Loaded only here: making a source archive must need neither a compiler nor lwIP.
        path = Path(__file__).parent / "native" / "build.py"
        spec = importlib.util.spec_from_file_location("pifus_native_build", path)
        native = importlib.util.module_from_spec(spec)
        # dataclasses look their own module up there.
        sys.modules[spec.name] = native
        spec.loader.exec_module(native)
        variant = native.Variant(out=native.RELEASE)
        native.client_library(variant)
        native.stack_library(variant)
        native.bench_library(variant)
        super().run()


CLIENT = "build/native/release/libpifus_client.a"

setup(
    cmdclass={"build_ext": BuildNative},
    ext_modules=[
        Extension(
            "pifus._core._lane",
            ["native/python/lane.c", "native/python/batch.c"],
            include_dirs=["native"],
            extra_objects=[CLIENT],
            # Linked again whenever the library changed.
            depends=[CLIENT, "native/python/batch.h"],
            extra_compile_args=["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra"],
            # As cffi's own: one file for all versions.
            define_macros=[("Py_LIMITED_API", "0x030b0000")],
            py_limited_api=True,
            libraries=["rt"],
        )
    ],
    cffi_modules=[
        "pifus/_core/_ffi_build.py:ffibuilder",
        "pifus/backend/_ffi_build.py:ffibuilder",
        "pifus/bench/_ffi_build.py:ffibuilder",
    ],
)
