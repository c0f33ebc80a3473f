"""The reward server in front of clients that are large, slow, many, broken or strangers; all of it on 127.0.0.1."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import zlib

import pytest
import torch

from noiseward.errors import ArgumentError, RewardError
from noiseward.rewards.parse import make_reward
from noiseward.rewards.remote import RemoteReward
from noiseward.rewards.reward import FunctionReward
from noiseward.rewards.serve import _read, make_server, run_server


def png(width, height):
    """A black PNG of one bit per pixel: little to send, much to decode."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((width + 7) // 8 + 1) * height)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return base64.b64encode(data).decode()


def body(*images):
    return json.dumps({"items": [{"id": str(row), "image": image} for row, image in enumerate(images)]}).encode()


def ask(url, content, **headers):
    headers = {"Content-Type": "application/json", **headers}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=content, headers=headers), timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def send(url, text, seconds=10.0):
    """What comes back for bytes sent as they are."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
        return b"".join(parts)


def fine(url):
    return ask(url, body(png(8, 8))) == (200, {"scores": [{"id": "0", "score": 1.0}]})


def test_pixels_are_bounded_by_the_images_headers_before_anything_is_decoded():
    with run_server(make_reward("darkness")) as url:
        fine(url)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for images, says in (
            ([png(8192, 8192)], "got 8192 x 8192"),
            ([png(8192, 8192)] * 10, "got 8192 x 8192"),
            ([png(20000, 20000)], "pixels"),
            ([png(8193, 8)], "at most 8192 pixels a side"),
            ([png(4096, 4096)] * 3, "at most 33554432 pixels, got 3 images of 4096 x 4096"),
        ):
            status, answer = ask(url, body(*images))
            assert status == 400 and says in answer["error"], answer
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert after - before < 100 * 1024  # kB; one of these decoded is 800 MB
        assert fine(url)


def test_twelve_clients_at_a_time_are_all_answered():
    one, answers = body(*[png(2048, 2048)] * 4), []
    with run_server(make_reward("darkness")) as url:
        threads = [threading.Thread(target=lambda: answers.append(ask(url, one)[0])) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [200] * 12
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # kB


def test_a_large_body_is_read_and_a_larger_one_refused():
    with run_server(make_reward("darkness")) as url:
        large = b'{"items": [{"id": "0", "image": "' + png(8, 8).encode() + b'"}]' + b" " * 100_000_000 + b"}"
        assert ask(url, large)[0] == 200
        told = b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 269484032\r\n\r\n"
        assert b" 413 " in send(url, told).splitlines()[0]


@pytest.mark.parametrize("value", [b"{}", b"[]", b"0", b'""'])
def test_values_are_bounded_before_they_are_parsed(value, monkeypatch):
    """A request of 256 MiB in small values would take some 7 GB once it is parsed."""
    monkeypatch.setattr(json, "loads", lambda body: pytest.fail("it was parsed"))
    with pytest.raises(ValueError, match=r"^expected at most 262144 values, got \d+ commas and brackets; send fewer"):
        _read(b'{"items": [' + b",".join([value] * 2**19) + b"]}")


ODD = {
    "a length of 5000 digits": (b"Content-Length: " + b"9" * 5000, b"", 413),
    "no length": (b"X: y", b"{}", 413),
    "a length in other digits": ("Content-Length: \u0663".encode(), b"{}", 413),
    "a negative length": (b"Content-Length: -1", b"{}", 413),
    "a body cut short": (b"Content-Length: 100", b"{}", 400),
    "deep JSON": (b"Content-Length: 200001", b"[" * 200001, 400),
    "deep items": (b"Content-Length: 100012", b'{"items": ' + b"[" * 100002, 400),
    "deep ids": (b"Content-Length: 1630", b'{"items": [{"id": ' + b"[" * 800 + b"]" * 800 + b', "x": 1}]}', 400),
    "half a character": (b"Content-Length: 3", b'"\xff"', 400),
}


@pytest.mark.parametrize(("header", "content", "status"), ODD.values(), ids=ODD)
def test_odd_requests_are_answered_in_json_and_the_next_is_served(header, content, status, capfd):
    with run_server(make_reward("darkness")) as url:
        text = b"POST / HTTP/1.1\r\nContent-Type: application/json\r\n" + header + b"\r\n\r\n" + content
        head, _, answer = send(url, text).partition(b"\r\n\r\n")
        assert int(head.split()[1]) == status and "error" in json.loads(answer)
        assert fine(url)
    assert capfd.readouterr().err == ""


def quit_process(x):
    sys.exit(0)


MISBEHAVING = {
    "meta": (lambda x: torch.zeros(len(x), device="meta"), "on the meta device"),
    "sparse": (lambda x: x.mean((1, 2, 3)).to_sparse(), "of layout sparse_coo"),
    "complex": (lambda x: x.mean((1, 2, 3)) + 0j, "of dtype complex64"),
    "exit": (quit_process, "raised SystemExit: 0"),
    "nan": (lambda x: x.mean((1, 2, 3)) * float("nan"), "must give finite numbers, got nan for item 0"),
    "lines": (lambda x: 1 / 0 if x is None else int("a\nb"), "raised ValueError"),
}


@pytest.mark.parametrize(("fn", "says"), MISBEHAVING.values(), ids=MISBEHAVING)
def test_a_reward_that_misbehaves_is_an_answer_of_one_line(fn, says, capfd):
    with run_server(FunctionReward(fn, differentiable=False, name="mine")) as url:
        status, answer = ask(url, body(png(8, 8)))
        assert status == 422 and says in answer["error"] and "\n" not in answer["error"]
        assert ask(url, body(png(8, 8)))[0] == 422
    assert capfd.readouterr().err == ""


@contextlib.contextmanager
def send_slowly(url, count, head=b"POST / HTTP/1.1\r\nContent-Type: application/json\r\n"):
    """Clients that have begun a request and never end it."""
    host, port = url.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.create_connection((host, int(port)), timeout=20)) for _ in range(count)]
        for one in found:
            with contextlib.suppress(OSError):
                one.sendall(head)
        yield found


def test_slow_clients_take_a_bounded_number_of_threads_and_make_room(monkeypatch):
    from noiseward.rewards import serve

    monkeypatch.setattr(serve, "PATIENCE", 0.3)
    before = threading.active_count()
    with run_server(make_reward("darkness")) as url, send_slowly(url, 300):
        time.sleep(0.5)
        assert threading.active_count() - before <= serve.CONNECTIONS + 1
        assert fine(url)


def test_a_request_that_never_arrives_is_given_up(monkeypatch):
    from noiseward.rewards import serve

    monkeypatch.setattr(serve, "SECONDS", 0.5)
    before = threading.active_count()
    declared = b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 200000000\r\n\r\n{"
    with run_server(make_reward("darkness")) as url, send_slowly(url, 20), send_slowly(url, 20, declared) as declaring:
        until = time.monotonic() + 20
        while threading.active_count() > before + 1 and time.monotonic() < until:
            for one in declaring:
                with contextlib.suppress(OSError):
                    one.sendall(b" ")  # never still for long
            time.sleep(0.05)
        assert threading.active_count() == before + 1
        assert fine(url)


def test_a_declared_body_takes_no_memory_before_it_arrives():
    declared = b"POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 268435456\r\n\r\n{"
    with run_server(make_reward("darkness")) as url, send_slowly(url, 10, declared):
        assert fine(url)


def test_bytes_in_flight_are_bounded(monkeypatch):
    from noiseward.rewards import serve

    monkeypatch.setattr(serve, "WAITING", 1000)
    with run_server(make_reward("darkness")) as url:
        content = b" " * 5000
        status, answer = ask(url, content)
        assert status == 503 and "try again" in answer["error"]
        assert fine(url)  # the room was given back


def test_a_token_is_asked_for_and_shown(monkeypatch):
    with run_server(make_reward("darkness"), token="sesame") as url:
        assert ask(url, body(png(8, 8)))[0] == 401
        assert ask(url, body(png(8, 8)), Authorization="Bearer sesam")[0] == 401
        assert ask(url, body(png(8, 8)), Authorization="Bearer sesame")[0] == 200
        assert RemoteReward(url, token="sesame")(torch.zeros(1, 3, 4, 4), None).tolist() == [1]
        with pytest.raises(RewardError, match="401 .*this server needs a token: set NOISEWARD_TOKEN"):
            RemoteReward(url, retries=0)(torch.zeros(1, 3, 4, 4), None)
        monkeypatch.setenv("NOISEWARD_TOKEN", "sesame")
        assert RemoteReward(url)(torch.zeros(1, 3, 4, 4), None).tolist() == [1]


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.org"])
def test_other_clients_are_refused_without_a_token(host):
    with pytest.raises(ArgumentError, match="can be reached by others: give a token") as caught:
        make_server(make_reward("darkness"), host=host)
    assert "\n" not in str(caught.value)


def test_ctrl_c_ends_it_at_once_while_clients_dribble():
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", f"{code}from noiseward.cli import command; command()", "serve-reward", "darkness"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(part for part in sys.path if part)}
    process = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split(" at ")[1].split()[0]
        with send_slowly(url, 20):
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=8)
        assert (process.returncode, out, err) == (0, "ended\n", "")
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def test_images_broken_in_any_place_are_refused_and_the_server_continues():
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((40, 40)).save(file, format="PNG")
    whole, generator = file.getvalue(), torch.Generator().manual_seed(0)
    with run_server(make_reward("darkness")) as url:
        for _ in range(60):
            broken = bytearray(whole)
            for at in torch.randint(len(whole), (4,), generator=generator).tolist():
                broken[at] ^= 1 + int(torch.randint(255, (1,), generator=generator))
            assert ask(url, body(base64.b64encode(broken).decode()))[0] in (200, 400)
        assert fine(url)
