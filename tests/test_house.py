"""The house: which module may import which, how large files get, what is public, and what an import costs."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.resources
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import noiseward

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "noiseward"
CODE = ("src", "tests", "training", "experiments", "benchmarks")

# The rooms of the package, floor by floor: one may import those of the floors below. A new room gets its place here.
FLOORS = (
    {"errors"},
    {"lfs", "noise", "options", "stickers", "terminal", "user_code"},
    {"images", "samplers"},
    {"pipelines", "rewards"},
    {"loop", "toys"},
    {"optimizers"},
    {"methods"},
    {"problem", "trackers"},
    {"doctor", "runs"},
    {"api", "studio", "sweep"},
    {"cli"},
    {"__main__"},
)
RANK = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
CORE = {"errors", "noise", "samplers", "loop", "optimizers", "toys"}
CORE_FILES = {"noiseward.rewards.reward", "noiseward.rewards.shortfall"}  # part of the core, in a room that is not
BARS = PACKAGE / "loop" / "progress.py"  # draws with rich


class Import(NamedTuple):
    """One import statement's target."""

    target: str  # "torch.nn", "noiseward.noise.layout", or "noiseward:Name" for a name of the package itself
    inside: bool  # in a function
    typing: bool  # under `if TYPE_CHECKING`, so that it never runs


def read(path: Path) -> str:
    """A file's text."""
    return path.read_text(encoding="utf-8")


