"""What stands in for a part of a pipeline, or for a method of one, for the time of a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.nn import Module

from noiseward.noise.tape import aside

__all__ = ["instead", "posterior_aside"]


@contextlib.contextmanager
def instead(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` for the body of a `with`."""
    own = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own or isinstance(before, Module):
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def posterior_aside(encode: Callable[..., Any]) -> Callable[..., Any]:
    """A VAE's `encode`, whose posterior draws aside: it blurs the given image, and is no noise of the sampler."""

    def encoded(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        posterior: Any = result[0] if isinstance(result, tuple) else getattr(result, "latent_dist", None)
        draw = getattr(posterior, "sample", None)
        if callable(draw):

            def drawn(*args: Any, **kwargs: Any) -> Any:
                with aside():
                    return draw(*args, **kwargs)

            posterior.sample = drawn
        return result

    return encoded
