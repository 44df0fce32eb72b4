"""How an attacker picks a threshold: on shadow models, or on a half of the target's records that is known."""

from collections.abc import Iterable, Iterator

import numpy as np

from mialab.training.streams import generator


def known_half(member: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draw a random half of each target's members and of its non-members, bool (model, record)."""
    known = np.zeros_like(member)
    for k, row in enumerate(member):
        rng = generator(seed, "known half", k)
        for side in (np.flatnonzero(row), np.flatnonzero(~row)):
            known[k, rng.permutation(side)[: side.size // 2]] = True
    return known


def best_threshold(score: np.ndarray, member: np.ndarray, without: Iterable[np.ndarray]) -> np.ndarray:
    """Thresholds of the greatest balanced accuracy on the same scores, each without some of them.

    The scores are sorted once; then every threshold costs one pass over counts.

    Parameters
    ----------
    score : numpy.ndarray, shape (n,)
        Scores, higher = member.
    member : numpy.ndarray of bool, shape (n,)
        The truth.
    without : iterable of numpy.ndarray of int
        For each threshold the indices of the scores that do not count.

    Returns
    -------
    numpy.ndarray, shape (thresholds,)
        Half-way between two neighboring scores; a record is called a member from the threshold on. Where nothing
        separates better than calling all records the same, the least score of all, or just above the greatest one.
    """
    n = len(score)
    order = np.argsort(-score)
    score, member = score[order], member[order]
    position = np.empty(n, dtype=np.int64)
    position[order] = np.arange(n)
    members = np.cumsum(member, dtype=np.int64)
    # Cut c is below score c. Equal scores cannot be told apart, and below the last one nothing is gained.
    no_cut = np.append(score[:-1] == score[1:], True)
    least = np.iinfo(np.int64).min // 2
    counts, gain = None, members
    thresholds: list[np.ndarray] = []
    out: np.ndarray | None = None
    for indices in without:
        before, out = out, np.sort(position[indices])
        if before is not None and np.array_equal(before, out):  # the targets are partners
            thresholds.append(thresholds[-1])
            continue
        members_out = np.append(0, np.cumsum(member[out]))  # among the first j that are left out
        n_member = int(members[-1] - members_out[-1])
        n_other = n - out.size - n_member
        if counts != (n_member, n_other):
            counts = n_member, n_other
            # (TPR - FPR) n_member n_other at each cut, but for what is left out above it; in integers, ties are exact.
            gain = members * (n_member + n_other) - np.arange(1, n + 1) * n_member
            gain[no_cut] = least
        # From one score that is left out to the next, all cuts lack the same: the best of each stretch compete.
        starts, ends = np.append(0, out), np.append(out, n)
        best = np.maximum.reduceat(gain, starts)
        best -= members_out * (n_member + n_other) - np.arange(starts.size) * n_member
        best[starts == ends] = least
        j = int(best.argmax())
        if best[j] <= 0 or not n_member or not n_other:
            # Nothing is gained by a cut: the better guess is the more frequent side, and on a tie "non-member".
            thresholds.append(score[-1] if n_member > n_other else np.nextafter(score[0], np.inf))
            continue
        cut = starts[j] + int(gain[starts[j] : ends[j]].argmax())
        above, below, i = cut, cut + 1, j
        while i > 0 and out[i - 1] == above:
            above, i = above - 1, i - 1
        while j < out.size and out[j] == below:
            below, j = below + 1, j + 1
        low, high = score[below], score[above]
        thresholds.append(max(low + (high - low) / 2, np.nextafter(low, high)))
    return np.array(thresholds)


def _excluded_cells(excluded_models: np.ndarray) -> Iterator[np.ndarray]:
    """For each target the flat indices of the scores that are its own or of the model left out with it."""
    records = np.arange(excluded_models.shape[1])
    for k, models in enumerate(excluded_models):
        other = models * records.size + records
        yield np.append(k * records.size + records, other[models >= 0])


def shadow_thresholds(
    score: np.ndarray,
    member: np.ndarray,
    excluded_models: np.ndarray,
    groups: np.ndarray,
    scorable: np.ndarray | None = None,
) -> np.ndarray:
    """Thresholds for each target from its shadow models' scores, one per group of records.

    Parameters
    ----------
    score, member : numpy.ndarray, shape (model, record)
        Scores and truth of every model.
    excluded_models : numpy.ndarray of int, shape (target, record)
        See `Game.excluded_models`.
    groups : numpy.ndarray of int, shape (record,)
        Group of each record, e.g. its class.
    scorable : numpy.ndarray of bool, shape (model, record), optional
        Which scores count; all by default.

    Returns
    -------
    numpy.ndarray, shape (target, record)
        The threshold that goes with each score.
    """
    threshold = np.zeros_like(score)
    scorable = np.ones_like(member) if scorable is None else scorable
    for group in np.unique(groups):
        records = np.flatnonzero(groups == group)
        counts = scorable[:, records].ravel()
        if not counts.any():
            continue
        place = np.cumsum(counts) - 1
        scores, members = (a[:, records].ravel()[counts] for a in (score, member))
        without = (place[cells[counts[cells]]] for cells in _excluded_cells(excluded_models[:, records]))
        threshold[:, records] = best_threshold(scores, members, without)[:, None]
    return threshold


def known_half_thresholds(
    score: np.ndarray, member: np.ndarray, known: np.ndarray, groups: np.ndarray
) -> np.ndarray:
    """Thresholds for each target from its known records, shape (target, record); see `shadow_thresholds`."""
    threshold = np.empty_like(score)
    for group in np.unique(groups):
        records = np.flatnonzero(groups == group)
        for k in range(len(score)):
            unknown = np.flatnonzero(~known[k, records])
            threshold[k, records] = best_threshold(score[k, records], member[k, records], [unknown])[0]
    return threshold
