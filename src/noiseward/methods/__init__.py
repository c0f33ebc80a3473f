"""Methods: how the noise is changed, by name. One registry for `align`, `batch`, `compare`, the docs and the studio.

    NAME                             a method with its defaults
    NAME:ARG=VALUE,ARG=VALUE         with arguments; the first may stand without its name, as in best-of-n:8

`guard`, `estimator` and `project` are parts with arguments of their own, in the same form. What follows a part and is
not an argument of the method belongs to the part:

    dno:lr=0.02,estimator=hybrid2:samples=16,scale=0.05,guard=concentration:min_probability=0.1
    dno:coarse=5,best_of=16
    dno:project=norm+spectral

A method is a :class:`Recipe`: options that build a :class:`Method`, which is what runs. To add one, subclass it.
"""

from __future__ import annotations

from noiseward.methods import ascent, automatic, guidance, search  # noqa: F401 (they register their methods)
from noiseward.methods.choose import DEFAULT_METHODS, choose_method, default_method, read_method
from noiseward.methods.recipe import ESTIMATORS, GUARDS, METHODS, PROJECTIONS, Method, Recipe

__all__ = [
    "DEFAULT_METHODS",
    "ESTIMATORS",
    "GUARDS",
    "METHODS",
    "PROJECTIONS",
    "Method",
    "Recipe",
    "choose_method",
    "default_method",
    "read_method",
]
