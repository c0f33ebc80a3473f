"""Prompt files say what to do line by line, or which line is wrong and why."""

from __future__ import annotations

import pytest

from noiseward import ArgumentError
from noiseward.options.run import RunSpec
from noiseward.sweep.prompt_files import list_sets
from noiseward.sweep.rows import read_rows

BASE = RunSpec(prompt=(), reward=("brightness",), batch=2, seed=7, method="dno:lr=0.02", eta=0.5)


@pytest.fixture
def file(tmp_path):
    def write(name: str, text: str):
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    return write


def test_a_text_file_is_one_prompt_per_line(file):
    rows = read_rows(file("p.txt", "# animals\na duck\n\n  Two ducks, one pond  \na duck\n"), BASE)
    assert [(row.id, row.spec.prompt, row.line) for row in rows] == [
        ("a-duck", ("a duck",), 2), ("two-ducks-one-pond", ("Two ducks, one pond",), 4), ("a-duck-2", ("a duck",), 5)
    ]  # fmt: skip
    assert all(
        (row.spec.seed, row.spec.batch, row.spec.method, row.spec.steps) == (7, 2, "dno:lr=0.02", 30) for row in rows
    )


def test_a_line_sets_options_for_itself(file):
    json = file(
        "p.jsonl",
        '{"prompt": "a", "id": "one", "steps": 5, "reward": ["jpeg", "contrast:2"], "call.strength": 0.3, "seeds": 1}\n'
        '{"prompt": "b", "method": "dno:lr=0.1", "guidance_scale": 2, '
        '"negative_prompt": "7", "seed": 3, "seconds": 9}\n',
    )
    table = file(
        "p.csv",
        "prompt,id,steps,reward,call.strength,seeds,method,guidance_scale,negative_prompt,seed,seconds\n"
        "a,one,5,jpeg; contrast:2,0.3,1,,,,,\n"
        "b,,,,,,dno:lr=0.1,2,7,3,9\n",
    )
    for rows in (read_rows(json, BASE), read_rows(table, BASE)):
        one, two = (row.spec for row in rows)
        assert (one.steps, one.reward, one.batch) == (5, ("jpeg", "contrast:2"), 1)
        assert one.arguments == {"eta": 0.5, "strength": 0.3}
        assert (one.method, one.seed) == ("dno:lr=0.02", 7)
        assert (two.method, two.seed, two.seconds, two.steps, two.reward) == (
            "dno:lr=0.1",
            3,
            9.0,
            None,
            ("brightness",),
        )
        assert two.arguments == {"eta": 0.5, "guidance_scale": 2, "negative_prompt": "7"}
        assert [row.id for row in rows] == ["one", "b"]


def test_a_line_goes_over_the_command_in_either_spelling_of_an_argument(file):
    base = BASE.replace(eta=0.2, call={"clip_skip": 1})
    (row,) = read_rows(file("p.csv", "prompt,call.eta,call.clip_skip\na,0.6,2\n"), base)
    assert (row.spec.eta, row.spec.call) == (0.6, {"clip_skip": 2})


def test_a_cell_may_hold_several_requirements_and_stops(file):
    (row,) = read_rows(file("p.csv", "prompt,require,stop_when\na,jpeg>=-9; contrast>=0.1,plateau; hacked\n"), BASE)
    assert (row.spec.require, row.spec.stop_when) == (("jpeg>=-9", "contrast>=0.1"), ("plateau", "hacked"))


def test_a_limit_of_a_line_replaces_the_same_limit_alone(file):
    table = file("p.csv", "prompt,nfe,steps\na,40,\nb,,5\nc,,\n")
    found = [(one.spec.steps, one.spec.seconds, one.spec.nfe) for one in read_rows(table, BASE.replace(seconds=9))]
    assert found == [(None, 9, 40), (5, 9, None), (None, 9, None)]
    found = [(one.spec.steps, one.spec.nfe) for one in read_rows(table, BASE)]
    assert found == [(None, 40), (5, None), (30, None)], "30 steps are the default where there is no other limit"


def test_cells_may_hold_commas_and_lines_are_counted_through_them(file):
    rows = read_rows(file("p.csv", 'id,prompt\n\nx,"a duck, a pond"\ny,"two\nlines"\nz,c\n'), BASE)
    assert [(row.id, row.line) for row in rows] == [("x", 3), ("y", 4), ("z", 6)]
    assert rows[0].spec.prompt == ("a duck, a pond",)


def test_a_template_is_filled_in(file):
    (row,) = read_rows(file("p.txt", "duck\n"), BASE, template="a {} on a black background")
    assert (row.id, row.spec.prompt) == ("duck", ("a duck on a black background",))


