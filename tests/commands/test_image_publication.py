"""The image of jobs elsewhere: where it comes from, and what those are told who can't have it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from caliban.commands.image_publication import (
    REPOSITORY,
    JobImage,
    Publication,
    again,
    cluster,
    planned,
    provide,
    understand,
)
from caliban.config import Config
from caliban.docker.cluster_images import Cluster, Local, recognise
from caliban.docker.engine import Engine
from caliban.errors import CalibanError, RefusedError, UsageError
from caliban.images import Images
from caliban.model.image import ImagePlan, Mode
from caliban.platform.artifact_registry import Repository
from caliban.platform.kubernetes.backend import KubernetesBackend
from caliban.platform.rest import Session
from tests import kubernetes_cluster
from tests.docker_registry import DockerRegistry, forget
from tests.google_cloud.client import FakeTime, credentials
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.registry import Registry
from tests.workshop import Workshop, docker

PLAN = ImagePlan(Mode.CPU, "base", "/project")
LOCKED = ImagePlan(Mode.CPU, "base", "/project", lock="# Python 3.11\n")
GOOGLES = Repository("p1", "us-central1", REPOSITORY)
DIGEST = "sha256:" + "0a" * 32
ELSEWHERE = Cluster("team", [{"metadata": {"name": "worker-1"}}])


class Enough(Exception):  # noqa: N818 - it is none
    """It would have been built."""


@dataclass
class FakeImages:
    """Builds one image, which is there already."""

    engine: Engine
    image: str = ""
    plans: list[ImagePlan] = field(default_factory=list)

    def ensure(self, plan: ImagePlan) -> tuple[ImagePlan, str]:
        self.plans.append(plan)
        if not self.image:
            raise Enough
        return LOCKED, self.image


@dataclass
class NoEngine:
    """An engine that nobody may ask anything, but perhaps what machine it is on."""

    machine: str = ""

    def own_platform(self) -> str:
        assert self.machine, "the engine was asked"
        return self.machine

    def info(self) -> dict[str, Any]:
        assert self.machine, "the engine was asked"
        return {"Name": "laptop"}

    def image(self, _: str) -> None:
        assert self.machine, "the engine was asked"


def images(engine: object = None, image: str = "") -> Images:
    return cast(Images, FakeImages(cast(Engine, engine or NoEngine()), image))


@pytest.fixture
def image(workshop: Workshop) -> Iterator[str]:
    """A small image with a name as caliban gives them."""
    key, _, value = workshop.label.partition("=")
    # In one step: what lies between two may be pruned by whoever tests that meanwhile.
    text = f"FROM scratch\nLABEL {key}={value} unique={os.urandom(8).hex()}\n"
    name = f"caliban:cpu-{os.urandom(8).hex()}"
    docker("build", "--no-cache", "--tag", name, "-", stdin=text)
    yield name
    docker("rmi", "--force", name)


@pytest.fixture
def kubernetes(
    request: pytest.FixtureRequest,
) -> kubernetes_cluster.Cluster:
    """The cluster of the tests, by another name than that of what is tested here."""
    found = request.getfixturevalue("cluster")
    assert isinstance(found, kubernetes_cluster.Cluster)
    return found


@pytest.fixture
def registry() -> Iterator[Registry]:
    found = Registry()
    yield found
    found.close()


@pytest.fixture
def cloud() -> Iterator[GoogleCloud]:
    with GoogleCloud(FakeTime()) as started:
        yield started


@pytest.fixture
def session(cloud: GoogleCloud) -> Iterator[Session]:
    opened = Session(credentials(cloud), FakeTime().clock)
    yield opened
    opened.close()


@pytest.fixture
def googles(
    engine: Engine, cloud: GoogleCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A `docker` that can push to Google's registry; what it was called with."""
    program = tmp_path / "bin/docker"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho \"$*\" >> '{tmp_path}/calls'\necho 'cpu: digest: {DIGEST} size: 1'\n"
    )
    program.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        patch.setattr("caliban.docker.registry.find", lambda _: None)
        for name, value in cloud.environment().items():
            patch.setenv(name, value)
        yield tmp_path / "calls"
    forget(GOOGLES.host)


