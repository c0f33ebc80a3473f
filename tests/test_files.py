"""What is written goes over regular files only, and what is read is one; a new directory is one process's alone."""

from __future__ import annotations

import multiprocessing
import os
import stat
from pathlib import Path

import pytest
from PIL import Image

from noiseward import ArgumentError, RunError
from noiseward.errors import NoisewardError
from noiseward.runs import Claim, RunFolder, RunSpec, execute, find_runs, resume
from noiseward.runs import replay as replays
from noiseward.runs.files import DirectoryBusy, check_folder, check_target, lock, replace_file
from noiseward.runs.images import check_results
from noiseward.runs.record import read_record
from tests.tiny import CALL

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


@pytest.fixture(scope="module")
def spec(model):
    return RunSpec(prompt=("a",), reward=("brightness",), model=model, steps=1, call={**CALL, "num_inference_steps": 2})


@pytest.fixture
def finished_run(spec, tmp_path):
    execute(spec, tmp_path / "run", quiet=True)
    return tmp_path / "run"


def write(target: Path) -> None:
    replace_file(target, lambda path: path.write_text("new"))


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/file").write_text("old")
    (tmp_path / "link").symlink_to("folder/file")
    (tmp_path / "nowhere").symlink_to("folder/later")
    for name, target in (("link", "file"), ("nowhere", "later")):
        write(tmp_path / name)
        assert (tmp_path / name).is_symlink() and (tmp_path / "folder" / target).read_text() == "new"
    assert sorted(os.listdir(tmp_path / "folder")) == ["file", "later"]


def test_a_path_that_is_no_file_is_refused_and_unchanged(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "loop").symlink_to("loop")
    for name, says in (("pipe", "which is a pipe"), ("folder", "which is a directory"), ("link", "which is a pipe"),
                       ("loop", "cannot be written"), ("no/file", "cannot be written")):  # fmt: skip
        for writing in (write, check_target):
            with pytest.raises(RunError, match=says):
                writing(tmp_path / name)
    assert stat.S_ISFIFO(os.lstat(tmp_path / "pipe").st_mode) and (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "loop", "pipe"]


def test_a_device_is_refused_and_stays_one(tmp_path):
    try:
        os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("making a device needs rights that this user has not")
    with pytest.raises(RunError, match="which is a device; give the path of a file"):
        write(tmp_path / "null")
    assert stat.S_ISCHR(os.lstat(tmp_path / "null").st_mode)


