"""Describes the extension module pifus._core._client to cffi; run by setup.py, never imported.

The headers are given to cffi verbatim, so that C and Python cannot disagree about the layout.
"""

from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "build/native/release/libpifus_client.a"

ffibuilder = FFI()
for header in ("shm/abi.h", "client/client.h"):
    ffibuilder.cdef((ROOT / "native" / header).read_text(encoding="utf-8"))
ffibuilder.set_source(
    "pifus._core._client",
    '#include "shm/layout.h"\n#include "client/client_api.h"\n',
    include_dirs=["native"],
    extra_objects=[LIBRARY],
    # Linked again whenever the library changed.
    depends=[LIBRARY],
    extra_compile_args=["-std=gnu11", "-O2", "-g", "-Wall"],
    libraries=["rt"],
)
