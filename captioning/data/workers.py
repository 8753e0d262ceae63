"""Processes that make batches ahead of a run's steps."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

AHEAD = 4  # batches that each process has ready


def batches_ahead(
    dataset: Dataset[Any],
    workers: int,
    collate: Callable[[Any], Any],
    *,
    batch_size: int | None = 1,
    sampler: Iterable[Any] | None = None,
    batch_sampler: Iterable[list[int]] | None = None,
) -> DataLoader[Any]:
    """torch's DataLoader with `workers` processes at most, no more than there are cores.

    How many there are changes no batch, nor the random numbers of the run.
    """
    workers = min(workers, cores())
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        batch_sampler=batch_sampler,
        num_workers=workers,
        collate_fn=collate,
        prefetch_factor=AHEAD if workers else None,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_leave_signals_to_the_run if workers else None,
        generator=torch.Generator(),  # or it would draw from the run's own, once a start
    )


def cores() -> int:
    """How many processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _leave_signals_to_the_run(worker: int) -> None:
    """Ctrl-C and a scheduler's SIGTERM reach the whole group: the run saves, then ends its workers.

    One that ended by itself would take the run down before its checkpoint is written.
    """
    for ending in (signal.SIGTERM, signal.SIGINT):
        signal.signal(ending, signal.SIG_IGN)
