"""Figures of single records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mialab._validation import choose

if TYPE_CHECKING:
    from mialab.data.pool import Pool


def records(pool: Pool, exposed: pd.DataFrame, *, n: int = 10, by: str = "risk") -> Figure:
    """Draw the most exposed records of an image set, each with its label and how often it is named.

    Parameters
    ----------
    pool : Pool
        Images.
    exposed : DataFrame
        From `mialab.chapters.stress.exposure`.
    n : int
        How many.
    by : str
        Column that they are ordered by.

    Raises
    ------
    ValueError
        If the records are no images.
    """
    choose("by", by, set(exposed))
    if pool.kind != "image":
        raise ValueError(f"pool={pool.name!r} holds {pool.kind} records, no images.")
    order = np.argsort(-exposed[by].to_numpy(), kind="stable")[:n]
    columns = min(n, 5)
    lines = -(-len(order) // columns)
    fig, axes = plt.subplots(
        lines, columns, figsize=(1.4 * columns, 1.75 * lines), squeeze=False, layout="constrained"
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, record in zip(axes.flat, order, strict=False):
        image = np.moveaxis(pool.x[record].astype(np.float64), 0, -1)
        image = (image - image.min()) / max(image.max() - image.min(), 1e-9)
        ax.imshow(
            image if image.shape[-1] == 3 else image[..., 0], cmap="gray_r" if image.shape[-1] != 3 else None
        )
        name = pool.label_names[pool.y[record]] if pool.label_names else str(pool.y[record])
        row: Any = exposed.iloc[record]
        ax.set_title(f"{name}\n{100 * row['named']:.0f} %", fontsize="small")
    return fig
