"""What is true of jobs wherever they run: each platform goes through the same tests."""

from __future__ import annotations

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from caliban.model.job import Handle, Outcome, Status
from caliban.platform import outputs
from tests.platform.places import Here, OnKubernetes, OnVertex, Place, remote

PLATFORMS = ("local", "kubernetes", "vertex")

# An engine may say of a job that takes no time that it has ended before it has started.
SAY = "import sys, time; print(*sys.argv[1:]); time.sleep(0.5)"
KEEP = """\
import os, pathlib, sys
folder = pathlib.Path(os.environ["CALIBAN_OUTPUT"])
folder.mkdir(parents=True, exist_ok=True)  # a bucket has no folders until something is in them
(folder / "kept").write_text(sys.argv[1])
"""
SLEEP = "import time; print('begun'); time.sleep(600)"

Open = Callable[[], Place]


@pytest.fixture(params=PLATFORMS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found: Place
    if request.param == "kubernetes":
        found = OnKubernetes(request.getfixturevalue("cluster"))
    else:
        engine = request.getfixturevalue("engine")
        image = request.getfixturevalue("workshop").base("plain")
        found = Here(engine, image) if request.param == "local" else OnVertex(engine, image)
    with contextlib.closing(found):
        yield found


def run(place: Place, code: str, *args: str) -> Handle:
    return place.submit(place.backend.plan(place.request(code, *args)))


def wait(place: Place, handle: Handle, is_met: Callable[[Outcome | None], bool]) -> Outcome | None:
    """The outcome of a job once it is as wanted."""
    deadline = time.monotonic() + 60
    while not is_met(found := place.backend.status([handle]).get(handle)):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def ended(place: Place, handle: Handle) -> Outcome:
    found = wait(place, handle, lambda found: found is not None and found.status.is_final)
    assert found is not None
    return found


def running(place: Place, handle: Handle) -> None:
    """Waits until a job has printed something."""
    wait(place, handle, lambda found: found is not None and found.status is Status.RUNNING)
    deadline = time.monotonic() + 30
    while not list(place.backend.logs(handle, False, None)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_plan_is_plain_json_that_always_comes_out_the_same(place: Place) -> None:
    request = place.request(SAY, "a b", "ü")
    planned = place.backend.plan(request)
    assert place.backend.plan(request) == planned
    assert (planned.platform, planned.target) == (place.name, place.target)
    assert json.loads(json.dumps(planned.payload))["settings"] == json.loads(
        json.dumps(request.settings)
    )
    assert place.backend.plan(place.request(SAY, "a b", "ü")) != planned


def test_a_job_gets_its_arguments_and_succeeds(place: Place) -> None:
    handle = run(place, SAY, "--name", "a b", "", "$(HOME)", "ü'\"\\")
    assert (handle.platform, handle.target) == (place.name, place.target)
    outcome = ended(place, handle)
    assert (outcome.status, outcome.exit_code, outcome.reason) == (Status.SUCCEEDED, 0, "")
    assert outcome.started is not None and outcome.finished is not None
    assert outcome.started <= outcome.finished
    printed = b"".join(place.backend.logs(handle, False, None))
    assert printed.decode() == "--name a b  $(HOME) ü'\"\\\n"


def test_a_job_that_fails_has_its_exit_code(place: Place) -> None:
    handle = run(place, "import sys; print('no luck', file=sys.stderr); sys.exit(7)")
    outcome = ended(place, handle)
    assert (outcome.status, outcome.exit_code) == (Status.FAILED, 7)
    assert outcome.reason == "exit code 7"
    assert b"".join(place.backend.logs(handle, False, None)) == b"no luck\n"


def test_submitted_twice_it_is_one_job(place: Place) -> None:
    planned = place.backend.plan(place.request(SAY, "once"))
    first = place.submit(planned)
    assert place.submit(planned) == first
    assert ended(place, first).status is Status.SUCCEEDED
    assert place.submit(planned) == first
    assert b"".join(place.backend.logs(first, False, None)) == b"once\n"


def test_several_jobs_are_told_apart(place: Place) -> None:
    codes = ("pass", "raise SystemExit(1)", SLEEP)
    good, bad, long = handles = [run(place, code) for code in codes]
    unknown = Handle(place.name, place.target, f"{long.id[:-4]}0000")
    for handle in handles[:2]:
        ended(place, handle)
    wait(place, long, lambda found: found is not None and found.status is Status.RUNNING)
    found = place.backend.status([*handles, unknown])
    statuses = {handle: outcome.status for handle, outcome in found.items()}
    assert statuses == {
        good: Status.SUCCEEDED,
        bad: Status.FAILED,
        long: Status.RUNNING,
    }
    assert place.backend.status([]) == {}


def test_a_log_is_read_from_its_end(place: Place) -> None:
    handle = run(place, "print(*range(30), sep='\\n')")
    ended(place, handle)
    lines = [f"{number}\n".encode() for number in range(30)]
    assert b"".join(place.backend.logs(handle, False, None)) == b"".join(lines)
    assert b"".join(place.backend.logs(handle, False, 2)) == b"".join(lines[-2:])
    assert b"".join(place.backend.logs(handle, False, 0)) == b""


def test_a_log_is_followed_to_the_end_of_the_job(place: Place) -> None:
    code = "import time\nfor number in range(12): print(number); time.sleep(0.5)"
    handle = run(place, code)
    wait(place, handle, lambda found: found is not None and found.status is not Status.SUBMITTED)
    pieces = []
    for piece in place.backend.logs(handle, True, None):
        pieces.append((datetime.datetime.now(datetime.UTC), piece))
    printed = b"".join(piece for _, piece in pieces)
    assert printed.split() == [str(number).encode() for number in range(12)]
    outcome = ended(place, handle)
    assert outcome.status is Status.SUCCEEDED
    # They have come while it ran, and not all of them at its end.
    assert outcome.finished is not None and pieces[0][0] < outcome.finished


def test_what_a_job_writes_is_kept_where_its_output_says_and_nowhere_else(
    place: Place, tmp_path: Path
) -> None:
    url = place.outputs(tmp_path)
    handles, kept = [], {}
    for number, word in enumerate(("one", "two"), 1):
        request = place.request(KEEP, word, group="Night/1")
        address = outputs.address(url, "Night/1", number, request.uid)
        planned = place.backend.plan(replace(request, output=address))
        assert planned.output == address
        handles.append(place.submit(planned))
        kept[address.rpartition("/")[2]] = word
    for handle in handles:
        outcome = ended(place, handle)
        assert outcome.status is Status.SUCCEEDED, outcome
    found = [each for each in tmp_path.rglob("*") if each.is_file()]
    assert {each.parent.name: each.read_text() for each in found} == kept
    assert {each.parent.parent.name for each in found} == {"Night_1"}
    # A job without has no such variable, and writes nothing.
    assert ended(place, run(place, KEEP, "three")).status is Status.FAILED


def test_a_job_is_stopped_however_often_that_is_said(place: Place) -> None:
    handle = run(place, SLEEP)
    running(place, handle)
    place.stop(handle)
    place.stop(handle)

    def is_over(found: Outcome | None) -> bool:
        return found is None or found.status in (Status.FAILED, Status.STOPPED)

    wait(place, handle, is_over)
    place.stop(handle)


def test_a_job_that_somebody_has_deleted_is_missing(place: Place) -> None:
    kept, lost = run(place, "pass"), run(place, "pass")
    for handle in (kept, lost):
        ended(place, handle)
    place.lose(lost)
    wait(place, lost, lambda found: found is None)
    assert list(place.backend.status([kept, lost])) == [kept]
    place.stop(lost)


@pytest.mark.parametrize("place", PLATFORMS[1:], indirect=True)
def test_the_jobs_of_a_group_are_found_by_their_uids(place: Place) -> None:
    group = f"Night/{time.time_ns()} ü"
    requests = [place.request("pass", group=group) for _ in range(3)]
    handles = {each.uid: place.submit(place.backend.plan(each)) for each in requests[:2]}
    other = place.request("pass")
    place.submit(place.backend.plan(other))
    backend = remote(place)
    assert backend.find(place.target, group) == handles
    assert backend.find(place.target, f"{group}-other") == {}
    # Whatever is found is not made again.
    assert backend.submit(backend.plan(requests[0])) == handles[requests[0].uid]


@pytest.mark.parametrize("place", PLATFORMS[1:], indirect=True)
def test_people_are_shown_where_to_look(place: Place) -> None:
    handle = run(place, "pass")
    links = remote(place).links(handle)
    assert handle.id in links.logs
    assert remote(place).seconds(place.target, 1) >= 0
    assert remote(place).GONE
