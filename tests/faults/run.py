"""Inject faults and look what becomes of them.

    python tests/faults/run.py                          all of it; what was done before is not done again
    python tests/faults/run.py --only kills --n 20      some of it
    python tests/faults/run.py --only pages --trial 17  a single trial, to repeat what was found
    python tests/faults/run.py --table                  also write results/faults.csv

A trial follows from its kind and its number alone. What was tried of a commit is kept in .cache/faults.
"""

import argparse
import datetime as dt
import json
import multiprocessing
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
os.environ.setdefault("OMP_NUM_THREADS", "1")

# One thread, and the folders above, have to be set before: hence the late imports (E402).
import pandas as pd  # noqa: E402
from faults import doors, flips, games, leaks  # noqa: E402
from faults.harness import ROOT, Kind  # noqa: E402
from tqdm import tqdm  # noqa: E402

from mialab import provenance  # noqa: E402
from mialab.book import reference_runs  # noqa: E402

KINDS = {
    kind.name: kind
    for kind in (
        Kind("kills", 100, games.kills, 5),
        Kind("kills at the end", 20, games.killed_at_the_end, 4),
        Kind("kills with worker processes", 12, games.killed_with_processes, 2),
        Kind("full disk", 40, games.full_disks, 5),
        Kind("pages on a full disk", 60, flips.full_disks, 60, alone=True),
        Kind("read errors", 40, games.read_errors, 5),
        Kind("four processes on one game", 16, games.races, 4),
        Kind("flips in stored games", 800, flips.stored_games, 50, alone=True),
        Kind("flips in data files", 300, flips.data_files, 100, alone=True),
        Kind("flips in executed pages", 400, flips.pages, 100, alone=True),
        Kind("flips in tables of results", 400, flips.results, 100, alone=True),
        Kind("flips in committed tables", 200, flips.committed, 50, alone=True),
        Kind("own files", 4000, doors.own_files, 500, alone=True),
        Kind("files of published sets", 2000, doors.published_files, 500, alone=True),
        Kind("odd archives", 500, doors.archives, 250, alone=True),
        Kind("readers and measures", 1000, doors.readers, 250, alone=True),
        Kind("arrays", 2000, doors.given_arrays, 500, alone=True),
        Kind("parameters", 1000, doors.parameters, 250, alone=True),
        Kind("texts", 1000, doors.texts, 500, alone=True),
        Kind("games in one process", 500, leaks.many_games, 500, alone=True),
    )
}
COLUMNS = {
    "wrong": "wrong numbers served",
    "lost": "lost",
    "error": "undocumented errors",
    "left": "left over",
}
#: Findings of a batch that are shown; all are in the notes.
SHOWN = 3
TABLE = ROOT / "results" / "faults.csv"


def key(name: str, indices: range) -> str:
    """Name a batch of trials in the notes of a commit."""
    return f"{name} {indices.start}-{indices.stop - 1}"


def notes() -> Path:
    """Return the file where the trials of this commit are noted."""
    folder = ROOT / ".cache" / "faults"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{provenance.commit()}.jsonl"


def batch(name: str, indices: range) -> dict:
    """Make some trials of a kind."""
    warnings.simplefilter("ignore")
    began = time.monotonic()
    verdicts = KINDS[name].verdicts(list(indices))
    found = {str(i): v for i, v in zip(indices, verdicts, strict=False) if v}
    return {"key": key(name, indices), "kind": name, "tried": len(verdicts), "found": found} | {
        "seconds": round(time.monotonic() - began, 1)
    }


def each_once(kept: list[dict]) -> list[dict]:
    """Leave out batches of trials that larger ones have too."""
    seen: dict[str, set[int]] = {name: set() for name in KINDS}
    chosen = []
    for entry in sorted(kept, key=lambda entry: -entry["tried"]):
        first, last = map(int, entry["key"].rpartition(" ")[2].split("-"))
        indices = set(range(first, last + 1))
        if entry["kind"] in KINDS and not seen[entry["kind"]] & indices:
            seen[entry["kind"]] |= indices
            chosen.append(entry)
    return chosen


