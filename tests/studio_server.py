"""A studio in a process of its own and a browser that opens it, for tests."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

__all__ = ["CHROMIUM", "SLOW", "Server", "field", "open_tab", "wait_for_step"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no Chromium on this machine", allow_module_level=True)
pytest.importorskip("playwright.sync_api", reason="the studio's tests need playwright")
pytest.importorskip("gradio", reason="the studio needs the extra 'studio'")

SLOW = 180_000  # milliseconds for what a model does


class Server:
    """A studio in a process of its own."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        here = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "noiseward", "studio", "--runs", str(folder), "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=here)
        self.address, self.said = "", []
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(r"http://\S+", line):
                self.address = found[0]
                break
        assert self.address, "".join(self.said)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)
        self.process.stdout.close()

    def end(self) -> str:
        self.process.send_signal(signal.SIGINT)
        rest = self.process.communicate(timeout=60)[0]
        return "".join(self.said) + rest


def field(page, name):
    return page.locator(f"#{name} textarea, #{name} input").first


def open_tab(page, name):
    page.get_by_role("tab", name=name, exact=True).click()


def wait_for_step(page, step):
    """Wait until the run that is shown has at least that step: faster steps than the page draws are skipped."""
    page.wait_for_function(
        "step => +document.querySelector('#run [data-state=running]')?.dataset.step >= step", arg=step, timeout=SLOW
    )
