"""Describes the extension module pifus.bench._bench to cffi; run by setup.py, never imported.

The headers are given to cffi verbatim, so that C and Python cannot disagree about the layout. The
module has a client core of its own: a session of it is none of pifus._core.
"""

from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "build/native/release/libpifus_bench.a"

ffibuilder = FFI()
for header in ("shm/abi.h", "client/client.h", "bench/bench.h", "bench/floors.h"):
    ffibuilder.cdef((ROOT / "native" / header).read_text(encoding="utf-8"))
ffibuilder.set_source(
    "pifus.bench._bench",
    '#include "shm/layout.h"\n#include "bench/bench_api.h"\n',
    include_dirs=["native"],
    extra_objects=[LIBRARY],
    # Linked again whenever the library changed.
    depends=[LIBRARY],
    extra_compile_args=["-std=gnu11", "-O2", "-g", "-Wall"],
    libraries=["rt"],
)
