"""The same rows are cut into the same packs, whatever was done before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from noiseward import ArgumentError, RunError
from noiseward.options.run import RunSpec
from noiseward.runs.spec import to_text
from noiseward.sweep.packs import Pack, cut, plan, read_packs, split_rows, write_packs
from noiseward.sweep.rows import Row, read_rows

BASE = RunSpec(prompt=(), reward=("brightness",), steps=3)


def row(name: str, **more: object) -> Row:
    return Row(name, BASE.replace(**{"prompt": (f"a {name}",), **more}), 1)


def begin(out: Path, packs: list[Pack]) -> None:
    """Make it look as if some packs had been begun."""
    for pack in packs:
        (out / "packs" / pack.name).mkdir(parents=True, exist_ok=True)
        (out / "packs" / pack.name / "spec.json").write_text(to_text(pack.spec))


def _content(pack: Pack) -> str:
    return str((pack.ids, pack.spec))


ROWS = some.lists(
    some.builds(
        row,
        some.text("abcdefgh", min_size=1, max_size=2),
        method=some.sampled_from([None, "dno:lr=0.1"]),
        seed=some.integers(0, 2),
        batch=some.integers(1, 5),
    ),
    max_size=8,
    unique_by=lambda one: one.id,
)


@given(ROWS, some.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_every_row_is_in_one_pack_with_its_own_settings(rows, size):
    packs = cut(rows, size)
    expected = {
        (one.id, one.spec.prompt[0], seed): one.spec.method
        for one in rows
        for seed in range(one.spec.seed, one.spec.seed + one.spec.batch)
    }
    found = [(*part, pack.spec.method) for pack in packs for part in pack.rows()]
    assert len(found) == len(expected)
    assert {part[:3]: part[3] for part in found} == expected
    assert all(sum(1 for _ in pack.rows()) == pack.size <= size for pack in packs)
    assert len({pack.name for pack in packs}) == len(packs)


@given(ROWS, some.integers(1, 6), some.sets(some.integers(0, 40)))
@settings(max_examples=60, deadline=None)
def test_continuing_cuts_the_same_packs(tmp_path_factory, rows, size, which):
    out = tmp_path_factory.mktemp("batch")
    whole = plan(out, rows, size)
    write_packs(out, whole)
    begin(out, [pack for number, pack in enumerate(whole) if number in which])
    assert plan(out, rows, size) == whole


def test_continuing_cuts_the_same_packs_where_seeds_are_cut(tmp_path):
    rows = [row("a", batch=5), row("b", batch=5)]
    whole = plan(tmp_path, rows, 2)
    assert [(pack.ids, pack.spec.seed) for pack in whole] == [((name,), seed) for name in "ab" for seed in (0, 2, 4)]
    write_packs(tmp_path, whole)
    begin(tmp_path, [whole[1], whole[4]])
    assert plan(tmp_path, rows, 2) == whole


def test_prompts_that_are_new_are_added_and_others_read_packs(tmp_path):
    first = plan(tmp_path, [row("a", batch=2), row("b", batch=2)], 2)
    write_packs(tmp_path, first)
    begin(tmp_path, first)
    more = plan(tmp_path, [row("a", batch=3), row("b", batch=2), row("c", batch=2)], 2)
    assert more[:2] == first
    assert [(pack.name, pack.ids, pack.spec.seed, pack.spec.batch) for pack in more[2:]] == [
        ("0002", ("a",), 2, 1), ("0003", ("c",), 0, 2)
    ]  # fmt: skip


def test_other_rows_than_those_begun_are_refused(tmp_path):
    first = plan(tmp_path, [row("a"), row("b")], 2)
    write_packs(tmp_path, first)
    assert plan(tmp_path, [row("c")], 2) == cut([row("c")], 2)  # nothing was begun
    begin(tmp_path, first)
    for rows, says in (
        ([row("a")], "began 'b' with seed 0, which is not asked for"),
        ([row("a", method="dno:lr=0.5"), row("b")], "began 'a' with other settings .method."),
        ([row("a", prompt=("else",)), row("b")], "began 'a' with another prompt"),
    ):
        with pytest.raises(RunError, match=says):
            plan(tmp_path, rows, 2)


def test_rows_keep_their_invented_ids_in_another_order(tmp_path):
    lines = [
        "a duck,dno:lr=0.1,0",
        "A duck!,dno:lr=0.1,0",
        "a duck,reno,0",
        "a duck,reno,5",
        "a duck,reno,5",
        "b,reno,0",
    ]

    def read(*lines: str) -> list[Row]:
        (tmp_path / "p.csv").write_text("\n".join(["prompt,method,seed", *lines]))
        return read_rows(tmp_path / "p.csv", BASE.replace(batch=3))

    rows = read(*lines)
    assert [one.id for one in rows] == ["a-duck", "a-duck-2", "a-duck-3", "a-duck-4", "a-duck-5", "b"]
    first = plan(tmp_path, rows, 2)
    write_packs(tmp_path, first)
    begin(tmp_path, [pack for pack in first if not set(pack.ids) & {"a-duck-2", "b"}])
    for again in (lines[::-1], lines[1:] + lines[:1], lines):
        found = plan(tmp_path, read(*again), 2)
        assert sorted(map(_content, found)) == sorted(map(_content, first))
    more = plan(tmp_path, read("A DUCK,reno,0", *lines[::-1]), 2)
    assert {("a-duck-6", ("A DUCK",))} == {(pack.ids[0], pack.spec.prompt) for pack in more} - {
        (pack.ids[0], pack.spec.prompt) for pack in first
    }
    swapped = [Row(one.id, other.spec) for one, other in zip(rows, rows[1:] + rows[:1], strict=True)]
    with pytest.raises(RunError, match="began 'a-duck' with another prompt"):
        plan(tmp_path, swapped, 2)


def test_a_pack_splits_into_its_rows():
    (pack,) = cut([row("a", batch=2, seed=5), row("b", batch=2, seed=5)], 4)
    parts = split_rows(pack)
    assert [part.name for part in parts] == ["0000.0", "0000.1", "0000.2", "0000.3"]
    assert [next(part.rows()) for part in parts] == list(pack.rows())
    assert all(part.settings() == pack.settings() for part in parts)


def test_a_file_of_packs_is_read_as_written_or_refused_by_name(tmp_path):
    assert read_packs(tmp_path) == []
    packs = cut([row("a", batch=2, call={"eta": 1.0}), row("b", method="dno:guard=shell:0.01")], 2)
    write_packs(tmp_path, packs)
    assert read_packs(tmp_path) == packs
    content = json.loads((tmp_path / "batch.json").read_text())
    for change, says in (
        ({"format": 9}, "has format 9, this version reads up to 4; update"),
        ({"packs": [{"name": "0000"}]}, r"expected a list for 'packs\[0\].ids', got nothing"),
        ({"packs": content["packs"][::-1]}, "was changed since it was written"),
        ({"packs": [{**content["packs"][0], "spec": {"format": 1}}]}, "reward is missing"),
    ):
        (tmp_path / "batch.json").write_text(json.dumps({**content, **change}))
        with pytest.raises(RunError, match=says):
            read_packs(tmp_path)
    (tmp_path / "batch.json").write_text("{")
    with pytest.raises(RunError, match=r"batch.json cannot be read"):
        read_packs(tmp_path)


def test_packs_of_nothing_are_refused():
    with pytest.raises(ArgumentError, match="--pack must be >= 1, got 0"):
        cut([row("a")], 0)
