"""How soon is a step on the pages that look at it, and what does the server need for many of them?

`noiseward studio` in a process of its own, on the built-in model; N clients hold the stream of the page, as browsers
do, while runs go on one after the other. A delay is from the time that a step's line was written to the log until a
client has the page's update of it. Memory is that of the server's process, without its worker.

    python -m benchmarks.studio --clients 20 --minutes 30

Writes `benchmarks/results/studio.json`.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx

RESULTS = Path(__file__).parent / "results" / "studio.json"
STEP = re.compile(r'data-step=\\?"(\d+)\\?" data-state=\\?"running')


class Client(threading.Thread):
    """A page that is open: it holds the stream, and notes when it has which step."""

    def __init__(self, address: str, stream: int, number: int) -> None:
        super().__init__(daemon=True)
        self.address, self.stream, self.session = address, stream, f"benchmark{number}"
        self.seen: dict[int, float] = {}
        self.closed = False

    def run(self) -> None:
        api = f"{self.address}gradio_api/queue"
        body = {
            "data": [],
            "fn_index": self.stream,
            "session_hash": self.session,
            "event_data": None,
            "trigger_id": None,
        }
        with httpx.Client(timeout=None) as client:
            client.post(f"{api}/join", json=body).raise_for_status()
            with client.stream("GET", f"{api}/data", params={"session_hash": self.session}) as answer:
                for line in answer.iter_lines():
                    if self.closed:
                        return
                    for found in STEP.findall(line):
                        self.seen.setdefault(int(found), time.time())


def memory(pid: int) -> float:
    """MiB of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


def follow(log: Path, written: dict[int, float], stop: threading.Event) -> None:
    """Note when each line of a log was written."""
    while not stop.is_set():
        if log.exists():
            written.setdefault(log.read_bytes().count(b"\n"), time.time())
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp()) / "runs"
    begun = time.time()
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "noiseward", "studio", "--runs", str(folder), "--port", "0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert server.stdout is not None
    address = next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
    started = time.time() - begun
    config = httpx.get(f"{address}config", timeout=60).json()
    stream = next(one["id"] for one in config["dependencies"] if [0, "load"] in one["targets"])
    delays, rounds = [], []
    idle, until = memory(server.pid), time.time() + 60 * arguments.minutes
    while time.time() < until:
        call = httpx.post(
            f"{address}gradio_api/call/align",
            json={"data": ["a duck", ["brightness"], {"steps": 25, "num_inference_steps": 5, "seed": len(rounds)}]},
        ).json()  # fmt: skip
        name = json.loads(_read(f"{address}gradio_api/call/align/{call['event_id']}"))[0]
        written: dict[int, float] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=follow, args=(folder / name / "steps.jsonl", written, stop), daemon=True)
        watcher.start()
        clients = [Client(address, stream, 1000 * len(rounds) + k) for k in range(arguments.clients)]
        for client in clients:
            client.start()
        while not _ended(folder / name) and time.time() < until + 60:
            time.sleep(0.2)
        time.sleep(1)
        stop.set()
        for client in clients:
            client.closed = True
        pairs = [(client.seen, written) for client in clients]
        found = [seen[step] - at for seen, log in pairs for step, at in log.items() if step > 1 and step in seen]
        delays += found
        rounds.append({"seconds": time.time() - begun, "MiB": memory(server.pid), "updates": len(found)})
        print(f"round {len(rounds)}: {len(found)} updates, {memory(server.pid):.0f} MiB", flush=True)
    ordered = sorted(delays)
    result: dict[str, Any] = {
        "clients": arguments.clients,
        "seconds to start": started,
        "updates": len(ordered),
        "delay, median": statistics.median(ordered),
        "delay, 95 %": ordered[int(0.95 * len(ordered))],
        "delay, largest": ordered[-1],
        "MiB before": idle,
        "rounds": rounds,
    }
    server.terminate()
    server.wait(60)
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


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
