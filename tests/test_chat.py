"""Chat models as judges, against a server on this machine that speaks their protocol."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import torch

from noiseward import ArgumentError, NoisewardWarning, RewardError, WeightedSum, align
from noiseward.errors import SpendingLimit
from noiseward.loop.budget import Status
from noiseward.rewards.chat.answers import RUBRIC, read_better, read_score
from noiseward.rewards.chat.spending import Spending
from noiseward.rewards.journal import find_journals
from noiseward.rewards.parse import make_reward, parse_rewards, parse_weighted
from noiseward.rewards.reward import check_rows
from tests.chat_server import brightness, completion, judge_brightness, serve_chat

pytest.importorskip("openai", reason="needs the extra chat: pip install 'noiseward[chat]'")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """A cache of each test's own, and no key from outside."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("OPENAI_API_KEY", "NOISEWARD_CHAT_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


def make_images(rows, seed=0):
    """Images that differ, of levels that PNG holds."""
    levels = torch.randint(0, 256, (rows, 3, 1, 1), generator=torch.Generator().manual_seed(seed))
    return (levels.float() / 255).expand(-1, -1, 6, 5).contiguous()


def judge(server, name="chat", **options):
    options = {"model": "m", "base_url": server.url, "retries": 1, **options}
    return make_reward(f"{name}:" + ",".join(f"{key}={value}" for key, value in options.items()))


def test_scores_are_a_tenth_of_the_models_and_come_with_reasons():
    sample = make_images(3)
    with serve_chat() as server:
        reward = judge(server)
        torch.testing.assert_close(reward(sample, ["a duck"] * 3), sample.mean((1, 2, 3)), rtol=0, atol=1e-6)
        (_, journal), *_ = find_journals(WeightedSum({reward: 2.0}))
    records = journal.take()
    assert [record["prompt"] for record in records] == ["a duck"] * 3 and not reward.differentiable
    assert records[0]["reason"] == f"brightness {sample[0].mean():.3f}" and records[0]["tokens"] == [1000, 50]
    assert journal.take() == []


def test_questions_with_weights_are_added_up_and_named_as_the_reason(tmp_path):
    def behave(handler, number, asked):
        red = brightness(asked.images[0].split()[0])
        p = red if "Is it red?" in asked.text else brightness(asked.images[0])
        return completion("Yes", first={"Yes": max(p, 1e-6), "No": max(1 - p, 1e-6)})

    (tmp_path / "rubric.txt").write_text("3 Is it red?\n\n -1.5 Is it bright?\n")
    sample = torch.rand(3, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 4, 4)
    with serve_chat(behave) as server:
        reward = judge(server, answer="yes", rubric=tmp_path / "rubric.txt")
        found = reward(sample, ["a duck"] * 3)
        (_, journal), *_ = find_journals(reward)
        one = judge(server, answer="yes", rubric="3 Is it red? 2")  # one line is a question with a weight, too
        torch.testing.assert_close(one(sample[:1], None), sample[:1, 0, 0, 0], rtol=0, atol=0.01)
    expected = (2 * sample[:, 0, 0, 0] - sample.mean((1, 2, 3))) / 3
    torch.testing.assert_close(found, expected, rtol=0, atol=0.01)
    assert len(server.asked) == 7 and all("weight" not in each.text and "1.5" not in each.text for each in server.asked)
    first = journal.take()[0]
    assert (
        first["tokens"] == [2000, 100]
        and first["reason"].startswith("Is it red? 0.")
        and "bright? 0." in first["reason"]
    )


def test_the_question_holds_rubric_and_prompt_and_asks_for_json():
    with serve_chat() as server:
        reward = parse_rewards([f'chat:model=vlm,base_url={server.url},rubric="red, round {{prompt}}",weight=1'])
        reward(make_images(1), ["a {rubric} duck"])
        judge(server)(make_images(1), None)
    asked, plain = server.asked
    assert "red, round {prompt}\n" in asked.text and "\na {rubric} duck\n" in asked.text  # neither fills the other
    assert asked.body["model"] == "vlm" and asked.body["response_format"]["json_schema"]["strict"] is True
    assert asked.images[0].size == (5, 6)
    assert RUBRIC in plain.text and "\n(none)\n" in plain.text


def test_yes_is_the_probability_of_the_word_among_the_two():
    sample = make_images(3)
    with serve_chat() as server:
        found = judge(server, answer="yes")(sample, ["a duck"] * 3)
    torch.testing.assert_close(found, sample.mean((1, 2, 3)), rtol=0, atol=1e-5)
    assert server.asked[0].body["logprobs"] is True and "response_format" not in server.asked[0].body


