"""The noise tape: every Gaussian draw is seen, answered exactly, and carries the graph."""

import warnings

import pytest
import torch

from noiseward.errors import DrawMismatch, TapeError
from noiseward.noise.tape import is_recording, record, replay

MEAN, STD = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([0.5, 2.0, 4.0])


def play(fn, *draws):
    """What `fn` returns when `draws` are played to it."""
    with replay(draws, [f"draw {k}" for k in range(len(draws))]):
        return fn()


def fill_with(target, fill):
    fill(target)
    return target


def run_on(device, fn):
    with torch.device(device):
        return fn()


def initialize(fill):
    layer = torch.nn.Linear(3, 1, bias=False)
    fill(layer.weight)
    return layer.weight[0]


# Each asks for one draw z of shape (3,) and is to answer scale * z + shift.
DRAWS = {
    "randn of an int": (lambda: torch.randn(3), 1, 0),
    "randn of a tuple": (lambda: torch.randn((3,)), 1, 0),
    "randn of a list": (lambda: torch.randn([3]), 1, 0),
    "randn of a torch.Size": (lambda: torch.randn(MEAN.shape), 1, 0),
    "randn of size=": (lambda: torch.randn(size=(3,)), 1, 0),
    "randn of a numpy integer": (lambda: torch.randn(__import__("numpy").int64(3)), 1, 0),
    "randn with a generator": (lambda: torch.randn(3, generator=torch.Generator()), 1, 0),
    "randn into out=": (lambda: fill_with(torch.empty(0), lambda t: torch.randn(3, out=t)), 1, 0),
    "randn_like": (lambda: torch.randn_like(MEAN), 1, 0),
    "randn_like by name": (lambda: torch.randn_like(input=MEAN), 1, 0),
    "normal of numbers": (lambda: torch.normal(2.0, 3.0, (3,)), 3, 2),
    "normal of numbers by name": (lambda: torch.normal(mean=2.0, std=3.0, size=(3,)), 3, 2),
    "normal of two tensors": (lambda: torch.normal(MEAN, STD), STD, MEAN),
    "normal of a mean tensor": (lambda: torch.normal(MEAN, 3.0), 3, MEAN),
    "normal of a mean tensor alone": (lambda: torch.normal(MEAN), 1, MEAN),
    "normal of a std tensor": (lambda: torch.normal(2.0, STD), STD, 2),
    "normal into out=": (lambda: fill_with(torch.empty(3), lambda t: torch.normal(MEAN, STD, out=t)), STD, MEAN),
    "normal_": (lambda: torch.empty(3).normal_(), 1, 0),
    "normal_ of mean and std": (lambda: torch.empty(3).normal_(2.0, std=3.0), 3, 2),
    "normal_ under no_grad": (lambda: fill_with(torch.empty(3), torch.no_grad()(lambda t: t.normal_())), 1, 0),
    "normal_ of a view": (lambda: fill_with(torch.empty(5), lambda t: t[1:4].normal_())[1:4], 1, 0),
    "init.normal_": (lambda: torch.nn.init.normal_(torch.empty(3), 2.0, 3.0), 3, 2),
    "Normal.sample": (lambda: torch.distributions.Normal(MEAN, STD).sample(), STD, MEAN),
    "Normal.rsample": (lambda: torch.distributions.Normal(MEAN, STD).rsample(), STD, MEAN),
    "randn under no_grad": (torch.no_grad()(lambda: torch.randn(3)), 1, 0),
    "randn under a device": (lambda: run_on("cpu", lambda: torch.randn(3)), 1, 0),
}


@pytest.mark.parametrize(("draw", "scale", "shift"), DRAWS.values(), ids=DRAWS)
def test_a_draw_is_answered_with_mean_and_std_applied_to_the_given_noise_and_carries_its_graph(draw, scale, shift):
    z = torch.tensor([0.25, -1.5, 3.0], requires_grad=True)
    x = play(draw, z)
    scale = torch.as_tensor(scale) * torch.ones(3)
    assert torch.equal(x.detach(), (scale * z + shift).detach())
    (gradient,) = torch.autograd.grad(x.sum(), z)
    assert torch.equal(gradient, scale)


@pytest.mark.parametrize("draw", [entry[0] for entry in DRAWS.values()], ids=DRAWS)
def test_what_was_recorded_gives_the_same_answer_when_replayed(draw):
    drawn = []
    with record(0, into=drawn):
        recorded = draw()
    assert len(drawn) == 1 and drawn[0].abs().min() > 0
    assert torch.equal(recorded, play(draw, *drawn))


