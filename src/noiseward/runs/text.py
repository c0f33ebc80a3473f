"""Text files that a user names: read whole and within a limit, or refused by what they are.

A name may be anything: a pipe that never ends, a device, an archive, text in another encoding. What is read is a
regular file of UTF-8, with or without a byte order mark.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from noiseward.errors import ArgumentError, shorten

__all__ = ["LARGEST", "read_text"]

LARGEST = 64 * 2**20  # bytes
MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
         stat.S_IFSOCK: "a socket"}  # fmt: skip


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        ArgumentError: it is no regular file, too large, or no UTF-8; the message says what it is.
    """
    said = shorten(str(path), 300)
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
        content = b""
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArgumentError(f"{said} cannot be read ({reason}): give a text file") from None
    if kind != stat.S_IFREG:
        what = KINDS.get(kind, "no regular file")
        raise ArgumentError(f"{said} must be a text file, got {what}: write its lines to a file")
    if len(content) > LARGEST:
        raise ArgumentError(f"{said} has more than {LARGEST // 2**20} MiB: split it into several files")
    for mark, name in MARKS.items():
        if content.startswith(mark):
            raise ArgumentError(f"{said} must be UTF-8 text, got {name}: save it as UTF-8")
    at = content.find(b"\0")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start if at < 0 else at
        text = ""
    if at >= 0:
        number, what = content.count(b"\n", 0, at) + 1, "binary data" if b"\0" in content else "another encoding"
        raise ArgumentError(f"{said}, line {number}: expected UTF-8 text, got {what}: save it as UTF-8")
    return text
