"""Lay out what the site is built from: docs/, what it links to elsewhere in the repository, and the tutorial.

A link to `../x/y.md` becomes a page, to another file a download, to a folder its name. So the same Markdown reads well
in the repository and on the site, and the site needs no other host.

    python scripts/site/stage.py FOLDER
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from nbconvert import MarkdownExporter

__all__ = ["stage"]

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md", "training/RESULTS.md")
MOVED = {"README.md": "index.md", "docs/tutorial.ipynb": "tutorial.md"}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)
STYLE = re.compile(r"<style.*?</style>", re.DOTALL)


def stage(folder: Path) -> None:
    """Write the site's Markdown and files into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("*.ipynb"))
    _write_tutorial(folder)
    todo, seen = [*PAGES], set()
    todo += [f"docs/{page.relative_to(folder).as_posix()}" for page in sorted(folder.rglob("*.md"))]
    while todo:
        name = todo.pop()
        if name in seen or not (ROOT / name).is_file() and name != "docs/tutorial.md":
            continue
        seen.add(name)
        target = folder / _place(name)
        if not name.endswith(".md"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target)
            continue
        text = (target if name.startswith("docs/") else ROOT / name).read_text(encoding="utf-8")
        text, linked = _rewrite(name, text)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        todo += [other for other in linked if not other.startswith("docs/")]


def _place(name: str) -> str:
    """Where a file of the repository is on the site."""
    return MOVED.get(name) or (name[len("docs/") :] if name.startswith("docs/") else f"source/{name}")


def _rewrite(name: str, text: str) -> tuple[str, list[str]]:
    """The text of a page with links as they hold on the site, and the files that it links to."""
    here, linked = str(PurePosixPath(_place(name)).parent), []

    def replace(match: re.Match[str]) -> str:
        mark, words, link, anchor = match[1], match[2], match[3], match[4] or ""
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        target = normpath(str(PurePosixPath(name).parent / link))
        if (ROOT / target).is_dir():
            return words
        if target not in MOVED:
            linked.append(target)
        return f"{mark}[{words}]({relpath(_place(target), here)}{anchor})"

    parts = FENCE.split(text)
    parts[::2] = [LINK.sub(replace, prose) for prose in parts[::2]]
    return "".join(parts), linked


def _write_tutorial(folder: Path) -> None:
    """The notebook as a page, with its images."""
    body, resources = MarkdownExporter().from_filename(str(ROOT / "docs" / "tutorial.ipynb"))
    for name, data in resources["outputs"].items():
        body = body.replace(f"]({name})", f"](tutorial/{name})")
        (folder / "tutorial").mkdir(exist_ok=True)
        (folder / "tutorial" / name).write_bytes(data)
    (folder / "tutorial.md").write_text(STYLE.sub("", body), encoding="utf-8")


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
