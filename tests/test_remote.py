"""Rewards behind HTTP: a real server, and servers that hang, die, mix things up or talk nonsense."""

import contextlib
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

from noiseward.errors import ArgumentError, RewardError, SpendingLimit
from noiseward.options.parts import split_parts
from noiseward.rewards.parse import make_reward, parse_rewards, parse_weighted
from noiseward.rewards.remote import RemoteReward, map_parallel
from noiseward.rewards.reward import FunctionReward, score
from noiseward.rewards.serve import make_server, run_server


def make_images(rows):
    """Images whose levels PNG can hold, so that nothing is lost on the way."""
    levels = torch.randint(0, 256, (rows, 3, 6, 5), generator=torch.Generator().manual_seed(0))
    return levels.float() / 255


@contextlib.contextmanager
def serve_script(behave):
    """A server that answers request number n with `behave(handler, n, items)`."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            items = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["items"]
            seen.append(items)
            with contextlib.suppress(ConnectionError):
                behave(self, len(seen), items)

        def log_message(self, format, *args):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads, running.block_on_close = True, False
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/score", seen
    finally:
        running.shutdown()
        running.server_close()


def answer(handler, content, status=200, cut=None):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:cut])


def fine(items):
    return {"scores": [{"id": item["id"], "score": int(item["id"]) / 2} for item in items]}


def remote(url, **options):
    return RemoteReward(url, **{"timeout": 5.0, "retries": 2, "backoff": 0.01, **options})


def read_refusal(reward, rows=2):
    with pytest.raises(RewardError) as caught:
        reward(make_images(rows), None)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_served_reward_gives_the_scores_of_the_reward_itself():
    sample = make_images(5)
    with run_server(make_reward("jpeg")) as url:
        torch.testing.assert_close(remote(url, batch=2)(sample, None), make_reward("jpeg")(sample, None))
    assert not RemoteReward(url).differentiable and RemoteReward(url).name == url.removeprefix("http://")


def test_prompts_go_with_their_images():
    def fn(x, prompt):
        return [len(text) + float(row.mean()) for text, row in zip(prompt, x, strict=True)]

    long = FunctionReward(fn, differentiable=False, name="long")
    sample, prompts = make_images(4), ["a", "abc", "äöü 鸭", ""]
    with run_server(long) as url:
        torch.testing.assert_close(remote(url, batch=3)(sample, prompts), score(long, sample, prompts)[0])


def test_batches_overlap_and_come_back_in_order():
    together = threading.Barrier(3, timeout=10)

    def behave(handler, number, items):
        together.wait()  # nobody is answered before three are asked
        time.sleep(0.02 * (number % 3))
        answer(handler, fine(items))

    with serve_script(behave) as (url, seen):
        scores = remote(url, batch=2, workers=3, retries=0)(make_images(12), None)
    assert scores.tolist() == [row / 2 for row in range(12)]
    assert [len(items) for items in seen] == [2] * 6


def test_an_answer_in_another_order_is_put_in_order():
    with serve_script(lambda handler, _, items: answer(handler, {"scores": fine(items)["scores"][::-1]})) as (url, _):
        assert remote(url)(make_images(5), None).tolist() == [0, 0.5, 1, 1.5, 2]


NONSENSE = {
    "no JSON": (b"<html>hello</html>", "got '<html>hello</html>'"),
    "half of it": (b'{"scores": [', "must answer {"),
    "nothing": (b"", "must answer {"),
    "another shape": ({"score": [1, 2]}, "must answer {"),
    "a list": ([1.0, 2.0], "must answer {"),
    "numbers alone": ({"scores": [1.0, 2.0]}, "must answer {"),
    "null": (b"null", "must answer {"),
    "not text": (b"\xff\xfe", "must answer {"),
    "nan": (
        b'{"scores": [{"id": "0", "score": 1}, {"id": "1", "score": NaN}]}',
        "numbers, got nan for image 1",
    ),
    "infinity": (b'{"scores": [{"id": "0", "score": -Infinity}, {"id": "1", "score": 1}]}', "got -inf for image 0"),
    "a word": ({"scores": [{"id": "0", "score": "high"}, {"id": "1", "score": 1}]}, "got 'high' for image 0"),
    "a truth": ({"scores": [{"id": "0", "score": True}, {"id": "1", "score": 1}]}, "got True for image 0"),
    "too few": ({"scores": [{"id": "0", "score": 1}]}, "must send one score for each of 2 ids, got 1 for ids 0"),
    "one twice": ({"scores": [{"id": "0", "score": 1}] * 2}, "must send one score for each"),
    "one too many": ({"scores": [{"id": str(k), "score": 1} for k in (0, 1, 1)]}, "got 3 for ids 0, 1"),
    "somebody else's": ({"scores": [{"id": "0", "score": 1}, {"id": "7", "score": 1}]}, "got 2 for ids 0, 7"),
}


@pytest.mark.parametrize(("content", "says"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_an_error_in_one_line_at_once(content, says):
    with serve_script(lambda handler, _, items: answer(handler, content)) as (url, seen):
        assert says in read_refusal(remote(url))
    assert len(seen) == 1


@contextlib.contextmanager
def raw(behave):
    """A server of bytes: `behave(connection)` once per connection, each in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection):
            with connection, contextlib.suppress(OSError):
                behave(connection)

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def drip(text, every=0.05, then=b" "):
    """Send some bytes, and then one now and then, forever."""

    def behave(connection):
        connection.recv(65536)
        connection.sendall(text)
        while True:
            time.sleep(every)
            connection.sendall(then)

    return behave


