"""Jobs on Vertex AI, each a custom job of a project in a region."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from caliban.errors import PlatformError, RefusedError
from caliban.model import labels
from caliban.model.job import Handle, JobRequest, Outcome, Submission
from caliban.platform import cloud_logging, targets, vertex_job
from caliban.platform.answers import understanding, wish
from caliban.platform.base import Links, Particulars, RemoteBackend
from caliban.platform.quota import TokenBucket
from caliban.platform.rest import Session, endpoint, once
from caliban.platform.vertex_job import NAME

# What Google allows in a project and region, unless it has been asked for more:
# https://cloud.google.com/vertex-ai/docs/quotas
PER_MINUTE = 60.0

# Seconds after which a region that doesn't answer is left out.
_PATIENCE = 30.0

# A request arrives at the latest so long after another one that was sent because it seemed lost.
_LATEST = datetime.timedelta(minutes=15)

# How many jobs that the list has not are asked for one by one.
_MISSING = 50

_PAGE = 100  # the API's own limit

# How many jobs are asked for by name at a time, in an address of less than 2,000 characters.
_NAMED = 35
_FIELDS = "name,labels,state,startTime,endTime,error"


class VertexBackend(RemoteBackend):
    """The Backend of Vertex AI. A target is "PROJECT/REGION", an id the number of a custom job."""

    GONE = "its custom job was deleted"
    KEEPS_LOGS = True
    # At 600 a minute as well, of which some are waited for until it is known what became of them.
    AT_A_TIME = 32
    LATE = cloud_logging.PATIENCE

    def __init__(
        self, session: Session, environment: Mapping[str, str], per_minute: float = PER_MINUTE
    ) -> None:
        """Takes who is asking.

        Args:
          session: to ask with.
          environment: variables, by which APIs can be elsewhere; see rest.endpoint.
          per_minute: jobs that may be submitted to each target.
        """
        self._session = session
        self._environment = environment
        self._per_minute = per_minute
        self._buckets: dict[str, TokenBucket] = {}
        self._alike: dict[Handle, str] = {}  # with the number of the job whose uid each has
        self._lock = threading.Lock()

    def plan(self, request: JobRequest) -> Submission:
        """See vertex_job.plan."""
        return vertex_job.plan(request)

    def close(self) -> None:
        """Nothing: the session belongs to others."""

    def particulars(self, submission: Submission) -> Particulars:
        """See vertex_job.particulars."""
        return vertex_job.particulars(submission)

    def with_variables(self, submission: Submission, variables: Mapping[str, str]) -> Submission:
        """See vertex_job.with_variables."""
        return vertex_job.with_variables(submission, variables)

    def locate(self, target: str) -> None:
        """Nothing: a project's name is its own for good."""

    def misplaced(self, submission: Submission) -> str:
        """Nothing: a job that is missing has been deleted."""
        return ""

    def bucket(self, target: str) -> TokenBucket:
        """The submissions that a target allows; it knows how long so many of them take."""
        with self._lock:
            if target not in self._buckets:
                self._buckets[target] = TokenBucket(self._per_minute, self._session.clock)
            return self._buckets[target]

    def seconds(self, target: str, count: int) -> float:
        """How long so many submissions to a target take at least, by Google's quota."""
        return self.bucket(target).seconds(count + 1)  # until another one could follow

    def held_up(self) -> datetime.datetime | None:
        """Until when Google has asked to wait."""
        return self._session.held_up

    def links(self, handle: Handle) -> Links:
        """The page of a job in Google's console, and gcloud's command that shows its log."""
        return Links(console_url(handle), log_command(handle))

    def submit(self, submission: Submission, is_new: bool = False) -> Handle:
        """Makes a custom job, unless there is one with its uid.

        Args:
          submission: what `plan` returned.
          is_new: whether it was never submitted before, by anybody: it isn't looked for then.

        Raises:
          RefusedError: there is no such job now.
          UnknownOutcomeError: nobody knows. Submitting again finds out.
        """
        target = submission.target
        body = submission.payload["body"]
        uid = body["labels"][labels.UID]
        bucket = self.bucket(target)

        def find() -> Handle | None:
            return self._find(target, _has_uid(uid)).get(uid)

        sent = 0

        def send() -> Handle:
            nonlocal sent
            sent += 1
            job = self._session.post(self._jobs(target), body, bucket)
            with understanding(self._jobs(target)):
                return _handle(target, job)

        if not is_new and (found := find()):
            return found
        # What has not arrived has not been counted either.
        handle = once(send, find, self._session.clock, absent=bucket.give_back)
        if (sent > 1 or not is_new) and (first := find()) and first != handle:
            # A request that seemed lost, or was of a caliban that had died, was still on its way.
            self.stop(handle)
            return first
        return handle

    def find(self, target: str, group: str) -> dict[str, Handle]:
        """The jobs of a group that there are, by uid: to go on with one that was interrupted.

        Raises:
          PlatformError: the target can't be asked.
        """
        return self._find(target, f'labels.{labels.GROUP}="{labels.value(group)}"')

    def status(self, handles: Sequence[Handle]) -> dict[Handle, Outcome]:
        """Asks each target for its jobs, all at the same time, in one list each.

        The jobs of a target that can't be asked just now are UNKNOWN; the reason says why.
        """
        uids = {(handle.target, handle.id): handle.uid for handle in handles}

        def ask(target: str, numbers: Sequence[str]) -> dict[str, Outcome]:
            wanted = {number: uids[target, number] for number in numbers}
            with understanding(self._jobs(target)):
                return self._outcomes(target, wanted)

        def silence(target: str) -> str:
            until = self.held_up()
            return wish(until) if until else f"{target} doesn't answer"

        return targets.outcomes(handles, ask, _PATIENCE, silence)

    def doubles(self) -> set[Handle]:
        """See RemoteBackend: of requests that arrived when they were not waited for any more."""
        with self._lock:
            alike, self._alike = self._alike, {}
        return {handle for handle, number in alike.items() if self._is_double(handle, number)}

    def _is_double(self, handle: Handle, number: str) -> bool:
        """Whether a job is of the same request as another, and not a copy that somebody made."""
        url = self._jobs(handle.target)
        try:
            job, other = (self._session.get(f"{url}/{each}") for each in (handle.id, number))
            with understanding(url):
                made = [
                    datetime.datetime.fromisoformat(each["createTime"]) for each in (job, other)
                ]
                return abs(made[0] - made[1]) < _LATEST and all(
                    job[name] == other[name] for name in ("displayName", "labels", "jobSpec")
                )
        except PlatformError:
            return False  # it is seen again the next time

    def stop(self, handle: Handle) -> None:
        """Asks a job to end; one that has ended, or is gone, needs nothing.

        Raises:
          PlatformError: it can't be asked, or the user may not end it.
        """
        try:
            self._session.post_again(f"{self._jobs(handle.target)}/{handle.id}:cancel", {})
        except RefusedError as error:
            if error.reason not in ("FAILED_PRECONDITION", "NOT_FOUND"):
                raise

    def logs(
        self, handle: Handle, follow: bool = False, tail: int | None = None
    ) -> Iterator[bytes]:
        """What a job has printed, line by line.

        Raises:
          PlatformError: the log can't be read.
        """
        project = handle.target.partition("/")[0]
        url = endpoint("logging", cloud_logging.URL, self._environment)
        log = cloud_logging.Log(self._session, url, project, log_filter(handle))
        if follow:
            yield from log.follow(lambda: self._has_ended(handle), tail)
        elif tail is not None:
            yield from log.tail(tail)
        else:
            yield from log.read()

    def _has_ended(self, handle: Handle) -> bool:
        url = f"{self._jobs(handle.target)}/{handle.id}"
        try:
            job = self._session.get(url)
        except RefusedError:
            return True
        with understanding(url):
            return vertex_job.outcome(job).status.is_final

    def _jobs(self, target: str) -> str:
        return jobs_url(target, self._environment)

    def _find(self, target: str, query: str) -> dict[str, Handle]:
        """The jobs of a target that a filter lets through, by uid; the oldest of several."""
        params = {"filter": query, "pageSize": str(_PAGE), "readMask": "name,labels"}
        with understanding(self._jobs(target)):
            return {
                job["labels"][labels.UID]: _handle(target, job)
                for page in self._session.pages(self._jobs(target), params)
                for job in page.get("customJobs", ())
                if labels.UID in job.get("labels", {})
            }

    def _outcomes(self, target: str, wanted: Mapping[str, str]) -> dict[str, Outcome]:
        """What became of jobs of one target.

        Args:
          target: of which they are.
          wanted: the uid of each by its number.
        """
        left = dict(wanted)
        numbers = {uid: number for number, uid in wanted.items() if uid}
        found: dict[str, Outcome] = {}

        def read(query: str) -> Iterator[int]:
            """Reads a list, the newest first; yields how many of each page were wanted."""
            params = {"filter": query, "pageSize": str(_PAGE), "readMask": _FIELDS}
            for page in self._session.pages(self._jobs(target), params):
                before = len(left)
                for job in page.get("customJobs", ()):
                    handle = _handle(target, job)
                    if left.pop(handle.id, None) is not None:
                        found[handle.id] = vertex_job.outcome(job)
                    elif handle.id not in wanted and handle.uid in numbers and _goes_on(job):
                        with self._lock:
                            self._alike[handle] = numbers[handle.uid]
                yield before - len(left)

        if len(left) > _NAMED:
            for hits in read(f"labels.{labels.UID}:*"):
                # By name they cost less than pages that are full of others.
                if len(left) <= _NAMED or hits < _NAMED:
                    break
        named = sorted(filter(None, left.values()))
        for start in range(0, len(named), _NAMED):
            for _ in read(" OR ".join(map(_has_uid, named[start : start + _NAMED]))):
                pass
        # The list may lag behind: what has just been submitted is not taken for deleted.
        for number in sorted(left)[:_MISSING]:
            try:
                found[number] = vertex_job.outcome(
                    self._session.get(f"{self._jobs(target)}/{number}")
                )
            except RefusedError as error:
                if error.status != 404:
                    raise
        return found


