"""The two inequalities: true for Gaussian noise in any order, equal to a plain loop, right in their gradient."""

import math

import pytest
import torch

from noiseward.noise import permutations as module
from noiseward.noise.concentration import log_bounds
from noiseward.noise.layout import Draw, Layout
from noiseward.noise.permutations import get_permutations

f64 = torch.float64
CPU = torch.device("cpu")
FAMILIES = ["strided", "random"]


@pytest.fixture(params=["at once", "one by one"])
def way(request, monkeypatch):
    """Small noise is gathered in all orders at once, large noise in one after the other."""
    module._build.cache_clear()
    if request.param == "one by one":
        monkeypatch.setattr(module, "AT_ONCE", 0)
    yield
    module._build.cache_clear()


def fresh(size, rows, seed=0):
    layout = Layout((Draw("start", (size,), "start", dtype=f64),))
    return layout.draw_noise(range(seed, seed + rows))[:, 0]


def by_hand(z, k):
    """log p1 and log p2 of one vector, from the formulas."""
    blocks = z.view(-1, k)
    m = len(blocks)
    mean, second = blocks.mean(0).norm().item(), sum(torch.outer(b, b) for b in blocks) / m
    gap = torch.linalg.matrix_norm(second - torch.eye(k, dtype=f64), 2).item()
    p1 = 2 * math.exp(-m * mean**2 / (2 * k))
    p2 = 2 * math.exp(-m / 2 * max(math.sqrt(1 + gap) - 1 - math.sqrt(k / m), 0) ** 2)
    return math.log(min(1, p1)), math.log(min(1, p2))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("k", "size"), [(1, 7), (2, 40), (4, 64), (4, 512)])
@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.6, 0.0), (0.2, 0.0), (1.0, 0.8)])
def test_all_rows_and_permutations_at_once_equal_a_plain_loop(way, family, k, size, scale, shift):
    z = scale * fresh(size, 3) + shift
    log1, log2 = log_bounds(z, block=k, permutations=5, family=family)
    for row in range(3):
        for j, order in enumerate(get_permutations(size, 5, k, family, z.device).index()):
            assert (log1[row, j].item(), log2[row, j].item()) == pytest.approx(by_hand(z[row, order], k), abs=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "k"), [(48, 4), (4096, 4), (50, 1)])
def test_the_first_order_is_the_identity_and_the_others_are_permutations_always_the_same_ones(way, family, size, k):
    first, *others = get_permutations(size, 7, k, family, CPU).index()
    assert first.tolist() == list(range(size))
    assert all(order.sort().values.tolist() == list(range(size)) for order in others)
    assert len({tuple(order.tolist()) for order in (first, *others)}) == 8
    module._build.cache_clear()
    assert all(
        torch.equal(a, b) for a, b in zip(get_permutations(size, 7, k, family, CPU).index()[1:], others, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("k", "m"), [(1, 100), (2, 64), (4, 128)])
def test_gaussian_noise_meets_a_bound_p_at_most_as_often_as_p_in_every_order(family, k, m):
    rows = 4000
    z = torch.randn(rows, k * m, generator=torch.Generator().manual_seed(0), dtype=f64)
    for log in log_bounds(z, block=k, permutations=6, family=family):
        for level in (0.01, 0.1, 0.5, 0.9):
            often = (log < math.log(level)).double().mean(0).max().item()
            assert often <= level + 4 * math.sqrt(level * (1 - level) / rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("scale", "shift"), [(1.5, 0.0), (2.5, 0.0), (1.0, 0.6), (0.3, 0.9)])
def test_the_gradient_agrees_with_finite_differences(way, family, scale, shift):
    size, h = 256, 1e-6
    z = (scale * fresh(size, 1) + shift).requires_grad_()
    weights = torch.rand(2, 1, 8, generator=torch.Generator().manual_seed(2), dtype=f64)

    def weigh(rows):
        log1, log2 = log_bounds(rows, block=4, permutations=7, family=family)
        assert ((log1 == 0) | (log1 < -1e-3)).all() and ((log2 == 0) | (log2 < -1e-3)).all()  # no kink nearby
        return (weights[0] * log1 + weights[1] * log2).sum(1)

    (gradient,) = torch.autograd.grad(weigh(z).sum(), z)
    shifts = h * torch.eye(size, dtype=f64)
    up, down = (weigh((z + sign * shifts).detach()) for sign in (1, -1))
    torch.testing.assert_close(gradient[0], (up - down) / (2 * h), rtol=1e-5, atol=1e-6)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_single_precision_is_as_good_as_double_on_large_noise(family):
    """But for the last bit of second moments, which is the processor's: a bound is 2^16 blocks times their square."""
    z = 1.01 * torch.randn(1, 2**18, generator=torch.Generator().manual_seed(0))
    for single, double in zip(
        *(log_bounds(x, block=4, permutations=8, family=family) for x in (z, z.double())), strict=True
    ):
        torch.testing.assert_close(single.double(), double, rtol=1e-3, atol=1e-5)
