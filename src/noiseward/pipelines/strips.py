r"""A decoder's residual blocks, whose gradient comes back in strips.

At the end of a decoder an image has its full height and width and 128 to 512 channels: there a residual block

.. math:: y = s(x) + C_2(h), \qquad h = C_1(x), \qquad C_i(u) = \mathrm{conv}_i(\phi(\mathrm{norm}_i(u)))

keeps a dozen tensors of that size. This one keeps x. Its forward pass is the block's own, bit for bit; its gradient
is computed again from x, strip by strip of rows. A strip needs one row more on either side, for the 3 x 3 convolution,
and the mean :math:`\mu` and the scale :math:`r = (\sigma^2 + \varepsilon)^{-1/2}` of each group, which are those of
the whole image: its gradient is therefore exact, not that of an image put together from tiles. What strips leave
out, the way from x over :math:`\mu` and r, is added at the end, with n elements in a group:

.. math:: \frac{\partial L}{\partial x} \mathrel{+}= \frac1n \frac{\partial L}{\partial\mu}
          - \frac{r^3}{n} \frac{\partial L}{\partial r} (x - \mu).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noiseward.samplers.recompute import replace_forward

__all__ = ["Hold", "use_strips"]

Hold = Callable[[], contextlib.AbstractContextManager[None]]

ELEMENTS = 2**23  # of a strip's input: 16 MiB in bfloat16


@contextlib.contextmanager
def use_strips(module: nn.Module, *, elements: int = ELEMENTS, hold: Hold | None = None) -> Iterator[None]:
    """Compute the gradient of the residual blocks in a module strip by strip in the body of a `with`.

    Blocks of another kind than the one above, with a time embedding or a change of size, are left as they are.

    Arguments:
        module: a decoder, or a part of one.
        elements: of a block's input in one strip.
        hold: brings weights in that are elsewhere, for the gradient of a block.
    """
    with contextlib.ExitStack() as stack:
        for block in module.modules():
            if _is_plain(block):
                stack.enter_context(replace_forward(block, _with_strips(block, elements, hold)))
        yield


def _is_plain(block: nn.Module) -> bool:
    from diffusers.models.resnet import ResnetBlock2D

    return (
        isinstance(block, ResnetBlock2D)
        and block.upsample is None
        and block.downsample is None
        and block.time_emb_proj is None
        and block.time_embedding_norm == "default"
        and all(type(norm) is nn.GroupNorm for norm in (block.norm1, block.norm2))
        and all(type(conv) is nn.Conv2d and _keeps_size(conv) for conv in (block.conv1, block.conv2))
        and (block.conv_shortcut is None or type(block.conv_shortcut) is nn.Conv2d)
        and (block.dropout.p == 0 or not block.training)
    )


def _keeps_size(conv: nn.Conv2d) -> bool:
    return (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode) == (
        (3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros"
    )  # fmt: skip


def _with_strips(block: Any, elements: int, hold: Hold | None) -> Any:
    own = block.forward

    def forward(x: Tensor, temb: Tensor | None = None, *args: Any, **kwargs: Any) -> Tensor:
        if temb is not None or args or kwargs or not (torch.is_grad_enabled() and x.requires_grad):
            return own(x, temb, *args, **kwargs)
        return _Strips.apply(own, block, elements, hold, x)  # type: ignore[no-any-return]

    return forward


class _Strips(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Any, block: Any, elements: int, hold: Hold | None, x: Tensor) -> Tensor:
        ctx.block, ctx.elements, ctx.hold = block, elements, hold
        ctx.save_for_backward(x)
        return own(x, None)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        with ctx.hold() if ctx.hold else contextlib.nullcontext():
            back = _pull_back(ctx.block, ctx.elements, ctx.saved_tensors[0], gradients[0])
        return None, None, None, None, back


def _pull_back(block: Any, elements: int, x: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with respect to a block's input, from the one with respect to its result."""
    gradient = gradient / block.output_scale_factor
    first = _Half(block.norm1, block.nonlinearity, block.conv1, elements)
    second = _Half(block.norm2, block.nonlinearity, block.conv2, elements)
    back = second.pull_back(first(x), gradient)
    back = first.pull_back(x, back)
    if block.conv_shortcut is None:
        back += gradient
        return back
    for top, bottom in first.strips(x):
        with torch.enable_grad():
            strip = x[:, :, top:bottom].detach().requires_grad_(True)
            short = nn.Conv2d.forward(block.conv_shortcut, strip)  # without hooks: its weights stay here
        (part,) = torch.autograd.grad(short, strip, gradient[:, :, top:bottom])
        back[:, :, top:bottom] += part
    return back