@pytest.mark.parametrize("name", ["spec.json", "status.json", "steps.jsonl", "best.safetensors", "best/00.png"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(finished_run, name):
    (finished_run / name).unlink()
    os.mkfifo(finished_run / name)
    with pytest.raises(RunError, match=f"{name}.*(a pipe|no file)"):
        check_results(RunFolder(finished_run), read_record(RunFolder(finished_run)), closely=True)


@pytest.mark.parametrize("name", ["x.txt", "x.mp4", ".", "folder", "no/x.png"])
def test_a_grid_that_cannot_be_written_is_one_line_before_anything_is(run, finished_run, tmp_path, name):
    (tmp_path / "folder").mkdir()
    status, out, err = run("export", str(finished_run), "--csv", "x.csv", "--grid", name)
    assert (status in (1, 2), out, len(err.splitlines())) == (True, "", 1) and not (tmp_path / "x.csv").exists()
    assert "expected a" in err or "cannot be written" in err


def test_a_grid_is_written_in_what_its_name_says(run, finished_run, tmp_path):
    for name, kind in (("x.png", "PNG"), ("x.JPG", "JPEG"), ("x.webp", "WEBP"), ("x.tif", "TIFF"), ("x", "PNG")):
        assert run("export", str(finished_run), "--grid", name)[0] == 0
        with Image.open(tmp_path / name) as image:
            assert image.format == kind


def test_an_unwritable_replay_is_refused_before_the_work(run, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(replays, "replay", lambda folder: pytest.fail("the work was begun"))
    (tmp_path / "file").touch()
    (tmp_path / "full/00.png").mkdir(parents=True)
    for target, says in (("file", "is not a folder"), ("file/x", "is not a folder"), ("full", "is a directory")):
        status, _, err = run("replay", str(finished_run), "--out", target)
        assert status == 1 and says in err and len(err.splitlines()) == 1


def test_images_are_not_written_over_those_of_a_run(finished_run, tmp_path):
    (tmp_path / "many/packs").mkdir(parents=True)
    (tmp_path / "many/batch.json").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/batch.json").touch()  # of another program
    (tmp_path / "link").symlink_to("run/best")
    for name in ("run", "run/best", "run/new", "run/render/../frames", "link", "many", "many/packs", "many/packs/0"):
        with pytest.raises(RunError, match="expected a folder outside of runs, got .*; give another --out"):
            check_folder(tmp_path / name)
    for name in ("new", "run/render", "run/render/new", "run/replay", "many/replay/0", ".", "run-2", "other/new"):
        check_folder(tmp_path / name)


@pytest.mark.parametrize("command", ["render", "replay"])
def test_a_folder_of_the_run_is_refused_before_the_work(run, finished_run, command):
    before = (finished_run / "best/00.png").read_bytes()
    status, _, err = run(command, str(finished_run), "--out", str(finished_run / "best"))
    assert status == 1 and "which belongs to" in err and len(err.splitlines()) == 1
    assert (finished_run / "best/00.png").read_bytes() == before


def test_a_replay_on_a_full_disk_is_one_line(run, finished_run, monkeypatch):
    def fail_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail_full)
    status, _, err = run("replay", str(finished_run))
    assert status == 1 and "(No space left on device); free space" in err and len(err.splitlines()) == 1


def test_a_run_that_may_only_be_read_is_shown(run, finished_run, monkeypatch):
    def fail_read_only(*_):
        raise OSError(30, "Read-only file system")

    (finished_run / "plot.png").unlink()
    monkeypatch.setattr(os, "replace", fail_read_only)
    status, out, err = run("show", str(finished_run))
    assert status == 0 and "reward before" in out and "plot.png cannot be written (Read-only file system)" in err


@pytest.mark.parametrize(
    "arguments",
    ["align a --reward jpeg --out", "batch p.txt --reward jpeg --out", "compare --reward jpeg --out", "resume",
     "replay", "replay r --out", "render", "render r --out", "export", "export r --images", "show", "list",
     "rewards test jpeg a.png"],
)  # fmt: skip
def test_an_empty_path_is_not_this_folder(run, tmp_path, arguments):
    (tmp_path / "p.txt").write_text("a")
    status, out, err = run(*arguments.split(), "")
    assert (status, out) == (2, "") and err.endswith("must be a path, got ''; give one, as . for this folder\n")
    assert [path.name for path in tmp_path.iterdir()] == ["p.txt"]


@pytest.mark.parametrize("command", ["show", "resume", "replay", "export", "list"])
def test_a_path_that_is_too_long_is_named_shortly(run, command):
    status, _, err = run(command, "x" * 5000)
    code = 2 if command == "list" else 1
    assert status == code and len(err) < 400 and "xxx.....xxx" in err and "Traceback" not in err
    status, _, err = run(command, "/".join(["folder"] * 700))
    assert status == code and len(err) < 400 and "....." in err and len(err.splitlines()) == 1


@pytest.fixture
def shut_folder(tmp_path):
    """A folder that may not be looked into, and a user who is not root for as long."""
    if os.geteuid() != 0:
        (tmp_path / "shut").mkdir(mode=0)
        yield tmp_path / "shut"
        (tmp_path / "shut").chmod(0o700)
        return
    (tmp_path / "shut").mkdir(mode=0o700)
    os.seteuid(65534)
    yield tmp_path / "shut"
    os.seteuid(0)


def test_an_unreadable_parent_is_one_line(shut_folder):
    for what in (
        RunFolder(shut_folder / "run").spec, lambda: find_runs(shut_folder), lambda: find_runs(shut_folder / "run"),
        lambda: Claim(shut_folder / "run").__enter__(), lambda: check_target(shut_folder / "x.png"),
        lambda: write(shut_folder / "x.png"), lambda: resume(shut_folder / "run"),
    ):  # fmt: skip
        with pytest.raises(NoisewardError) as caught:
            what()
        assert "\n" not in str(caught.value)


def test_an_unwritable_folder_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(RunError, match="is not writable; give another folder"):
        check_folder(tmp_path / "new")


def test_of_two_runs_for_one_directory_the_second_is_refused(tmp_path):
    with Claim(tmp_path / "a/run"):
        with pytest.raises(DirectoryBusy, match="is being written by another process"):
            Claim(tmp_path / "a/run").__enter__()
        assert os.listdir(tmp_path / "a/run") == [".lock"]
    assert not (tmp_path / "a").exists()  # nothing was begun


def test_names_count_on_and_free_ones_are_taken(tmp_path):
    with Claim.fresh(tmp_path, "duck") as one, Claim.fresh(tmp_path, "duck") as two:
        assert (one.name, two.name) == ("duck", "duck-2")
    (tmp_path / "duck").mkdir()
    (tmp_path / "duck/letter").touch()
    (tmp_path / "duck-2").touch()
    with pytest.raises(RunError, match="duck-2 is a file"):
        Claim.fresh(tmp_path, "duck").__enter__()


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "env.json", ".spec.json.new"]])
def test_what_a_process_left_that_died_before_it_began_counts_as_empty(spec, tmp_path, left):
    (tmp_path / "run").mkdir()
    for name in left:
        (tmp_path / "run" / name).touch()
    with pytest.raises(RunError, match="is not a run directory"):
        resume(tmp_path / "run", quiet=True)
    with pytest.raises(NoisewardError):
        execute(spec.replace(steps=0, reward=("shine",)), tmp_path / "run", quiet=True)
    assert (tmp_path / "run").exists() == (left == [])  # an empty one of the user's own stays
    execute(spec.replace(steps=0), tmp_path / "run", quiet=True)
    assert RunFolder(tmp_path / "run").read("status.json")["state"] == "done"


