"""What a user gives is checked before anything is made: files, values, numbers of things, devices."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from noiseward import ArgumentError, align
from noiseward.options.parts import literal
from noiseward.options.run import RunSpec
from noiseward.options.storable import check_storable
from noiseward.rewards.parse import parse_weighted
from noiseward.runs import text
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.prompt_files import read_prompts
from noiseward.sweep.rows import ROWS, UniqueIds, read_rows

BASE = RunSpec(prompt=(), reward=("brightness",))


def refuse(call, *arguments, **more):
    with pytest.raises(ArgumentError) as caught:
        call(*arguments, **more)
    said = str(caught.value)
    assert said.isprintable() and len(said) < 1200, said
    return said


# ---- files ----


def special(folder, kind):
    """A file of prompts that is none, under a name that says one."""
    path = folder / "p.txt"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "large":
        with open(path, "wb") as file:
            file.truncate(text.LARGEST + 1)
    else:
        path.write_bytes(kind)
    return path


FILES = {
    "pipe": ("pipe", "must be a text file, got a pipe"),
    "device": ("device", "must be a text file, got a device"),
    "folder": ("folder", "must be a text file, got a folder"),
    "large": ("large", "has more than 64 MiB"),
    "utf-16": ("a duck\n".encode("utf-16"), "must be UTF-8 text, got UTF-16; save it as UTF-8"),
    "utf-16 without a mark": ("a duck\n".encode("utf-16-le"), "line 1: expected UTF-8 text, got binary data"),
    "utf-32": ("a duck\n".encode("utf-32"), "must be UTF-8 text, got UTF-32"),
    "latin-1": (b"a duck\na caf\xe9\n", "line 2: expected UTF-8 text, got another encoding"),
    "binary": (b"a\n\x89PNG\r\n\x1a\n\0\0", "expected UTF-8 text, got binary data"),
    "surrogates": (b"a\n\xed\xa0\x80\n", "line 2: expected UTF-8 text"),
}


@pytest.mark.parametrize(("kind", "says"), FILES.values(), ids=FILES)
@pytest.mark.parametrize("reader", [lambda path: read_rows(path, BASE), lambda path: read_prompts([str(path)])])
def test_a_prompt_file_is_a_regular_utf8_file_or_refused(tmp_path, kind, says, reader):
    assert says in refuse(reader, special(tmp_path, kind))


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path):
    (tmp_path / "p.txt").write_bytes(b"\xef\xbb\xbfa duck\n")
    assert [row.spec.prompt for row in read_rows(tmp_path / "p.txt", BASE)] == [("a duck",)]
    assert read_prompts([str(tmp_path / "p.txt")]) == ("a duck",)


LINES = {
    "half a character": (r'{"prompt": "a \ud800"}', "prompt must be text, .*got text with half a character"),
    "deep": (
        '{"prompt": "a", "call.x": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "expected JSON, .*nested too deep",
    ),
    "less deep": ('{"prompt": "a", "call.x": ' + "[" * 100 + "]" * 100 + "}", ".*got more than 32 levels"),
    "infinite": ('{"prompt": "a", "call.eta": Infinity}', "call.eta must be .*finite number.* got inf"),
    "nan": ('{"prompt": "a", "seconds": NaN}', "column 'seconds' must be .* got nan"),
    "large": ('{"prompt": "a", "call.x": 1' + "0" * 400 + "}", "call.x must be .* got a larger one"),
    "larger": ('{"prompt": "a", "call.x": 1' + "0" * 5000 + "}", "expected JSON"),
    "deep id": ('{"prompt": "a", "id": ' + "[" * 900 + "]" * 900 + "}", ".*got more than 32 levels"),
    "seeds": ('{"prompt": "a", "seeds": 1e9}', f"a sweep has at most {ROWS:,} rows, .* got 1,000,000,001"),
    "long": ('{"prompt": "' + "a" * 70_000 + '"}', "a prompt has at most 65,536 characters"),
}


@pytest.mark.parametrize(("line", "says"), LINES.values(), ids=LINES)
def test_a_line_that_cannot_be_done_or_stored_is_named(tmp_path, line, says):
    (tmp_path / "p.jsonl").write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(ArgumentError, match=f"p.jsonl, line 2: {says}"):
        read_rows(tmp_path / "p.jsonl", BASE)


def test_a_template_does_not_blow_prompts_up(tmp_path):
    (tmp_path / "p.txt").write_text("a" * 1000 + "\n")
    assert "line 1: a prompt has at most" in refuse(read_rows, tmp_path / "p.txt", BASE, template="{}" * 10_000_000)


def test_many_lines_of_one_prompt_are_named_without_looking_from_the_first_on(tmp_path, monkeypatch):
    class CountingDict(dict[str, int]):
        looked = 0

        def __contains__(self, key):
            CountingDict.looked += 1
            return super().__contains__(key)

    monkeypatch.setattr(UniqueIds, "__init__", lambda self: vars(self).update(_lines=CountingDict(), _next={}))
    (tmp_path / "p.txt").write_text("a duck\n" * 1000)
    rows = read_rows(tmp_path / "p.txt", BASE)
    assert [rows[place].id for place in (0, 1, -1)] == ["a-duck", "a-duck-2", "a-duck-1000"]
    assert CountingDict.looked <= 3000


def test_numbered_ids_and_explicit_ids_do_not_collide(tmp_path):
    lines = [{"prompt": "a"}, {"prompt": "b", "id": "a-2"}, {"prompt": "a"}, {"prompt": "a"}, {"prompt": "a 2"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert [row.id for row in read_rows(tmp_path / "p.jsonl", BASE)] == ["a", "a-2", "a-3", "a-4", "a-2-2"]


# ---- values ----


@pytest.mark.parametrize("value", ["{1}", "{1: 2}", "b'x'", "1j", "...", "1e999", "[1, {2}]", "{'a': (1, b'')}"])
def test_values_that_json_does_not_give_back_are_refused_before_anything_is_made(run, small, tmp_path, value):
    status, _, err = run("align", "a", "--reward", "brightness", "--set", f"height={value}", *small[:2])
    assert status == 2 and err.startswith("noiseward: --height must be") and "got" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_what_can_be_stored_comes_back():
    plain = {"a": [1, 2.5, None, True, "ü鸭", {"b": []}], "c": "x" * 10**6, "d": 2**63, "e": -1e300 / 10}
    check_storable(plain)
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize("text", ["(" * 10_000, "-" * 100_000 + "1", "{[]}", "9" * 5000, "\0", "'\\d'", "[" * 90 + "]"])
def test_text_that_is_no_literal_stays_text(text):
    assert literal(text) == text or text == "'\\d'"


def test_text_that_is_not_utf8_is_refused(run, small, tmp_path):
    half = "\udcff"
    for arguments in (("align", half), ("align", "a", "--negative-prompt", half), ("compare", "--prompts", half)):
        status, _, err = run(*arguments, "--reward", "brightness", "--out", "here", *small)
        assert status == 2 and "half a character" in err and err.count("\n") == 1, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["self", "pipe", "memory"])
def test_arguments_of_the_constructor_are_none_of_the_pipeline(run, small, tmp_path, name):
    status, _, err = run("align", "a", "--reward", "brightness", "--set", f"{name}=1", *small)
    assert status == 2 and f"StableDiffusionPipeline has no argument '{name}'" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_argument_passed_in_two_ways_is_refused(run, small, tmp_path):
    status, _, err = run("align", "a", "--reward", "brightness", "--set", "height=24", *small)
    assert status == 2 and err == "noiseward: height is given twice, by itself and in call; give it once\n"


def test_another_flag_is_no_value_of_a_flag_of_earlier_versions(run):
    status, _, err = run("align", "a", "--search", "--steps", "3")
    assert status == 2 and err == "noiseward: --search is the method now; use --method ...\n"


@pytest.mark.parametrize(
    ("written", "flags", "says"),
    [
        ("eta = 0.1", ["--set", "eta=2"], "--eta must be <= 1, got 2"),
        ("eta = 2", ["--set", "clip_skip=1"], "eta must be <= 1, got 2"),
        ("call = {eta = 2}", ["--eta", "3"], "--eta must be <= 1, got '3'"),
        ("eta = 0.1\ncall = {eta = 0.2}", [], "eta is given twice, by itself and in call; give it once"),
        ("call = {eta = true}", [], "eta must be a number, got True"),
        ("", ["--guidance-scale", "1e308"], "--guidance-scale must be a finite number below 1e300, got 1e+308"),
        ("guidance_scale = 1e308", [], "guidance_scale must be a finite number below 1e300, got 1e+308"),
    ],
)
def test_flags_go_over_a_file_and_errors_use_the_spelling_of_either(run, tmp_path, written, flags, says):
    (tmp_path / "run.toml").write_text(written)
    status, _, err = run("align", "a", "--reward", "brightness", "--spec", "run.toml", *flags)
    assert status == 2 and err == f"noiseward: {says}\n"


def test_an_option_among_the_arguments_of_the_pipeline_leaves_the_others_of_a_file(run, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr("noiseward.runs.perform.execute", lambda spec, *_, **__: asked.append(spec) or exit(3))
    (tmp_path / "run.toml").write_text('reward = "brightness"\neta = 0.1\ncall = {clip_skip = 1}')
    assert run("align", "a duck", "--spec", "run.toml", "--set", "eta=0.3", "-q")[0] == 3
    assert (asked[0].eta, asked[0].call) == (0.3, {"clip_skip": 1})


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("cuda:x", "device must be cuda or cuda:NUMBER, as in cuda:0, got 'cuda:x'"),
        ("cpu:x", "device must be cpu or cpu:NUMBER"),
        ("cuda:", "device must be cuda or cuda:NUMBER"),
        ("cuda:-1", "device must be cuda"),
        ("cuda:99999999999999999999", "device must be cuda"),
        ("", "unknown device ''"),
        ("auto:0", "unknown device 'auto:0'"),
        ("meta", "unknown device 'meta'"),
    ],
)
def test_devices_that_are_none(run, small, tmp_path, device, says):
    status, _, err = run("align", "a", "--reward", "brightness", "--device", device, *small)
    assert status == 2 and says in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody-by-this-name", "nowhere/" * 900, "file/x"])
@pytest.mark.parametrize("option", ["--model", "--lora", "--out", "--reward", "list", "show", "resume"])
def test_names_that_no_file_can_have_are_one_line_of_limited_length(run, small, tmp_path, option, path):
    (tmp_path / "file").write_text("")
    given = {"--reward": ["--reward", f"{path}.py:f"], "--out": ["--reward", "brightness", "--out", f"file/{path}"]}
    options = given.get(option, ["--reward", "brightness", option, path])
    arguments = ["align", "a", *small, *options] if option.startswith("--") else [option, path]
    status, _, err = run(*arguments)
    assert status in (1, 2) and err.startswith("noiseward: ") and err.count("\n") == 1 and len(err) < 1100, err
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


# ---- numbers of things ----


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--batch", "1000000"), "1,000,000 rows are too many for one run (1,000,000 per prompt): more than 100,000"),
        (("--batch", "1000000000"), "1,000,000,000 rows are too many for one run"),
        (("--seed", "9" * 50), "--seed must be <= 9223372036854775807, got '9999"),
        (("--method", "dno:coarse=0"), "coarse must be >= 1, got '0'"),
        (("--method", "dno:coarse=" + "9" * 50), "coarse=99999999999"),
        (("--method", "dno:best_of=1000000000"), "samples must be <= 65,536, got 1000000000"),
        (("--method", "best-of-n:samples=100000000000000000000"), "samples must be <= 65,536, got 1000000"),
        (("--method", "lgd:samples=1000000000"), "samples must be <= 65,536"),
        (("--method", "dno:estimator=hybrid2:samples=" + "9" * 4000), "samples must be <= 65,536, got 9999"),
        (("--reward", "contrast:cutouts=1000000000"), "cutouts must be <= 4,096, got 1000000000"),
    ],
)
def test_more_than_can_be_made_is_counted_before_it_is_made(run, small, tmp_path, options, says):
    status, _, err = run("align", "a", "--reward", "brightness", *options, *small)
    assert status == 2 and says in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_rows_that_do_not_fit_into_memory_are_refused_with_what_they_take(model, monkeypatch):
    monkeypatch.setattr("noiseward.samplers.memory.free_memory", lambda device: 1e6)
    said = refuse(align, model, "a", "brightness", batch=1000, height=16, width=16, num_inference_steps=4)
    assert "1,000 rows are too many for one run" in said and "GB, and 0.0 GB are free" in said


def test_a_comparison_counts_its_rows():
    said = refuse(Comparison, RunSpec(reward="brightness"), ("a",), ("dno",), seeds=10**9)
    assert "at most 1,000,000 rows, prompts times seeds, got 1,000,000,000" in said


def test_a_comparison_refuses_an_empty_prompt(run, small, tmp_path):
    status, _, err = run("compare", "--prompts", " ", "--reward", "brightness", "--out", "here", *small)
    assert status == 2 and "--prompts is empty" in err and not list(tmp_path.iterdir())


def test_a_folder_by_the_name_of_a_prompt_is_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cat").mkdir()
    assert read_prompts(["cat", "x" * 5000]) == ("cat", "x" * 5000)


def test_cutouts_of_a_sensible_number_are_made():
    assert parse_weighted("brightness:cutouts=4096")[0].name == "brightness"