SLOW = {
    "says nothing": lambda connection: time.sleep(5),
    "takes nothing": lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1) or time.sleep(5),
    "dribbles a status": drip(b"HTTP/1.1 2", then=b"0"),
    "dribbles a header": drip(b"HTTP/1.1 200 OK\r\nX: ", then=b"y"),
    "dribbles headers": drip(b"HTTP/1.1 200 OK\r\n", then=b"X: y\r\n"),
    "continues": drip(b"HTTP/1.1 100 Continue\r\n\r\n", then=b"HTTP/1.1 100 Continue\r\n\r\n"),
    "dribbles a body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"),
    "dribbles chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", then=b"1\r\n \r\n"),
    "dribbles an error": drip(b"HTTP/1.1 422 No\r\nContent-Length: 1000\r\n\r\n"),
}


@pytest.mark.parametrize("behave", SLOW.values(), ids=SLOW)
def test_the_deadline_is_that_of_a_request_as_a_whole(behave):
    with raw(behave) as url:
        before = time.monotonic()
        said = read_refusal(remote(url, timeout=0.4, retries=3))
        assert time.monotonic() - before < 1.5
        assert "did not answer within 0.4 s: increase timeout= if it needs longer (1 try)" in said or "422" in said


def test_retries_share_the_deadline():
    with serve_script(lambda handler, _, items: answer(handler, {}, 503)) as (url, seen):
        before = time.monotonic()
        assert "answered 503" in read_refusal(remote(url, timeout=0.5, retries=50, backoff=0.1))
        assert time.monotonic() - before < 0.6 and 2 <= len(seen) <= 4


def test_an_unresolvable_name_is_given_up(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **more: time.sleep(5))
    before = time.monotonic()
    assert "did not answer within 0.3 s" in read_refusal(remote("http://judge.invalid", timeout=0.3))
    assert time.monotonic() - before < 1


def test_an_error_in_one_request_does_not_wait_for_the_others():
    def behave(handler, number, items):
        if items[0]["id"] == "0":
            answer(handler, {"error": "no"}, 422)
        else:
            time.sleep(2)

    with serve_script(behave) as (url, _):
        before = time.monotonic()
        assert "422" in read_refusal(remote(url, batch=1, workers=3, timeout=5), rows=3)
        assert time.monotonic() - before < 1.5


BREAKING = {
    "dies in the middle": lambda handler, items: answer(handler, fine(items), cut=12),
    "dies before": lambda handler, items: handler.connection.shutdown(socket.SHUT_RDWR),
    "is overloaded": lambda handler, items: answer(handler, {"error": "later"}, 503),
    "asks for patience": lambda handler, items: answer(handler, {"error": "later"}, 429),
}


@pytest.mark.parametrize("broken", BREAKING.values(), ids=BREAKING)
def test_a_transient_error_is_retried_and_then_given_up(broken):
    def recover(handler, number, items):
        broken(handler, items) if number < 3 else answer(handler, fine(items))

    with serve_script(recover) as (url, seen):
        assert remote(url)(make_images(2), None).tolist() == [0, 0.5]
        assert len(seen) == 3
    with serve_script(lambda handler, _, items: broken(handler, items)) as (url, seen):
        assert "(3 tries)" in read_refusal(remote(url))
        assert len(seen) == 3


def test_waiting_doubles_between_tries():
    times = []

    def behave(handler, number, items):
        times.append(time.monotonic())
        answer(handler, {}, 500)

    with serve_script(behave) as (url, _):
        read_refusal(remote(url, retries=3, backoff=0.08))
    waits = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert all(wait >= 0.95 * 0.08 * 2**k for k, wait in enumerate(waits)) and len(waits) == 3


def test_a_refusal_is_passed_on_with_the_servers_own_words_and_not_tried_again():
    with serve_script(lambda handler, _, items: answer(handler, {"error": "no\nducks"}, 422)) as (url, seen):
        assert "answered 422 Unprocessable" in (said := read_refusal(remote(url))) and said.endswith(": no ducks")
        assert len(seen) == 1
    with run_server(FunctionReward(lambda x: x.sum(), differentiable=False, name="summed")) as url:
        assert "422" in (said := read_refusal(remote(url))) and "'summed' must return shape (2,) for 2 rows" in said


