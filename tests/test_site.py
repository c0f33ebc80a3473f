"""The documentation as a site: what its generator does not check. `scripts/docs` builds it and checks its links."""

from __future__ import annotations

import re
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

import noiseward

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def list_pages(nav) -> list[str]:
    """The files of a navigation, in its order."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in list_pages(part)]


@pytest.fixture(scope="module")
def nav():
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def test_every_page_is_in_the_navigation_once(nav):
    named = [page for page in list_pages(nav) if not page.startswith("source/") and page != "tutorial.md"]
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_pages_from_elsewhere_in_the_repository_exist(nav):
    for page in list_pages(nav):
        if page.startswith("source/"):
            assert (ROOT / page.removeprefix("source/")).is_file(), page


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem)
def test_what_a_page_links_to_exists(page):
    text = CODE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if "://" not in link and not link.startswith("mailto:"):
            found = (page.parent / link).resolve()
            assert found.exists() or found == DOCS / "tutorial.md", f"{page.name}: {link}"


def test_every_public_name_is_in_the_reference_once():
    names = []
    for page in (DOCS / "api").glob("*.md"):
        names += re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(set(names)) == len(names)
    assert sorted(name.rpartition(".")[2] for name in names) == noiseward.__all__
    for name in names:
        module, _, short = name.rpartition(".")
        assert getattr(import_module(module), short) is getattr(noiseward, short)


@pytest.mark.parametrize("name", noiseward.__all__)
def test_every_public_name_has_an_example(name):
    assert ">>> " in (getattr(noiseward, name).__doc__ or "")


def test_every_row_of_how_to_is_two_clicks_from_the_front_page():
    front, rows = ((DOCS / name).read_text(encoding="utf-8") for name in ("index.md", "how-to/index.md"))
    assert "(how-to/index.md)" in front
    for subject in (
        "LoRA", "ControlNet", "img2img", "inpainting", "IP-Adapter", "scheduler", "render with many", "half precision",
        "two GPUs", "cluster", "Limit GPU memory", "Offload", "quantized", "HPSv2", "PickScore", "Combine",
        "constraints", "Stop at a reward", "hacking", "Call my own code", "TensorBoard", "CSV", "Reproduce", "cite",
        "vision-language", "Be the judge", "my own reward", "my own method", "sampler", "Slurm", "Docker", "Kubernetes",
        "torch.compile",
    ):  # fmt: skip
        assert re.search(rf"^\| [^|]*{re.escape(subject)}[^|]* \| \[", rows, re.MULTILINE), subject


def test_nothing_is_fetched_from_another_host():
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert all((DOCS / path).is_file() for path in (*config["extra"]["polyfills"], *config["extra_css"]))


def test_the_version_is_the_same_wherever_it_stands():
    found = {
        name: re.findall(pattern, (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)[0]
        for name, pattern in {
            "CITATION.cff": r"^version: (\S+)$",
            "docs/help/citing.md": r"version = \{([^}]+)\}",
            "docs/start/install.md": r"noiseward-([\d.]+)-py3",
            "CHANGELOG.md": r"^## \[(\d[^\]]*)\]",
        }.items()
    }
    assert set(found.values()) == {noiseward.__version__}, found


def test_each_question_of_a_newcomer_has_a_page():
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} | {"tutorial", "source/CHANGELOG"}
    for question, answer in read_questions().items():
        assert answer.partition("#")[0].rstrip("/") in pages | {""}, question


def read_questions() -> dict[str, str]:
    """What `scripts/docs` asks of the built site; the script itself is not a package."""
    spec = spec_from_file_location("questions", ROOT / "scripts" / "site" / "questions.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.QUESTIONS
