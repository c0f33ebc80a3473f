"""Files of rewards on the hub: where they are on this machine, and how they get there.

Nothing is downloaded implicitly: a reward takes its files from a given path or from the local cache of the hub, and
says in one line which file is missing and how to provide it. `fetch` downloads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from noiseward.errors import ModelError, describe_error
from noiseward.terminal import silence

__all__ = [
    "JSON",
    "Repo",
    "check_files",
    "fetch",
    "find_cache",
    "find_checkpoint",
    "find_folder",
    "find_model",
    "is_folder",
    "load_tokenizer",
]

JSON = ("*.json", "vocab.txt", "merges.txt")  # configurations and tokenizers


@dataclasses.dataclass(frozen=True)
class Repo:
    """Files of one repository on the hub.

    Arguments:
        id: `owner/name`.
        files: that are needed.
        also: patterns of smaller files that are fetched with them.
        megabytes: the size of the download; 0 where it depends.
    """

    id: str
    files: tuple[str, ...]
    also: tuple[str, ...] = ()
    megabytes: int = 0

    def find_cached(self) -> Path | None:
        """The folder in the local cache that holds the files, if there is one."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            folder = Path(snapshot_download(self.id, local_files_only=True))
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):
            return None
        return folder if all((folder / name).exists() for name in self.files) else None


def find_folder(repo: Repo, path: str, reward: str, *, argument: str = "path") -> Path:
    """The folder that holds a repository's files.

    Arguments:
        repo: which.
        path: a folder of one's own, or the path of its one file; empty for the local cache.
        reward: the reward on the command line, with its arguments.
        argument: the one of them that takes a folder.

    Raises:
        ModelError: a file is missing; the message names it and both ways to provide it.
    """
    name = reward.partition(":")[0]
    if path:
        folder = Path(os.path.expanduser(path))
        if os.path.isfile(folder):
            folder = folder.parent
        for file in repo.files:
            if not os.path.exists(folder / file):
                problem = f"{folder} has no {file}" if os.path.isdir(folder) else f"{path} does not exist"
                files = " and ".join(repo.files)
                raise ModelError(f"{problem}: {argument}= of reward '{name}' is a folder with {files} of {repo.id}")
        return folder
    folder = repo.find_cached()
    if folder is None:
        size = f", about {repo.megabytes} MB" if repo.megabytes else ""
        raise ModelError(
            f"reward '{name}' needs {' and '.join(repo.files)} of {repo.id}{size}, not in the local cache: run "
            f"'noiseward rewards fetch {reward}', or give a folder that has it, {name}:{argument}=FOLDER"
        )
    return folder


def find_checkpoint(repo: Repo, path: str, reward: str) -> Path:
    """A repository's one file: `path` itself, or as `find_folder`."""
    own = Path(os.path.expanduser(path))
    return own if path and os.path.isfile(own) else find_folder(repo, path, reward) / repo.files[0]


def find_model(model: str, repo: Repo, reward: str) -> Path:
    """The folder of a model: one's own, or that of a hub id in the local cache."""
    if is_folder(model):
        return Path(os.path.expanduser(model))
    return find_folder(repo, "", f"{reward}:model={model}", argument="model")


def is_folder(path: str) -> bool:
    """Whether a path is that of a folder."""
    return os.path.isdir(os.path.expanduser(path))


def load_tokenizer(kind: Any, repo: Repo, path: str, reward: str, *, checkpoint: Path | None) -> Any:
    """Load a tokenizer.

    Arguments:
        kind: a class of transformers.
        repo: where it is on the hub.
        path: a folder of one's own; empty for the folder of the checkpoint, if it is there, or the local cache.
        reward: the reward on the command line, with its arguments.
        checkpoint: one's own checkpoint.

    Raises:
        ModelError: it is missing or cannot be loaded.
    """
    is_near = not path and checkpoint is not None and (checkpoint.parent / "tokenizer.json").exists()
    folder = checkpoint.parent if is_near and checkpoint else find_folder(repo, path, reward, argument="tokenizer")
    try:
        with silence("transformers"):
            return kind.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} holds no tokenizer that can be loaded: {describe_error(error, 200)}") from None


def find_cache() -> Path:
    """Where the hub keeps what it downloads."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def check_files(repo: Repo, folder: Path) -> int:
    """Compare the files of a repository with their hashes, and count those that have one.

    The hub stores a large file under its SHA-256; a small one, or one in a folder of one's own, has none to compare.

    Arguments:
        repo: which.
        folder: where its files are.

    Raises:
        ModelError: a file has other content than its hash says.
    """
    checked = 0
    for name in repo.files:
        path = (folder / name).resolve()
        if re.fullmatch(r"[0-9a-f]{64}", path.name):
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != path.name:
                raise ModelError(f"{folder / name} is damaged: its SHA-256 is {found[:12]}..., expected "
                                 f"{path.name[:12]}...; delete {path} and fetch it again")  # fmt: skip
            checked += 1
    return checked


def fetch(repo: Repo) -> Path:
    """Download a repository's files into the local cache, with the hub's progress bars.

    Raises:
        ModelError: that failed.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(snapshot_download(repo.id, allow_patterns=[*repo.files, *repo.also]))
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ModelError(f"{repo.id} cannot be downloaded: {first}; check the name and the network") from None
    missing = [name for name in repo.files if not (folder / name).exists()]
    if missing:
        raise ModelError(f"{repo.id} has no {' and '.join(missing)}: it is not what this reward takes")
    return folder
