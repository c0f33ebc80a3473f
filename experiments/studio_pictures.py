"""The images of docs/studio.md: the studio in a browser, on the built-in model.

Needs Chromium and the extra `studio`. Writes `docs/pictures/studio-create.png` and `studio-choose.png`, one minute.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
SLOW = 180_000  # milliseconds


def main() -> None:
    from playwright.sync_api import sync_playwright

    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "noiseward", "studio", "--runs", f"{tempfile.mkdtemp()}/runs", "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
    try:
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            page.goto(address)
            page.click("#start-run")
            page.wait_for_selector("#run [data-state=running][data-step='6']", timeout=SLOW)
            page.wait_for_timeout(300)
            shoot(page, "studio-create", 780)
            page.click("#stop-run")
            page.wait_for_selector("#run [data-state=interrupted]", timeout=SLOW)
            page.get_by_role("tab", name="You choose", exact=True).click()
            page.click("#begin-looks")
            drawn = "document.querySelectorAll('#tiles img').length === 6"
            for look in range(3):
                page.wait_for_selector(f"[data-looks='{look}']", timeout=SLOW)
                page.wait_for_function(drawn, timeout=SLOW)
                for k in (1, 4):
                    page.locator("#tiles button").nth(k).click()
                page.wait_for_timeout(300)
                if look < 2:
                    page.click("#next-look")
            page.wait_for_selector("#look-center img", timeout=SLOW)
            shoot(page, "studio-choose", 860)
            browser.close()
    finally:
        server.terminate()
        server.wait(60)


def shoot(page: object, name: str, height: int) -> None:
    """Keep the upper part of a page, in few colors."""
    path = PICTURES / f"{name}.png"
    page.evaluate("window.scrollTo(0, 0)")  # type: ignore[attr-defined]
    page.screenshot(path=path, clip={"x": 0, "y": 0, "width": 1200, "height": height})  # type: ignore[attr-defined]
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