def test_no_server_is_an_error():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    assert "cannot be reached" in read_refusal(remote(f"http://127.0.0.1:{port}", retries=0))


def test_a_local_server_is_reached_without_the_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with run_server(make_reward("darkness")) as url:
        assert remote(url, retries=0)(torch.zeros(1, 3, 4, 4), None).tolist() == [1]


def ask(url, body, kind="application/json"):
    request = urllib.request.Request(url, data=body, headers={"Content-Type": kind})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_the_server_refuses_an_invalid_request_and_keeps_serving():
    def item(image):
        return json.dumps({"items": [{"id": "0", "image": image}]}).encode()

    with run_server(make_reward("darkness")) as url:
        for body in (b"", b"[", b"{}", b'{"items": []}', b'{"items": [3]}', item("!"), item("QUJD"), item(7)):
            status, said = ask(url, body)
            assert status == 400 and said["error"].startswith("the request cannot be read"), body
        assert ask(url, b"{}", "text/plain")[0] == 415
        assert remote(url)(torch.zeros(1, 3, 4, 4), None).tolist() == [1]
        assert url.startswith("http://127.0.0.1:")


def test_arguments_of_a_server_stand_where_its_weight_does():
    inner, weight = parse_weighted("http://127.0.0.1:80/score:timeout=3,retries=1,batch=2,weight=0.5,name=judge")
    assert isinstance(inner, RemoteReward) and (inner.url, inner.name) == ("http://127.0.0.1:80/score", "judge")
    assert (inner.timeout, inner.retries, inner.batch, weight) == (3.0, 1, 2, 0.5)
    assert split_parts(["http://h:80:timeout=3,retries=1,clip"]) == ("http://h:80:timeout=3,retries=1", "clip")
    for text, says in (
        ("http://h:80:timeout=soon", "timeout must be a finite number"),
        ("http://h:80:timeout=-1", "timeout and backoff must be positive seconds, got -1.0"),
        ("http://h:80:tiemout=3", "did you mean 'timeout'"),
        ("http://h:80:token=sesame", "no argument 'token'"),  # it would stand in the run directory
    ):
        with pytest.raises(ArgumentError, match=says):
            parse_weighted(text)


def test_a_taken_port_is_reported_in_one_line():
    with make_server(make_reward("darkness")) as running, pytest.raises(ArgumentError, match="cannot listen on port"):
        make_server(make_reward("darkness"), running.server_port)


@pytest.mark.parametrize(
    ("text", "url", "name"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://localhost", "http://localhost", "localhost"),
        ("https://judge.example/v1/score", "https://judge.example/v1/score", "judge.example"),
        ("http://[::1]:80", "http://[::1]:80", "[::1]:80"),
        ("http://127.0.0.1:8000:0.5", "http://127.0.0.1:8000", "0.5 127.0.0.1:8000"),
        ("http://localhost:0.5", "http://localhost", "0.5 localhost"),
        ("https://judge.example/v1:2", "https://judge.example/v1", "2 judge.example"),
    ],
)
def test_an_address_is_a_reward_with_or_without_a_weight(text, url, name):
    reward = parse_rewards([text])
    inner = reward if isinstance(reward, RemoteReward) else next(iter(reward.rewards))
    assert (reward.name, inner.url, reward.differentiable) == (name, url, False)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: RemoteReward("ftp://host"), "expected the address of a reward server, .*, got 'ftp://host'"),
        (lambda: RemoteReward("http://"), "expected the address"),
        (lambda: RemoteReward("http://host:port"), "expected the address"),
        (lambda: RemoteReward("http://h", batch=0), "batch must be an integer >= 1, got 0"),
        (lambda: RemoteReward("http://h", workers=0), "workers must be"),
        (lambda: RemoteReward("http://h", retries=-1), "retries must be an integer >= 0, got -1"),
        (lambda: RemoteReward("http://h", timeout=0.0), "timeout and backoff must be positive seconds, got 0.0"),
        (lambda: parse_rewards(["http://h:8000:much"]), "the weight of reward 'http://h:8000:much' must be a number"),
    ],
)
def test_what_makes_no_sense_is_refused_at_construction(make, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [SpendingLimit, RewardError])
def test_a_limit_waits_for_what_is_under_way_and_another_error_does_not(error):
    begun, release, ended = threading.Event(), threading.Event(), []

    def work(part):
        if part:
            begun.wait(10)
            threading.Timer(0.2, release.set).start()
            raise error("no")
        begun.set()
        release.wait(10)
        ended.append(part)

    with pytest.raises(error):
        map_parallel(work, [0, 1, 2, 3], workers=2)
    assert ended == ([0] if error is SpendingLimit else [])
    release.wait(10)
