"""The image of jobs that run elsewhere: built, and brought to where they find it.

Where that is, the first of these decides: an image that the user names (--image_tag), a registry
that they name (--image_registry), a cluster on this machine, which needs no registry, the registry
of .calibanconfig.json, and for jobs on Google Cloud the project's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from caliban import terminal
from caliban.config import Config
from caliban.errors import RefusedError, UsageError
from caliban.model import image_name
from caliban.model.image import ImagePlan
from caliban.model.image_name import ImageName

if TYPE_CHECKING:
    from caliban.docker.cluster_images import Cluster, Local
    from caliban.docker.engine import Engine
    from caliban.platform.artifact_registry import Repository
    from caliban.platform.kubernetes.backend import KubernetesBackend
    from caliban.platform.rest import Session

# The repository of Artifact Registry that images are in, unless the user names another one.
REPOSITORY = "caliban"

# What images of caliban's are called, behind what a registry's names begin with.
NAME = "caliban"

_NOT_BUILT = f"{NAME}:not-built-yet"

# What jobs on Vertex AI can run, and on most clusters.
_USUAL_PLATFORM = "linux/amd64"


@dataclass(frozen=True)
class Publication:
    """Where the image of jobs elsewhere comes from.

    Attributes:
      given: an image that is used as it is; "" for one that is built.
      registry: what the name of the image begins with; "" if no registry is known.
      is_explicit: whether the user has named the registry for these jobs: they pull from it then,
        even if they could do without.
    """

    given: str = ""
    registry: str = ""
    is_explicit: bool = False


class Images(Protocol):
    """How images come to be, see caliban.images."""

    @property
    def engine(self) -> Engine:
        """The engine that has them."""

    def ensure(self, plan: ImagePlan) -> tuple[ImagePlan, str]:
        """Sees to it that there is an image of a plan; returns the plan with its lock, and its id.

        Raises:
          CalibanError: there can be none.
        """


@dataclass(frozen=True)
class JobImage:
    """The image of jobs elsewhere.

    Attributes:
      reference: what their platform is told.
      pull_policy: of Kubernetes: "IfNotPresent", or "Never" for an image that the cluster has.
      plan: what it holds, with its lock.
      is_given: whether the user has named it, so that it doesn't start the module by itself.
      id: by which the engine here knows it; "" if that needn't have it.
    """

    reference: str
    pull_policy: str
    plan: ImagePlan
    is_given: bool = False
    id: str = field(default="", compare=False)


def understand(
    image_tag: str | None,
    image_registry: str | None,
    settings: Config,
    default: Repository | None = None,
) -> Publication:
    """Reads what the user says of the image of jobs elsewhere.

    Args:
      image_tag: the flag of that name.
      image_registry: the flag of that name.
      settings: the project's.
      default: where images go if nobody says anything; None for nowhere.

    Raises:
      UsageError: that is no name of an image, or of a registry.
    """
    if image_tag:
        if image_registry:
            raise UsageError(
                "--image_tag and --image_registry don't go together",
                "With --image_tag, nothing is pushed.",
            )
        return Publication(given=str(ImageName.parse(image_tag.strip())))
    if image_registry:
        return Publication(registry=_registry(image_registry), is_explicit=True)
    if settings.image_registry:
        return Publication(registry=_registry(settings.image_registry))
    return Publication(registry=default.prefix if default else "")


def _registry(text: str) -> str:
    """What the names of images in a registry begin with.

    Raises:
      UsageError: they can't begin so; those in Artifact Registry have the name of a repository.
    """
    from caliban.platform.artifact_registry import Repository

    prefix = image_name.registry(text)
    host = prefix.partition("/")[0]
    if host.endswith("-docker.pkg.dev") and Repository.parse(prefix) is None:
        raise UsageError(
            f"'{text}' names no repository of Artifact Registry",
            f"It is like {host}/PROJECT/REPOSITORY.",
        )
    return prefix


def again(image: str, settings: Config) -> Publication:
    """How the image of a recorded job is brought to where the job runs once it is built anew.

    Args:
      image: its name as it was recorded.
      settings: the project's.

    Raises:
      UsageError: it is not the name of an image.
    """
    name = ImageName.parse(image)
    registry, slash, last = name.repository.rpartition("/")
    if last != NAME:
        return Publication(given=image)
    return Publication(registry=registry or settings.image_registry or "", is_explicit=bool(slash))


def cluster(backend: KubernetesBackend, target: str) -> Cluster:
    """What is known of a cluster.

    Args:
      backend: which asks it.
      target: where in the cluster jobs are to run, see kubernetes.place.

    Raises:
      CalibanError: it can't be reached.
    """
    from caliban.docker.cluster_images import Cluster
    from caliban.platform.kubernetes.place import Place

    place = Place.parse(target)
    try:
        nodes = backend.items(target, "/api/v1/nodes")
    except RefusedError:
        nodes = []  # not everybody may see them
    return Cluster("" if place.gke else place.cluster, nodes)


def planned(publication: Publication, plan: ImagePlan) -> JobImage:
    """The image of jobs that are only shown: nobody is asked, and nothing is built or pushed.

    Args:
      publication: where it comes from.
      plan: what it holds.
    """
    image = expected(publication, plan)
    if not image.is_given and publication.registry:
        name = f"{publication.registry}/{NAME}"
        terminal.note(f"The image would be built, and pushed to {name}.")
    elif not image.is_given:
        terminal.note("The image would be built, and loaded into the cluster if it is a local one.")
    return image


def expected(publication: Publication, plan: ImagePlan) -> JobImage:
    """An image before it is there: its name is one that it may have.

    Args:
      publication: where it comes from.
      plan: what it holds.
    """
    if publication.given:
        return JobImage(publication.given, "IfNotPresent", plan, is_given=True)
    prefix = f"{publication.registry}/" if publication.registry else ""
    return JobImage(f"{prefix}{_NOT_BUILT}", "IfNotPresent", plan)


def provide(
    publication: Publication,
    images: Images,
    plan: ImagePlan,
    session: Callable[[], Session] | None = None,
    cluster: Callable[[], Cluster] | None = None,
) -> JobImage:
    """Builds the image of jobs elsewhere, as far as need be, and brings it there.

    Args:
      publication: where it comes from.
      images: how it is built.
      plan: what it holds.
      session: asks Google, if the registry is Google's; None for nobody to ask.
      cluster: what is known of the cluster that the jobs run in; None for Google's machines.

    Raises:
      UsageError: no registry is known, or it doesn't have the image that the user has named, or the
        jobs' machines can't run what is built here.
      BuildError: it can't be built.
      PushError: it can't be pushed.
      CalibanError: the cluster, Google or the engine does not do its part.
    """
    local = None
    platforms = {_USUAL_PLATFORM} if cluster is None else set()
    if cluster is not None and not publication.is_explicit and _may_be_here(publication):
        from caliban.docker import cluster_images

        known = cluster()
        local, platforms = cluster_images.recognise(known, images.engine), known.platforms
    if publication.given:
        return _given(ImageName.parse(publication.given), images.engine, plan, local)
    if not local and not publication.registry:
        raise UsageError(
            "no registry is known that the cluster could pull the image from",
            'Name one: --image_registry registry.example.com/team, or "image_registry" in '
            ".calibanconfig.json. A cluster of kind, minikube, k3d or Docker Desktop on this "
            "machine needs none.",
        )
    engine = images.engine
    if not local:
        plan = _for_machines(plan, engine, platforms)
    plan, image = images.ensure(plan)
    name = engine.image_name(image)
    if local:
        return _loaded(name, engine, plan, local, image)
    _check_platform(engine.platform(image), platforms)
    from caliban.docker import push

    target = ImageName.parse(f"{publication.registry}/{name}")
    reference = push.ensure(engine, image, target, lambda: _prepare(publication.registry, session))
    return JobImage(reference, "IfNotPresent", plan, id=image)


def _may_be_here(publication: Publication) -> bool:
    """Whether an image that the user has named may be one of the engine's, for a local cluster."""
    return "/" not in publication.given and "@" not in publication.given


