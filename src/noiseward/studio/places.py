"""Where a studio keeps what is its own: in `.studio` of the folder of runs.

.studio/jobs.json        what is waiting or running, for the next server
.studio/lock             held by the server of this folder
.studio/worker.log       what the worker and the libraries print
.studio/live/NAME/       the newest images of a run that the worker does
.studio/tags.json        tags of runs
.studio/rewards/         rewards that were written in the page
.studio/trash/           runs that were deleted
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from noiseward.errors import ArgumentError

__all__ = ["Places"]


@dataclasses.dataclass(frozen=True)
class Places:
    """The folders of a studio.

    Arguments:
        runs: the folder of runs.
    """

    runs: Path

    @property
    def own(self) -> Path:
        """What is the studio's own."""
        return self.runs / ".studio"

    def live(self, run: Path) -> Path:
        """The newest images of a run."""
        return self.own / "live" / run.name

    def find(self, name: str) -> Path:
        """A run, a batch or a session by its name in the folder.

        Raises:
            ArgumentError: there is none.
        """
        path = self.runs / name
        if not name or name != os.path.basename(name) or name.startswith(".") or not path.is_dir():
            raise ArgumentError(f"no run '{name}' in {self.runs}; it may have been deleted")
        return path

    def fresh(self, slug: str, taken: set[str]) -> Path:
        """A name that nothing in the folder has, and that is not among those taken."""
        number, name = 1, slug
        while name in taken or os.path.lexists(self.runs / name):
            number += 1
            name = f"{slug}-{number}"
        return self.runs / name
