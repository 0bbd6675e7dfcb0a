"""The settings of sentence encoders in the format of sentence-transformers."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeInt, model_validator

from medtask.json_content import JsonContent


class _Module(JsonContent):
    type: str = ""
    path: str = ""


class ModulesFile(JsonContent):
    """The parts of an encoder, from ``modules.json``, which is a list."""

    modules: list[_Module] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _name_list(cls, content: Any) -> Any:
        return {"modules": content} if isinstance(content, list) else content


class SentenceSettings(JsonContent):
    """The content of ``sentence_bert_config.json``."""

    max_seq_length: NonNegativeInt | None = None
    do_lower_case: bool | None = None


class PromptSettings(JsonContent):
    """The content of ``config_sentence_transformers.json``."""

    prompts: dict[str, str] | None = None
    default_prompt_name: str | None = None


class PoolingSettings(JsonContent):
    """How the vectors of tokens are pooled; older files have one key for each way."""

    pooling_mode: str | list[str] | None = None
    include_prompt: bool = True


class DenseSettings(JsonContent):
    """A linear layer behind the pooling."""

    activation_function: str = "Tanh"
