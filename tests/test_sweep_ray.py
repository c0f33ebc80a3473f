"""The same packs on a cluster give the same bits, whatever the number of workers and whichever of them dies."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import pytest
import torch

from noiseward import ArgumentError, Hybrid2, Objective, RunError
from noiseward.loop.executor import Executor, LocalExecutor, run_piece
from noiseward.noise.layout import Seeds
from noiseward.rewards.reward import FunctionReward
from noiseward.runs import RunSpec
from noiseward.samplers.cost import count_calls
from noiseward.sweep.compare import compare
from noiseward.sweep.comparison import Comparison
from noiseward.sweep.directory import Sweep
from noiseward.sweep.engine import Beat, Local
from noiseward.sweep.rows import read_rows
from noiseward.toys import GaussianModel
from tests.test_resume import assert_equal
from tests.test_sweep_compare import plain
from tests.tiny import CALL


class Backward(Executor):
    """Samples the last piece first."""

    def run(self, sampler, pieces):
        todo = list(pieces)
        assert len(todo) == 3
        done = [run_piece(sampler, noise, prompt) for noise, prompt in reversed(todo)]
        yield from reversed(done)


def test_who_samples_candidates_makes_no_difference():
    steps = []
    for executor in (LocalExecutor(), Backward()):
        objective = Objective(
            GaussianModel(steps=4, dim=3).sampler(),
            FunctionReward(lambda x: -(x**2).sum(1), name="black", differentiable=False),
        ).with_executor(executor)
        noise = objective.sampler.init(2, seed=3)
        with count_calls() as meter:
            evaluation, direction = Hybrid2(samples=5, chunk=4)(objective, noise, Seeds((0, 1)))
        steps.append((evaluation.reward, direction, meter.nfe))
    assert all(torch.equal(one, other) for one, other in zip(steps[0][:2], steps[1][:2], strict=True))
    assert steps[0][2] == steps[1][2] and steps[0][2].forward == 4 * (5 + 1)


def test_the_command_line_knows_its_engines(run, small, tmp_path):
    (tmp_path / "p.txt").write_text("a\n")
    for more, says in (
        (("--engine", "rya"), "--engine must be one of 'local', 'ray', got 'rya'"),
        (("--workers", "2"), "--address and --workers need --engine ray"),
    ):
        status, _, err = run("batch", "p.txt", "--reward", "brightness", "--out", "out", *small, *more)
        assert status == 2 and says in err and not (tmp_path / "out").exists()


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    import sys

    from noiseward.sweep.ray import RayEngine

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ArgumentError, match=r"pip install 'noiseward\[ray\]'"):
        RayEngine()


@pytest.fixture(scope="module")
def engine():
    """Room for three workers, on however few cores."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # leave no token in the home folder of the user who runs tests
    os.environ["RAY_worker_niceness"] = "0"  # or whatever else runs starves them
    ray = pytest.importorskip("ray")
    from noiseward.sweep.cluster import start
    from noiseward.sweep.ray import RayEngine

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own
        start(cores=3)
        with RayEngine(tries=2) as engine:
            yield engine
        ray.shutdown()


@pytest.fixture(scope="module")
def spec(model):
    call = {**CALL, "num_inference_steps": 2}
    return RunSpec(prompt=(), reward=("brightness",), model=model, steps=2, method="dno:lr=0.05", batch=1, call=call)


def run_batch(out: Path, spec: RunSpec, engine, text: str = "a\nb\nc\n", seen=lambda beat: None):
    (out.parent / "p.txt").write_text(text)
    batch, beats = Sweep.begin(out, read_rows(out.parent / "p.txt", spec), size=1), []
    for beat in batch.run(engine):
        beats.append(beat)
        seen(beat)
    return beats


def assert_same(one: Path, other: Path) -> None:
    names = [sorted(path.name for path in (out / "packs").iterdir()) for out in (one, other)]
    assert names[0] == names[1] and names[0]
    for name in names[0]:
        for file in ("best.safetensors", "latest.safetensors"):
            assert_equal(one / "packs" / name / file, other / "packs" / name / file)


