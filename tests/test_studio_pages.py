"""Many pages of one studio: each is kept up to date."""

from __future__ import annotations

import itertools
import re
import signal
import subprocess
import sys

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio", reason="the studio needs the extra 'studio'")

PAGES = 8  # whose streams are more than Gradio has places for by itself


@pytest.fixture
def address(tmp_path):
    command = [sys.executable, "-u", "-m", "noiseward", "studio", "--runs", str(tmp_path), "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    yield next(found[0] for line in server.stdout if (found := re.search(r"http://\S+", line)))
    server.send_signal(signal.SIGINT)
    server.communicate(timeout=60)


def test_every_page_has_its_streams(address):
    api = f"{address}gradio_api/queue"
    with httpx.Client(timeout=120) as client:
        dependencies = client.get(f"{address}config").json()["dependencies"]
        loads = [one["id"] for one in dependencies if [0, "load"] in one["targets"] and one["backend_fn"]]
        assert PAGES * len(loads) > 40
        for number in range(PAGES):
            body = {"data": [], "session_hash": f"page{number}", "event_data": None, "trigger_id": None}
            for load in loads:
                client.post(f"{api}/join", json=body | {"fn_index": load}).raise_for_status()
        for number in (0, PAGES - 1):
            with client.stream("GET", f"{api}/data", params={"session_hash": f"page{number}"}) as answer:
                told = (line for line in answer.iter_lines() if "generating" in line or "heartbeat" in line)
                assert any("generating" in line for line in itertools.islice(told, 8))
