"""Run the tutorial notebook again and keep its outputs: `python -m tests.tutorial`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"


def run(*, small: bool = False) -> nbformat.NotebookNode:
    """The notebook with the outputs that it has now, run in a folder of its own; on few denoising steps if `small`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    if small:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                few = cell.source.replace("num_inference_steps=10", "num_inference_steps=4")
                few = few.replace("nfe=600", "nfe=100")
                cell.source = re.sub(r"(steps=[28])\b", r"\1, num_inference_steps=4", few)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it was run
    return notebook


if __name__ == "__main__":
    nbformat.write(run(), NOTEBOOK)
