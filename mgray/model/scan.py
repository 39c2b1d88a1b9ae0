"""Running sums and maxima over a history, in log2(span) whole-tensor steps.

By doubling, since a difference of cumulative sums loses digits where a history is long.

Legend: `B` sequences, `L` positions, `D` channels.
"""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from mgray.model.convolution import shift


def causal_sum(x: Tensor, span: int) -> Tensor:
    """Sum over the last `span` positions. x: [B, L, D] -> [B, L, D]."""
    total: Tensor | None = None
    power, covered, width = x, 0, 1
    while True:
        if span & width:
            part = shift(power, covered)
            total = part if total is None else total + part
            covered += width
        width *= 2
        if width > span:
            assert total is not None
            return total
        power = power + shift(power, width // 2)


def causal_max(x: Tensor, span: int) -> Tensor:
    """Maximum over the last `span` positions, fewer at the start. x: [B, L, D] -> [B, L, D]."""
    width = 1
    while width < min(span, x.shape[1]):
        step = min(width, span - width)  # two halves may overlap
        x = torch.cat([x[:, :step], torch.maximum(x[:, step:], x[:, :-step])], dim=1)
        width += step
    return x


def _has_effect(keep: Tensor) -> bool:
    """Whether another doubling step changes anything. True on a GPU, where the check would wait for the device."""
    return not keep.is_cpu or bool(keep.any())


def running_max(x: Tensor, goes_on: Tensor) -> Tensor:
    """Maximum since the last border. x: [B, L, D], goes_on: [B, L, 1] bool, false where a span begins -> [B, L, D]."""
    step = 1
    while step < x.shape[1] and _has_effect(goes_on[:, step:]):
        before = torch.where(goes_on[:, step:], x[:, :-step], x[:, step:])
        x = torch.cat([x[:, :step], torch.maximum(x[:, step:], before)], dim=1)
        goes_on = torch.cat([goes_on[:, :step], goes_on[:, step:] & goes_on[:, :-step]], dim=1)
        step *= 2
    return x


class _DecayedSum(torch.autograd.Function):
    """`h_t = a h_{t-1} + x_t` in log2(L) doubling steps; its gradient is the same recurrence run backwards."""

    @staticmethod
    def _scan(x: Tensor, decay: Tensor, direction: int) -> Tensor:
        out, power, step = x.clone(), decay, 1
        length = x.shape[1]
        while step < length:
            # The addition reads `out` as it was before the step, so its product is made first.
            if direction > 0:
                out[:, step:] += power * out[:, : length - step]
            else:
                out[:, : length - step] += power * out[:, step:]
            power, step = power * power, step * 2
        return out

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, decay: Tensor) -> Tensor:
        out = _DecayedSum._scan(x, decay, 1)
        ctx.save_for_backward(out, decay)
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor]:
        out, decay = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_x = _DecayedSum._scan(grads[0], decay, -1)
        grad_decay = (grad_x[:, 1:] * out[:, :-1]).sum((0, 1))
        return grad_x, grad_decay


def decayed_sum(x: Tensor, decay: Tensor) -> Tensor:
    """`h_t = decay h_{t-1} + x_t`, `h` zero before the start. x: [B, L, D], decay: [D] in (0, 1) -> [B, L, D]."""
    result: Tensor = _DecayedSum.apply(x, decay)  # type: ignore[no-untyped-call]
    return result


class _GatedSum(torch.autograd.Function):
    """`h_t = k_t h_{t-1} + x_t` in log2 of the longest span doubling steps; the gradient runs it backwards."""

    @staticmethod
    def _scan(x: Tensor, keep: Tensor) -> Tensor:
        out, power, step = x.clone(), keep, 1
        while step < x.shape[1] and _has_effect(power[:, step:]):
            out[:, step:] += power[:, step:] * out[:, :-step]
            power = torch.cat([power[:, :step], power[:, step:] * power[:, :-step]], dim=1)
            step *= 2
        return out

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, keep: Tensor) -> Tensor:
        out = _GatedSum._scan(x, keep)
        ctx.save_for_backward(out, keep)
        return out

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, Tensor | None]:
        out, keep = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_x = _GatedSum._scan(grads[0].flip(1), shift(keep, -1).flip(1)).flip(1)
        if not ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            return grad_x, None
        grad_keep = grad_x * shift(out, 1)
        return grad_x, grad_keep if keep.shape == out.shape else grad_keep.sum(-1, keepdim=True)


def gated_sum(x: Tensor, keep: Tensor) -> Tensor:
    """`h_t = keep_t h_{t-1} + x_t`, `h` zero before the start: where keep is 0 the sum starts anew.

    x: [B, L, D], keep: [B, L, D] or [B, L, 1], 0 to 1 -> [B, L, D].
    """
    result: Tensor = _GatedSum.apply(x, keep)  # type: ignore[no-untyped-call]
    return result
