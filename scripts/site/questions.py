"""Whether what people ask is answered within two clicks from the front page of the built site.

A click follows a link in the text of a page; navigation and search do not count. The answer is a page, or a section of
one, which must exist. `scripts/docs` runs it after the build.

    python scripts/site/questions.py site
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from posixpath import normpath

__all__ = ["QUESTIONS", "Page", "count_clicks", "main"]

QUESTIONS = {
    "What is it?": "",
    "Install it": "start/install/",
    "Five minutes on the command line": "start/command-line/",
    "Five minutes in a notebook": "tutorial/",
    "Use the studio": "studio/",
    "Use a LoRA": "how-to/lora/",
    "Follow edges (ControlNet)": "how-to/controlnet/",
    "Start from an image (img2img)": "how-to/img2img/",
    "Inpainting": "how-to/inpaint/",
    "IP-Adapter": "how-to/ip-adapter/",
    "Use my own scheduler": "how-to/scheduler/",
    "Save noise and render with more steps": "how-to/save-noise/",
    "Half precision": "how-to/precision/",
    "Two GPUs": "how-to/two-gpus/",
    "A cluster": "cluster/",
    "Limit GPU memory": "how-to/memory/",
    "Offload and quantized models": "how-to/memory/",
    "Settings for my card": "my-card/",
    "HPSv2 and PickScore from disk": "how-to/preference-rewards/",
    "Combine rewards and require constraints": "how-to/combine/",
    "Stop at a reward": "how-to/stop/",
    "Stop when hacked, watch": "how-to/watch/",
    "A callback": "how-to/callback/",
    "Trackers": "how-to/trackers/",
    "A CSV file of prompts": "how-to/csv/",
    "Reproduce": "how-to/reproduce/",
    "Cite": "help/citing/",
    "A vision-language model as the judge": "how-to/judge/",
    "Be the judge myself": "how-to/be-the-judge/",
    "My own reward": "how-to/own-reward/",
    "My own method": "own-method/",
    "My own sampler": "samplers/",
    "Slurm": "how-to/slurm/",
    "Docker": "how-to/docker/",
    "Kubernetes with Ray": "how-to/kubernetes/",
    "torch.compile": "how-to/compile/",
    "Which method?": "how-to-choose/",
    "The image is black": "help/troubleshooting/#the-image-is-black-or-nan",
    "The reward does not rise": "help/troubleshooting/#the-reward-does-not-rise",
    "The reward is hacked": "help/troubleshooting/#the-reward-rises-and-the-image-gets-worse",
    "Out of memory": "help/troubleshooting/#out-of-memory",
    "It is slow": "help/troubleshooting/#it-is-slow",
    "A gradient error": "help/troubleshooting/#an-error-about-gradients",
    "Seeds differ": "help/troubleshooting/#seeds-give-different-images",
    "What a word means": "help/glossary/",
    "What changed": "source/CHANGELOG/",
}


class Page(HTMLParser):
    """The anchors of a page, and where the links of its text lead.

    Arguments:
        path: of its HTML file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self._inside = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        self._inside += tag == "article"
        if tag == "a" and self._inside and given.get("href"):
            self.links.add(str(given["href"]))

    def handle_endtag(self, tag: str) -> None:
        self._inside -= tag == "article"


def find_file(site: Path, name: str) -> Path:
    """The HTML file of a page named as in `QUESTIONS`."""
    path = site / name.partition("#")[0]
    alone = path.with_name(f"{path.name}.html")
    return alone if name and alone.exists() else path / "index.html"


def resolve(site: Path, page: Path, link: str) -> Path | None:
    """The file that a link leads to, if it is on the site."""
    if "://" in link or link.startswith(("#", "mailto:")):
        return None
    target = Path(normpath(str(page.parent / link.partition("#")[0])))
    return target / "index.html" if target.is_dir() else target


def count_clicks(site: Path, most: int = 2) -> dict[Path, int]:
    """Pages by the number of clicks from the front page."""
    found, todo = {site / "index.html": 0}, [site / "index.html"]
    for clicks in range(1, most + 1):
        pages, todo = todo, []
        for page in pages:
            for link in Page(page).links:
                target = resolve(site, page, link)
                if target is not None and target.suffix == ".html" and target.exists() and target not in found:
                    found[target] = clicks
                    todo.append(target)
    return found


def main(site: Path) -> int:
    """Print the questions that are not answered within two clicks; gives how many there are."""
    clicks, missing = count_clicks(site), []
    for question, name in QUESTIONS.items():
        file, anchor = find_file(site, name), name.partition("#")[2]
        if file not in clicks:
            missing.append(f"{question}: {name} is more than two clicks away")
        elif anchor and anchor not in Page(file).anchors:
            missing.append(f"{question}: {name} has no such section")
    print("\n".join(missing) or f"{len(QUESTIONS)} questions are answered within two clicks")
    return len(missing)


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]))))
