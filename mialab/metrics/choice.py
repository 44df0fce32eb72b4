"""How far the attacker's choice of a threshold depends on the records that it is chosen on."""

from __future__ import annotations

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
    # Cells that are not evaluated go to a third side, which is dropped.
    side = np.where(evaluated, ~member, np.int8(2))
    cell = ((side * np.int32(blocks) + block) * np.int32(n_pairs) + pair[:, None].astype(np.int32)) * BINS
    counts = np.bincount((cell + place).ravel(), minlength=3 * blocks * n_pairs * BINS)
    reached = np.cumsum(counts.reshape(3, blocks, n_pairs, BINS)[:2], axis=3, dtype=np.float32)
    drawn = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)
    weights = np.concatenate([np.ones((1, blocks)), drawn]).astype(np.float32)
    tp, fp = ((weights @ each.reshape(blocks, -1)).reshape(-1, n_pairs, BINS) for each in reached)
    shares = []
    for each in (tp, fp):
        others = each.sum(1, keepdims=True) - each
        shares.append(np.divide(others, np.maximum(others[..., -1:], 1), out=others))
    best = np.subtract(*shares, out=shares[0]).argmax(2)
    if np.mean(((place <= best[0, pair][:, None]) != decided)[evaluated]) > 2 / np.sqrt(BINS):
        return None
    chosen, fixed = (
        np.stack(
            [np.take_along_axis(each, at[..., None], 2)[..., 0].sum(1) for each in (tp, fp)]
            + [each[..., -1].sum(1) for each in (tp, fp)]
        )[:, 1:]
        for at in (best, np.broadcast_to(best[0], best.shape))
    )
    return chosen, fixed
