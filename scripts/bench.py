"""What caliban costs, each figure beside a reference that is measured in the same run.

Prints a table, and exits with 1 if a figure is over its bound. Needs a Docker engine for the rows
about jobs, and takes a few minutes; 4 more with a tracking server of MLflow. Run it on a machine
that does nothing else: `make bench`. With $CALIBAN_TEST_KUBECONFIG, submitting jobs to that cluster
is measured as well.
"""

from __future__ import annotations

import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import bench_cluster
import bench_tracking
from bench_images import building, unchanged
from measuring import Row, cpu, paired, wall

PYTHON = sys.executable
CALIBAN = [PYTHON, "-m", "caliban"]
EXPANSION = [PYTHON, "-m", "caliban.expansion"]


def starting() -> Iterator[Row]:
    """The cost of --help, which every use pays."""
    for name, command in (("caliban --help", CALIBAN), ("expansion --help", EXPANSION)):
        ours, bare = paired(cpu, [*command, "--help"], [PYTHON, "-c", "pass"], 11)
        yield Row(name, f"{ours * 1e3:.0f} ms CPU", f"python -c pass: {bare * 1e3:.0f} ms",
                  ours / bare, 6)  # fmt: skip


_DUMPS = """
import itertools, json, sys
for row in itertools.product(range(100), repeat=3):
    sys.stdout.write(json.dumps(dict(zip(("a", "b", "c"), row))))
"""


def expanding(folder: Path) -> Iterator[Row]:
    """Expanding a million experiments, and reading comments."""
    sweep = folder / "sweep.json"
    sweep.write_text(json.dumps({key: list(range(100)) for key in "abc"}))
    ours, dumps = paired(cpu, [*EXPANSION, str(sweep)], [PYTHON, "-c", _DUMPS], 3)
    yield Row("expansion, 10^6 experiments", f"{ours:.2f} s CPU",
              f"json.dumps each: {dumps:.2f} s", ours / dumps, 1.5)  # fmt: skip
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=-3, check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    peak = subprocess.run(
        [PYTHON, "-c", script, *EXPANSION, str(sweep)], capture_output=True, text=True, check=True
    )
    megabytes = int(peak.stdout) / 1024
    yield Row("its memory", f"{megabytes:.0f} MB", "", megabytes, 64, "MB")
    rows = [json.dumps({"a": i, "b": f"value {i}"}) for i in range(10_000)]
    plain, commented = folder / "plain.json", folder / "commented.json"
    plain.write_text("[" + ",\n".join(rows) + "]")
    commented.write_text("[" + ", # why\n".join(rows) + "] // all")
    ours, bare = paired(cpu, [*EXPANSION, str(commented)], [*EXPANSION, str(plain)], 5)
    yield Row("10,000 dicts with comments", f"{ours:.2f} s CPU", f"without: {bare:.2f} s",
              ours / bare, 10)  # fmt: skip


def remembering(folder: Path) -> Iterator[Row]:
    """A history of 100,000 jobs."""
    from caliban.flags import user_name
    from caliban.history.store import HistoryStore
    from caliban.model.experiment import Experiment
    from caliban.model.job import JobRequest, Outcome, Status, Submission

    database = f"sqlite:///{folder / 'history.db'}"
    user, now = user_name(), datetime.datetime.now(datetime.UTC)

    def record(store: HistoryStore, group: str, number: int) -> list[str]:
        store.group(user, group, now)
        requests = [
            JobRequest(
                f"{group}-{i}", Experiment((), {"seed": i, "group": group}), "image", group, i
            )
            for i in range(number)
        ]
        payload = {"command": ["docker", "run", "image"]}
        sent = Submission("local", "here", payload)
        store.record(user, group, "", {"mode": "cpu"}, requests, lambda *_: (sent, None))
        return [each.uid for each in requests]

    with HistoryStore.open(database) as store:
        for number in range(100):
            uids = record(store, f"group-{number}", 1000)
            store.settle({uid: Outcome(Status.SUCCEEDED, 0, "", now, now) for uid in uids})
    os.environ["CALIBAN_DB_URL"] = database
    for name, flags in (("", []), (" --xgroup, 1,000 jobs", ["--xgroup", "group-50"])):
        ours, bare = paired(wall, [*CALIBAN, "status", *flags], [PYTHON, "-c", "pass"], 7)
        yield Row(f"status{name}", f"{ours:.2f} s", f"python -c pass: {bare:.2f} s", ours - bare,
                  0.5, "s")  # fmt: skip
    yield from _growing(database, user, now)
    del os.environ["CALIBAN_DB_URL"]