class TestWhereItComesFrom:
    def test_a_flag_comes_before_the_settings_and_those_before_googles_own(self) -> None:
        settings = Config(image_registry="registry.example.com/team")
        of_flag = understand(None, "localhost:5000/", settings, GOOGLES)
        assert of_flag == Publication(registry="localhost:5000", is_explicit=True)
        of_file = understand("", "", settings, GOOGLES)
        assert of_file == Publication(registry="registry.example.com/team")
        default = understand(None, None, Config(), GOOGLES)
        assert default == Publication(registry="us-central1-docker.pkg.dev/p1/caliban")
        assert understand(None, None, Config()) == Publication()

    def test_an_image_that_is_named_needs_no_registry(self) -> None:
        assert understand("team/x:1", None, Config()) == Publication(given="team/x:1")
        with pytest.raises(UsageError, match="don't go together"):
            understand("team/x:1", "localhost:5000", Config())

    def test_names_are_checked(self) -> None:
        with pytest.raises(UsageError, match="'team/X' is not the name of an image"):
            understand("team/X", None, Config())
        with pytest.raises(UsageError, match="'https://x' is not what the names"):
            understand(None, "https://x", Config())

    def test_a_recorded_image_goes_where_it_went(self) -> None:
        settings = Config(image_registry="registry.example.com/team")
        pushed = again(f"localhost:5000/a/caliban@{DIGEST}", settings)
        assert pushed == Publication(registry="localhost:5000/a", is_explicit=True)
        local = again("caliban:cpu-0123456789abcdef", settings)
        assert local == Publication(registry="registry.example.com/team")
        given = again(f"team/x@{DIGEST}", settings)
        assert given == Publication(given=f"team/x@{DIGEST}")


