"""A library for child processes that makes the disk slow and moves the clock.

It replaces functions of the C library (LD_PRELOAD), so that SQLite is slow too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static double read_number(const char *name) {
  const char *text = getenv(name);
  return text ? atof(text) : 0;
}
static void delay(void) { usleep((useconds_t)(1e6 * read_number("TEST_DISK_DELAY_S"))); }

#define SLOW(name, parameters, arguments)                         \
  int name parameters {                                           \
    static int (*real) parameters;                                \
    if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
    delay();                                                      \
    return real arguments;                                        \
  }
SLOW(fsync, (int file), (file))
SLOW(fdatasync, (int file), (file))
SLOW(rename, (const char *from, const char *to), (from, to))
SLOW(unlink, (const char *path), (path))
SLOW(mkdir, (const char *path, unsigned int mode), (path, mode))
SLOW(flock, (int file, int operation), (file, operation))

int clock_gettime(clockid_t clock, struct timespec *found) {
  static int (*real)(clockid_t, struct timespec *);
  if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(clock, found);
  if (clock == CLOCK_REALTIME) found->tv_sec += (time_t)read_number("TEST_CLOCK_OFFSET_S");
  return code;
}
"""


def build_library(folder: Path) -> Path:
    """Compile the library; the test is skipped where that is not possible."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler")
    source, library = folder / "slow_disk.c", folder / "slow_disk.so"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def make_environment(
    library: Path, *, delay_s: float = 0.0, clock_offset_s: float = 0.0
) -> dict[str, str]:
    """The environment of a process whose disk is slow and whose clock is wrong."""
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "TEST_DISK_DELAY_S": str(delay_s),
        "TEST_CLOCK_OFFSET_S": str(clock_offset_s),
    }
