"""Run the commands of the gallery as a user would: `noiseward align ... --out DIR`.

What is done is not run again, and what was interrupted continues.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from noiseward.cli import main

__all__ = ["FOLDER", "run"]

ROOT = Path(__file__).resolve().parents[2]
KEYS = ("seed", "before", "best", "strict", "image", "step", "ended")
FOLDER = ROOT / ".experiments" / "gallery"


def run(name: str, line: str) -> dict[str, Any]:
    """The numbers of a run, which is in `FOLDER / name`; made now, unless the same command made it before."""
    folder, note, begun = FOLDER / name, FOLDER / f"{name}.json", FOLDER / f"{name}.line"
    words = shlex.split(line)
    assert words[0] == "noiseward"
    if note.exists() and (stored := json.loads(note.read_text(encoding="utf-8")))["line"] == line:
        return stored["found"]
    print(line, flush=True)
    if (folder / "spec.json").exists() and begun.exists() and begun.read_text(encoding="utf-8") == line:
        told = json.loads(call(["resume", str(folder), "--json"]))
    else:
        shutil.rmtree(folder, ignore_errors=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        begun.write_text(line, encoding="utf-8")
        told = json.loads(call([*words[1:], "--out", str(folder), "--json"]))
    found = {key: told[key] for key in ("method", "steps", "nfe")}
    found["rows"] = [{key: row[key] for key in KEYS} for row in told["rows"]]
    found["watched"] = read_watched(folder, told["rows"])
    note.write_text(json.dumps({"line": line, "found": found}, indent=1), encoding="utf-8")
    return found


def call(arguments: list[str]) -> str:
    """What the command line prints, called in this process, from the root of the repository."""
    output = io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(output):
        command = sys.argv
        sys.argv = ["noiseward", *arguments]
        try:
            main()
        except SystemExit as end:
            if end.code:
                raise
        finally:
            sys.argv = command
    return output.getvalue()


def read_watched(folder: Path, rows: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """What held-out rewards say of each row: at the start, and at its best."""
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    by = {step["index"]: step.get("watched", {}) for step in steps}
    return {
        name: [[by[at][name][number] for at in (0, row["step"])] for number, row in enumerate(rows)]
        for name in by[0]
        if all(name in by.get(row["step"], {}) for row in rows)
    }
