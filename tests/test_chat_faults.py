"""Chat servers that fail, hang, refuse, cut off and talk nonsense; and keys, which are never shown."""

from __future__ import annotations

import json
import socket
import time

import pytest
import torch

from noiseward import NoisewardWarning, RewardError
from noiseward.rewards.parse import make_reward
from tests.chat_server import brightness, completion, fail, judge_brightness, send, serve_chat
from tests.test_chat import judge, make_images, own_cache

pytest.importorskip("openai", reason="needs the extra chat: pip install 'noiseward[chat]'")
__all__ = ["own_cache"]  # a fixture, for every test here

KEY = "sk-sesame-0123456789"
GOOD = '{"reason": "r", "score": 5}'


def read_refusal(reward, rows=2):
    with pytest.raises(RewardError) as caught:
        reward(make_images(rows), ["a duck"] * rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TRANSIENT = {
    "too many requests": lambda handler, asked: send(
        handler, {"error": {"message": "slow down"}}, 429, retry_after="0"
    ),
    "an error of its own": lambda handler, asked: fail(handler, 500, "oops"),
    "overloaded": lambda handler, asked: fail(handler, 503, "later"),
    "cut off": lambda handler, asked: send(handler, judge_brightness(asked), cut=40),
    "hangs up": lambda handler, asked: handler.connection.shutdown(socket.SHUT_RDWR),
}


@pytest.mark.parametrize("broken", TRANSIENT.values(), ids=TRANSIENT)
def test_what_passes_is_tried_again(broken):
    def behave(handler, number, asked):
        if number < 3:
            return broken(handler, asked)
        return judge_brightness(asked)

    sample = make_images(1)
    with serve_chat(behave) as server:
        found = judge(server, retries=3)(sample, None)
    torch.testing.assert_close(found, sample.mean((1, 2, 3)), rtol=0, atol=1e-6)
    assert len(server.asked) == 3


def test_what_stays_broken_is_an_error_after_all_tries():
    with serve_chat(lambda handler, number, asked: fail(handler, 503, "later\nor never")) as server:
        assert "answered 503: " in (said := read_refusal(judge(server, retries=2), rows=1)) and "or never" in said
        assert len(server.asked) == 3


def test_the_server_says_how_long_to_wait():
    def behave(handler, number, asked):
        if number == 1:
            return send(handler, {"error": {"message": "slow down"}}, 429, retry_after="1")
        return judge_brightness(asked)

    with serve_chat(behave) as server:
        before = time.monotonic()
        judge(server)(make_images(1), None)
        assert 0.9 < time.monotonic() - before < 4


def test_a_server_that_is_too_slow_is_given_up():
    with serve_chat(lambda *_: time.sleep(3)) as server:
        before = time.monotonic()
        assert "did not answer in time; increase timeout=" in read_refusal(judge(server, timeout=0.3, retries=0))
        assert time.monotonic() - before < 2


def test_no_server_and_no_such_model_are_errors_at_once():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    gone = make_reward(f"chat:model=m,base_url=http://127.0.0.1:{port}/v1,retries=0")
    assert "cannot be reached" in read_refusal(gone)
    with serve_chat(lambda handler, *_: fail(handler, 404, "model 'm' does not exist")) as server:
        assert "answered 404: " in (said := read_refusal(judge(server), rows=1)) and "does not exist" in said
        assert len(server.asked) == 1


NONSENSE = {
    "no JSON": completion("I like it very much."),
    "another scale": completion('{"reason": "r", "score": 95}'),
    "half of it": completion('{"reason": "it sh', finish="length"),
    "nothing": completion(None),
    "no answers": completion(GOOD, count=0),
    "too many answers": completion(GOOD, count=2),
    "another protocol": {"scores": [1, 2]},
    "a list": [1, 2],
    "text": b"hello",
    "not text": b"\xff\xfe",
}


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE)
def test_an_image_without_a_usable_answer_scores_lowest_and_its_neighbors_do_not_notice(content):
    sample = make_images(4)
    dark = sample.mean((1, 2, 3)).argmin().item()

    def behave(handler, number, asked):
        if abs(brightness(asked.images[0]) - sample[dark].mean().item()) < 1e-6:
            return send(handler, content)
        return judge_brightness(asked)

    with serve_chat(behave) as server:
        reward = judge(server)
        with pytest.warns(NoisewardWarning, match="1 of 4 images got no usable answer of model 'm' and score lowest"):
            found = reward(sample, None)
        expected = sample.mean((1, 2, 3))
        expected[dark] = 0
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        assert len(server.asked) == 5  # asked twice
        records = {record["image"]: record for record in reward.journal.take()}
    assert sum("failed" in record for record in records.values()) == 1


