"""What judges answered during a run: `answers.jsonl`, a line per image and question, with reason, tokens and cost.

A line names its image by a digest of its pixels, so that the reason for any image of the run is found by the image.
Images that a judge compares others with are kept in `answers/`, by their digest: a run that is resumed continues from
these. The file is no part of what a run is bound to: a line that is lost costs a question, no more.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from noiseward.images import open_rgb
from noiseward.problem import Problem
from noiseward.rewards.chat.judge_image import digest_image
from noiseward.rewards.journal import find_journals
from noiseward.rewards.reward import Reward
from noiseward.runs.files import replace_file

__all__ = ["AnswerLog", "describe_answers", "find_reasons", "read_answers"]

FILE, FOLDER = "answers.jsonl", "answers"


@final
class AnswerLog:
    """Writes what the judges of a run answer.

    Arguments:
        problem: the run.
        path: its directory; judges that compare continue from what it holds.
    """

    def __init__(self, problem: Problem, path: Path) -> None:
        self._rewards: tuple[Reward, ...] = (problem.objective.reward, *problem.panel.rewards)
        self._path, known = path, read_answers(path)
        for reward in self._rewards:
            for part, journal in find_journals(reward):
                journal.take()
                if (restore := getattr(part, "restore", None)) is not None:
                    restore([_add_image(record, path) for record in known])

    def write(self) -> None:
        """Write down what was answered since the last time."""
        records = [record for reward in self._rewards for _, each in find_journals(reward) for record in each.take()]
        if not records:
            return
        for record in records:
            if (png := record.pop("png", None)) is not None:
                self._keep(record["image"], base64.b64decode(png))
        with (self._path / FILE).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)

    def _keep(self, digest: str, png: bytes) -> None:
        (self._path / FOLDER).mkdir(exist_ok=True)
        replace_file(self._path / FOLDER / f"{digest}.png", lambda path: path.write_bytes(png))


def read_answers(path: Path) -> list[dict[str, Any]]:
    """What was answered during a run, but for lines that cannot be read."""
    try:
        lines = (path / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("image"), str):
            found.append(record)
    return found


def describe_answers(path: Path, images: Sequence[Path]) -> Iterable[str]:
    """Lines about the judges of a run: what each has cost, and its reasons for some images.

    Arguments:
        path: of the run.
        images: files, one per row.
    """
    records = read_answers(path)
    for name in dict.fromkeys(str(record.get("reward")) for record in records):
        own = [record for record in records if record.get("reward") == name]
        asked = [record for record in own if not record.get("cached")]
        tokens = sum(sum(record.get("tokens", [])) for record in own)
        cost = sum(record.get("cost", 0.0) for record in own)
        words = [f"{len(asked)} images judged", f"{len(own) - len(asked)} from the cache", f"{tokens:,} tokens"]
        words += [f"cost {cost:.2g}"] if cost else []
        words += [f"{count} refused"] if (count := sum(bool(record.get("refused")) for record in own)) else []
        words += [f"{count} unusable"] if (count := sum("failed" in record for record in own)) else []
        yield f"{name}: {', '.join(words)}"
    for row, file in enumerate(images):
        yield from (f"row {row}: {said}" for said in find_reasons(records, file))


def find_reasons(records: Sequence[Mapping[str, Any]], file: Path) -> list[str]:
    """What judges said of the image of a file, each with its name.

    Arguments:
        records: as `read_answers` gives them.
        file: of the image.
    """
    image = open_rgb(file) if records else None
    if image is None:
        return []
    digest = digest_image(image)
    said = {str(record.get("reward")): record for record in records if record["image"] == digest}
    reasons = ((name, record.get("reason") or record.get("refused")) for name, record in said.items())
    return [f"{name} says: {reason}" for name, reason in reasons if reason]


def _add_image(record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A record, with the file of its image where it was kept."""
    file = path / FOLDER / f"{record['image']}.png"
    try:
        return {**record, "png": base64.b64encode(file.read_bytes()).decode()}
    except OSError:
        return dict(record)
