"""Malformed calls of the command line, made from a grammar (`malformed.py`) and a seed: `scripts/fuzz`.

Each call is made in a folder of its own, by a process that is forked after everything was imported, or now and then
started afresh, and is held to these:

    traceback       there is none, and no signal ends the process
    status          0, 1, 2 or 130; with 1 the last line on standard error is this library's, printable and not endless
    nothing done    status 0 says that something was done: a run that is there, output that was printed
    hang            it ends within a minute
    half-written    a directory that it leaves is a run, batch or comparison, or was there before

One call in six is a sound one about a run or batch directory that was damaged before (`damage.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.damage import damages
from tests.malformed import FUNCTIONS, TEXTS, call

SECONDS = 60  # of a call at most
FRESH = 40  # of so many calls one is a process of its own


def prepare(folder: Path) -> None:
    """What calls are about: a model, rewards, prompt files, and a run and a batch that are done."""
    from tests.tiny import stable_diffusion

    stable_diffusion().save_pretrained(folder / "model")
    (folder / "mine.py").write_text(FUNCTIONS)
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    (folder / "folder.py").mkdir()
    (folder / "locked").mkdir(mode=0o500)
    (folder / "runs").mkdir()
    for command in MADE.values():
        status, _, err, _ = wait_for(spawn([*command, *FEW], folder), folder)
        assert status == 0, err


FEW = [
    "--model", "model", "--num-inference-steps", "2", "--height", "16", "--width", "16", "--reward", "mine.py:light"
]  # fmt: skip
MADE = {
    "done": ["align", "a", "--steps", "1", "--out", "done", "-q"],
    "other": ["align", "b", "--steps", "1", "--out", "other", "-q"],
    "packs": ["batch", "p.txt", "--steps", "0", "--out", "packs", "-q"],
}


def damage_directory(seed: int, folder: Path) -> list[str]:
    """A sound call about a directory that is damaged first."""
    chance = random.Random(seed)
    name = chance.choice(["done", "packs"])
    other = folder / "other" if name == "done" else None
    chance.choice(list(damages(folder / name, other=other, seed=seed))).do(folder / name)
    run = "done" if name == "done" else str(next((folder / "packs" / "packs").iterdir()).relative_to(folder))
    about = [["list", "."], ["show", run], ["export", run, "--csv", "steps.csv"], ["replay", run]]
    again = ["resume", "done", "--steps", "+1"] if name == "done" else [*MADE["packs"], *FEW]
    return chance.choice([*about, again])


KINDS: list[Callable[[int, Path], list[str]]] = [*[lambda seed, folder: call(seed)] * 5, damage_directory]
"""How calls are made: from a seed, and the folder they are made in, which they may change first."""


# ---- making a call ----


def fork(arguments: list[str], folder: Path) -> int:
    """The command line in a child of this process."""
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        _settle(folder)
        sys.argv = ["noiseward", *arguments]
        from noiseward.cli import command

        try:
            command()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def spawn(arguments: list[str], folder: Path) -> int:
    """The command line in a process of its own."""
    child = os.fork()
    if child:
        return child
    try:
        _settle(folder)
        given = [os.fsencode(one) for one in arguments]
        os.execv(sys.executable, [os.fsencode(sys.executable), b"-m", b"noiseward", *given])
    finally:
        os._exit(98)


def _settle(folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    for number, name in ((1, ".out"), (2, ".err")):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115


def wait_for(child: int, folder: Path) -> tuple[int, str, str, bool]:
    """Status, output, errors, and whether it had to be killed, of a call."""
    until, killed = time.monotonic() + SECONDS, False
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        if time.monotonic() > until and not killed:
            killed = True
            os.killpg(child, signal.SIGKILL)
        time.sleep(0.01)
    out, err = ((folder / name).read_text(errors="replace") for name in (".out", ".err"))
    return os.waitstatus_to_exitcode(status), out, err, killed


# ---- what is wrong with it ----


def faults(arguments: list[str], folder: Path, before: set[str], found: tuple[int, str, str, bool]) -> Iterator[str]:
    """What a call did wrong."""
    status, out, err, killed = found
    if killed:
        yield "hang"
        return
    if "Traceback (most recent call last)" in err or status < 0:
        yield "traceback"
        return
    lines = [one for one in err.splitlines() if one.strip()]
    if status not in (0, 1, 2, 130):
        yield "status"
    if status == 1 and not (lines and lines[-1].startswith(("noiseward: ", "failed: ")) and lines[-1].isprintable()):
        if not (arguments[0] in ("batch", "doctor") and out):
            yield "status"
    if any(len(one) > 1100 for one in lines if one.startswith("noiseward: ")):
        yield "status"
    made = sorted(path for path in _names(folder) - before if (folder / path).is_dir())
    if status == 0 and not out.strip() and "--quiet" not in arguments:
        yield "nothing done"
    if status == 0 and arguments[0] == "align" and not (out.strip() and _sound(folder, made)):
        yield "nothing done"
    if made and not _sound(folder, made):
        yield "half-written"
    if any(".new" in path.name for path in folder.rglob(".*")):
        yield "half-written"


def _names(folder: Path) -> set[str]:
    """Folders that runs may be in, two levels deep; one that was only claimed, by a process that is gone, is empty."""
    found = (path for pattern in ("*", "*/*") for path in folder.glob(pattern))
    claimed = {path.parent for path in folder.glob("**/.lock") if len(list(path.parent.iterdir())) == 1}
    return {str(path.relative_to(folder)) for path in found if path not in claimed}


def _sound(folder: Path, made: list[str]) -> bool:
    """Whether one of some new folders is a run, batch or comparison with a state to tell."""
    for name in made:
        path = folder / name
        if (path / "batch.json").exists() or ((path / "spec.json").exists() and (path / "packs").is_dir()):
            return True
        if (path / "spec.json").exists():
            state: Any = json.loads((path / "status.json").read_text()) if (path / "status.json").exists() else {}
            return state.get("state") in ("done", "failed", "interrupted", "running")
        if any(path.rglob("*.png")) or any((path / one).exists() for one in ("grid.png", "steps.csv")):
            return True
    return False


def main() -> int:
    """Make the calls, and print a summary and each offender with its seed."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.splitlines()[0])  # pyright: ignore
    parser.add_argument("--calls", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0, help="of the first call; each next has the next")
    parser.add_argument("--jobs", type=int, default=2, help="processes that share the calls")
    parser.add_argument("--verbose", action="store_true", help="print every call")
    asked = parser.parse_args()
    if asked.jobs > 1 and asked.calls > asked.jobs:
        return _share(asked)
    from noiseward.pipelines.load import load_pipeline

    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    os.environ |= {"HF_HUB_OFFLINE": "1", "COLUMNS": "120", "PYTHONPATH": paths}
    base = Path(tempfile.mkdtemp(prefix="noiseward-fuzz-"))
    begun, counts, offenders = time.monotonic(), Counter[str](), []
    try:
        template = base / "template"
        template.mkdir()
        prepare(template)
        load_pipeline(template / "model")  # imports what loading needs, once for all
        for seed in range(asked.seed, asked.seed + asked.calls):
            folder = base / "call"
            shutil.copytree(template, folder, symlinks=True)
            os.mkfifo(folder / "pipe.txt")
            arguments = KINDS[seed % len(KINDS)](seed, folder)
            before = _names(folder)
            made = (spawn if seed % FRESH == 0 else fork)(arguments, folder)
            found = wait_for(made, folder)
            wrong = sorted(set(faults(arguments, folder, before, found)))
            counts[f"status {found[0]}"] += 1
            counts.update(wrong)
            if wrong or asked.verbose:
                said = " ".join(found[2].split())[-400:]
                offenders += [seed] if wrong else []
                shown = [one if len(one) < 80 else f"{one[:60]}... ({len(one)})" for one in arguments]
                line = f"seed {seed}: {', '.join(wrong) or 'fine'}: {shown} -> {found[0]}: {said}"
                print(ascii(line)[1:-1], flush=True)
            (folder / "locked").chmod(0o700)
            shutil.rmtree(folder)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(base)], check=False)
        shutil.rmtree(base, ignore_errors=True)
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    print(f"{asked.calls} calls in {time.monotonic() - begun:.0f} s: {told}; {len(offenders)} not clean")
    return 1 if offenders else 0


def _share(asked: argparse.Namespace) -> int:
    """Let several processes make the calls."""
    cuts = [asked.seed + asked.calls * job // asked.jobs for job in range(asked.jobs + 1)]
    more = ["--jobs", "1", *(["--verbose"] if asked.verbose else [])]
    command = [sys.executable, "-m", "tests.fuzz", *more]
    parts = [
        subprocess.Popen([*command, "--seed", str(begin), "--calls", str(end - begin)])
        for begin, end in zip(cuts, cuts[1:], strict=False)
    ]
    return max(part.wait() for part in parts)


if __name__ == "__main__":
    sys.exit(main())
