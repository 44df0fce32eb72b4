"""Data augmentation of training images, drawn on the device for a whole batch of every model at once."""

import torch

from mialab.training.streams import Streams


def flip_and_shift(x: torch.Tensor, *, flip: bool, shift: int, rng: Streams) -> torch.Tensor:
    """Mirror images left to right with probability 1/2, and move them by up to ``shift`` pixels.

    Each image, of (model, batch, channels, height, width), has a move of its own, uniform over ``-shift..shift`` in
    both directions, from a stream of random numbers a model; what moves in mirrors what is at the edge (the
    augmentation of Carlini et al., 2022, section V-A).
    """
    if not (flip or shift):
        return x
    models, batch, _, height, width = x.shape
    rows, columns = (torch.arange(n, device=x.device).expand(models, batch, n) for n in (height, width))
    if flip:
        mirror = rng.uniform(batch) < 0.5
        columns = torch.where(mirror[..., None], width - 1 - columns, columns)
    if shift:
        rows = _reflect(rows + rng.integers(2 * shift + 1, batch)[..., None] - shift, height)
        columns = _reflect(columns + rng.integers(2 * shift + 1, batch)[..., None] - shift, width)
    x = x.gather(-2, rows[:, :, None, :, None].expand(x.shape))
    return x.gather(-1, columns[:, :, None, None, :].expand(x.shape))


def _reflect(position: torch.Tensor, size: int) -> torch.Tensor:
    """Positions outside 0..size-1 mirrored at the first and last pixel."""
    position = position.abs()
    return torch.where(position >= size, 2 * (size - 1) - position, position)
