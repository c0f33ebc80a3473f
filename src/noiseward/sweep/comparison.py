"""A comparison: methods at equal cost on the same prompts and seeds; a sweep whose rows differ in their method."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from noiseward.errors import ArgumentError, RunError
from noiseward.methods import DEFAULT_METHODS, METHODS, read_method
from noiseward.options.run import RunSpec
from noiseward.problem import default_watch
from noiseward.sweep.directory import Sweep
from noiseward.sweep.pack_task import has_gradient
from noiseward.sweep.packs import FILE, read_packs
from noiseward.sweep.rows import Row, UniqueIds, check_count, check_names

__all__ = ["Comparison"]

PACK = 4  # rows per pack


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What is compared.

    Arguments:
        base: options of each run; its `watch` are the held-out rewards to measure, None for the model's usual ones.
            Prompt, method, limits and number of images come from the other arguments.
        prompts: each is run with every seed; none for a model without prompts.
        methods: names, with arguments where needed.
        kind: `nfe` (denoiser calls, a backward counting 2, of each row) or `seconds` (wall time of a pack).
        amount: how many.
        seeds: how many seeds per prompt, from `base.seed` on.

    Raises:
        ArgumentError: a method that is unknown or given twice, or a budget or a number of seeds that is not positive.

    Example:
        >>> comparison = Comparison(RunSpec(reward="jpeg"), ("a duck",), ("fk", "dps"), "nfe", 100, seeds=5)
        >>> [(row.id, row.spec.seed, row.spec.batch) for row in comparison.rows()]
        [('fk-a-duck', 0, 4), ('dps-a-duck', 0, 4), ('fk-a-duck', 4, 1), ('dps-a-duck', 4, 1)]
    """

    base: RunSpec
    prompts: tuple[str, ...]
    methods: tuple[str, ...] = DEFAULT_METHODS
    kind: Literal["nfe", "seconds"] = "nfe"
    amount: float = 2000
    seeds: int = 4

    def __post_init__(self) -> None:
        if any(not prompt.strip() for prompt in self.prompts):
            raise ArgumentError("expected prompts with words, got an empty one; say what to draw, as in 'a duck'")
        if not self.methods:
            raise ArgumentError(f"expected at least one method, got none; choose from {', '.join(METHODS)}")
        for method in self.methods:
            check_names(self.base.replace(method=method))
        if twice := [method for place, method in enumerate(self.methods) if method in self.methods[:place]]:
            raise ArgumentError(f"method '{twice[0]}' is given twice; give each once")
        if self.kind not in ("nfe", "seconds") or not 0 < self.amount < math.inf:
            raise ArgumentError(f"the budget must be nfe=NUMBER or seconds=NUMBER, got {self.kind}={self.amount:g}")
        if self.seeds < 1:
            raise ArgumentError(f"seeds must be >= 1, got {self.seeds}")
        check_count(max(1, len(self.prompts)) * self.seeds * len(self.methods))

    @functools.cached_property
    def measure(self) -> tuple[str, ...]:
        """The held-out rewards."""
        names = [text.partition(":")[0] for text in self.base.reward]
        return default_watch(self.base.model, names) if self.base.watch is None else self.base.watch

    @functools.cached_property
    def refused(self) -> dict[str, str]:
        """By method, that it is the same as one before it, for this reward."""
        found: dict[str, str] = {}
        same: dict[str, str] = {}
        for method in self.methods:
            text = read_method(method).resolve(has_gradient(self.base)).text
            if text in same:
                found[method] = f"the same as {same[text]} here"
            same.setdefault(text, method)
        return found

    def rows(self) -> Iterator[Row]:
        """Yield the rows, one per pack, in an order in which methods grow together.

        Stopped anywhere, they have had about as much each.
        """
        limits = {"steps": None, "seconds": None, "nfe": None, "target": None, "watch_every": 1}
        budget: dict[str, Any] = {self.kind: round(self.amount) if self.kind == "nfe" else self.amount}
        base = self.base.replace(watch=(), **{**limits, **budget})
        ids, words = UniqueIds(), dict[str, str]()
        for method in self.methods:
            word = re.sub(r"[^a-z0-9.]+", "-", method.lower()).strip("-")
            words[method] = word if word not in words.values() else f"{word}-{len(words)}"
        prompts: dict[tuple[str, ...], str] = {(prompt,): f"-{ids.invent(prompt)}" for prompt in self.prompts}
        prompts = prompts or {(): ""}
        names: dict[str, tuple[str, tuple[str, ...]]] = {}  # two methods and two prompts may make the same word
        for method, prompt in itertools.product(words, prompts):
            name = words[method] + prompts[prompt]
            while name in names:
                name += "-"
            names[name] = method, prompt
        named = {case: name for name, case in names.items()}
        last = base.seed + self.seeds
        for first in range(base.seed, last, PACK):
            for prompt in prompts:
                for method in words:
                    if method not in self.refused:
                        spec = base.replace(prompt=prompt, method=method, seed=first, batch=min(PACK, last - first))
                        yield Row(named[method, prompt], spec)

    def in_order_of(self, out: Path) -> Comparison:
        """The same comparison, with methods and prompts in the order in which a directory began them, new ones last.

        Ids, and which of two equal methods is refused, depend on it.
        """
        specs = [pack.spec for pack in read_packs(out)]

        def order(asked: tuple[str, ...], begun: Iterable[str | None]) -> tuple[str, ...]:
            places = {one: place for place, one in enumerate(dict.fromkeys(begun))}
            return tuple(sorted(asked, key=lambda one: places.get(one, len(places))))

        methods = order(self.methods, (spec.method for spec in specs))
        prompts = order(self.prompts, (prompt for spec in specs for prompt in spec.prompt))
        return dataclasses.replace(self, methods=methods, prompts=prompts)

    def begin(self, out: Path) -> Sweep:
        """Its sweep in a directory, new or begun before.

        Raises:
            RunError: as `Sweep.begin`; or the directory holds a comparison of an earlier version.
        """
        if (out / "spec.json").exists() and (out / "packs").is_dir() and not (out / FILE).exists():
            raise RunError(
                f"{out} holds a comparison of an earlier version; its report.html can be read, not continued; give "
                "another --out"
            )
        return Sweep.begin(out, list(self.rows()), size=PACK, measure=self.measure)
