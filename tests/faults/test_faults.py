"""A few trials of each kind; `make faults` makes thousands."""

import pytest
from faults import doors, flips, games, leaks
from faults.harness import Kind


def made(run, indices, *, alone=True):
    """Make some trials; return the verdicts that are not well."""
    verdicts = Kind("", 0, run, alone=alone).verdicts(list(indices))
    return {index: verdict for index, verdict in zip(indices, verdicts, strict=True) if verdict}


@pytest.mark.slow
@pytest.mark.parametrize("index", [2, 3])
def test_a_killed_game_resumes_bit_for_bit(index):
    verdicts = made(games.kills, [index], alone=False)
    assert all(verdict.startswith("left") for verdict in verdicts.values()), verdicts


@pytest.mark.slow
def test_a_kill_at_the_very_end_loses_nothing():
    assert not made(games.killed_at_the_end, [1], alone=False)


@pytest.mark.slow
def test_a_full_disk_is_said_and_a_game_resumes():
    assert not made(games.full_disks, [3], alone=False)


@pytest.mark.slow
def test_an_executed_page_is_kept_on_a_full_disk():
    assert not made(flips.full_disks, range(4))


@pytest.mark.slow
def test_a_read_error_is_no_damage():
    assert not made(games.read_errors, [2, 3], alone=False)


@pytest.mark.slow
def test_four_processes_at_once_play_the_same_game():
    assert not made(games.races, [4], alone=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "indices"),
    [
        (flips.stored_games, range(7)),
        (flips.data_files, range(9)),
        (flips.pages, range(8)),
        (flips.results, range(8)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_no_wrong_number_is_served_after_a_flip(kind, indices):
    assert not made(kind, indices)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("door", "n"),
    [
        (doors.own_files, 30),
        (doors.published_files, 40),
        (doors.archives, 60),
        (doors.given_arrays, 40),
        (doors.parameters, 40),
        (doors.texts, 60),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_comes_in_is_taken_as_it_is_or_refused(door, n):
    assert not made(door, range(n))


@pytest.mark.slow
def test_games_leave_nothing_in_memory():
    assert not made(leaks.many_games, range(30))