@pytest.fixture(scope="module")
def local(spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("local") / "out"
    run_batch(out, spec, Local())
    return out


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_bits_of_the_local_engine(engine, spec, local, tmp_path, workers):
    engine.workers = workers
    beats = run_batch(tmp_path / "out", spec, engine)
    assert sorted(beat.pack for beat in beats if beat.state == "done") == ["0000", "0001", "0002"]
    assert_same(local, tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_candidates_of_one_image_are_sampled_by_the_workers_that_are_left(engine, spec, tmp_path):
    search = spec.replace(steps=1, method="best-of-n:samples=6,chunk=2")
    (tmp_path / "local").mkdir()
    run_batch(tmp_path / "local" / "out", search, Local(), "a\n")
    engine.workers = 3
    (tmp_path / "ray").mkdir()
    run_batch(tmp_path / "ray" / "out", search, engine, "a\n")
    assert_same(tmp_path / "local" / "out", tmp_path / "ray" / "out")
    import ray

    assert sorted(ray.get([actor.pieces.remote() for actor in engine._free]))[-2:] == [1, 1]


DEADLY = (
    "import os, pathlib, signal\n"
    "calls = []\n"
    "def light(images, prompts):\n"
    "    calls.append(1)\n"
    "    told = pathlib.Path({told!r})\n"
    "    if prompts == ['b'] and len(calls) > 1 and len(told.read_text() if told.exists() else '') < {deaths}:\n"
    "        with told.open('a') as file:\n            file.write('x')\n"
    "        os.kill(os.getpid(), signal.SIGKILL)\n"
    "    return images.mean((1, 2, 3))\n"
)


@pytest.mark.filterwarnings("ignore")
def test_a_pack_whose_worker_dies_continues_elsewhere_to_the_same_bits(engine, spec, local, tmp_path):
    engine.workers = 2
    (tmp_path / "mine.py").write_text(DEADLY.format(told=str(tmp_path / "told"), deaths=1))
    mine = spec.replace(reward=(f"{tmp_path / 'mine.py'}:light",))
    beats = run_batch(tmp_path / "out", mine, engine)
    assert (tmp_path / "told").read_text() == "x"
    assert {beat.pack for beat in beats if beat.state == "done"} == {"0000", "0001", "0002"}
    assert_same(local, tmp_path / "out")  # light is brightness


@pytest.mark.filterwarnings("ignore")
def test_a_pack_that_kills_every_worker_is_given_up(engine, spec, tmp_path):
    engine.workers = 1
    (tmp_path / "mine.py").write_text(DEADLY.format(told=str(tmp_path / "told"), deaths=9))
    mine = spec.replace(reward=(f"{tmp_path / 'mine.py'}:light",))
    beats = run_batch(tmp_path / "out", mine, engine, "b\na\n")
    ended = {beat.pack: beat for beat in beats if beat.state != "running"}
    assert (ended["0000"].state, ended["0001"].state) == ("failed", "done")
    assert "its worker died 2 times" in (ended["0000"].error or "")


def test_a_cluster_that_is_not_there_is_one_line(monkeypatch):
    ray = pytest.importorskip("ray")
    from noiseward.sweep.cluster import start
    from noiseward.sweep.ray import RayEngine

    def refuse(**how):
        raise ConnectionError("nobody\nthere")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ArgumentError, match=r"no cluster at 'here:1' \(nobody there\); 'ray start --head'"):
        RayEngine("here:1")
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(RunError, match=r"Ray did not start here \(nobody there\)"):
        start()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.filterwarnings("ignore")
def test_more_workers_than_there_is_room_for_are_refused(engine):
    from noiseward.sweep.ray import RayEngine

    with pytest.raises(ArgumentError, match="--workers must be 1 to 3, .* 3 times 1 processor cores, got 9"):
        RayEngine(workers=9)


@pytest.mark.filterwarnings("ignore")
def test_helpers_there_is_no_room_for_are_done_without(engine, monkeypatch):
    """As after the loss of a node: four workers on three cores."""
    from noiseward.sweep import ray as engines

    first, helpers = engine._hire_team(2)
    assert len(helpers) == 2
    engine._free += [first, *helpers]
    monkeypatch.setattr(engines, "ROOM", 5.0)
    first, helpers = engine._hire_team(3)
    assert len(helpers) == 2
    engine._free += [first, *helpers]
    engine._dismiss()
    assert not engine._free


@pytest.mark.filterwarnings("ignore")
def test_tasks_whose_workers_wait_for_room_get_it_from_those_that_are_free(engine, tmp_path):
    """As after the loss of a node: two workers, and room for one."""
    import ray

    @dataclasses.dataclass(frozen=True)
    class Doubling:  # of this function, so that it can be sent
        number: int
        folder: Path

        size, tries_candidates = 1, False

        @property
        def name(self):
            return str(self.number)

        def run(self, context):
            if self.number == 4:
                raise ValueError("no four")
            (self.folder / self.name).write_text(str(2 * self.number))
            yield Beat(self.name, "done", 1)

    engine._dismiss()
    others = [engine._new() for _ in range(2)]
    assert ray.get([other.pieces.remote() for other in others]) == [0, 0]
    engine.workers = 2
    beats = list(engine.run([Doubling(number, tmp_path) for number in (1, 2, 3, 4)]))
    assert sorted((beat.pack, beat.state) for beat in beats) == [
        ("1", "done"), ("2", "done"), ("3", "done"), ("4", "failed")
    ]  # fmt: skip
    assert "no four" in next(beat.error for beat in beats if beat.error)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"1": "2", "2": "4", "3": "6"}
    for other in others:
        ray.kill(other)