def imports(source: str) -> list[Import]:
    """Every import of a piece of source, wherever it stands."""
    found: list[Import] = []

    def visit(node: ast.AST, inside: bool, typing: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, inside, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"line {node.lineno}: imports are absolute here"
            if node.module == "noiseward":
                found.extend(Import(_member(alias.name), inside, typing) for alias in node.names)
            else:
                found.append(Import(node.module, inside, typing))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                visit(child, inside, True)
            for child in node.orelse:
                visit(child, inside, typing)
        else:
            deeper = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for child in ast.iter_child_nodes(node):
                visit(child, deeper, typing)

    visit(ast.parse(source), False, False)
    return found


def _member(name: str) -> str:
    is_module = (PACKAGE / f"{name}.py").exists() or (PACKAGE / name / "__init__.py").exists()
    return f"noiseward.{name}" if is_module else f"noiseward:{name}"


def offences(module: str, source: str, *, core: bool = True) -> Iterator[str]:
    """What is wrong with the imports of a module, in sentences."""
    core = core and module in CORE
    for target, inside, typing in imports(source):
        if target.startswith("noiseward:"):
            if target != "noiseward:__version__":
                yield f"{module} imports {target.partition(':')[2]} from the package: import it from its own module"
        elif target == "noiseward":
            yield f"{module} imports the package: import the module it needs"
        elif target.startswith("noiseward."):
            other = target.split(".")[1]
            if other == module:
                continue
            if other not in RANK:
                yield f"{module} imports {other}, which has no floor"
            elif RANK[other] >= RANK[module]:
                yield f"{module} (floor {RANK[module]}) imports {other} (floor {RANK[other]}): imports point downward"
            elif core and other not in CORE and target not in CORE_FILES and not (inside or typing):
                yield f"{module} imports {other} when it is loaded: the core does so inside functions only"
        elif core and not typing:
            package = target.split(".")[0]
            if package not in {"torch", "safetensors"} and package not in sys.stdlib_module_names:
                yield f"{module} imports {package}: the core imports torch, safetensors and the standard library only"


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def module_of(path: Path) -> str:
    """The first part of a file's module name below the package: `noise`, `pipelines`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_floor():
    assert {module_of(path) for path in modules()} <= set(RANK)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    assert list(offences(module_of(path), read(path), core=path != BARS)) == []


def test_the_package_imports_only_the_standard_library_when_it_is_imported():
    found = imports(read(PACKAGE / "__init__.py"))
    assert {each.target.split(".")[0] for each in found if not each.typing} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize(
    ("module", "source", "words"),
    [
        ("noise", "from noiseward.samplers.sampler import Sampler", "downward"),
        ("noise", "def f():\n    import noiseward.samplers.sampler", "downward"),
        ("noise", "from noiseward import samplers", "downward"),
        ("noise", "if TYPE_CHECKING:\n    from noiseward.samplers.sampler import Sampler", "downward"),
        ("rewards", "from noiseward.pipelines.load import load_pipeline", "downward"),
        ("samplers", "try:\n    import numpy\nexcept ImportError:\n    pass", "core"),
        ("samplers", "def f():\n    from diffusers import DDIMScheduler", "core"),
        ("loop", "from noiseward import images", "inside functions"),
        ("runs", "from noiseward import Budget", "its own module"),
        ("runs", "import noiseward", "the module it needs"),
        ("samplers", "from noiseward.helpful import f", "no floor"),
    ],
)
def test_a_wrong_import_is_found(module, source, words):
    (offence,) = offences(module, source)
    assert words in offence


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("samplers", "import torch.nn\nimport dataclasses\nfrom noiseward.noise.layout import Layout"),
        ("loop", "def f():\n    from noiseward import images"),
        ("loop", "if TYPE_CHECKING:\n    from PIL.Image import Image"),
        ("rewards", "import numpy\nfrom noiseward.images import to_images\nfrom noiseward.rewards.pixels import jpeg"),
        ("runs", "from noiseward import __version__"),
    ],
)
def test_a_right_import_is_left_alone(module, source):
    assert list(offences(module, source)) == []


def test_only_its_card_and_its_rewards_know_the_built_in_model():
    """A card says what is special about a model, `stickers` included."""
    rooms = {"stickers", "rewards"}
    users = {path for path in modules() if any(each.target == "noiseward.stickers" for each in imports(read(path)))}
    assert {module_of(path) for path in users} <= rooms
    named = {path for path in modules() for node in ast.walk(ast.parse(read(path))) if _is_text(node, "stickers")}
    assert {module_of(path) for path in named} <= {*rooms, "options", "pipelines"}  # it is the default


def _is_text(node: ast.AST, text: str) -> bool:
    return isinstance(node, ast.Constant) and node.value == text


def test_the_package_has_few_rooms_on_few_floors():
    rooms = [path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(rooms) <= 28 and len(FLOORS) <= 12


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that import each other, directly or on a detour."""
    reach = {name: set(others) for name, others in edges.items()}
    for middle in reach:
        for others in reach.values():
            if middle in others:
                others |= reach[middle]
    return [{other for other in others if name in reach.get(other, ())} for name, others in reach.items()
            if name in others]  # fmt: skip


def import_graph(folder: Path, prefix: str) -> dict[str, set[str]]:
    """Which modules of a folder import which of them, also inside functions."""
    names = {".".join((prefix, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
             for path in folder.rglob("*.py")}  # fmt: skip
    edges: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                targets = {whole if whole in names else node.module for whole in inner.values()}
                edges[name] |= {target for target in targets if target in names} - {name, prefix}
    return edges


@pytest.mark.parametrize("folder", ["src/noiseward", "benchmarks", "experiments", "training"])
def test_no_modules_import_each_other(folder):
    assert circles(import_graph(ROOT / folder, Path(folder).name)) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}] * 3


def test_no_function_has_more_than_15_parameters():
    long = []
    for path in python_files():
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                if len(every) + bool(node.args.vararg) + bool(node.args.kwarg) > 15:
                    long.append(f"{path.name}: {node.name}")
    assert long == []


def python_files() -> list[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))


def test_no_file_is_longer_than_400_lines():
    lines = {str(path.relative_to(ROOT)): len(read(path).splitlines()) for path in python_files()}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_half_of_the_files_have_at_most_150_lines():
    assert statistics.median(len(read(path).splitlines()) for path in PACKAGE.rglob("*.py")) <= 150


def test_files_are_named_after_what_they_do():
    empty = {"utils", "util", "base", "common", "helpers", "helper", "manager", "misc"}
    assert [path for path in python_files() if path.stem in empty or path.parent.name in empty] == []


def test_what_is_exported_is_listed_once_with_its_module():
    names = [name for node in ast.parse(read(PACKAGE / "__init__.pyi")).body for name in exports(node)]
    assert len(names) == len(set(names))
    assert noiseward.__all__ == sorted(names)
    assert set(noiseward.__all__) <= set(dir(noiseward))


def exports(node: ast.stmt) -> list[str]:
    """The names that a line of the table exports, under their own names."""
    if not isinstance(node, ast.ImportFrom):
        return []
    assert all(alias.name == alias.asname for alias in node.names)
    return [alias.name for alias in node.names]


