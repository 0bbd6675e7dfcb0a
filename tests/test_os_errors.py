from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from medtask.errors import InputError, StorageError
from medtask.os_errors import convert_os_error, get_remedy


def test_a_faulty_name_is_bad_input_and_any_other_error_is_one_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / ("x" * 300)).stat()
    converted = convert_os_error(caught.value)
    assert isinstance(converted, InputError)
    assert "name too long" in str(converted)
    assert converted.fix == "use a shorter name"
    denied = convert_os_error(PermissionError(errno.EACCES, "", "/data/rows.csv"))
    assert isinstance(denied, StorageError)
    assert str(denied) == "/data/rows.csv cannot be used: Permission denied"


def test_every_error_of_the_system_has_a_remedy() -> None:
    for number in errno.errorcode:
        error = OSError(number, os.strerror(number), "x")
        converted = convert_os_error(error)
        assert converted is not None
        assert converted.fix == get_remedy(error) != ""


def test_an_error_that_a_program_raises_is_not_converted() -> None:
    assert convert_os_error(OSError("a library failed")) is None


def test_names_of_bytes_and_control_characters_are_written_as_escapes() -> None:
    error = OSError(errno.EACCES, "", b"/data/\xff\x1b[31m")
    assert "\\x1b" in str(convert_os_error(error))
    str(convert_os_error(error)).encode()