def summary(done: list[dict]) -> pd.DataFrame:
    """Return a row for each kind of trials."""
    rows = []
    for name in KINDS:
        batches = [b for b in done if b["kind"] == name]
        verdicts = [v for b in batches for v in b["found"].values()]
        if not batches:
            continue
        tried = sum(b["tried"] for b in batches)
        counts = {column: sum(v.startswith(what) for v in verdicts) for what, column in COLUMNS.items()}
        rows.append(
            {"kind": name, "tried": tried, "survived": tried - len(verdicts), **counts}
            | {"seconds": round(sum(b["seconds"] for b in batches))}
        )
    return pd.DataFrame(rows)


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--n", type=int, help="trials of each kind")
    parser.add_argument("--trial", type=int, help="this one alone")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--minutes", type=float, default=40, help="begin nothing after so long")
    parser.add_argument(
        "--table",
        action="store_true",
        help=f"write all that was tried of this commit to {TABLE.relative_to(ROOT)}; other kinds keep their rows",
    )
    options = parser.parse_args()
    chosen = [name for name in KINDS if any(name.startswith(only) for only in options.only)]
    if options.trial is not None:
        for name in chosen:
            print(name, batch(name, range(options.trial, options.trial + 1))["found"] or "survived")
        return 0
    tasks = []
    for name in chosen:
        kind = KINDS[name]
        n = kind.trials if options.n is None else options.n
        tasks += [(name, range(i, min(i + kind.batch, n))) for i in range(0, n, kind.batch)]
    kept = [json.loads(line) for line in notes().read_text().splitlines()] if notes().exists() else []
    wanted = {key(*task) for task in tasks}
    done = [entry for entry in kept if entry["key"] in wanted]
    todo = [task for task in tasks if key(*task) not in {entry["key"] for entry in done}]
    # The dear ones are spread among the others, so that a run that is cut short has tried some of each.
    todo.sort(key=lambda task: task[1].start / (KINDS[task[0]].trials or 1))
    end = time.monotonic() + 60 * options.minutes
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(options.jobs, mp_context=context) as pool,
        tqdm(total=sum(len(i) for _, i in todo), unit="trial", smoothing=0, dynamic_ncols=True) as bar,
    ):
        waiting = iter(todo)
        running = {}

        def submit() -> None:
            task = next(waiting, None)
            if task and time.monotonic() < end:
                running[pool.submit(batch, *task)] = task

        for _ in range(options.jobs):
            submit()
        while running:
            future = next(as_completed(running))
            name, indices = running.pop(future)
            entry = future.result()
            done.append(entry)
            with notes().open("a") as file:
                file.write(json.dumps(entry) + "\n")
            bar.update(len(indices))
            bar.set_description(name)
            for trial, verdict in list(entry["found"].items())[:SHOWN]:
                bar.write(f"{name} --trial {trial}: {verdict[:400]}", file=sys.stdout)
            submit()
    found = summary(done)
    print(f"\n{found.to_string(index=False)}" if len(found) else "nothing was tried")
    if options.table:
        found = summary(each_once([json.loads(line) for line in notes().read_text().splitlines()]))
        found["commit"], found["date"] = provenance.commit(), f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"
        last = pd.read_csv(TABLE)
        found = pd.concat([found, last[~last["kind"].isin(found["kind"])]])
        found = found.sort_values("kind", key=lambda kinds: kinds.map(list(KINDS).index))
        found.to_csv(TABLE, index=False, lineterminator="\n")
        reference_runs.state_checksums([TABLE])
    return int(len(found) > 0 and bool((found["tried"] != found["survived"]).any()))


if __name__ == "__main__":
    sys.exit(main())
