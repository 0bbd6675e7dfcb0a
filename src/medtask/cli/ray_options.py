"""Command-line options for answering a run on a Ray cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from medtask.cli.option_groups import add_options
from medtask.errors import UsageError
from medtask.scaling.ray_workers import RayWorkers


@dataclass(frozen=True, slots=True)
class RayOptions:
    """Where and how a run is answered on Ray; ``shards`` None for the default."""

    address: str
    workers: RayWorkers
    shards: int | None


def _declare_options(
    *,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Answer on a Ray cluster: host:port, auto on one of its nodes, or local for Ray "
            "on this machine.",
        ),
    ] = None,
    ray_workers: Annotated[
        int, typer.Option(min=1, metavar="N", help="Actors, each with a copy of the model.")
    ] = 1,
    ray_cpus: Annotated[int, typer.Option(min=1, metavar="N", help="Cores of each actor.")] = 1,
    ray_gpus: Annotated[
        float, typer.Option(min=0, metavar="N", help="GPUs of each actor, such as 1 or 0.5.")
    ] = 0,
    ray_shards: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Parts that the rows are split into; default: one for 4,096 rows.",
        ),
    ] = None,
) -> RayOptions | None:
    if ray is not None:
        return RayOptions(ray, RayWorkers(ray_workers, ray_cpus, ray_gpus), ray_shards)
    if (ray_workers, ray_cpus, ray_gpus, ray_shards) != (1, 1, 0, None):
        raise UsageError(
            "the options --ray-... are for runs on a Ray cluster, and --ray is not given",
            fix="add --ray local, or the address of a cluster",
        )
    return None


add_ray_options = add_options("ray_options", _declare_options)
