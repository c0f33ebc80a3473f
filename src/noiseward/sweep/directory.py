"""Batches: many prompts, one command, one directory.

    batch.json    the packs: which rows are one run
    packs/0000/   their run directories; packs/0003.0/, packs/0003.1/, ... where pack 0003 failed and its rows are
                  done one by one
    index.csv     one line per row: what was asked, what came out, where it is
    contact.png   before and after, row by row
    report.html   the same to look at; it opens without a network, beside the packs

Asked again, a batch skips what is done, goes on with what was begun, tries what failed once more, and does what is new.
A pack is done when its run says so and all its results are there and fit together. One whose closing files are damaged
(status, images, plots) is gone on with from its last step, which writes them again; one whose noise, log or spec is
damaged is named, and left alone until its directory is removed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from noiseward.errors import RunError
from noiseward.runs.claim import is_vacant
from noiseward.runs.files import lock
from noiseward.sweep import packs as cutting
from noiseward.sweep.engine import Beat, Engine, look
from noiseward.sweep.packs import Pack, singles, split
from noiseward.sweep.rows import Row

__all__ = ["Batch", "begin"]


@dataclasses.dataclass(frozen=True)
class Batch:
    """The packs of a batch directory.

    Arguments:
        out: the directory.
        packs: all of them, done or not.
    """

    out: Path
    packs: tuple[Pack, ...]

    @classmethod
    def read(cls, out: Path) -> Batch:
        """The batch of a directory.

        Raises:
            RunError: there is none, or it cannot be read.
        """
        if not os.path.lexists(out / "batch.json"):
            raise RunError(f"{out} is no batch directory, it has no batch.json: 'noiseward batch' makes one")
        return cls(out, tuple(cutting.kept(out)))

    def parts(self) -> list[Pack]:
        """The packs as they are done: those that failed as a whole row by row."""
        return [part for pack in self.packs for part in (singles(pack) if split(self.out, pack) else [pack])]

    def undone(self) -> list[Pack]:
        """Those of `parts` that are not done yet."""
        return [pack for pack in self.parts() if look(pack, self.out).state != "done"]

    def run(self, engine: Engine) -> Iterator[Beat]:
        """Do what is not done yet.

        A pack of several rows that fails is not the end of them: each is done again by itself, after all other packs.
        """
        with lock(self.out):
            if tuple(cutting.kept(self.out)) != self.packs:
                raise RunError(f"another process gave {self.out} other rows meanwhile; give the command again")
            todo = self.undone()
            failed: list[Pack] = []
            for beat in engine.run(todo, self.out):
                yield beat
                if beat.state == "interrupted":
                    return
                if beat.state == "failed" and beat.divisible and beat.rows > 1:
                    failed += [pack for pack in todo if pack.name == beat.pack]
            if failed:
                yield from engine.run([part for pack in failed for part in singles(pack)], self.out)


def begin(out: Path, rows: Sequence[Row], *, size: int) -> Batch:
    """A batch of some rows in a directory, new or begun before.

    Arguments:
        out: the directory.
        rows: what a prompt file asks for.
        size: rows per pack at most.

    Raises:
        RunError: the directory cannot be written, holds something else, or another batch.
    """
    if os.path.lexists(out) and not os.path.isdir(out):
        raise RunError(f"{out} is a file; give a new directory with --out")
    if os.path.isdir(out) and not os.path.lexists(out / "batch.json") and not is_vacant(out):
        raise RunError(f"{out} is not empty and holds no batch; give a new directory with --out")
    if not os.path.isdir(out):
        cutting.plan(out, rows, size)  # what cannot be planned leaves nothing behind
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be made ({error.strerror}); give another directory with --out") from None
    with lock(out):
        planned = cutting.plan(out, rows, size)
        cutting.write(out, planned)
    return Batch(out, tuple(planned))
