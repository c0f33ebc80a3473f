"""Run the commands, draw the images, store the numbers, write the page."""

from __future__ import annotations

import argparse
import json

import torch

from experiments import gallery, report
from experiments.gallery import page
from experiments.gallery.entries import ENTRIES
from experiments.gallery.run import FOLDER, run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/gallery", description=gallery.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [entry.name for entry in ENTRIES]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help="some of them")
    parser.add_argument("--faces", metavar="FILE.py:FUNCTION", help="makes the pipeline of the faces")
    parser.add_argument("--page", action="store_true", help="only write the page again, from the stored results")
    given = parser.parse_args()
    if not given.page:
        torch.set_num_threads(1)
        make(given.only or names, {"faces": given.faces})
    page.write()


def make(names: list[str], models: dict[str, str | None]) -> None:
    """Make entries; those of models that are not given stay as they are."""
    stored = json.loads(page.RESULT.read_text(encoding="utf-8"))["results"] if page.RESULT.exists() else {}
    for entry in sorted((one for one in ENTRIES if one.name in names), key=lambda one: names.index(one.name)):
        if entry.model and not models[entry.model]:
            print(f"{entry.name}: left as it is; give its model with --{entry.model} FILE.py:FUNCTION")
            continue
        model = models[entry.model] if entry.model else None
        stored[entry.name] = {one.name: run(one.name, one.line.format(model=model)) for one in entry.runs}
        image = entry.draw([(one.label, FOLDER / one.name) for one in entry.runs])
        image.quantize(256).save(page.picture(entry), optimize=True)
        results = {each.name: stored[each.name] for each in ENTRIES if each.name in stored}
        report.write("gallery", settings={"seed": 0}, results=results, verdict=f"{entry.name}: done")


if __name__ == "__main__":
    main()
