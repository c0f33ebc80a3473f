"""One training loop for every network: resumable, seeded, atomic checkpoints, a progress line with the time
left.

Matrices are trained by Muon, the rest by AdamW, each at the rate

    peak * min(1, s / warmup) * (final + (1 - final) (1 + cos(pi p)) / 2),    p = max(0, (s - (1 - f) S) / (f S)),

at step s of S: constant, then falling over the last share f of the steps. With f = 1 it falls from the start. With a
smaller f, S may still be changed while the rate is constant, which suits a run whose end is not known.

Next to the weights w an exponential average  a <- b a + (1 - b) w,  b = min(average, (1 + s) / (10 + s)),  is kept;
it is what the samples show and what is shipped. A step depends on nothing but its number and the state in the
checkpoint.

Under `torchrun --nproc-per-node 2 -m training.stickers ...` the processes share each step: every one has
images of its own, gradients are averaged, the first process writes.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed, nn

from training import muon
from training.settings import WORK, Stage

CHECKPOINTS = WORK / "checkpoints"
OUTER = ("conv_in", "conv_out", "quant_conv", "embedding", "projection", "critic")  # left to AdamW


def checkpoint(name: str) -> Path:
    """The checkpoint file of a stage."""
    return CHECKPOINTS / f"{name}.pt"


def save(path: Path, state: dict) -> None:
    """Write a checkpoint so that a reader sees the old file or the new one, never half of one.

    The file it replaces remains as `<name>.before`: a copy for when the disk spoils the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, before = path.with_suffix(".partial"), path.with_suffix(".before")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    if path.exists():
        before.unlink(missing_ok=True)
        os.link(path, before)
    os.replace(partial, path)


def load(name: str) -> dict | None:
    """The state of a stage, or None before its first checkpoint."""
    path = checkpoint(name)
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def load_averaged(name: str) -> dict[str, Tensor]:
    """The averaged weights of a stage that has been trained."""
    state = load(name)
    if state is None:
        raise SystemExit(f"No checkpoint of '{name}' in {CHECKPOINTS}: run that stage first.")
    return state["average"]


def pace(stage: Stage, step: int) -> float:
    """The learning rate of a step, as a share of its peak."""
    fallen = 1 - (1 - step / stage.steps) / stage.fall
    cosine = (1 + math.cos(math.pi * min(1.0, max(0.0, fallen)))) / 2
    return min(1.0, (step + 1) / stage.warmup) * (stage.final + (1 - stage.final) * cosine)


