"""Builds the Cython core. Everything else about the project stands in pyproject.toml.

TCP_SNIFFER_BUILD=trace    line tracing, for coverage of the core
TCP_SNIFFER_BUILD=sanitize AddressSanitizer and UndefinedBehaviorSanitizer
TCP_SNIFFER_BUILD=fuzz     the same, and libFuzzer's coverage (CC=clang)
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

Options.warning_errors = True  # the same as `cython -Werror`

SANITIZED = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=undefined"]
BUILDS: dict[str, tuple[list[str], list[tuple[str, str]]]] = {
    "": (["-O3", "-g0"], []),
    "trace": (["-O1", "-g"], [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]),
    "sanitize": ([*SANITIZED, "-fsanitize=address,undefined"], []),
    "fuzz": ([*SANITIZED, "-fsanitize=fuzzer-no-link,address,undefined"], []),
}
build = os.environ.get("TCP_SNIFFER_BUILD", "")
flags, macros = BUILDS[build]
links = [flag for flag in flags if flag.startswith("-fsanitize")]

setup(
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=cythonize(
        [
            Extension(
                ".".join(source.with_suffix("").parts),
                [str(source)],
                extra_compile_args=[*flags, "-Wall", "-Werror", "-Wno-unused-function", "-Wno-sign-compare"],
                extra_link_args=links,
                define_macros=macros,
            )
            for source in sorted(Path("sniffer_core").rglob("*.pyx"))
        ],
        # Coverage looks for the generated C beside its source.
        build_dir=None if build == "trace" else "build/cython",
        compiler_directives={
            "language_level": 3,
            "embedsignature": True,
            "linetrace": build == "trace",
        },
    ),
)
