"""Results are what they were, to the last bit on the processor they were recorded on and to rounding on others."""

from __future__ import annotations

import json
import sys

import pytest

from noiseward import cli
from tests import golden

RECORDED = json.loads(golden.RECORDED.read_text(encoding="utf-8"))
SAME_MACHINE = RECORDED["machine"] == golden.machine()


def close(found, before):
    """Whether two nestings of numbers and texts agree, numbers to rounding; digests are left out."""
    if isinstance(before, dict):
        return found.keys() == before.keys() and all(close(found[key], before[key]) for key in before if key != "bits")
    if isinstance(before, list):
        return len(found) == len(before) and all(map(close, found, before))
    return found == pytest.approx(before, rel=1e-3, abs=1e-4) if isinstance(before, float) else found == before


@pytest.mark.filterwarnings("ignore")  # those of the libraries that a command leaves out
@pytest.mark.parametrize("name", golden.CALLS)
def test_a_call_gives_what_it_gave(name, monkeypatch, tmp_path, capsys):
    place = tmp_path / name.replace(" ", "-")
    place.mkdir()
    golden.write_inputs(place)
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["noiseward", *golden.CALLS[name]])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code, capsys.readouterr().err
    found, before = json.loads(json.dumps(golden.result(place))), RECORDED["results"][name]
    assert close(found, before)
    if SAME_MACHINE:
        assert found == before
