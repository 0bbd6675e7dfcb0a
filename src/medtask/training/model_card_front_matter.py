"""The YAML front matter of a model card, as the Hugging Face Hub reads it."""

from __future__ import annotations

from collections.abc import Sequence

from medtask.display import format_name
from medtask.evaluation.kinds.metrics import get_metric_title
from medtask.evaluation.statistics.intervals import Metric
from medtask.kinds import KINDS
from medtask.training.methods import METHODS
from medtask.training.model_card_content import CardContent

# The Hub's metric ids that differ from those of this package.
_HUB_METRICS = {"mcc": "matthews_correlation", "rouge_l": "rouge", "kappa": "cohen_kappa"}


def write_front_matter(content: CardContent) -> str:
    """The front matter between its lines of dashes, written by huggingface_hub."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=KINDS[task.kind].pipeline_tag,
            task_name=_plain(task.name),
            dataset_type="private",
            dataset_name=_plain(task.table),
            dataset_split="validation",
            metric_type=name_metric(measure),
            metric_name=_describe(measure, figure),
            metric_value=round(figure.value, 4),
            # The Hub merges results of one task and data set; two tasks on one table must be
            # distinct.
            dataset_config=_plain(task.name) if len(content.tasks) > 1 else None,
        )
        for task in content.tasks
        for measure, figure in task.metrics.items()
    ]
    front = ModelCardData(
        base_model=_one_or_all(content.base_models),
        library_name=content.library or METHODS[content.method].library,
        license=content.license or "other",
        pipeline_tag="text-generation"
        if METHODS[content.method].language
        else "text-classification",
        tags=_list_tags(content),
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=_plain(content.name),
        eval_results=results or None,
    )
    if content.base_models:
        front["base_model_relation"] = "adapter" if METHODS[content.method].adapter else "finetune"
    if not results:  # otherwise the Hub's class writes it into the model index
        front.pop("model_name")
    return f"---\n{front.to_yaml(line_break=chr(10))}\n---\n"


def name_metric(metric: str) -> str:
    """The Hub's id of a metric; the metric's name if the Hub has none."""
    return "f1" if "f1" in metric else _HUB_METRICS.get(metric, metric)


def _describe(metric: str, estimate: Metric) -> str:
    interval = (
        f"95 % interval {estimate.interval_text}" if estimate.low is not None else "no interval"
    )
    return f"{get_metric_title(metric)} ({interval}, n = {estimate.n:,})"


def _list_tags(content: CardContent) -> list[str]:
    kinds = sorted({task.kind for task in content.tasks})
    return [
        "medtask",
        "medical",
        content.method,
        *kinds,
        *(["demonstration"] if content.demonstration else []),
    ]


def _one_or_all(names: Sequence[str]) -> str | list[str] | None:
    return None if not names else names[0] if len(names) == 1 else list(names)


def _plain(text: str) -> str:
    return format_name(" ".join(text.split()), 200) or "unnamed"
