"""
Builds `tracedthread._native`, the one shared object of the project.

setup.py names `ffibuilder`; `python native/build.py` builds in place, beside the Python files.
"""

import os
import re
import shutil
import sys
from pathlib import Path

import cffi

HERE = Path(__file__).parent.resolve()
SOURCES = sorted(HERE.glob("*.c"))
HEADERS = sorted(HERE.glob("*.h"))
CFLAGS = ["-std=gnu11", "-O2", "-fvisibility=hidden", "-fno-plt", "-Wall", "-Wextra"]
CFLAGS += ["-Wno-unused-parameter", "-Wno-cast-function-type"]
# 3.15 compiles extensions with frame pointers, leaves included; in ours one would cost 2 % of a `with lock`.
CFLAGS.append("-momit-leaf-frame-pointer")


def declarations(name: str) -> str:
    """The header's text for cffi: without comments and preprocessor lines."""
    text = (HERE / name).read_text(encoding="utf-8")
    text = re.sub(r"//[^\n]*", "", text)
    return re.sub(r"^\s*#[^\n]*", "", text, flags=re.MULTILINE)


def make_builder(sources: list[str]) -> cffi.FFI:
    """A builder that compiles these C files, whose paths setuptools wants relative to the folder of setup.py."""
    builder = cffi.FFI()
    builder.cdef(declarations("capture.h"))
    builder.cdef(declarations("abi.h"))
    builder.set_source(
        "tracedthread._native",
        '#include "capture.h"\n#include "abi.h"\n',
        sources=sources,
        include_dirs=[str(HERE)],
        depends=[str(path) for path in HEADERS],
        extra_compile_args=CFLAGS,
        py_limited_api=False,
    )
    return builder


def build_in_place() -> Path:
    """Compile for the running interpreter and put the shared object into the package's folder."""
    work = HERE.parent / "build" / f"in-place-{sys.implementation.cache_tag}"
    work.mkdir(parents=True, exist_ok=True)
    built = Path(make_builder([str(path) for path in SOURCES]).compile(tmpdir=str(work)))
    # A process may have the old file mapped: replace it, never write into it.
    staged = HERE.parent / "tracedthread" / f".{built.name}.{os.getpid()}"
    shutil.copy(built, staged)
    return staged.replace(staged.with_name(built.name))


ffibuilder = make_builder([f"native/{path.name}" for path in SOURCES])

if __name__ == "__main__":
    print(build_in_place())
