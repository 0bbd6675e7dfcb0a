"""The front matter of a model card: what the Hub, and people's scripts, read of a model folder's
README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from medtask.data.source import show_name
from medtask.engines.trained import Kind
from medtask.evaluate import words
from medtask.evaluate.intervals import Estimate
from medtask.train.card_facts import CardFacts

_ADAPTERS = ("lora", "rslora", "qlora", "dora")
_WHAT = {
    "label": "text-classification",
    "labels": "text-classification",
    "choice": "multiple-choice",
}
# The Hub's metric ids, where they are not our names.
_METRICS = {"mcc": "matthews_correlation", "rouge_l": "rouge", "kappa": "cohen_kappa"}


def write_front_matter(facts: CardFacts) -> str:
    """YAML between its two lines of dashes, by huggingface_hub, whose schema it follows."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=name_pipeline(task.kind),
            task_name=_plain(task.name),
            dataset_type=facts.datasets[0] if len(facts.datasets) == 1 else "private",
            dataset_name=_plain(task.table),
            dataset_split="validation",
            metric_type=name_metric(measure),
            metric_name=_describe(measure, figure),
            metric_value=round(figure.value, 4),
            # The Hub takes results of one task and one data set together; two tasks on one table
            # are not that.
            dataset_config=_plain(task.name) if len(facts.tasks) > 1 else None,
        )
        for task in facts.tasks
        for measure, figure in task.figures.items()
    ]
    front = ModelCardData(
        base_model=_one_or_all(facts.base_models),
        library_name=name_library(facts.method),
        license=facts.license or "other",
        language=list(facts.languages) or None,
        pipeline_tag="text-generation"
        if name_library(facts.method) == "peft" or facts.method == "full"
        else "text-classification",
        tags=_list_tags(facts),
        datasets=list(facts.datasets) or None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=_plain(facts.name),
        eval_results=results or None,
    )
    if facts.base_models:
        front["base_model_relation"] = "adapter" if facts.method in _ADAPTERS else "finetune"
    if not results:  # else the Hub's class puts it into the model index
        front.pop("model_name")
    return f"---\n{front.to_yaml(line_break=chr(10))}\n---\n"


def name_pipeline(kind: Kind) -> str:
    """What the Hub calls a kind of question."""
    return _WHAT.get(kind, "text-generation")


def name_library(method: str) -> str:
    """The library that can load the files, as the Hub calls it."""
    if method in _ADAPTERS:
        return "peft"
    return "transformers" if method in ("full", "encoder") else "medtask"


def name_metric(measure: str) -> str:
    """The Hub's id of one of our measures; the measure's own name where the Hub has none."""
    return "f1" if "f1" in measure else _METRICS.get(measure, measure)


def _describe(measure: str, figure: Estimate) -> str:
    interval = f"95 % interval {figure.interval}" if figure.low is not None else "no interval"
    return f"{words.MEASURES.get(measure, measure)} ({interval}, n = {figure.n:,})"


def _list_tags(facts: CardFacts) -> list[str]:
    kinds = sorted({task.kind for task in facts.tasks})
    return [
        "medtask",
        "medical",
        facts.method,
        *kinds,
        *(["demonstration"] if facts.demonstration else []),
    ]


def _one_or_all(names: Sequence[str]) -> str | list[str] | None:
    return None if not names else names[0] if len(names) == 1 else list(names)


def _plain(text: str) -> str:
    return show_name(" ".join(text.split()), 200) or "unnamed"