def test_images_are_never_mixed_up_however_late_their_answers_come():
    """Each request waits the longer the earlier it came, and eight are under way: answers come in reverse."""

    def behave(handler, number, asked):
        time.sleep(0.03 * (7 - number % 8))
        return judge_brightness(asked)

    sample = make_images(24)
    with serve_chat(behave) as server:
        found = judge(server, workers=8)(sample, [f"a duck {row}" for row in range(24)])
    torch.testing.assert_close(found, sample.mean((1, 2, 3)), rtol=0, atol=1e-6)
    assert server.together == 8
    for asked in server.asked:  # and each prompt went with its image
        row = int(asked.text.partition("a duck ")[2].split()[0])
        assert brightness(asked.images[0]) == pytest.approx(sample[row].mean().item(), abs=1e-6)


def test_pairs_are_in_order_too():
    def behave(handler, number, asked):
        time.sleep(0.02 * (number % 5))
        return judge_brightness(asked)

    sample = make_images(9)
    with serve_chat(behave) as server:
        found = judge(server, "chat-pair", workers=5)(sample, None)
    first = sample[0].mean()
    assert found[0] == 0
    for row in range(1, 9):
        assert found[row] == (0.5 if sample[row].mean() > first else -0.5)


def test_one_answer_at_a_time_where_one_worker_is_asked_for():
    with serve_chat() as server:
        judge(server, workers=1)(make_images(5), None)
    assert server.together == 1


def test_the_same_question_is_asked_once_even_by_another_process():
    sample = make_images(3)
    with serve_chat() as server:
        first = judge(server)
        scores = first(sample, ["a duck"] * 3)
        assert torch.equal(first(sample[1:], ["a duck"] * 2), scores[1:])
        again = judge(server)  # as another process would: all it has is the cache
        assert torch.equal(again(sample, ["a duck"] * 3), scores) and len(server.asked) == 3
        assert all(record["cached"] and record["tokens"] == [0, 0] for record in again.journal.take())
        for count, other in enumerate(
            (judge(server, rubric="redder"), judge(server, model="other"), judge(server, answer="yes")), start=2
        ):
            other(sample, ["a duck"] * 3)
            assert len(server.asked) == 3 * count
        judge(server)(sample, ["a goose"] * 3)
        judge(server, cache="none")(sample, ["a duck"] * 3)
        assert len(server.asked) == 18


def test_rows_that_are_equal_are_asked_about_once_and_rows_are_scored_alone():
    sample = make_images(1).repeat(4, 1, 1, 1)
    with serve_chat() as server:
        assert judge(server)(sample, ["a duck"] * 4).unique().numel() == 1 and len(server.asked) == 1
        check_rows(judge(server), make_images(3), ["a", "b", "c"])


def test_large_images_are_made_smaller_where_asked_for():
    with serve_chat() as server:
        judge(server, side=16)(torch.rand(1, 3, 64, 32), None)
        judge(server)(torch.rand(1, 3, 64, 32), None)
    assert [asked.images[0].size for asked in server.asked] == [(8, 16), (32, 64)]


# ---- by comparison ----


def test_ratings_rise_with_each_image_that_beats_the_best():
    levels = (0.5, 0.3, 0.6, 0.4, 0.9)
    with serve_chat() as server:
        reward = judge(server, "chat-pair")
        found = [reward(torch.full((1, 3, 4, 4), level), ["a duck"]).item() for level in levels]
        assert found == [0.0, -0.5, 0.5, 0.0, 1.0]
        assert [reward(torch.full((1, 3, 4, 4), level), ["a duck"]).item() for level in levels] == found
        assert len(server.asked) == 8  # both orders of each pair
        assert reward(torch.full((1, 3, 4, 4), 0.1), ["a goose"]).item() == 0  # the first of its prompt
    assert all(len(asked.images) == 2 for asked in server.asked)


def test_a_model_that_prefers_a_place_makes_a_tie():
    with serve_chat(lambda *_: completion('{"reason": "it is first", "better": "A"}')) as server:
        reward = judge(server, "chat-pair")
        assert reward(make_images(4), None).tolist() == [0, 0, 0, 0]


