"""A cluster of two nodes, which this machine plays alone: when one of them is lost, its packs continue on the other."""

from __future__ import annotations

import os
import signal

import pytest

from noiseward.runs import RunFolder, RunSpec
from noiseward.sweep.engine import Local
from tests.test_sweep_ray import assert_same, run_batch
from tests.tiny import CALL

pytestmark = pytest.mark.filterwarnings("ignore")
TOO_LONG = 300  # seconds until waiting for a worker that never comes is called a failure

SLOW = (
    "import pathlib, time\n"
    "def light(images):\n"
    "    if not pathlib.Path({gone!r}).exists():\n"
    "        time.sleep(0.4)\n"
    "    return images.mean((1, 2, 3))\n"
)


@pytest.fixture
def nodes():
    """Two nodes with a core each; gives a function that ends the second, as a power cut would."""
    os.environ["RAY_AUTH_MODE"] = "disabled"  # leave no token in the home folder of the user who runs tests
    os.environ["RAY_worker_niceness"] = "0"  # or whatever else runs starves them
    ray = pytest.importorskip("ray")
    from noiseward.sweep.cluster import import_ray

    import_ray()  # usage statistics are off
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    second = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    ray.init(address=cluster.address, log_to_driver=False)
    yield lambda: cluster.remove_node(second, allow_graceful=False)
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def hurry():
    """Raise TimeoutError when a test waits for ever."""

    def time_out(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, time_out)
    signal.alarm(TOO_LONG)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_packs_of_a_node_that_is_lost_go_on_on_the_other(nodes, hurry, model, tmp_path):
    from noiseward.sweep.ray import RayEngine

    spec = RunSpec(
        reward="brightness", model=model, steps=12, method="dno:lr=0.05", call={**CALL, "num_inference_steps": 2}
    )
    for name in ("local", "lost"):
        (tmp_path / name).mkdir()
    run_batch(tmp_path / "local/out", spec, Local(), "a\nb\nc\n")
    (tmp_path / "mine.py").write_text(SLOW.format(gone=str(tmp_path / "gone")))
    slow = spec.replace(reward=(f"{tmp_path / 'mine.py'}:light",))  # which is brightness
    out, cut = tmp_path / "lost/out", {}

    def lose(beat):
        """Ends the second node once both packs that are at work made two steps."""
        if beat.step >= 2 and not (tmp_path / "gone").exists():
            cut[beat.pack] = RunFolder(out / "packs" / beat.pack).steps()[:2]
            if len(cut) == 2:
                nodes()
                (tmp_path / "gone").touch()

    with RayEngine() as engine:
        assert engine.workers == 2
        beats = run_batch(out, slow, engine, "a\nb\nc\n", seen=lose)
    assert (tmp_path / "gone").exists()
    assert sorted(beat.pack for beat in beats if beat.state == "done") == ["0000", "0001", "0002"]
    assert_same(tmp_path / "local/out", out)
    for pack, steps in cut.items():
        assert RunFolder(out / "packs" / pack).steps()[:2] == steps  # the seconds, too: none was made again