def test_the_simple_animals_are_45():
    rows = read_rows("simple-animals", BASE)
    assert "simple-animals" in list_sets()
    prompts = [row.spec.prompt[0] for row in rows]
    assert len(set(prompts)) == 45 and {"cat", "kangaroo", "llama", "duck"} < set(prompts)
    assert [row.id for row in rows] == prompts


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.jsonl", '{"prompt": "a"}\n{"prompt": "b"\n', r"line 2: expected JSON, as in"),
        ("p.jsonl", '{"prompt": "a"}\n["b"]\n', r"line 2: expected a JSON object"),
        ("p.jsonl", '{"prompt": "a", "promt": 1}\n', r"line 1: unknown column 'promt'; did you mean 'prompt'"),
        ("p.jsonl", '{"id": "a"}\n', r"line 1: expected a prompt, got none"),
        ("p.jsonl", '{"prompt": 3}\n', r"line 1: expected a prompt, got 3"),
        ("p.jsonl", '{"prompt": "a", "steps": 1, "steps": 2}\n', r"line 1: 'steps' is there twice; give it once"),
        ("p.csv", "prompt,method\na,dno:guard=shel\n", r"line 2: unknown guard 'shel'; did you mean 'shell'"),
        ("p.csv", "prompt,method\na,dno:estimator=hybrid2:samples=x\n", r"line 2: estimator 'hybrid2': samples"),
        ("p.csv", "prompt,reward\na,contrast;brigtness:2\n", r"line 2: unknown reward 'brigtness'; did you mean"),
        ("p.csv", "prompt,reward\na,contrast;\n", r"line 2: unknown reward ''"),
        ("p.csv", "prompt,require\na,jpeg>=-9; contrast\n", r"line 2: .*contrast"),
        ("p.csv", "prompt,stop_when\na,plateau;bored\n", r"line 2: column 'stop_when' must be one of 'plateau'"),
        ("p.csv", "prompt,watch\na,clp\n", r"line 2: unknown reward 'clp'; did you mean 'clip'"),
        ("p.jsonl", '{"prompt": "a", "steps": 2.5}\n', r"line 1: column 'steps' must be an integer, got 2.5"),
        ("p.jsonl", '{"prompt": "a", "steps": true}\n', r"line 1: column 'steps' must be a number, got True"),
        ("p.jsonl", '{"prompt": "a", "search": "fk"}\n', r"line 1: column search is the method now; use method="),
        ("p.jsonl", '{"prompt": "a", "reward": 3}\n', r"line 1: column 'reward' must be a list, got 3"),
        ("p.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n', r"id 'x' is that of line 1 too"),
        ("p.jsonl", '{"prompt": "a", "id": "../x"}\n', r"line 1: id must be at most 80 letters, .*, got '../x'"),
        ("p.jsonl", '{"prompt": "a", "seeds": 0}\n', r"line 1: column 'seeds' must be >= 1, got 0"),
        ("p.jsonl", '{"prompt": "a", "format": 1}\n', r"line 1: unknown column 'format'"),
        ("p.csv", "prompt,colour\na,red\n", r"line 1: unknown column 'colour'"),
        ("p.csv", "prompt,id\na,x\nb,y,z\n", r"line 3: expected 2 cells, one per column, got 3"),
        ("p.csv", "prompt,eta\na,0.1\nb,fast\n", r"line 3: column 'eta' must be a number, got 'fast'"),
        ("p.csv", "prompt,guidance_scale\na,1e308\n", r"column 'guidance_scale' must be a finite number below 1e300"),
        ("p.jsonl", '{"prompt": "a", "steps": NaN}\n', r"line 1: column 'steps' must be finite, got nan"),
        ("p.csv", "prompt,eta,call.eta\na,0.1,0.2\n", r"line 2: eta is given twice, by itself and in call"),
        ("p.csv", "prompt,seconds\na,nan\n", r"line 2: column 'seconds' must be finite, got 'nan'"),
        ("p.csv", "prompt,method\na,dno:lr=0\n", r"line 2: method 'dno': lr must be > 0, got '0'"),
        ("p.csv", "prompt,prompt\na,b\n", r"line 1: column 'prompt' is there twice"),
        ("p.csv", "id,eta\nx,1\n", r"line 2: expected a prompt"),
        ("p.csv", 'prompt\na\n"b\n', r"line 3: expected CSV"),
        ("p.txt", "# nothing\n\n", r"has no prompts"),
        ("p.yaml", "a", r"prompts must be in a \.txt, \.jsonl or \.csv file, got"),
    ],
)  # fmt: skip
def test_an_invalid_row_is_reported_with_its_line(file, name, text, says):
    with pytest.raises(ArgumentError, match=says) as caught:
        read_rows(file(name, text), BASE)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="did you mean 'simple-animals'"):
        read_rows("simple-animal", BASE)
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00a")
    with pytest.raises(ArgumentError, match="p.txt must be UTF-8 text, got UTF-16; save it as UTF-8"):
        read_rows(tmp_path / "p.txt", BASE)
    with pytest.raises(ArgumentError, match="--template must have {} where"):
        read_rows("simple-animals", BASE, template="a duck")


def test_a_row_with_a_reward_of_its_own_needs_a_target_of_its_own(file):

    base = BASE.replace(target=0.5)
    with pytest.raises(ArgumentError, match="line 1: a reward of its own needs a target"):
        read_rows(file("p.jsonl", '{"prompt": "a", "reward": "jpeg"}\n'), base)
    (row,) = read_rows(file("p.jsonl", '{"prompt": "a", "reward": "jpeg", "target": -3}\n'), base)
    assert row.spec.target == -3.0


@pytest.mark.parametrize("wrong", [{"method": "dno:guard=shel"}, {"reward": ("brigtness",)}, {"watch": ("clp",)}])
def test_names_that_the_command_gives_to_all_lines_are_checked_before_the_lines(file, wrong):
    with pytest.raises(ArgumentError, match="^unknown (guard|reward) '.*did you mean"):
        read_rows(file("p.txt", "a duck\n"), BASE.replace(**wrong))