def _given(name: ImageName, engine: Engine, plan: ImagePlan, local: Local | None) -> JobImage:
    """An image that the user has named, by what names it for good if that can be found out."""
    from caliban.docker import registry

    if local and (image := engine.image_id(str(name))) is not None:
        return _loaded(str(name), engine, plan, local, image, is_given=True)
    reference = str(name)
    try:
        found = registry.find(name)
    except registry.RegistryError as error:
        terminal.warn(f"it can't be told whether there is {name}: {error.message}")
    else:
        if found is None:
            raise UsageError(
                f"--image_tag: the registry {name.host} has no image {name}",
                "Look for a mistake in its name and tag.",
            )
        reference = f"{name.repository}@{found.digest}"
    return JobImage(reference, "IfNotPresent", plan, is_given=True)


def _loaded(
    name: str, engine: Engine, plan: ImagePlan, local: Local, image: str, is_given: bool = False
) -> JobImage:
    from caliban.docker import cluster_images

    cluster_images.load(local, engine, name)
    terminal.note(f"The jobs run in {local}, which has the image {name}.")
    return JobImage(name, "Never", plan, is_given, image)


def _prepare(prefix: str, session: Callable[[], Session] | None) -> None:
    """Makes the repository of Artifact Registry that an image is about to be pushed to."""
    from caliban.platform import artifact_registry

    repository = artifact_registry.Repository.parse(prefix)
    if repository is None or session is None:
        return
    try:
        if artifact_registry.ensure(session(), repository, os.environ):
            terminal.note(f"Made the repository {repository.prefix} in Artifact Registry.")
    except RefusedError as error:
        if error.status != 403:
            raise
        # Who may push need not be somebody who may look, or make one.
        terminal.warn(f"it can't be told whether {repository.prefix} is there: {error.message}")


