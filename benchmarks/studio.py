"""How soon is a step on the pages that look at it, and what does the server need for many of them?

`noiseward studio` in a process of its own, on the built-in model; N clients hold the streams of the page, as browsers
do, while runs continue one after the other. A delay is from the time that a step's line was written to the log until a
client has the page's update of it. Memory is that of the server's process, without its worker.

    python -m benchmarks.studio --clients 1 20 --minutes 2

Does memory grow? A page stays open, and every two minutes a run is begun and another page opened that looks at it; the
resident memory of the server and of its worker is read four times a minute:

    nice -n 19 python -m benchmarks.studio --memory --minutes 30

Both write their part of `benchmarks/results/studio.json`, and the second its table in `docs/studio.md`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

RESULTS = Path(__file__).parent / "results" / "studio.json"
PAGE = Path(__file__).parents[1] / "docs" / "studio.md"
MARK = re.compile(r"(<!-- studio memory -->\n).*?(<!-- end -->)", re.DOTALL)
BETWEEN = 120.0  # seconds from one run to the next
LOOK = 15.0  # seconds from one reading of memory to the next
WARM = 10.0  # minutes until all that is loaded once is loaded
STEP = re.compile(r'data-step=\\?"(\d+)\\?" data-state=\\?"running')


class Client(threading.Thread):
    """A page that is open: it holds its streams, and notes when it has which step."""

    def __init__(self, address: str, streams: Sequence[int], number: int) -> None:
        super().__init__(daemon=True)
        self.address, self.streams, self.session = address, streams, f"benchmark{number}"
        self.seen: dict[int, float] = {}
        self.closed = False

    def run(self) -> None:
        threading.Thread(target=self._beat, daemon=True).start()
        api = f"{self.address}gradio_api/queue"
        body = {"data": [], "session_hash": self.session, "event_data": None, "trigger_id": None}
        with httpx.Client(timeout=None) as client:
            for stream in self.streams:
                client.post(f"{api}/join", json=body | {"fn_index": stream}).raise_for_status()
            with client.stream("GET", f"{api}/data", params={"session_hash": self.session}) as answer:
                for line in answer.iter_lines():
                    if self.closed:
                        return
                    for found in STEP.findall(line):
                        self.seen.setdefault(int(found), time.time())

    def _beat(self) -> None:
        """Say that the page is open, as browsers do; where that ends, the server lets go of it."""
        with httpx.Client(timeout=None) as client:
            with client.stream("GET", f"{self.address}gradio_api/heartbeat/{self.session}") as answer:
                for _ in answer.iter_lines():
                    if self.closed:
                        return


def memory(pid: int) -> float:
    """MiB of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(size) for size in re.findall(r"VmRSS:\s+(\d+)", text)) / 1024


def follow(log: Path, written: dict[int, float], stop: threading.Event) -> None:
    """Note when each line of a log was written."""
    while not stop.is_set():
        if log.exists():
            written.setdefault(log.read_bytes().count(b"\n"), time.time())
        time.sleep(0.005)


