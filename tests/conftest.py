import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a saved pipeline folder: the tiny Stable Diffusion."""
    from tests.tiny import stable_diffusion

    path = tmp_path_factory.mktemp("model")
    stable_diffusion().save_pretrained(path)
    return str(path)
