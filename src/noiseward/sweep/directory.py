"""Sweeps: many runs in one directory.

    batch.json    the packs: which rows are one run
    packs/0000/   their run directories; packs/0003.0/, packs/0003.1/, ... where pack 0003 failed and its rows are
                  done one by one
    index.csv     one line per row: what was asked, what came out, where it is
    report.html   the same to look at; it opens without a network
    contact.png   of a batch: before and after, row by row
    table.json, report.md, reward.png, fidelity.png    of a comparison

Asked again, a sweep skips what is done, continues what was begun, retries what failed, and does what is new. A pack is
done when its run says so and all its results are there and fit together. One whose closing files are damaged (status,
images, plots) continues from its last step, which writes them again; one whose noise, log or spec is damaged is named,
and left alone until its directory is removed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from noiseward.errors import RunError
from noiseward.runs.claim import is_vacant
from noiseward.runs.files import lock
from noiseward.sweep.engine import Beat, Engine
from noiseward.sweep.pack_task import PackTask
from noiseward.sweep.packs import FILE, Pack, is_split, plan, read_packs, split_rows, write_packs
from noiseward.sweep.rows import Row, check_inputs

__all__ = ["Sweep"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The packs of a sweep directory.

    Arguments:
        out: the directory.
        packs: all of them, done or not.
    """

    out: Path
    packs: tuple[Pack, ...]

    @classmethod
    def read(cls, out: Path) -> Sweep:
        """The sweep of a directory.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        if not os.path.lexists(out / FILE):
            raise RunError(f"{out} is no batch directory, it has no {FILE}; 'noiseward batch' makes one")
        return cls(out, tuple(read_packs(out)))

    @classmethod
    def begin(cls, out: Path, rows: Sequence[Row], *, size: int, measure: tuple[str, ...] | None = None) -> Sweep:
        """A sweep of some rows in a directory, new or begun before; the arguments are those of `packs.plan`.

        Raises:
            RunError: the directory cannot be written, holds something else, or other rows.
        """
        if os.path.lexists(out) and not os.path.isdir(out):
            raise RunError(f"{out} is a file; give a new directory with --out")
        if os.path.isdir(out) and not os.path.lexists(out / FILE) and not is_vacant(out):
            raise RunError(f"{out} is not empty and holds no {FILE}; give a new directory with --out")
        if not os.path.isdir(out):
            check_inputs(rows)
            plan(out, rows, size, measure)  # what cannot be planned leaves nothing behind
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{out} cannot be made ({error.strerror}); give another directory with --out") from None
        with lock(out):
            packs = plan(out, rows, size, measure)
            write_packs(out, packs)
        return cls(out, tuple(packs))

    @property
    def size(self) -> int:
        """How many rows it has."""
        return sum(pack.size for pack in self.packs)

    def parts(self) -> list[Pack]:
        """The packs as they are done: those that failed as a whole row by row."""
        return [part for pack in self.packs for part in (split_rows(pack) if is_split(self.out, pack) else [pack])]

    def undone(self) -> list[Pack]:
        """Those of `parts` that are not done yet."""
        return [pack for pack in self.parts() if PackTask(pack, self.out).inspect().name != "done"]

    def run(self, engine: Engine) -> Iterator[Beat]:
        """Do what is not done yet.

        A pack of several rows that fails does not end them: each is done again by itself, after all other packs.
        """
        out = self.out.absolute() if engine.remote else self.out
        with lock(self.out):
            if tuple(read_packs(self.out)) != self.packs:
                raise RunError(f"another process gave {self.out} other rows meanwhile; give the command again")
            todo = {pack.name: pack for pack in self.undone()}
            failed: list[Pack] = []
            for beat in engine.run([PackTask(pack, out) for pack in todo.values()]) if todo else ():
                yield beat
                if beat.state == "interrupted":
                    return
                if beat.state == "failed" and beat.divisible and beat.rows > 1:
                    failed.append(todo[beat.pack])
            if failed:
                yield from engine.run([PackTask(part, out) for pack in failed for part in split_rows(pack)])