def test_the_best_of_several_at_once_is_compared_with_next_and_letters_give_degrees():
    sample = torch.tensor([0.5, 0.7, 0.9, 0.6]).view(4, 1, 1, 1).expand(-1, 3, 4, 4).contiguous()
    with serve_chat() as server:
        reward = judge(server, "chat-pair", answer="letter")
        found = reward(sample, None)
        assert found[0] == 0 and found[2] > found[1] > found[3] > 0
        reward(torch.full((1, 3, 4, 4), 0.8), None)
        levels = {round(brightness(image), 1) for asked in server.asked[-2:] for image in asked.images}
    assert levels == {0.8, 0.9}


# ---- limits ----


def test_calls_and_costs_are_counted_and_end_a_run_with_its_best(tmp_path):
    with serve_chat() as server:
        text = f"chat:model=m,base_url={server.url},max_calls=5,price_in=1,price_out=4"
        with pytest.warns(NoisewardWarning, match="'chat' has made its 5 calls; increase max_calls=; the best so far"):
            solution = align(
                "stickers", "a duck", text, method="best-of-n:samples=2", steps=20, num_inference_steps=2,
                progress=False, watch=(),
            )  # fmt: skip
    assert solution.status == (Status.COST,) and len(server.asked) == 5 and len(solution.history) >= 2
    assert solution.reward >= solution.initial.reward


def test_a_limit_on_costs_holds_for_concurrent_requests_too():
    def behave(handler, number, asked):
        time.sleep(0.05)
        return judge_brightness(asked)

    with serve_chat(behave) as server:
        reward = judge(server, max_cost=0.006, price_in=1, price_out=4, workers=4, cache="none")  # 0.0012 a call
        reward(make_images(1), None)
        with pytest.raises(SpendingLimit, match=r"has cost 0.\d+, the next call would pass 0.006; increase max_cost="):
            reward(make_images(20, seed=1), None)
    assert len(server.asked) == 5
    with pytest.raises(ArgumentError, match="max_cost needs the prices"):
        make_reward("chat:model=m,base_url=http://127.0.0.1:9/v1,max_cost=1")


def test_an_answer_is_counted_once_also_while_its_request_is_open():
    spending = Spending("chat", max_calls=2, max_cost=0.0025, price_in=1)
    with spending.reserve() as count:
        count(1000, 0)
        with spending.reserve() as other:  # the second of two
            other(1000, 0)
        assert (spending.calls, spending.tokens_in) == (1, 1000)
    assert (spending.calls, spending.cost) == (2, 0.002)
    with pytest.raises(SpendingLimit, match="has made its 2 calls"), spending.reserve():
        pass


def test_a_request_that_fails_costs_nothing():
    spending = Spending("chat", max_calls=1)
    with pytest.raises(OSError), spending.reserve():
        raise OSError
    with spending.reserve() as count:
        count(1, 1)
    assert spending.calls == 1


def test_an_option_limits_what_all_judges_of_a_run_cost_together():
    with serve_chat() as server:
        text = f"chat:model=m,base_url={server.url},price_in=1,price_out=4,cache=none"  # 0.0012 a call
        how = {"method": "best-of-n:samples=2", "steps": 20, "num_inference_steps": 2, "progress": False}
        with pytest.warns(NoisewardWarning, match=r"judges have cost 0.00\d+, the next call would pass 0.007; incr"):
            solution = align("stickers", "a duck", text, watch=[f"{text},name=other"], max_cost=0.007, **how)
        assert solution.status == (Status.COST,) and len(server.asked) == 5
        assert solution.reward >= solution.initial.reward
        with pytest.raises(ArgumentError, match="max_cost 0.1 needs a reward that spends money, as chat, got none"):
            align("stickers", "a duck", "brightness", watch=(), max_cost=0.1, **how)
        with pytest.raises(ArgumentError, match="max_cost 0.1 needs the prices .* as in chat:price_in"):
            align("stickers", "a duck", f"chat:model=m,base_url={server.url}", watch=(), max_cost=0.1, **how)