def _for_machines(plan: ImagePlan, engine: Engine, machines: Collection[str]) -> ImagePlan:
    """A plan for an image that the jobs' machines can run.

    Args:
      plan: what the image holds.
      engine: that builds it.
      machines: their platforms; empty if nobody knows.

    Raises:
      UsageError: the user wants one that they can't run.
    """
    if plan.platform:
        check_platform(plan.platform, machines)
        return plan
    own, usual = engine.own_platform(), machines or (_USUAL_PLATFORM,)
    if _main_part(own) in usual:
        return plan
    wanted = _USUAL_PLATFORM if _USUAL_PLATFORM in usual else min(usual)
    terminal.note(
        f"Building for {wanted}, as the jobs' machines are {_listed(machines) or 'mostly that'}; "
        f"this engine's own is {own}, so that it takes emulation. --platform names another one."
    )
    return replace(plan, platform=wanted)


def check_platform(wanted: str, machines: Collection[str] = (_USUAL_PLATFORM,)) -> None:
    """Sees to it that the jobs' machines can run an image for the platform that the user wants.

    Args:
      wanted: the platform; "" for any.
      machines: theirs, Vertex AI's by default; empty if nobody knows.

    Raises:
      UsageError: they can't.
    """
    if wanted and machines and _main_part(wanted) not in machines:
        raise UsageError(
            f"--platform {wanted}: the jobs' machines are {_listed(machines)}",
            "Leave it out, or name one of those.",
        )


def _check_platform(found: str, machines: Collection[str]) -> None:
    """Sees to it that an image is one that the jobs' machines can run.

    Args:
      found: the platform that it is for: "linux/arm64/v8".
      machines: theirs; empty if nobody knows.

    Raises:
      UsageError: they can't run it.
    """
    if machines and _main_part(found) not in machines:
        raise UsageError(
            f"the image is for {found}, and the jobs' machines are {_listed(machines)}",
            "The base image may be for that alone: look for one of another platform, or name "
            "one with --platform.",
        )


def _main_part(platform: str) -> str:
    """A platform without its variant."""
    return "/".join(platform.split("/")[:2])


def _listed(platforms: Collection[str]) -> str:
    return " or ".join(sorted(platforms))
