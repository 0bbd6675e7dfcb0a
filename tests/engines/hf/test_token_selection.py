from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")

import torch

from medtask.engines.hf.token_selection import compute_logprobs

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0, float("-inf")])


def test_log_probabilities_are_over_the_whole_vocabulary() -> None:
    found = compute_logprobs(torch.stack((LOGITS, LOGITS + 100)), torch.tensor([1, 1]))
    assert found.tolist() == pytest.approx(
        [float(torch.log_softmax(LOGITS, dim=-1)[1])] * 2, abs=1e-5
    )