def test_a_recording_is_the_sequence_of_its_seed_and_leaves_the_global_generator_alone():
    state, drawn = torch.get_rng_state(), []
    with record(5, into=drawn):
        torch.randn(3), torch.randn_like(MEAN.double())
    generator = torch.Generator().manual_seed(5)
    assert torch.equal(drawn[0], torch.randn(3, generator=generator))
    assert torch.equal(drawn[1], torch.randn(3, generator=generator, dtype=torch.float64))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("change", [lambda x: x.mul_(10), lambda x: x.zero_(), lambda x: x.clamp_(0, 1)])
def test_draws_are_clones_in_recording_and_replay_so_callers_may_change_them_in_place(change):
    drawn = []
    with record(0, into=drawn):
        recorded = change(torch.randn(4))
    assert torch.equal(drawn[0], torch.randn(4, generator=torch.Generator().manual_seed(0)))
    z, before = drawn[0].requires_grad_(True), drawn[0].detach().clone()
    replayed = play(lambda: change(torch.randn(4)), z)
    assert torch.equal(z, before)
    assert torch.equal(replayed, recorded)
    torch.autograd.grad(replayed.sum(), z)


CASTS = {
    "dtype=": (lambda: torch.randn(3, dtype=torch.float64), torch.float64),
    "half dtype=": (lambda: torch.randn(3, dtype=torch.bfloat16), torch.bfloat16),
    "like": (lambda: torch.randn_like(MEAN.half()), torch.float16),
    "like with dtype=": (lambda: torch.randn_like(MEAN, dtype=torch.float64), torch.float64),
    "the mean's": (lambda: torch.normal(MEAN.double(), STD), torch.float64),
    "the mean's, not the std's": (lambda: torch.normal(MEAN, STD.double()), torch.float32),
    "the std's": (lambda: torch.normal(0.0, STD.double()), torch.float64),
    "out's": (lambda: torch.randn(3, out=torch.empty(3, dtype=torch.float64)), torch.float64),
    "the target's": (lambda: torch.empty(3, dtype=torch.bfloat16).normal_(), torch.bfloat16),
    "normal with dtype=": (lambda: torch.normal(0.0, 1.0, (3,), dtype=torch.float64), torch.float64),
}


@pytest.mark.parametrize(("draw", "dtype"), CASTS.values(), ids=CASTS)
def test_a_draw_comes_in_the_dtype_torch_itself_would_give(draw, dtype):
    assert draw().dtype == dtype
    z = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64, requires_grad=True)
    x = play(draw, z)
    assert x.dtype == dtype
    assert torch.autograd.grad(x.sum(), z)[0].dtype == torch.float64


def test_a_draw_comes_in_the_default_dtype_and_on_the_asked_device():
    torch.set_default_dtype(torch.float64)
    try:
        assert play(lambda: torch.randn(3), torch.zeros(3)).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert play(lambda: torch.randn(3, device="meta"), torch.zeros(3)).device.type == "meta"
    assert play(lambda: run_on("meta", lambda: torch.randn(3)), torch.zeros(3)).device.type == "meta"


def test_a_view_made_under_no_grad_is_filled_like_any_other_target():
    x = torch.zeros(5)
    play(torch.no_grad()(lambda: x[1:4].normal_(2.0, 3.0)), MEAN)
    assert torch.equal(x[1:4], MEAN * 3 + 2) and x[0] == x[4] == 0


@pytest.mark.parametrize("fill", [torch.nn.init.normal_, torch.nn.init.xavier_normal_, torch.nn.init.kaiming_normal_])
def test_a_parameter_can_be_initialized_from_the_tape(fill):
    once, again = (play(lambda: initialize(fill), MEAN[None]) for _ in range(2))
    assert torch.equal(once, again)
    assert torch.allclose(once / once[0], MEAN / MEAN[0])


def test_a_draw_that_is_to_require_a_gradient_does():
    energy = lambda: torch.autograd.grad((x := torch.randn(3, requires_grad=True)).square().sum(), x)[0]  # noqa: E731
    with record(0, into=(drawn := [])):
        recorded = energy()
    assert torch.equal(recorded, 2 * drawn[0])


@pytest.mark.parametrize(
    "draw",
    [
        lambda: torch.randn(2, dtype=torch.complex64),
        lambda: torch.randn_like(torch.zeros(2, dtype=torch.complex64)),
        lambda: torch.empty(2, dtype=torch.complex64).normal_(),
    ],
)
def test_complex_draws_are_refused(draw):
    with pytest.raises(TapeError, match="only real draws can be replayed"), record(0, into=[]):
        draw()


def test_fewer_draws_than_recorded_are_refused_naming_the_first_one_missing():
    with pytest.raises(DrawMismatch, match="asked for 1 draws, the recording has 3: 'step 1' and later"):
        with replay([torch.zeros(2)] * 3, ["start", "step 1", "step 2"]):
            torch.randn(2)


