"""A Ray cluster (extra `ray`) and the actors hired on it: one per GPU, or per so many processor cores.

Usage statistics are off.
"""

from __future__ import annotations

import logging
import os
from typing import Any, final

from noiseward.errors import ArgumentError, RunError

__all__ = ["Cluster", "import_ray", "start"]


def import_ray() -> Any:
    """Ray, with its usage statistics off.

    Raises:
        ArgumentError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ArgumentError("--engine ray needs the package ray; pip install 'noiseward[ray]'") from None
    return ray


def start(cores: int | None = None) -> None:
    """Start Ray on this machine alone, for as long as this process lives.

    Arguments:
        cores: how many it assumes to have; default: those of the machine.

    Raises:
        RunError: it does not start. Ray gives itself 30 seconds for it, so on a busy machine it is tried three times.
    """
    ray = import_ray()
    for attempt in range(3):
        try:
            ray.init(
                address="local", num_cpus=cores, include_dashboard=False, object_store_memory=200 * 2**20,
                logging_level=logging.ERROR, log_to_driver=False,
            )  # fmt: skip
            return
        except Exception as error:  # of several types, whatever went wrong
            ray.shutdown()
            if attempt == 2:
                raise RunError(f"Ray did not start here ({_line(error)}); try again, or --engine local") from None


@final
class Cluster:
    """Room for workers.

    Arguments:
        address: of a running cluster: `auto`, or `HOST:PORT`; None starts one on this machine, or takes the one this
            process is connected to already.
        workers: at most this many; default: one per GPU of the cluster, without GPUs one per `threads` processor cores.
        threads: per worker. Other numbers of threads may round differently.

    Raises:
        ArgumentError: Ray is not installed, there is no cluster at the address, or it has no room for the workers.
        RunError: Ray did not start.
    """

    def __init__(self, address: str | None = None, *, workers: int | None = None, threads: int = 1) -> None:
        self.ray = ray = import_ray()
        self._ours = not ray.is_initialized()
        if self._ours and address is None:
            start()
        elif self._ours:
            try:
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
            except Exception as error:  # of several types, whatever went wrong
                raise ArgumentError(
                    f"no cluster at '{address}' ({_line(error)}); 'ray start --head' starts one, or leave --address "
                    "out for this machine alone"
                ) from None
        there = ray.cluster_resources()
        self._gpus = 1 if there.get("GPU", 0) >= 1 else 0
        room = int(there["GPU"]) if self._gpus else int(there.get("CPU", 1) // threads)
        if workers is not None and not 1 <= workers <= room:
            self.close()
            what = "GPUs" if self._gpus else f"times {threads} processor cores"
            raise ArgumentError(f"--workers must be 1 to {room}, for the cluster has {room} {what}, got {workers}")
        self.workers, self.threads = workers or max(room, 1), threads

    def close(self) -> None:
        """End the cluster if it was started here."""
        if self._ours and self.ray.is_initialized():
            self.ray.shutdown()

    def hire(self, kind: type, *arguments: Any) -> Any:
        """A new actor of a class, with its share of the machine; it gets threads, folder and the arguments."""
        actor = self.ray.remote(kind).options(num_cpus=self.threads, num_gpus=self._gpus)
        return actor.remote(self.threads, os.getcwd(), *arguments)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
