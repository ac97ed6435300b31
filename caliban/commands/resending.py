"""Sends recorded jobs to where they ran once more, with images built anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caliban import terminal
from caliban.model.image import ImagePlan
from caliban.model.job import Job

if TYPE_CHECKING:
    from caliban.commands.image_publication import JobImage
    from caliban.history.store import HistoryStore
    from caliban.images import Images
    from caliban.provenance.gathering import Gathering
    from caliban.remote.backends import Backends


def has_manifest(job: Job) -> bool:
    """Whether the user has written a job in Kubernetes' words: its image has no plan."""
    return bool(job.submission.payload["settings"].get("manifest"))


def has_given_image(job: Job) -> bool:
    """Whether a job's image was named by the user: only then is it told what to execute."""
    settings = job.submission.payload["settings"]
    is_told = bool(settings.get("command")) and not job.container_spec.get("live")
    return is_told or has_manifest(job)


def resubmit(
    store: HistoryStore,
    backends: Backends,
    jobs: Sequence[Job],
    plans: Mapping[int, ImagePlan],
    images: Mapping[int, Images],
    record: Gathering,
) -> int:
    """Builds what jobs elsewhere need, and sends them again.

    Args:
      store: the history.
      backends: of the platforms.
      jobs: of one group, which have ended.
      plans: what their images hold, by number.
      images: how those are built, by the same number; jobs without have the image that they had.
      record: what is found out of the launch, whose `with` has begun.

    Returns:
      The exit code, see sending.see_off.
    """
    from caliban import dispatch
    from caliban.commands import launch_record, sending

    platforms = list(dict.fromkeys(job.submission.platform for job in jobs))
    for platform in platforms:
        backends.of(platform)  # whom it doesn't let in should know before anything is built
    sending.check_needs(backends, jobs)
    jobs, built = _rebuilt(backends, jobs, plans, images)
    code = 0
    for platform in platforms:
        mine = [job for job in jobs if job.submission.platform == platform]
        backend = backends.of(platform)
        pending = dispatch.again(backend, store, mine)
        known = launch_record.plans(mine)
        launch_record.keep_elsewhere(record, store, backend, pending.jobs, known, built)
        code = max(code, sending.see_off(store, backends, platform, mine[0].group, pending))
    return code


def _rebuilt(
    backends: Backends,
    jobs: Sequence[Job],
    plans: Mapping[int, ImagePlan],
    images: Mapping[int, Images],
) -> tuple[list[Job], list[JobImage]]:
    """Builds and publishes what jobs need; returns them with their new images, and those."""
    if not images:
        return list(jobs), []
    terminal.note("rebuilding containers...")
    built: dict[tuple[int, str, str], JobImage] = {}
    rebuilt = []
    for job in jobs:
        number = job.container_spec_id
        if number in images and not has_given_image(job):
            # Jobs of one plan may be in several places, each with a registry of its own.
            key = (number, job.image, job.submission.target)
            if key not in built:
                built[key] = _published(backends, job, plans[number], images[number])
            job = _with_image(job, built[key])
        rebuilt.append(job)
    return rebuilt, list(built.values())


def _published(backends: Backends, job: Job, plan: ImagePlan, images: Images) -> JobImage:
    """Builds an image, and brings it to where a job ran."""
    from caliban import config
    from caliban.commands import image_publication
    from caliban.platform.kubernetes.backend import KubernetesBackend

    publication = image_publication.again(job.image, config.load(Path(plan.directory)))
    backend, target = backends.of(job.submission.platform), job.submission.target
    if isinstance(backend, KubernetesBackend):
        kubernetes = backend
        return image_publication.provide(
            *(publication, images, plan, backends.session),
            cluster=lambda: image_publication.cluster(kubernetes, target),
        )
    return image_publication.provide(publication, images, plan, backends.session)


def _with_image(job: Job, image: JobImage) -> Job:
    """A job that is to run another image."""
    settings: dict[str, Any] = dict(job.submission.payload["settings"])
    if job.submission.platform == "kubernetes":
        settings["pull_policy"] = image.pull_policy
    payload = {**job.submission.payload, "settings": settings}
    submission = replace(job.submission, payload=payload)
    spec = image.plan.to_json()
    return replace(job, image=image.reference, container_spec=spec, submission=submission)
