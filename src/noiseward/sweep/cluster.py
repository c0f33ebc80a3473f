"""Ray (extra `ray`), found or started. Usage statistics are off."""

from __future__ import annotations

import logging
import os
from typing import Any

from noiseward.errors import ArgumentError, RunError, describe_error

__all__ = ["connect", "import_ray", "start"]


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
                why = describe_error(error, 200)
                raise RunError(f"Ray did not start here ({why}); try again, or --engine local") from None


def connect(address: str) -> None:
    """Connect to a running cluster: `auto`, or `HOST:PORT`.

    Raises:
        ArgumentError: there is none.
    """
    try:
        import_ray().init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as error:  # of several types, whatever went wrong
        raise ArgumentError(
            f"no cluster at '{address}' ({describe_error(error, 200)}); 'ray start --head' starts one, or leave "
            "--address out for this machine alone"
        ) from None
