"""Actors of Ray Data that hold a model: how many there are, and what each reserves."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from medtask.errors import EngineError, MissingExtra, UsageError


@dataclass(frozen=True, slots=True)
class RayWorkers:
    """A pool of actors.

    Attributes:
        count: The number of actors, or the smallest and the largest number.
        cpus: Cores of each actor, which are also its threads unless ``threads`` is given.
        gpus: GPUs of each actor; 0.5 lets two small models share one.

    Raises:
        UsageError: The numbers are not valid.
    """

    count: int | tuple[int, int] = 1
    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        smallest, largest = self._get_limits()
        if not 1 <= smallest <= largest or self.cpus < 1 or self.gpus < 0:
            raise UsageError(
                f"{self.count!r} workers with {self.cpus} cores and {self.gpus} GPUs are not valid",
                fix="set 1 worker or more, or the smallest and the largest number, with 1 core or "
                "more each",
            )

    def to_arguments(self, **strategy: Any) -> dict[str, Any]:
        """The arguments of ``map_batches``; ``strategy`` are further ones of the actor pool."""
        from ray.data import ActorPoolStrategy

        smallest, largest = self._get_limits()
        return {
            "compute": ActorPoolStrategy(min_size=smallest, max_size=largest, **strategy),
            "num_cpus": self._choose_reservation(smallest),
            "num_gpus": self.gpus or None,
        }

    def _get_limits(self) -> tuple[int, int]:
        return (self.count, self.count) if isinstance(self.count, int) else self.count

    def _choose_reservation(self, workers: int) -> float:
        """The cores that each actor reserves, so that one core remains for reading and writing.

        Where actors take all cores, Ray Data waits forever for one that could read. A cluster
        without enough cores for the actors may grow, and nothing is changed.
        """
        import ray

        cores = ray.cluster_resources().get("CPU", 0.0)
        if cores - 1 < workers * self.cpus <= cores:
            return float((cores - 1) / workers)
        return self.cpus


def require_ray() -> None:
    """Raise MissingExtra if Ray is not installed."""
    if find_spec("ray") is None:
        raise MissingExtra("Ray is not installed here", fix="pip install 'medtask[ray]'")


@contextmanager
def connect_ray(address: str) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine ("local"), for the ``with`` block.

    A connection that this process has already is used and kept.

    Raises:
        MissingExtra: Ray is not installed.
        EngineError: The cluster does not answer.
    """
    require_ray()
    import ray
    from ray.data import DataContext

    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == "local" else None,
            configure_logging=False,
            log_to_driver=False,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError(
            f"Ray at {address} does not answer ({type(error).__name__})",
            fix="give the address of the head node, as in 10.0.0.1:6379, auto on a node of the "
            "cluster, or local",
        ) from error
    context = DataContext.get_current()
    context.enable_progress_bars = False
    try:
        yield
    finally:
        ray.shutdown()
