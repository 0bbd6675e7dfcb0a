"""Linear layers by oneDNN give the numbers of torch's own product."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the hf engine is not installed")

import torch
from torch import nn

from medtask.engines.hf.linear_layers import MIN_TOKENS, OneDnnLinear, install_onednn_linear
from support.tiny_models import make_model


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch has no oneDNN here")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [3, MIN_TOKENS, 5 * MIN_TOKENS + 1])
def test_products_equal_those_of_torch(tokens: int, bias: bool) -> None:
    torch.manual_seed(5)
    layer = nn.Linear(40, 24, bias=bias)
    hidden = torch.randn(1, tokens, 40)
    with torch.inference_mode():
        expected = layer(hidden)
        layer.__class__ = OneDnnLinear
        found = layer(hidden)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5


def test_layers_keep_their_gradients() -> None:
    layer = nn.Linear(8, 4)
    layer.__class__ = OneDnnLinear
    layer(torch.randn(MIN_TOKENS, 8)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize(
    ("processor", "expected"), [("AMD EPYC 9R14", True), ("Intel(R) Xeon(R) Platinum", False)]
)
def test_processors_of_intel_keep_torchs_product(
    processor: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.backends.mkl.is_available() or not torch.backends.mkldnn.is_available():
        pytest.skip("torch has no MKL or no oneDNN here")
    monkeypatch.setattr("medtask.hardware._find_processor_name", lambda: processor)
    model = make_model("llama")
    assert install_onednn_linear(model) is expected
    kinds = {type(module) for module in model.modules() if isinstance(module, nn.Linear)}
    assert kinds == {OneDnnLinear if expected else nn.Linear}
    assert not install_onednn_linear(model.to(torch.bfloat16))
