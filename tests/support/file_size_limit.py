"""A full disk, simulated for this process by a limit on file sizes."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """No file of this process may grow beyond so many bytes."""
    limits, writes_no_bytecode = resource.getrlimit(resource.RLIMIT_FSIZE), sys.dont_write_bytecode
    set_file_size_limit(size)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        sys.dont_write_bytecode = writes_no_bytecode


def set_file_size_limit(size: int) -> None:
    """Limit the files of this process, and keep Python from writing bytecode.

    Python 3.11 stores bytecode of which only a part was written, and then fails to import it.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    sys.dont_write_bytecode = True
