"""Metrics of the loaded models, in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from medtask.server.inference.model_pool import ModelPool


class PoolCollector(Collector):
    """Reads the metrics of a pool when they are asked for; labels are loaded models' references."""

    def __init__(self, pool: ModelPool) -> None:
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        """The metrics of all loaded models."""
        memory = GaugeMetricFamily(
            "medtask_model_memory_bytes", "Memory that loading the model took", labels=["model"]
        )
        waiting = GaugeMetricFamily(
            "medtask_model_waiting_texts", "Texts that wait for the model", labels=["model"]
        )
        passes = CounterMetricFamily(
            "medtask_model_passes", "Passes of the model over texts", labels=["model"]
        )
        texts = CounterMetricFamily(
            "medtask_model_texts", "Texts in these passes", labels=["model"]
        )
        for model in self._pool.list_models():
            if model.worker is None:
                continue
            name = [model.reference]
            memory.add_metric(name, model.size_bytes)
            waiting.add_metric(name, model.worker.waiting_rows)
            passes.add_metric(name, model.worker.counts.passes)
            texts.add_metric(name, model.worker.counts.rows)
        yield from (memory, waiting, passes, texts)