def test_more_draws_than_recorded_are_refused_naming_their_number():
    with pytest.raises(DrawMismatch, match="draw number 2 of shape .3,., the recording has 1"):
        with replay([torch.zeros(2)], ["start"]):
            torch.randn(2), torch.randn(3)


def test_draws_in_another_order_or_shape_are_refused_naming_the_draw():
    with pytest.raises(DrawMismatch, match="'start' with shape .3,., the recording has .2,."):
        with replay([torch.zeros(2), torch.zeros(3)], ["start", "step 1"]):
            torch.randn(3), torch.randn(2)
    with pytest.raises(DrawMismatch, match="'step 1' with shape .1, 3., the recording has .3, 1."):
        with replay([torch.zeros(2), torch.zeros(3, 1)], ["start", "step 1"]):
            torch.randn(2), torch.randn(1, 3)


def test_an_error_of_the_sampler_is_not_covered_by_a_complaint_about_draws():
    with pytest.raises(KeyError, match="mine"), replay([torch.zeros(2)], ["start"]):
        raise KeyError("mine")


def test_torch_draws_again_by_itself_once_the_tape_is_left_even_after_an_error():
    with pytest.raises(KeyError), record(0, into=[]):
        raise KeyError
    torch.manual_seed(0)
    assert torch.equal(torch.randn(3), torch.randn(3, generator=torch.Generator().manual_seed(0)))


def test_off_the_tape_nothing_is_seen_and_back_on_it_everything_is():
    with replay([torch.ones(2)], ["start"]) as tape:
        with tape.off():
            torch.zeros(2).add(1).cos()
            stray = torch.randn(2)
        assert (tape.seen, tape.asked) == (0, 0)
        x = torch.randn(2)
        assert (tape.seen, tape.asked) == (1, 1)
    assert torch.equal(x, torch.ones(2)) and not torch.equal(stray, torch.ones(2))


def test_the_tape_is_back_on_after_an_error_off_it():
    with replay([torch.ones(2)], ["start"]) as tape:
        with pytest.raises(KeyError), tape.off():
            raise KeyError
        assert torch.equal(torch.randn(2), torch.ones(2))


def test_stepping_off_twice_is_stepping_off_once():
    with replay([torch.ones(2)], ["start"]) as tape:
        with tape.off(), tape.off():
            torch.randn(2)
        assert tape.asked == 0
        torch.randn(2)


def test_with_another_mode_on_top_both_stay_on_and_correct():
    with replay([torch.ones(2)] * 3, ["start", "step 1", "step 2"]) as tape:
        with torch.device("meta"):
            with tape.off():
                assert torch.zeros(2).device.type == torch.randn(2).device.type == "meta"
            assert torch.zeros(2).device.type == torch.randn(2).device.type == "meta"
        assert tape.asked == 2
        assert torch.equal(torch.randn(2), torch.ones(2))


class Doubling(torch.Tensor):
    """A subclass whose additions count twice, as a quantized weight has its own arithmetic."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        result = super().__torch_function__(func, types, args, kwargs or {})
        return result * 2 if func is torch.Tensor.add else result


@pytest.mark.parametrize("off", [True, False])
def test_tensor_subclasses_keep_their_own_torch_function_on_and_off_the_tape(off):
    x = torch.ones(2).as_subclass(Doubling)
    with replay([], []) as tape:
        if off:
            with tape.off():
                y = x.add(1)
        else:
            y = x.add(1)
    assert y.tolist() == [4, 4]


def test_the_tape_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw, _, _ in DRAWS.values():
            play(draw, MEAN)


def test_draws_that_are_asked_of_a_generator_are_noted():
    generator = torch.Generator()
    with record(0, into=[]) as tape:
        torch.randn(2)
        torch.randn(2, generator=generator)
        torch.empty(2).normal_(generator=generator)
    assert tape.from_generator == {1, 2}
    assert not is_recording()
    with record(0, into=[]):
        assert is_recording()
    with replay([torch.zeros(2)], ["start"]):
        torch.randn(2)
        assert not is_recording()


def test_a_tensor_without_elements_uses_up_no_draw():
    with record(0, into=(drawn := [])) as tape:
        empty = torch.randn(0, 3, dtype=torch.float64, generator=torch.Generator())
        assert torch.empty(2, 0).normal_().shape == torch.randn(2, 0).shape == (2, 0)
        torch.randn(2)
    assert empty.shape == (0, 3) and empty.dtype == torch.float64
    assert [each.shape for each in drawn] == [(2,)] and tape.from_generator == set()