def run_together(spec: RunSpec, claims: list[Claim]) -> list[str]:
    """What becomes of two runs that are begun at the same moment, each in a process of its own."""
    context = multiprocessing.get_context("fork")
    barrier, said = context.Barrier(len(claims)), context.Queue()

    def work(claim: Claim) -> None:
        barrier.wait()
        try:
            execute(spec, claim, quiet=True)
            said.put(f"done {claim.path.name}")
        except NoisewardError as error:
            said.put(f"refused {error}")

    processes = [context.Process(target=work, args=(claim,)) for claim in claims]
    for process in processes:
        process.start()
    found = sorted(said.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    return found


def test_two_runs_begun_together_take_two_names(spec, tmp_path):
    found = run_together(spec, [Claim.fresh(tmp_path / "runs", spec.slug) for _ in range(2)])
    assert found == ["done a-brightness", "done a-brightness-2"]
    for name in os.listdir(tmp_path / "runs"):
        assert len(RunFolder(tmp_path / "runs" / name).steps()) == 2


def test_of_two_runs_begun_together_in_one_directory_one_is_done(spec, tmp_path):
    done, refused = run_together(spec, [Claim(tmp_path / "run") for _ in range(2)])
    assert done == "done run" and ("is being written by another" in refused or "holds a run already" in refused)
    assert [step["index"] for step in RunFolder(tmp_path / "run").steps()] == [0, 1]


def test_a_lock_whose_file_was_removed_is_taken_again(tmp_path, monkeypatch):
    import fcntl

    real = fcntl.flock

    def lock_late(file, how):
        monkeypatch.setattr(fcntl, "flock", real)
        (tmp_path / ".lock").unlink()  # its owner went between the opening and the locking
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", lock_late)
    with lock(tmp_path), pytest.raises(DirectoryBusy), lock(tmp_path):
        pass


@pytest.mark.parametrize(("given", "says"), [({"height": 32}, "height 32, got 16 x 16"), ({"width": 64}, "width 64")])
def test_a_size_that_a_pipeline_ignores_is_refused(spec, tmp_path, given, says):
    call, smaller = {"num_inference_steps": 2, **given}, spec.replace(num_inference_steps=None, height=None, width=None)
    with pytest.raises(ArgumentError, match=f"expected images with {says}.* give both"):
        execute(smaller.replace(call=call), tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()
    execute(smaller.replace(call={"num_inference_steps": 2, "height": 16}), tmp_path / "run", quiet=True)