def _growing(database: str, user: str, now: datetime.datetime) -> Iterator[Row]:
    """A group of 10,000 jobs is added to a history."""
    from caliban.docker.containers import Containers
    from caliban.docker.engine import Engine
    from caliban.history.store import HistoryStore
    from caliban.launch import Launch, Sweep, record, requests
    from caliban.model.experiment import Experiment
    from caliban.model.job import Outcome, Status
    from caliban.platform.local import LocalBackend, Mount, Options

    options = Options(user="1000:1000", mounts=(Mount("/etc/passwd", "/etc/passwd"),))
    engine = Engine()
    backend = LocalBackend(Containers(engine), engine.host)
    experiments = [Experiment((), {"seed": seed, "rate": 0.1}) for seed in range(10_000)]

    def launch() -> tuple[Sweep, float]:
        start = time.perf_counter()
        wanted = list(requests(experiments, "image", "new", options.to_json()))
        swept = record(backend, store, Launch(user, "new", {"mode": "cpu"}, wanted))
        return swept, time.perf_counter() - start

    def status(name: str) -> Row:
        command = [*CALIBAN, "status", "--xgroup", "new"]
        ours, bare = paired(wall, command, [PYTHON, "-c", "pass"], 7)
        return Row(f"status --xgroup, {name}", f"{ours:.2f} s", f"python -c pass: {bare:.2f} s",
                   ours - bare, 0.5, "s")  # fmt: skip

    with HistoryStore.open(database) as store:
        new, taken = launch()
        assert len(new.jobs) == len(experiments)
        yield Row("recording 10,000 jobs", f"{taken:.2f} s", "", taken, 2, "s")
        yield status("10,000 jobs that wait")
        ended = Outcome(Status.SUCCEEDED, 0, "", now, now)
        store.settle({job.request.uid: ended for job in new.jobs})
        yield status("10,000 jobs that have ended")
        again, taken = launch()
        assert len(again.superfluous) == len(experiments)
        yield Row("the same into one group again", f"{taken:.2f} s", "", taken, 2, "s")


def running(folder: Path) -> Iterator[Row]:
    """What a job costs over a bare container."""
    project = folder / "project"
    project.mkdir()
    (project / "noop.sh").write_text("exit 0\n")
    (project / "1.json").write_text('{"seed": 0}')
    for number in (21, 100):
        (project / f"{number}.json").write_text(json.dumps({"seed": list(range(number))}))
    os.chdir(project)
    built = subprocess.run(
        [*CALIBAN, "build", "--nogpu", "noop.sh"], capture_output=True, text=True, check=True
    )
    bare_run = ["docker", "run", "--rm", built.stdout.strip()]

    def sweep(number: int, *flags: str) -> list[str]:
        experiments = ("--experiment_config", f"{number}.json")
        return [*CALIBAN, "run", "--nogpu", *experiments, *flags, "noop.sh"]

    one, bare = paired(wall, sweep(1), bare_run, 7)
    yield Row("caliban run, unchanged project", f"{one:.2f} s", f"docker run: {bare:.2f} s",
              one / bare, 4)  # fmt: skip
    many, _ = paired(wall, sweep(21), bare_run, 3)
    bare = statistics.median(wall(bare_run) for _ in range(21))
    each = (many - one) / 20
    yield Row("a job of a sweep", f"{each:.3f} s", f"docker run: {bare:.3f} s", each / bare, 1.1)
    image = built.stdout.strip()
    by_hand = _by_hand(sweep(100, "--dry_run"), image)
    for workers in (1, 2, 4, 8):
        side_by_side = str(workers)
        xargs = ["xargs", "-P", side_by_side, "-I{}", *by_hand, "--seed", "{}"]
        ours, theirs = paired(
            wall,
            sweep(100, "--jobs", side_by_side),
            ["sh", "-c", f"seq 0 99 | {shlex.join(xargs)}"],
            2,
        )
        yield Row(f"100 jobs, --jobs {workers}", f"{ours:.2f} s",
                  f"xargs -P {workers} docker run: {theirs:.2f} s", ours / theirs, 1.1)  # fmt: skip


def _by_hand(dry_run: Sequence[str], image: str) -> list[str]:
    """The `docker run` of caliban's own jobs, as one would type it: without name and records."""
    printed = subprocess.run(dry_run, capture_output=True, text=True, check=True).stdout
    words = shlex.split(printed.splitlines()[0])
    words = words[: words.index("caliban:not-built-yet")]
    while "--label" in words:
        at = words.index("--label")
        del words[at : at + 2]
    at = words.index("--name")
    words[at : at + 2] = ["--rm"]
    return [*words, image]


def main() -> int:
    """Measures everything."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="caliban-bench-") as name:
        folder = Path(name)
        os.environ["HOME"] = name
        parts = [
            starting(),
            expanding(folder),
            remembering(folder),
            building(folder),
            unchanged(folder),
            running(folder),
        ]
        if os.environ.get(bench_cluster.VARIABLE):
            parts.append(bench_cluster.submitting(folder))
        if bench_tracking.program():
            parts.append(bench_tracking.tracking(folder))
        for part in parts:
            for row in part:
                print("\t".join(row.cells()), file=sys.stderr, flush=True)
                rows.append(row)
    from caliban.terminal import columns

    table = [["what", "measured", "reference", "value", "bound", ""]]
    for line in columns([*table, *(row.cells() for row in rows)]):
        print(line)
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
