"""The cache of unpacked models: dequantised weights that later loads use again."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from medtask.errors import StorageError

_PREFIX = "unpacking-"
_ABANDONED_S = 24 * 3600  # after which a temporary folder is that of a killed process
_published: ContextVar[list[Path] | None] = ContextVar("published", default=None)


def find_models_folder() -> Path:
    """The folder of the cache."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("medtask")) / "models"


def make_unpacking_folder(models: Path) -> Path:
    """Create a temporary folder in the cache, and remove those that killed processes left.

    Raises:
        StorageError: The cache cannot be written.
    """
    try:
        models.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_abandoned(models)
        return Path(tempfile.mkdtemp(dir=models, prefix=_PREFIX))
    except OSError as error:
        raise StorageError(
            f"{models} cannot be written ({error.strerror})",
            fix="set XDG_CACHE_HOME to a folder with room",
        ) from None


def publish_unpacked(temporary: Path, cached: Path) -> None:
    """Move an unpacked model to its place in the cache; OSError if it is taken."""
    temporary.rename(cached)
    if (published := _published.get()) is not None:
        published.append(cached)


@contextmanager
def discard_on_failure() -> Iterator[None]:
    """Remove what this block published if it ends with an error: the model could not be loaded."""
    published: list[Path] = []
    token = _published.set(published)
    try:
        yield
    except Exception:
        for path in published:
            _remove(path)
        raise
    finally:
        _published.reset(token)


def _remove_abandoned(models: Path) -> None:
    for folder in models.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # removed by another process
            if time.time() - folder.stat().st_mtime > _ABANDONED_S:
                _remove(folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
