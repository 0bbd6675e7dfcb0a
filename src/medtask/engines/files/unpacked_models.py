"""The cache of unpacked models: dequantised weights that later loads use again."""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import sha256
from pathlib import Path

from medtask.errors import StorageError

_PREFIX = "unpacking-"
_ABANDONED_S = 24 * 3600  # after which a temporary folder is that of a killed process
_published: ContextVar[list[Path] | None] = ContextVar("published", default=None)


def _find_models_folder() -> Path:
    """The folder of the cache."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("medtask")) / "models"


def name_unpacked(path: Path, *versions: str) -> str:
    """The name of an unpacked file in the cache, by the file's path, size and time."""
    file_stat = path.stat()
    facts = (path.resolve(), file_stat.st_size, file_stat.st_mtime_ns, *versions)
    key = sha256("|".join(map(str, facts)).encode()).hexdigest()
    return f"{path.stem}-{key[:16]}"


def cache_unpacked(name: str, unpack: Callable[[Path], None]) -> Path:
    """The file or folder of this name in the cache.

    If it is not there, ``unpack`` is called with a path that does not exist, and writes it.

    Raises:
        StorageError: The cache cannot be written.
    """
    models = _find_models_folder()
    cached = models / name
    if cached.exists():
        return cached
    folder = _make_unpacking_folder(models)
    try:
        unpack(folder / name)
        (folder / name).rename(cached)
    except OSError as error:
        if error.errno in (None, errno.ENOENT):  # of a library that cannot read the model
            raise
        if not cached.exists():  # not created by another process
            raise _make_cache_error(models, error) from error
        return cached
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if (published := _published.get()) is not None:
        published.append(cached)
    return cached


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


def _make_unpacking_folder(models: Path) -> Path:
    """Create a temporary folder in the cache, and remove those that killed processes left."""
    try:
        models.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_abandoned(models)
        return Path(tempfile.mkdtemp(dir=models, prefix=_PREFIX))
    except OSError as error:
        raise _make_cache_error(models, error) from error


def _make_cache_error(models: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{models} cannot be written ({error.strerror})",
        fix="set XDG_CACHE_HOME to a folder with room",
    )


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
