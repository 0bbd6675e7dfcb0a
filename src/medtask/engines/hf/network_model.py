"""Models of `medtask.networks` with the interface of models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from medtask.engines.hf.attention import AttentionCall, AttentionPass
from medtask.model_weights import check_weight_values
from medtask.networks.llama import LlamaDecoder, LlamaNetwork, is_known_llama, load_llama
from medtask.networks.tokenizer_file import read_tokenizer_file

if TYPE_CHECKING:
    from medtask.engines.tokens.tokenizer import FileTokenizer


class PackedDecoder:
    """Calls a decoder as `run_forward_pass` calls those of transformers."""

    def __init__(self, decoder: LlamaDecoder) -> None:
        self.decoder = decoder

    def __call__(
        self,
        *,
        input_ids: Tensor,
        position_ids: Tensor,
        packed_pass: AttentionPass,
        use_cache: bool,
    ) -> Any:
        def compute_attention(
            layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
        ) -> Tensor:
            return packed_pass.compute_attention(AttentionCall(layer, query, key, value, scale))

        return self.decoder(input_ids, position_ids, compute_attention)


def find_decoder(model: Any) -> Any:
    """The decoder of a model of transformers or medtask, for packed passes."""
    decoder = model.get_decoder()
    return PackedDecoder(decoder) if isinstance(model, LlamaNetwork) else decoder


def is_known_network(folder: Path) -> bool:
    """Whether a folder's model and tokenizer can be loaded without transformers."""
    return is_known_llama(folder) and read_tokenizer_file(folder) is not None


def load_network_model(folder: Path, source: str, dtype: str) -> tuple[Any, FileTokenizer] | None:
    """Load a model and its tokenizer without transformers; None for an unknown one.

    Raises:
        EngineError: Weights are not finite or blank. ``source`` names the model in the message.
    """
    from medtask.engines.tokens.tokenizer import FileTokenizer

    tokenizer = read_tokenizer_file(folder)
    network = load_llama(folder, "cpu", dtype) if tokenizer else None
    if tokenizer is None or network is None:
        return None
    check_weight_values(network.named_parameters(), source)
    return network, FileTokenizer(tokenizer)