class _Half:
    """conv(act(norm(x))), with x and the result at their full size and nothing else."""

    def __init__(self, norm: nn.GroupNorm, act: nn.Module, conv: nn.Conv2d, elements: int) -> None:
        self.norm, self.act, self.conv, self.elements = norm, act, conv, elements

    def strips(self, x: Tensor) -> list[tuple[int, int]]:
        """Rows of each strip, first and one past the last."""
        height = x.shape[2]
        rows = max(1, self.elements * height // x.numel())
        return [(top, min(top + rows, height)) for top in range(0, height, rows)]

    def __call__(self, x: Tensor) -> Tensor:
        mean, scale = self._statistics(x)
        shape = (x.shape[0], self.conv.out_channels, *x.shape[2:])
        out = torch.empty(shape, dtype=x.dtype, device=x.device)
        for top, bottom in self.strips(x):
            out[:, :, top:bottom] = self._local(x[:, :, max(top - 1, 0) : bottom + 1], mean, scale, top, bottom, x)
        return out

    def pull_back(self, x: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with respect to x, from the one with respect to the result."""
        mean, scale = (part.requires_grad_(True) for part in self._statistics(x))
        back = torch.zeros_like(x)
        sums = [torch.zeros_like(mean), torch.zeros_like(scale)]
        for top, bottom in self.strips(x):
            around = slice(max(top - 1, 0), bottom + 1)
            with torch.enable_grad():
                strip = x[:, :, around].detach().requires_grad_(True)
                out = self._local(strip, mean, scale, top, bottom, x)
            part, *more = torch.autograd.grad(out, (strip, mean, scale), gradient[:, :, top:bottom])
            back[:, :, around] += part
            sums = [total + one for total, one in zip(sums, more, strict=True)]
        mean, scale = mean.detach(), scale.detach()
        count = x[0].numel() // self.norm.num_groups
        shift, slope = sums[0] / count, -sums[1] * scale**3 / count
        for top, bottom in self.strips(x):
            groups = self._group(x[:, :, top:bottom]) - mean
            back[:, :, top:bottom] += (shift + slope * groups).reshape(back[:, :, top:bottom].shape).to(back.dtype)
        return back

    def _group(self, x: Tensor) -> Tensor:
        """`(B, G, C / G * H * W)`, in at least single precision, as the norm computes."""
        return x.reshape(x.shape[0], self.norm.num_groups, -1).to(torch.promote_types(x.dtype, torch.float32))

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale of each group, `(B, G, 1)`."""
        strips, count = self.strips(x), x[0].numel() // self.norm.num_groups
        sums = [self._group(x[:, :, a:b]).sum(2, keepdim=True) for a, b in strips]
        mean = torch.stack(sums).sum(0) / count
        squares = [(self._group(x[:, :, a:b]) - mean).square().sum(2, keepdim=True) for a, b in strips]
        return mean, (torch.stack(squares).sum(0) / count + self.norm.eps).rsqrt()

    def _local(self, strip: Tensor, mean: Tensor, scale: Tensor, top: int, bottom: int, x: Tensor) -> Tensor:
        """Rows top to bottom of the result, from those rows of x and one more on either side, where there is one."""
        normed = ((self._group(strip) - mean) * scale).reshape(strip.shape)
        if self.norm.affine:
            normed = normed * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]
        active = self.act(normed.to(x.dtype))
        padded = F.pad(active, (1, 1, int(top == 0), int(bottom == x.shape[2])))
        return F.conv2d(padded, self.conv.weight, self.conv.bias)