def test_a_sweep_is_limited_as_a_whole(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a duck\na goose\na moon\n")
    with serve_chat() as server:
        text = f"chat:model=m,base_url={server.url},price_in=1,price_out=4,cache=none"
        words = ["batch", str(tmp_path / "prompts.txt"), "--reward", text, "--watch", "none", "--max-cost", "0.007"]
        words += ["--method", "best-of-n:samples=2", "--steps", "1", "--num-inference-steps", "2", "--pack", "1"]
        status, out, err = run(*words, "--out", str(tmp_path / "out"))
    assert status == 1 and len(server.asked) == 5 and "judges have cost" in out + err, out + err


# ---- what is asked for ----


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("chat", "reward 'chat' needs a model, as in chat:model=gpt-5-mini"),
        ("chat-pair:model=m", "expected a key in the environment variable OPENAI_API_KEY, got none"),
        ("chat:model=m,base_url=http://127.0.0.1/v1,key_env=MINE", "variable MINE, got none"),
        ("chat:model=m,base_url=ftp://h", "base_url must be the address of a chat server"),
        ("chat:model=m,base_url=http://ann:secret@h/v1", "base_url must have no user, password or query"),
        ("chat:model=m,base_url=http://h/v1?key=secret", "base_url must have no user, password or query"),
        ("chat:model=m,base_url=http://h/v1,answer=maybe", "answer must be score or yes, got 'maybe'"),
        ("chat:model=m,base_url=http://h/v1,workers=0", "workers must be >= 1, got 0"),
        ("chat:model=m,base_url=http://h/v1,max_calls=-1", "max_calls must be >= 0, got -1"),
        ("chat:model=m,base_url=http://h/v1,rubric=no.txt", "rubric must be text or a text file, got 'no.txt'"),
        ("chat:model=m,key=sesame", "has no argument 'key'"),
    ],
)
def test_bad_arguments_are_one_line_that_shows_no_secret(text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        make_reward(text)
    assert "\n" not in str(caught.value) and "sesame" not in says and "secret" not in str(caught.value)


def test_a_rubric_may_stand_in_a_file(tmp_path):
    (tmp_path / "rubric.txt").write_text("Red, round,\nand happy.\n")
    with serve_chat() as server:
        judge(server, rubric=tmp_path / "rubric.txt")(make_images(1), None)
    assert "Red, round,\nand happy.\n\n" in server.asked[0].text


def test_rubrics_may_have_commas_between_quotes():
    reward, weight = parse_weighted('chat:model=m,base_url=http://127.0.0.1:9/v1,rubric="red, round",weight=0.5')
    assert (reward.rubric, weight) == ("red, round", 0.5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"reason": "r", "score": 7.5}', (0.75, "r")),
        ('Here it is:\n```json\n{"reason": "r",\n "score": 0}\n```', (0.0, "r")),
        ('<think>{"score": 3}, or more?</think>{"reason": "r", "score": 9}', (0.9, "r")),
        ('{"score": 10}', (1.0, "")),
        ('{"score": 10.5}', None), ('{"score": -1}', None), ('{"score": "7"}', None), ('{"score": true}', None),
        ('{"score": NaN}', None), ('{"points": 7}', None), ("7/10", None), ("", None), ('{"reason": "r", "sco', None),
        ("[7]", None), ("{" * 3000, None),
    ],
)  # fmt: skip
def test_scores_are_read_or_are_none(text, found):
    assert read_score(text) == found


def test_better_is_read_or_is_none():
    found = [read_better(json.dumps({"better": word})) for word in ("A", "b", " tie ", "C", 3)]
    assert found == [(1.0, ""), (0.0, ""), (0.5, ""), None, None]


def test_threads_end_with_the_call():
    before = threading.active_count()
    with serve_chat() as server:
        judge(server)(make_images(4), None)
    time.sleep(0.1)
    assert threading.active_count() <= before + 1


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(Exception, match=r"needs the package openai; install it with pip install 'noiseward\[chat\]'"):
        make_reward("chat:model=m,base_url=http://127.0.0.1:9/v1")


def test_templates_are_read_from_files_next_to_the_code():
    import noiseward.rewards.chat as room

    names = {path.stem for path in Path(room.__file__).with_name("templates").glob("*.txt")}
    assert names == {"score", "yes", "pair", "which"}


def test_a_reward_error_of_the_server_is_one_line():
    with serve_chat(lambda *_: completion("I like it")) as server, pytest.raises(RewardError) as caught:
        judge(server)(make_images(2), None)
    said = "gave no usable answer for any of 2 images, got 'I like it'; is it a vision-language model?"
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_the_runs_of_the_page_are_drawn_each_below_its_title():
    from PIL import Image

    from experiments import judges

    strips = [Image.new("RGB", (width, 40), "red") for width in (20, 30)]
    picture = judges.draw([("a", strips[0]), ("b", strips[1])])
    assert picture.width == 30 and picture.height >= 2 * (40 + judges.LINE)
    assert picture.getpixel((10, judges.LINE + 5)) == (255, 0, 0) and picture.getpixel((19, 1)) == (255, 255, 255)