@pytest.mark.parametrize("name", noiseward.__all__)
def test_an_exported_name_lives_where_the_package_says_and_explains_itself(name):
    thing = getattr(noiseward, name)
    home = noiseward._HOMES[name]
    assert thing.__name__ == name
    assert thing.__module__ == home or thing.__module__.startswith(f"{home}.")
    assert vars(thing).get("__doc__", thing.__doc__), f"{name} has no docstring"
    assert not thing.__doc__.startswith(f"{name}("), f"{name} has only the docstring that dataclasses makes"


def test_a_name_that_is_not_there_is_an_attribute_error_by_its_name():
    with pytest.raises(AttributeError, match="no attribute 'optimise'"):
        noiseward.optimise  # noqa: B018


def run(code: str) -> str:
    """What a fresh interpreter prints that runs some code, with warnings as errors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_no_public_name_is_a_room():
    assert set(noiseward.__all__) & set(RANK) == set()


def load_after(code: str) -> set[str]:
    """Which slow packages a fresh interpreter has loaded after running some code."""
    slow = ("torch", "diffusers", "transformers", "numpy", "matplotlib", "PIL", "safetensors")
    return set(run(f"import sys\n{code}\nprint(*(name for name in {slow} if name in sys.modules))").split())


@pytest.mark.parametrize("module", ["noiseward", "noiseward.errors", "noiseward.cli"])
def test_nothing_slow_is_loaded_before_it_is_needed(module):
    assert load_after(f"import {module}") == set()


def test_what_is_loaded_is_noticed():
    assert load_after("import json") == set()
    assert "torch" in load_after("import noiseward\nnoiseward.NoiseTape")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_everything_public_says_what_it_is(path):
    tree = ast.parse(read(path))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert ast.get_docstring(tree), "the module has no docstring"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


MACHINE_PATH = re.compile(r"(?<![\w.])(?:/(?:root|home|Users|work|workspace|mnt|opt|srv|data)/\w|[A-Z]:\\Users)")


def texts() -> Iterator[tuple[str, str]]:
    """Name and text of each file that is, or would be, in the repository."""
    listing = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        folders = (ROOT / folder for folder in (*CODE, "docs", "scripts"))
        paths = [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*"))]
        names = [str(path.relative_to(ROOT)) for path in paths]
    for name in filter(None, names):
        if (ROOT / name).is_file() and "__pycache__" not in name:
            try:
                yield name, read(ROOT / name)
            except UnicodeDecodeError:
                continue  # weights and images


ARCHAIC = re.compile(r"\bclim[b]|\bane[w]\b|\bwhoeve[r]\b|\bdeares[t]\b|\bbeyond doub[t]\b", re.IGNORECASE)


def test_words_are_those_of_the_field():
    places = (*(f"{folder}/" for folder in (*CODE, "scripts")), "README.md", "CONTRIBUTING.md")
    lines = ((name, line) for name, text in texts() if name.startswith(places) for line in text.splitlines())
    assert [f"{name}: {line.strip()[:100]}" for name, line in lines if ARCHAIC.search(line)] == []


def test_no_variable_is_called_wanted():
    nodes = ((path, node) for path in python_files() for node in ast.walk(ast.parse(read(path))))
    names = ((path, getattr(node, "id", getattr(node, "arg", None))) for path, node in nodes)
    assert [path.name for path, name in names if name == "wanted"] == []


def test_no_file_names_a_place_on_somebodys_machine():
    lines = ((name, line) for name, text in texts() for line in text.splitlines())
    assert [f"{name}: {line.strip()}" for name, line in lines if MACHINE_PATH.search(line)] == []


@pytest.mark.parametrize(
    ("line", "is_one"),
    [
        ('open("' + "/home" + '/ann/model")', True),
        ("cd " + "/root" + "/noiseward", True),
        ("C:" + "\\Users" + "\\ann", True),
        ("https://example.org" + "/home" + "/ann", False),
        ("src/noiseward" + "/data" + "/x", False),
        ("path/to/file.py:function", False),
    ],
)
def test_a_machines_path_is_noticed(line, is_one):
    assert bool(MACHINE_PATH.search(line)) == is_one


def test_the_version_is_one():
    try:
        installed = importlib.metadata.version("noiseward")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("noiseward is run from source, not installed")
    assert installed == noiseward.__version__


def test_the_changelog_knows_this_version():
    assert re.search(rf"^## \[{re.escape(noiseward.__version__)}\]", read(ROOT / "CHANGELOG.md"), re.MULTILINE)


def test_the_package_says_that_it_is_typed():
    assert (importlib.resources.files("noiseward") / "py.typed").is_file()
