"""Convolutions as products: the int8 patches that a linear kernel then takes as its rows."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["patches_kernel"]


@triton.jit
def patches_kernel(
    codes, x_less, patches, x_sum, count, channels, height, width, first, group_channels, kernel_height, kernel_width,
    out_height, out_width, stride_height, stride_width, pad_height, pad_width, dilation_height, dilation_width, stride,
    AFFINE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write the patch of each output place as a row, columns in the order (channel, height, width), and its sum.

    Args:
        codes: int8 (images, channels, height, width).
        x_less: int32 (images,), what is to be added to a code to get that less its zero point; only if ``AFFINE``.
            What lies beyond an image is the number 0, and so has the code ``-x_less``.
        patches: int8 (count, stride), zeros beyond a patch.
        x_sum: int32 (count,), the sums of the patches.
        count: images times places.
        first, group_channels: which channels.
        channels, height, width, kernel_height, kernel_width, out_height, out_width: sizes.
        stride_height, stride_width, pad_height, pad_width, dilation_height, dilation_width: how it walks.
        stride: columns of a row of ``patches``.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = row < count
    place = row % (out_height * out_width)
    image = row // (out_height * out_width)
    top = place // out_width * stride_height - pad_height
    left = place % out_width * stride_width - pad_width
    beyond = tl.zeros((ROWS,), dtype=tl.int32)
    if AFFINE:
        beyond = -tl.load(x_less + image, mask=inside, other=0)
    sums = tl.zeros((ROWS, COLS), dtype=tl.int32)
    for start in range(0, stride, COLS):
        col = start + tl.arange(0, COLS)
        channel = col // (kernel_height * kernel_width)
        y = top[:, None] + (col // kernel_width % kernel_height * dilation_height)[None, :]
        x = left[:, None] + (col % kernel_width * dilation_width)[None, :]
        known = inside[:, None] & (channel < group_channels)[None, :]
        within = known & (y >= 0) & (y < height) & (x >= 0) & (x < width)
        at = ((image * channels)[:, None] + (first + channel)[None, :]) * height * width + y * width + x
        code = tl.load(codes + at, mask=within, other=0).to(tl.int32)
        code = tl.where(within, code, tl.where(known, beyond[:, None], 0))
        sums += code
        written = inside[:, None] & (col < stride)[None, :]
        tl.store(patches + row[:, None] * stride + col[None, :], code.to(tl.int8), mask=written)
    tl.store(x_sum + row, tl.sum(sums, axis=1), mask=inside)