def paint(address: str) -> float | None:
    """Seconds until the page is first painted in a browser that has not seen it; None where there is no browser."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_selector("#start-run")
        entries = "performance.getEntriesByType('paint').map((one) => one.startTime)"
        found = max(page.evaluate(entries)) / 1000
        browser.close()
    return found


def align(address: str, seed: int) -> str:
    """Begin a run; returns its name."""
    options = {"steps": 25, "num_inference_steps": 5, "seed": seed}
    asked = httpx.post(f"{address}gradio_api/call/align", json={"data": ["a duck", ["brightness"], options]}).json()
    return json.loads(_read(f"{address}gradio_api/call/align/{asked['event_id']}"))[0]


def find_worker(server: int) -> int | None:
    """The process that a server has do its work; None before the first job."""
    children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
    others = [
        text for task in Path(f"/proc/{server}/task").iterdir() for text in (task / "children").read_text().split()
    ]
    return next((int(one) for one in [*children, *others] if _says(int(one), "noiseward.studio.worker")), None)


def grow(server: int, address: str, streams: Sequence[int], minutes: float) -> dict[str, Any]:
    """Memory over time, with a page open and a run now and then."""
    page, begun, runs, due = Client(address, streams, 1), time.time(), 0, 0.0
    page.start()
    pages = [page]
    series: list[dict[str, float]] = []
    while (now := time.time() - begun) < 60 * minutes:
        if now >= due:
            align(address, runs)
            runs, due = runs + 1, due + BETWEEN
            for one in pages[1:]:
                one.closed = True
            pages.append(Client(address, streams, 1 + runs))  # a page that looks at this run
            pages[-1].start()
        worker = find_worker(server)
        found = {"minute": now / 60, "server": memory(server), "worker": memory(worker) if worker else 0.0}
        series.append(found)
        print(" ".join(f"{name} {value:.1f}" for name, value in found.items()), flush=True)
        time.sleep(LOOK)
    for one in pages:
        one.closed = True
    late = [one for one in series if one["minute"] >= min(WARM, minutes / 2)]
    slopes = {name: _slope([(one["minute"], one[name]) for one in late]) for name in ("server", "worker")}
    return {
        "minutes": minutes,
        "runs": runs,
        "updates": sum(len(one.seen) for one in pages),
        "MiB": series,
        "MiB per minute": slopes,
    }


def write_memory(found: dict[str, Any]) -> None:
    """The table of docs/studio.md."""
    ends = [k * found["minutes"] / 6 for k in range(7)]
    rows = [min(found["MiB"], key=lambda one: abs(one["minute"] - end)) for end in ends]
    head = "| minute | " + " | ".join(f"{one['minute']:.0f}" for one in rows) + " |"
    lines = [head, "|---" * (len(rows) + 1) + "|"]
    for name in ("server", "worker"):
        lines.append(f"| {name}, MiB | " + " | ".join(f"{one[name]:.0f}" for one in rows) + " |")
    text = "\n".join(lines)
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(MARK.sub(lambda mark: f"{mark[1]}\n{text}\n\n{mark[2]}", page), encoding="utf-8")


def play(
    server: int, address: str, streams: Sequence[int], clients: int, minutes: float, folder: Path
) -> dict[str, Any]:
    """Delays with so many pages open, for some minutes of runs."""
    delays, memories, until = [], [memory(server)], time.time() + 60 * minutes
    while time.time() < until:
        seed = len(list(folder.glob("a-duck*")))
        name = align(address, seed)
        written: dict[int, float] = {}
        stop = threading.Event()
        log = folder / name / "steps.jsonl"
        threading.Thread(target=follow, args=(log, written, stop), daemon=True).start()
        pages = [Client(address, streams, 100_000 * clients + 1000 * seed + k) for k in range(clients)]
        for page in pages:
            page.start()
        while not _ended(folder / name):
            time.sleep(0.2)
        time.sleep(1)
        stop.set()
        for page in pages:
            page.closed = True
        steps = [(step, at) for step, at in written.items() if step > 1]
        delays += [page.seen[step] - at for page in pages for step, at in steps if step in page.seen]
        memories.append(memory(server))
        print(f"{clients} pages: {len(delays)} updates, {memories[-1]:.0f} MiB", flush=True)
    ordered = sorted(delays)
    return {
        "updates": len(ordered),
        "median": statistics.median(ordered),
        "95 %": ordered[int(0.95 * len(ordered))],
        "largest": ordered[-1],
        "MiB": memories,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 20])
    parser.add_argument("--memory", action="store_true", help="measure whether memory grows, nothing else")
    parser.add_argument("--minutes", type=float, default=2.0, help="for each number of clients, or of --memory")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder, begun = Path(tempfile.mkdtemp()) / "runs", time.time()
    command = [sys.executable, "-u", "-m", "noiseward", "studio", "--runs", str(folder), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
        result: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        started = time.time() - begun
        config = httpx.get(f"{address}config", timeout=60).json()
        loads = [one for one in config["dependencies"] if [0, "load"] in one["targets"] and one["backend_fn"]]
        streams = [one["id"] for one in loads]
        if arguments.memory:
            result["memory"] = grow(server.pid, address, streams, arguments.minutes)
            write_memory(result["memory"])
        else:
            result |= {"seconds to start": started, "seconds to paint": paint(address)}
            result["delays"] = {
                count: play(server.pid, address, streams, count, arguments.minutes, folder)
                for count in arguments.clients
            }
    finally:
        server.terminate()
        server.wait(60)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def _says(process: int, text: str) -> bool:
    """Whether a text is in the command of a process."""
    try:
        return text in Path(f"/proc/{process}/cmdline").read_text()
    except OSError:  # it has ended
        return False


def _slope(points: list[tuple[float, float]]) -> float:
    """That of the line through some points, by least squares; 0 for fewer than two."""
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 1 else 0.0


def _ended(run: Path) -> bool:
    status = run / "status.json"
    return status.exists() and json.loads(status.read_text())["state"] != "running"


def _read(address: str) -> str:
    """The data of the last event of a call."""
    with httpx.stream("GET", address, timeout=60) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    return lines[-1]


if __name__ == "__main__":
    main()