@pytest.fixture(scope="module")
def comparison(model):
    call = {**CALL, "num_inference_steps": 2}
    base = RunSpec(reward="brightness", watch="contrast", model=model, call=call)
    return Comparison(base, ("a", "b"), ("best-of-n:samples=2", "dno:lr=0.1"), "nfe", 20, seeds=1)


def run_comparison(comparison, out, engine):
    """What was measured of each pack, and its best images."""
    compare(comparison, out, engine=engine)
    images = {str(path.relative_to(out)): path.read_bytes() for path in out.glob("packs/*/best/*.png")}
    return plain(Sweep.read(out)), images


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_comparison_is_the_same_on_any_number_of_workers(engine, comparison, tmp_path, workers):
    engine.workers = workers
    spread = run_comparison(comparison, tmp_path / "ray", engine)
    assert spread == run_comparison(comparison, tmp_path / "local", Local())
    assert len(spread[0]) == len(spread[1]) == 4


@pytest.mark.filterwarnings("ignore")
def test_a_pack_of_a_comparison_outlives_its_worker_and_not_every_worker(engine, comparison, tmp_path):
    engine.workers = 2
    for deaths in (1, 9):
        file = tmp_path / f"mine{deaths}.py"
        file.write_text(DEADLY.format(told=str(tmp_path / f"told{deaths}"), deaths=deaths))
        base = comparison.base.replace(reward=(f"{file}:light",))
        mine = dataclasses.replace(comparison, base=base, methods=("dno:lr=0.1",))
        if deaths == 1:
            found, _ = run_comparison(mine, tmp_path / "out1", engine)
            expected, _ = run_comparison(
                dataclasses.replace(mine, base=comparison.base), tmp_path / "local", Local()
            )  # light is brightness
            assert found == expected
        else:
            with pytest.raises(RunError, match="first 'dno-lr-0.1-b' with seed 0 .its worker died 2 times"):
                compare(mine, tmp_path / "out9", engine=engine)


@pytest.mark.filterwarnings("ignore")
def test_an_error_in_a_pack_is_that_error(engine, comparison, tmp_path):
    engine.workers = 1
    (tmp_path / "mine.py").write_text("def light(images):\n    raise ValueError('no light')\n")
    wrong = dataclasses.replace(comparison, base=comparison.base.replace(reward=(f"{tmp_path / 'mine.py'}:light",)))
    with pytest.raises(RunError, match="no light"):
        compare(wrong, tmp_path / "out", engine=engine)
    with pytest.raises(ArgumentError, match="did you mean 'brightness'"):  # before any pack begins
        compare(dataclasses.replace(wrong, base=wrong.base.replace(reward=("brightnes",))), tmp_path / "none")
