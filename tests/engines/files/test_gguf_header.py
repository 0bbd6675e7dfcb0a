"""Headers of GGUF files from strangers: read whole or refused, never trusted."""

from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from pathlib import Path

import pytest

pytest.importorskip("gguf", reason="gguf is not installed")

import numpy as np
from gguf import GGUFWriter

from medtask.engines.files.gguf_header import check_gguf_tensors, read_gguf_header
from medtask.errors import EngineError, InputError


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = GGUFWriter(str(path), "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "b", "ab"])
    writer.add_chat_template("{{ messages }}")
    for number in range(3):
        writer.add_tensor(f"block.{number}", np.zeros((8, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def count_weights(tmp_path: Path, content: bytes) -> int:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    return read_gguf_header(file).parameters


def test_weights_are_counted(gguf_bytes: bytes, tmp_path: Path) -> None:
    assert count_weights(tmp_path, gguf_bytes) == 3 * 8 * 32


def test_a_file_that_was_cut_is_refused(gguf_bytes: bytes, tmp_path: Path) -> None:
    for length in range(0, len(gguf_bytes), 7):
        with pytest.raises(InputError, match="not a complete GGUF"):
            count_weights(tmp_path, gguf_bytes[:length])


@pytest.mark.parametrize(
    ("find", "add", "value"),
    [
        (b"block.0", 7, struct.pack("<I", 99)),  # more dimensions than there can be
        (
            b"block.0",
            11,
            struct.pack("<Q", 2**62),
        ),  # a length that overflows what it is multiplied with
        (b"block.0", 31, struct.pack("<Q", 2**63)),  # data far behind the end of the file
        (
            b"llama.context_length",
            -8,
            struct.pack("<Q", 2**60),
        ),  # a name that is longer than the file
        (b"GGUF", 8, struct.pack("<Q", 2**40)),  # more tensors than can be
        (b"GGUF", 16, struct.pack("<Q", 2**40)),  # more facts than can be
        (b"GGUF", 4, struct.pack("<I", 99)),  # a version of the future
        (b"tokenizer.ggml.tokens", 29, struct.pack("<Q", 2**50)),  # a list without end
    ],
)
def test_known_shapes_of_attack_are_refused(
    gguf_bytes: bytes, tmp_path: Path, find: bytes, add: int, value: bytes
) -> None:
    index = gguf_bytes.index(find) + add
    with pytest.raises(InputError, match="not a complete GGUF"):
        count_weights(tmp_path, gguf_bytes[:index] + value + gguf_bytes[index + len(value) :])


@pytest.mark.slow
@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.scale)])
def test_mutated_headers_neither_crash_nor_allocate(
    count: int, gguf_bytes: bytes, tmp_path: Path
) -> None:
    """S5 of the security goals; what is let through is counted as a file of that size can be."""
    chance = random.Random(0)
    tracemalloc.start()
    try:
        for _ in range(count):
            content = bytearray(gguf_bytes)
            for _ in range(chance.randint(1, 4)):
                index = chance.randrange(min(len(content), 700))
                content[index : index + chance.choice((1, 4, 8))] = chance.randbytes(
                    chance.choice((1, 4, 8))
                )
            with contextlib.suppress(InputError):
                assert 0 <= count_weights(tmp_path, bytes(content)) <= 8 * len(content)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def write_blocks(path: Path, stated: int, names: list[str], value: float = 1.0) -> Path:
    writer = GGUFWriter(str(path), "llama")
    writer.add_block_count(stated)
    for name in names:
        writer.add_tensor(name, np.full((8, 32), value, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("stated", "names", "message"),
    [
        (2, ["blk.0.ffn_up.weight"], "1 tensor is missing: blk.1"),
        (
            1,
            ["blk.0.ffn_up.weight", "blk.1.ffn_up.weight"],
            r"in a layer beyond the stated 1: blk\.1\.ffn_up\.weight",
        ),
    ],
)
def test_layers_that_the_metadata_does_not_state_are_refused(
    tmp_path: Path, stated: int, names: list[str], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        check_gguf_tensors(write_blocks(tmp_path / "m.gguf", stated, names))


def test_blank_matrices_are_refused_and_blank_vectors_are_not(tmp_path: Path) -> None:
    names = ["blk.0.ffn_up.weight", "token_embd.weight"]
    check_gguf_tensors(write_blocks(tmp_path / "whole.gguf", 1, names))
    with pytest.raises(EngineError, match=r"2 tensors are all zero: blk\.0"):
        check_gguf_tensors(write_blocks(tmp_path / "blank.gguf", 1, names, value=0.0))


def write_stated(path: Path, **stated: int) -> Path:
    """A file with two blocks whose metadata state other sizes."""
    writer = GGUFWriter(str(path), "llama")
    for name, number in {"block_count": 2, "embedding_length": 32, **stated}.items():
        key = f"llama.{name.replace('__', '.')}"
        if number > 255:
            writer.add_uint64(key, number)
        else:
            writer.add_uint8(key, number)
    writer.add_tensor("token_embd.weight", np.ones((64, 32), dtype=np.float16))
    for block in range(2):
        writer.add_tensor(f"blk.{block}.ffn_up.weight", np.ones((48, 32), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "stated",
    [
        {"block_count": 255},
        {"embedding_length": 33},
        {"embedding_length": 2**40},
        {"feed_forward_length": 49},
        {"vocab_size": 2**31},
        {"attention__head_count": 2**30},
        {"attention__key_length": 2**30},
        {"attention__head_count": 48, "attention__key_length": 17},
        {"attention__head_count": 48, "attention__value_length": 17},
    ],
)
def test_metadata_that_state_a_larger_model_than_the_tensors_are_refused_at_once(
    tmp_path: Path, stated: dict[str, int]
) -> None:
    path = write_stated(tmp_path / "model.gguf", **stated)
    with pytest.raises(InputError, match="not a complete GGUF"):
        read_gguf_header(path)


def test_metadata_that_state_the_sizes_of_the_tensors_are_read(tmp_path: Path) -> None:
    sizes = {"feed_forward_length": 48, "vocab_size": 64, "attention__head_count": 4}
    header = read_gguf_header(write_stated(tmp_path / "model.gguf", **sizes))
    assert header.block_count == 2


def test_a_key_that_is_stated_twice_is_refused(gguf_bytes: bytes, tmp_path: Path) -> None:
    doubled = gguf_bytes.replace(b"tokenizer.chat_template", b"tokenizer.ggml.xxxxxxxx", 1)
    assert count_weights(tmp_path, doubled) > 0
    key = b"llama.context_length"
    same = gguf_bytes.replace(b"general.architecture", key, 1)
    assert len(key) == len(b"general.architecture")
    with pytest.raises(InputError, match="not a complete GGUF"):
        count_weights(tmp_path, same)