class Trainer:
    """Trains a module with `loss(step)`; keeps the average of its weights; resumes from its checkpoint.

    Arguments:
        name: of the stage; names the checkpoint, the curve and the samples.
        module: whose parameters with `requires_grad` are trained.
        stage: the settings.
        loss: number -> scalar loss of the images with that number; each number is asked for once.
        sample: draws with the averaged weights in place, from time to time; returns a note for the log.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        stage: Stage,
        loss: Callable[[int], Tensor],
        sample: Callable[[], str],
    ) -> None:
        self.name, self.module, self.stage, self.loss, self.sample = name, module, stage, loss, sample
        self.params = {n: p for n, p in module.named_parameters() if p.requires_grad}
        hidden = {n: p for n, p in self.params.items() if p.ndim > 1 and not any(part in n for part in OUTER)}
        others = [p for n, p in self.params.items() if n not in hidden]
        self.optimizers = (
            muon.Muon(hidden.values(), lr=stage.matrix_rate, weight_decay=stage.decay),
            torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.99), weight_decay=0.0, foreach=True),
        )
        self.average = {n: p.detach().clone() for n, p in self.params.items()}
        self.buffers = {n: b for n, b in module.named_buffers() if b.is_floating_point()}
        self.step, self.seconds, self.curve = 0, 0.0, []
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if self.world > 1 and not distributed.is_initialized():
            distributed.init_process_group("gloo")
        state = load(name)
        if state is not None:
            for n, p in self.params.items():
                p.data.copy_(state["weights"][n])
                self.average[n].copy_(state["average"][n])
            for n, stored in state.get("buffers", {}).items():
                self.buffers[n].copy_(stored)
            for optimizer, stored in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(stored)
            self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "weights": {n: p.detach() for n, p in self.params.items()},
            "average": self.average,
            "buffers": self.buffers,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.step,
            "seconds": self.seconds,
            "curve": self.curve,
        }
        save(checkpoint(self.name), state)

    @contextmanager
    def use_averaged(self) -> Iterator[None]:
        """Put the averaged weights in place of the trained ones."""
        trained = {n: p.detach().clone() for n, p in self.params.items()}
        try:
            for n, p in self.params.items():
                p.data.copy_(self.average[n])
            yield
        finally:
            for n, p in self.params.items():
                p.data.copy_(trained[n])

    def optimize(self) -> float:
        """Make one optimizer step; returns the loss."""
        for optimizer, peak in zip(self.optimizers, (self.stage.matrix_rate, self.stage.rate), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * pace(self.stage, self.step)
        loss = self.loss(self.step + self.rank * 10_000_000)
        self.module.zero_grad(set_to_none=True)
        loss.backward()
        if self.world > 1:
            self.share()
        nn.utils.clip_grad_norm_(self.params.values(), self.stage.clip, error_if_nonfinite=True)
        for optimizer in self.optimizers:
            optimizer.step()
        keep = min(self.stage.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.params.values()], 1 - keep)
        self.step += 1
        return loss.item()

    def share(self) -> None:
        """Average the gradients over the processes."""
        gradients = [p.grad for p in self.params.values() if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        parts = flat.div_(self.world).split([gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def run(self) -> None:
        """Train to the last step, or until asked to stop; checkpoint, curve and samples on the way and at the end."""
        self.module.train()
        stops: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, (lambda got, _: stops.append(got)) if self.rank == 0 else signal.SIG_IGN)
        recent, reported, saved, shown = [], time.monotonic(), time.monotonic(), time.monotonic()
        while self.step < self.stage.steps and not stops:
            start = time.monotonic()
            recent.append(self.optimize())
            now = time.monotonic()
            self.seconds += now - start
            if self.rank > 0:
                continue
            if now - reported >= 20:
                self.report(sum(recent) / len(recent), (now - reported) / len(recent))
                recent, reported = [], now
            if now - saved >= 60 * self.stage.minutes:
                self.save()
                saved = now
            if now - shown >= 60 * self.stage.pause:
                self.show()
                reported = saved = shown = time.monotonic()
        if stops:
            self.save()
            raise SystemExit(f"{self.name}: stopped at step {self.step}, checkpoint written")
        if self.rank == 0:
            self.show()

    def show(self) -> None:
        """Write the checkpoint, the curve and the samples."""
        self.save()
        self.module.eval()
        with torch.no_grad(), self.use_averaged():
            note = self.sample()
        self.module.train()
        print(f"{self.name} step {self.step} {note} ({self.seconds / 60:.0f} min trained)", flush=True)
        self.plot()

    def report(self, loss: float, seconds: float) -> None:
        """Print a line of progress."""
        self.curve.append([self.step, loss])
        left = (self.stage.steps - self.step) * seconds / 60
        print(
            f"{self.name} {self.step}/{self.stage.steps} loss {loss:.4f} rate {pace(self.stage, self.step):.2f}"
            f" {self.stage.batch * self.world / seconds:.1f} images/s {left:.0f} min left",
            flush=True,
        )

    def plot(self) -> None:
        """The loss curve as `.training/<name>-curve.png`."""
        if not self.curve:
            return
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log", title=self.name)
        axes.plot(*zip(*self.curve, strict=True), linewidth=1)
        figure.savefig(WORK / f"{self.name}-curve.png", dpi=110)