@pytest.mark.parametrize("content", NONSENSE.values(), ids=NONSENSE)
def test_a_model_that_never_answers_is_an_error(content):
    with serve_chat(lambda handler, *_: send(handler, content)) as server:
        assert "gave no usable answer for any of 2 images" in read_refusal(judge(server))


def test_an_answer_that_is_garbled_once_is_asked_for_again():
    def behave(handler, number, asked):
        return completion("hm") if number == 1 else judge_brightness(asked)

    sample = make_images(1)
    with serve_chat(behave) as server:
        torch.testing.assert_close(judge(server)(sample, None), sample.mean((1, 2, 3)), rtol=0, atol=1e-6)


REFUSALS = {
    "a refusal": lambda handler: send(handler, completion(None, refusal="I cannot judge people.")),
    "a filter": lambda handler: send(handler, completion("", finish="content_filter")),
    "a policy": lambda handler: fail(handler, 400, "rejected as a result of our content policy (safety system)"),
}


@pytest.mark.parametrize("refuse", REFUSALS.values(), ids=REFUSALS)
@pytest.mark.parametrize("name", ["chat", "chat-pair"])
def test_an_image_that_the_model_will_not_judge_scores_lowest_and_says_so(name, refuse):
    sample = make_images(3)
    bright = sample.mean((1, 2, 3)).argmax().item()
    assert bright != 0

    def behave(handler, number, asked):
        if any(abs(brightness(image) - sample[bright].mean().item()) < 1e-6 for image in asked.images):
            return refuse(handler)
        return judge_brightness(asked)

    with serve_chat(behave) as server:
        reward = judge(server, name)
        found = reward(sample, None)
        records = reward.journal.take()
    assert found.argmin() == bright and found[bright] == (0 if name == "chat" else -0.5)
    (refused,) = [record for record in records if record.get("refused")]
    assert refused["score"] == 0 and len(refused["refused"]) > 10


def test_optional_arguments_that_a_server_does_not_take_are_left_out_from_then_on():
    def behave(handler, number, asked):
        for name in ("response_format", "temperature", "seed"):
            if name in asked.body:
                return fail(handler, 400, f"Unsupported parameter: '{name}' is not supported with this model.")
        return judge_brightness(asked)

    sample = make_images(2)
    with serve_chat(behave) as server:
        reward = judge(server, workers=1)
        torch.testing.assert_close(reward(sample, None), sample.mean((1, 2, 3)), rtol=0, atol=1e-6)
    assert [len(asked.body.keys() & {"response_format", "temperature", "seed"}) for asked in server.asked] == [
        3,
        2,
        1,
        0,
        0,
    ]


def test_a_server_without_log_probabilities_is_named_with_the_remedy():
    with serve_chat(lambda *_: completion("Yes")) as server:
        said = read_refusal(judge(server, answer="yes"))
    assert "gave no usable answer" in said and "answer=score needs no log-probabilities" in said


# ---- keys ----


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("NOISEWARD_CHAT_KEY", KEY)
    return KEY