class TestDryRun:
    def test_it_says_what_would_be_pushed_where(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = planned(Publication(registry="localhost:5000/team"), PLAN)
        reference = "localhost:5000/team/caliban:not-built-yet"
        assert found == JobImage(reference, "IfNotPresent", PLAN)
        assert "pushed to localhost:5000/team/caliban" in capsys.readouterr().err

    def test_it_knows_of_no_registry(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert planned(Publication(), PLAN).reference == "caliban:not-built-yet"
        assert "loaded into the cluster if it is a local one" in capsys.readouterr().err

    def test_a_given_image_stays_what_it_is(self, capsys: pytest.CaptureFixture[str]) -> None:
        found = planned(Publication(given="team/x:1"), PLAN)
        assert found == JobImage("team/x:1", "IfNotPresent", PLAN, is_given=True)
        assert capsys.readouterr().err == ""


class TestRegistry:
    def test_the_image_is_pushed_and_named_by_its_digest(
        self, engine: Engine, docker_registry: DockerRegistry, image: str
    ) -> None:
        prefix = f"{docker_registry.host}/team"
        found = provide(
            Publication(registry=prefix, is_explicit=True),
            images(engine, str(engine.image_id(image))),
            PLAN,
            cluster=lambda: pytest.fail("the cluster was asked"),
        )
        assert found.reference.startswith(f"{prefix}/caliban@sha256:")
        assert (found.pull_policy, found.plan, found.is_given) == ("IfNotPresent", LOCKED, False)
        assert image.partition(":")[2] in docker_registry.tags("team/caliban")

    def test_a_cluster_elsewhere_gets_it_from_the_registry_of_the_settings(
        self, engine: Engine, docker_registry: DockerRegistry, image: str
    ) -> None:
        publication = Publication(registry=f"{docker_registry.host}/team")
        built = images(engine, str(engine.image_id(image)))
        found = provide(publication, built, PLAN, cluster=lambda: ELSEWHERE)
        assert found.reference.startswith(f"{docker_registry.host}/team/caliban@sha256:")

    def test_without_a_registry_nothing_is_built(self, engine: Engine) -> None:
        built = images(engine)
        with pytest.raises(UsageError, match="no registry is known") as error:
            provide(Publication(), built, PLAN, cluster=lambda: ELSEWHERE)
        assert cast(FakeImages, built).plans == []
        assert '--image_registry registry.example.com/team, or "image_registry"' in error.value.hint


class TestPlatform:
    REGISTRY = Publication(registry="localhost:5000")

    def test_what_is_built_is_for_googles_machines(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.platform("linux/arm64") == "linux/amd64"
        assert "Building for linux/amd64, as the jobs' machines are linux/amd64; " in (
            capsys.readouterr().err
        )
        assert self.platform("linux/amd64") == ""

    def test_a_platform_that_they_do_not_have_is_refused(self) -> None:
        plan = replace(PLAN, platform="linux/arm64")
        with pytest.raises(UsageError, match="--platform linux/arm64: the jobs' machines are"):
            provide(self.REGISTRY, images(NoEngine("linux/arm64")), plan)

    def platform(self, own: str, cluster: Cluster | None = None) -> str:
        """What an engine is told to build for."""
        built = images(NoEngine(own))
        with pytest.raises(Enough):
            provide(self.REGISTRY, built, PLAN, cluster=(lambda: cluster) if cluster else None)
        return cast(FakeImages, built).plans[0].platform

    def test_what_was_built_for_other_machines_is_not_pushed(
        self, engine: Engine, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What an engine has built says so itself, whatever was expected of it.
        monkeypatch.setattr(Engine, "platform", lambda *_: "linux/arm64/v8")
        with pytest.raises(UsageError, match="the image is for linux/arm64/v8, and"):
            provide(self.REGISTRY, images(engine, str(engine.image_id(image))), PLAN)

    @pytest.mark.parametrize(
        ("own", "nodes", "wanted"),
        [
            ("linux/arm64/v8", ["arm64"], ""),
            ("linux/arm64", ["arm64", "amd64"], ""),
            ("linux/arm64", ["amd64"], "linux/amd64"),
            ("linux/amd64", ["arm64"], "linux/arm64"),
            ("linux/s390x", ["arm64", "amd64"], "linux/amd64"),
            ("linux/arm64", [], "linux/amd64"),
        ],
    )
    def test_a_clusters_nodes_tell_what_is_built(
        self, own: str, nodes: list[str], wanted: str
    ) -> None:
        infos = [{"operatingSystem": "linux", "architecture": each} for each in nodes]
        known = Cluster("team", [{"status": {"nodeInfo": each}} for each in infos])
        assert self.platform(own, known) == wanted


class TestArtifactRegistry:
    def test_the_repository_is_made_on_first_use(
        self,
        engine: Engine,
        image: str,
        cloud: GoogleCloud,
        session: Session,
        googles: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        publication = understand(None, None, Config(), GOOGLES)
        built = images(engine, str(engine.image_id(image)))
        for _ in range(2):
            found = provide(publication, built, PLAN, lambda: session)
            assert found.reference == f"us-central1-docker.pkg.dev/p1/caliban/caliban@{DIGEST}"
        assert [*cloud.artifacts.repositories] == [f"{GOOGLES.parent}/repositories/caliban"]
        assert googles.read_text() == f"push {GOOGLES.prefix}/{image}\n" * 2
        told = capsys.readouterr().err
        assert told.count(f"Made the repository {GOOGLES.prefix} in Artifact Registry.") == 1

    def test_one_that_the_user_names_is_made_too(
        self, engine: Engine, image: str, cloud: GoogleCloud, session: Session, googles: Path
    ) -> None:
        named = understand(None, "europe-west4-docker.pkg.dev/example.com/p2/mine/deep", Config())
        provide(named, images(engine, str(engine.image_id(image))), PLAN, lambda: session)
        forget("europe-west4-docker.pkg.dev")
        made = "projects/example.com:p2/locations/europe-west4/repositories/mine"
        assert [*cloud.artifacts.repositories] == [made]

    def test_who_may_only_push_may_push(
        self,
        engine: Engine,
        image: str,
        cloud: GoogleCloud,
        session: Session,
        googles: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        cloud.faults.add("repositories.get", Fault(status=403))
        publication = understand(None, None, Config(), GOOGLES)
        provide(publication, images(engine, str(engine.image_id(image))), PLAN, lambda: session)
        assert "can't be told whether us-central1-docker" in capsys.readouterr().err

    def test_what_stands_in_the_way_is_told_before_anything_is_pushed(
        self, engine: Engine, image: str, cloud: GoogleCloud, session: Session, googles: Path
    ) -> None:
        name = f"{GOOGLES.parent}/repositories/caliban"
        cloud.artifacts.repositories[name] = {"name": name, "format": "PYTHON"}
        publication = understand(None, None, Config(), GOOGLES)
        with pytest.raises(CalibanError, match="is for PYTHON, not for images"):
            provide(publication, images(engine, str(engine.image_id(image))), PLAN, lambda: session)
        assert not googles.exists()

    def test_nobody_is_asked_about_an_image_that_is_there(
        self, engine: Engine, docker_registry: DockerRegistry, image: str
    ) -> None:
        publication = Publication(registry=f"{docker_registry.host}/p1")
        built = images(engine, str(engine.image_id(image)))
        fails: Callable[[], Session] = lambda: pytest.fail("Google was asked")  # noqa: E731
        assert provide(publication, built, PLAN, fails) == provide(publication, built, PLAN, fails)


class TestGivenImage:
    def test_it_is_named_by_its_digest(self, registry: Registry) -> None:
        digest = registry.put("team/x:1", {}, {})
        found = provide(Publication(given=f"{registry.host}/team/x:1"), images(), PLAN)
        assert found == JobImage(f"{registry.host}/team/x@{digest}", "IfNotPresent", PLAN, True)

    def test_one_that_is_not_there_is_an_error(self, registry: Registry) -> None:
        with pytest.raises(UsageError, match=rf"{registry.host} has no image .*/team/y:1"):
            provide(Publication(given=f"{registry.host}/team/y:1"), images(), PLAN)

    def test_one_that_can_not_be_looked_up_is_taken_as_it_is(
        self, registry: Registry, capsys: pytest.CaptureFixture[str]
    ) -> None:
        registry.answer = (401, "UNAUTHORIZED")
        name = f"{registry.host}/team/x:1"
        found = provide(Publication(given=name), images(), PLAN)
        assert found == JobImage(name, "IfNotPresent", PLAN, is_given=True)
        assert f"it can't be told whether there is {name}" in capsys.readouterr().err

    def test_a_local_cluster_may_have_the_engines(
        self, engine: Engine, image: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local = cluster_of(engine)
        found = provide(Publication(given=image), images(engine), PLAN, cluster=lambda: local)
        assert found == JobImage(image, "Never", PLAN, is_given=True)


def cluster_of(engine: Engine) -> Cluster:
    """A cluster whose only node runs from an engine."""
    known = engine.info()
    info = {
        "containerRuntimeVersion": f"docker://{known['ServerVersion']}",
        "kernelVersion": known["KernelVersion"],
    }
    return Cluster("local", [{"metadata": {"name": known["Name"]}, "status": {"nodeInfo": info}}])


class TestLocalCluster:
    def test_it_has_the_engines_images(
        self, engine: Engine, image: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        local = cluster_of(engine)
        built = images(engine, str(engine.image_id(image)))
        of_file = Publication(registry="registry.example.com/team")
        for publication in (Publication(), of_file):
            found = provide(publication, built, PLAN, cluster=lambda: local)
            assert found == JobImage(image, "Never", LOCKED)
        assert f"has the image {image}" in capsys.readouterr().err

    def test_a_real_one_tells_that_it_runs_from_this_engine(
        self, engine: Engine, kubernetes: kubernetes_cluster.Cluster
    ) -> None:
        known = cluster(KubernetesBackend(os.environ), kubernetes.target)
        assert known.names
        assert known.platforms == {"/".join(engine.platform(kubernetes.image).split("/")[:2])}
        assert recognise(known, engine) == Local()

    def test_a_user_without_rights_is_not_told_what_it_is(
        self, kubernetes: kubernetes_cluster.Cluster
    ) -> None:
        viewer = kubernetes.kubeconfig.with_name("viewer.kubeconfig")
        if not viewer.is_file():
            pytest.skip("there is no user without rights")
        place = replace(kubernetes.place, kubeconfig=str(viewer))
        known = cluster(KubernetesBackend(os.environ), place.target)
        assert known == Cluster(place.cluster, [])

    def test_who_may_not_see_the_nodes_is_told_by_the_context(self) -> None:
        class Forbidding:
            def items(self, *_: str) -> list[object]:
                raise RefusedError("no", status=403)

        assert cluster(cast(Any, Forbidding()), "kind-dev/default") == Cluster("kind-dev", [])
        assert cluster(cast(Any, Forbidding()), "gke:p/us-central1/kind-dev/default") == Cluster(
            "", []
        )