def jobs_url(target: str, environment: Mapping[str, str]) -> str:
    """The address of a target's custom jobs.

    Args:
      target: "PROJECT/REGION".
      environment: see rest.endpoint.
    """
    project, _, region = target.partition("/")
    url = f"https://{region}-aiplatform.googleapis.com/"
    base = endpoint("aiplatform", url, environment)
    return f"{base}v1/projects/{project}/locations/{region}/customJobs"


def _handle(target: str, job: Mapping[str, Any]) -> Handle:
    return Handle(NAME, target, _number(job), job.get("labels", {}).get(labels.UID, ""))


def _goes_on(job: Mapping[str, Any]) -> bool:
    """Whether a job has not ended, and nobody has asked it to."""
    is_cancelled = job.get("state") == "JOB_STATE_CANCELLING"
    return not (is_cancelled or vertex_job.outcome(job).status.is_final)


def _has_uid(uid: str) -> str:
    """Selects the job with a uid."""
    return f'labels.{labels.UID}="{uid}"'


def _number(job: Mapping[str, Any]) -> str:
    """The number of a job, with which its name ends; before it is the project's, not its id."""
    name: str = job["name"]
    return name.rpartition("/")[2]


def console_url(handle: Handle) -> str:
    """The page of a job in Google's console."""
    project, _, region = handle.target.partition("/")
    base = "https://console.cloud.google.com/vertex-ai/locations"
    return f"{base}/{region}/training/{handle.id}?project={project}"


def console_list_url(project: str) -> str:
    """The page of all jobs of a project."""
    return f"https://console.cloud.google.com/vertex-ai/training/custom-jobs?project={project}"


def log_filter(handle: Handle) -> str:
    """Which entries of a project's log are a job's."""
    return f'resource.type="ml_job" resource.labels.job_id="{handle.id}"'


def log_command(handle: Handle) -> str:
    """The command that shows a job's log as it grows."""
    project, _, region = handle.target.partition("/")
    name = f"projects/{project}/locations/{region}/customJobs/{handle.id}"
    return f"gcloud ai custom-jobs stream-logs {name}"
