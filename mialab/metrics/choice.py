"""How far the attacker's choice of a threshold depends on the records that it is chosen on."""

from __future__ import annotations

from functools import cache

import numpy as np

#: How much of the variance by choosing a threshold anew on a resample counts, 1.6 elsewhere. A resample's own noise
#: comes on top of the sample's, which matters at the best balanced accuracy, where only the square of the move counts;
#: elsewhere resamples move a little less than new samples. Both numbers are from benchmarks/coverage.py.
CHOICE = {"balanced_accuracy": 0.5}
#: Resamples of the records, in so many blocks, over which the attacker chooses the threshold anew among so many.
RESAMPLES, BLOCKS, BINS = 200, 100, 128


def chosen_anew(
    place: np.ndarray, member: np.ndarray, evaluated: np.ndarray, decided: np.ndarray, pair: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Count decisions in resamples of records: with thresholds chosen anew, and with those of all records.

    An attacker picks the threshold of the greatest balanced accuracy on the other pairs of models, so that all
    targets have nearly the same one. How far that choice depends on the records is seen by resampling blocks of
    them and choosing anew; a derivative would not tell, since the best threshold moves by the cube root of the
    number of records (Kim and Pollard, Annals of Statistics 18, 1990).

    Parameters
    ----------
    place : numpy.ndarray of uint8, shape (target, record)
        Number of the score's bin, of `BINS`, from the highest scores to the lowest; equal scores share a bin.
    member, evaluated, decided : numpy.ndarray of bool, shape (target, record)
        The truth, the pairs that count, and the decisions.
    pair : numpy.ndarray of int, shape (target,)
        Label of the pair of complementary targets.

    Returns
    -------
    tuple of numpy.ndarray, shape (4, resample)
        True and false positives, members and non-members; None for decisions that were made in another way.
    """
    n_pairs, blocks = int(pair.max()) + 1, min(BLOCKS, member.shape[1])
    block = np.arange(member.shape[1], dtype=np.int32) % blocks
    # Counts of the pairs of each resample, (pair, resample, bin); in the first one every record is there once.
    tp, fp = np.empty((2, n_pairs, 1 + RESAMPLES, BINS), np.float32)
    for k in range(n_pairs):
        own = pair == k
        cell = (~member[own] * np.int32(blocks) + block) * BINS + place[own]
        counts = np.bincount(cell[evaluated[own]], minlength=2 * blocks * BINS).reshape(2, blocks, BINS)
        tp[k], fp[k] = _drawn(blocks) @ np.cumsum(counts, axis=2).astype(np.float32)
    best = np.empty((n_pairs, 1 + RESAMPLES), np.int64)
    of_all = tp.sum(0), fp.sum(0)
    for k in range(n_pairs):
        others = (every - each[k] for every, each in zip(of_all, (tp, fp), strict=True))
        best[k] = np.subtract(*(each / np.maximum(each[:, -1:], 1) for each in others)).argmax(1)
    again = place <= best[pair, :1]
    if np.count_nonzero((again != decided) & evaluated) > 2 / np.sqrt(BINS) * np.count_nonzero(evaluated):
        return None
    chosen, fixed = (
        np.stack(
            [np.take_along_axis(each, at[..., None], 2)[..., 0].sum(0) for each in (tp, fp)]
            + [each[..., -1].sum(0) for each in (tp, fp)]
        )[:, 1:]
        for at in (best, np.broadcast_to(best[:, :1], best.shape))
    )
    return chosen, fixed


@cache
def _drawn(blocks: int) -> np.ndarray:
    """How often each block is in all of them and in each resample, (1 + resample, block) float32."""
    drawn = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)
    return np.concatenate([np.ones((1, blocks)), drawn]).astype(np.float32)