def test_the_key_is_sent_and_openais_own_key_goes_to_nobody_else(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    with serve_chat() as server:
        judge(server)(make_images(1), None)
        monkeypatch.setenv("MINE", "sk-mine")
        judge(server, key_env="MINE", cache="none")(make_images(1), None)
        monkeypatch.delenv("NOISEWARD_CHAT_KEY")
        judge(server, cache="none")(make_images(1), None)
    sent = [asked.headers["authorization"] for asked in server.asked]
    assert sent == [f"Bearer {KEY}", "Bearer sk-mine", "Bearer none"]


def test_errors_do_not_show_the_key_even_where_the_server_repeats_it(key):
    def behave(handler, number, asked):
        return fail(handler, 401, f"incorrect key: {asked.headers['authorization']}")

    with serve_chat(behave) as server:
        said = read_refusal(judge(server), rows=1)
    assert "answered 401" in said and KEY not in said and "***" in said
    with serve_chat(lambda handler, number, asked: send(handler, completion(f"your key is {KEY}"))) as server:
        assert KEY not in read_refusal(judge(server), rows=1)


@pytest.mark.parametrize("status", [200, 401])
def test_no_file_and_no_line_of_a_run_holds_the_key(key, run, tmp_path, status):
    def behave(handler, number, asked):
        if status != 200:
            return fail(handler, status, f"incorrect key: {KEY}")
        return completion(
            json.dumps({"reason": f"Bright; your key is {KEY}.", "score": 10 * brightness(asked.images[0])})
        )

    with serve_chat(behave) as server:
        code, out, err = run(
            "align", "a duck", "--reward", f"chat:model=m,base_url={server.url}", "--method", "best-of-n:samples=2",
            "--steps", "2", "--num-inference-steps", "2", "--watch", "none", "--out", "run",
        )  # fmt: skip
    assert code == (0 if status == 200 else 1) and KEY not in out + err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3 or status == 401
    assert not [path for path in files if KEY.encode() in path.read_bytes()]


def test_the_report_of_a_batch_shows_reasons_and_what_is_not_met(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a duck\na heart\n")
    with serve_chat() as server:
        code, _, err = run(
            "batch", "prompts.txt", "--reward", f"chat:model=m,base_url={server.url}", "--require", "brightness>=2",
            "--method", "best-of-n:samples=2", "--steps", "1", "--num-inference-steps", "2", "--watch", "none",
            "--out", "batch", "--quiet",
        )  # fmt: skip
    assert code == 0, err
    page = (tmp_path / "batch" / "report.html").read_text()
    assert page.count("chat says: brightness 0.") == 2 and page.count("not met") == 4


def test_a_run_keeps_answers_and_reasons_and_resumes_with_the_same_ratings(run, tmp_path):
    from noiseward.runs.answers import read_answers

    with serve_chat() as server:
        text = f"chat-pair:model=m,base_url={server.url}"
        asked = ["align", "a duck", "--reward", text, "--method", "zero-order", "--num-inference-steps", "2"]
        asked += ["--watch", "none"]
        code, out, err = run(*asked, "--steps", "4", "--out", "whole")
        assert code == 0, err
        assert "chat-pair: " in out and "images judged" in out and "row 0: chat-pair says: " in out
        whole = read_answers(tmp_path / "whole")
        assert {"image", "prompt", "score", "reason", "tokens", "cost", "rating"} <= set(whole[0])
        assert (tmp_path / "whole" / "answers" / f"{whole[0]['image']}.png").exists()
        assert run(*asked, "--steps", "2", "--out", "part")[0] == 0
        assert run("resume", "part", "--steps", "4")[0] == 0
        assert "row 0: chat-pair says: " in run("show", "whole")[1]
    ratings = [
        {record["image"]: record["rating"] for record in read_answers(tmp_path / name)} for name in ("whole", "part")
    ]
    assert ratings[0] == ratings[1] and len(ratings[0]) > 5
    best = [json.loads((tmp_path / name / "status.json").read_text())["best"] for name in ("whole", "part")]
    assert best[0] == best[1]
