"""Ends jobs elsewhere, and those that have not been sent yet."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caliban import process
from caliban.errors import CalibanError, UnknownOutcomeError
from caliban.model.job import Handle, Job, Status
from caliban.platform.base import RemoteBackend
from caliban.remote import output, stragglers
from caliban.remote.backends import Backends
from caliban.remote.parallel import for_each

if TYPE_CHECKING:
    from caliban.history.store import HistoryStore

# How long it may take to ask all of the jobs, in seconds.
_PATIENCE = 120.0

# How long the output of a job is read before it is ended, where it would be gone afterwards.
_LOG = 10.0


@dataclass
class Stopped:
    """What has become of the wish that jobs end.

    Attributes:
      cancelled: the uids of those that had not been sent, and won't be.
      asked: the uids of those that have been asked to end.
      lost: why others could not be asked, by uid.
      hints: what to do about that.
    """

    cancelled: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)
    lost: dict[str, str] = field(default_factory=dict)
    hints: set[str] = field(default_factory=set)

    def __or__(self, other: Stopped) -> Stopped:
        """What has become of the jobs of both."""
        return Stopped(
            self.cancelled | other.cancelled,
            self.asked | other.asked,
            self.lost | other.lost,
            self.hints | other.hints,
        )


def stop(store: HistoryStore, backends: Backends, jobs: Sequence[Job]) -> Stopped:
    """Ends jobs of platforms elsewhere; those that have ended by themselves are in no list.

    Args:
      store: the history, which is told before the platforms are: otherwise they would have failed.
      backends: of the platforms.
      jobs: open ones.
    """
    now = datetime.datetime.now(datetime.UTC)
    found = Stopped()
    unsent = [job for job in jobs if job.handle is None]
    found.lost = find_unsent(store, backends, unsent)
    known = [job.uid for job in unsent if job.uid not in found.lost]
    found.cancelled = set(store.cancel_unsent(known, now))
    # Somebody may just be sending others, and die before it has ended them there.
    stragglers.expect(
        job.uid
        for job in unsent
        if job.uid in found.cancelled and process.is_alive(job.owner) is not False
    )
    # Some may have been sent meanwhile.
    sent = {job.uid: job for job in store.jobs([job.uid for job in jobs]) if job.handle}
    asked = store.request_stop(list(sent), now, waiting=True)
    found.lost |= dict.fromkeys(asked, "it takes too long")
    # Why places don't answer: after several attempts for one job, none is made for the next.
    silent: dict[str, str] = {}
    # Of these the wish is taken back: should they fail later, nobody will have stopped them.
    unheard: list[str] = []

    def ask(uid: str) -> None:
        job = sent[uid]
        if why := silent.get(job.submission.target):
            found.lost[uid] = why
            unheard.append(uid)
            return
        try:
            _ask(backends, job)
        except CalibanError as error:
            found.lost[uid] = error.message
            found.hints.add(error.hint)
            unheard.append(uid)
            if isinstance(error, UnknownOutcomeError) and not error.status:
                silent[job.submission.target] = error.message
        else:
            del found.lost[uid]
            found.asked.add(uid)

    for_each(asked, ask, _PATIENCE)
    store.withdraw_stop([uid for uid in unheard if sent[uid].stop_requested is None], now)
    return found


def find_unsent(store: HistoryStore, backends: Backends, unsent: Iterable[Job]) -> dict[str, str]:
    """Looks for jobs that may have been sent by a caliban that has died before it recorded that.

    Args:
      store: the history, which is told where they are.
      backends: of the platforms.
      unsent: jobs of which that is not recorded.

    Returns:
      Why that could not be done for some, by uid.
    """
    places: dict[tuple[str, str, str], list[Job]] = {}
    for job in unsent:
        if process.is_alive(job.owner) is False:
            place = (job.submission.platform, job.submission.target, job.group)
            places.setdefault(place, []).append(job)
    lost: dict[str, str] = {}
    handles: dict[str, Handle] = {}
    for (platform, target, group), found in places.items():
        try:
            backend = backends.of(platform)
            for job in found:
                _check_place(backend, job)
            there = backend.find(target, group)
        except CalibanError as error:
            lost |= {job.uid: error.message for job in found}
        else:
            handles |= {job.uid: there[job.uid] for job in found if job.uid in there}
    store.settle({}, handles)
    return lost


def _ask(backends: Backends, job: Job) -> None:
    assert job.handle is not None
    backend = backends.of(job.handle.platform)
    _check_place(backend, job)
    if job.outcome.status is Status.RUNNING and not backend.KEEPS_LOGS:
        output.save(backend, job, _LOG)
    backend.stop(job.handle)


def _check_place(backend: RemoteBackend, job: Job) -> None:
    """Sees to it that a job is asked where it is: elsewhere nobody would have it, it seems gone.

    Raises:
      CalibanError: it isn't there.
    """
    if why := backend.misplaced(job.submission):
        raise CalibanError(why)
