from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")

import torch

from medtask.engines.hf.decoding import TorchLogits

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0, float("-inf")])


def test_log_probabilities_are_over_the_whole_vocabulary() -> None:
    found = TorchLogits(torch.stack((LOGITS, LOGITS + 100))).compute_logprobs([1, 1])
    assert found == pytest.approx([float(torch.log_softmax(LOGITS, dim=-1)[1])] * 2, abs=1e-5)
