"""Builds the image of jobs on a cluster, and submits them, or writes them into files."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caliban import flags, launch, terminal
from caliban.commands import image_choice, image_publication, launch_record, sending
from caliban.commands.cluster import job_options, manifest_files
from caliban.docker.engine import Engine
from caliban.errors import UsageError
from caliban.platform import outputs
from caliban.platform.kubernetes import manifest
from caliban.platform.kubernetes.backend import KubernetesBackend
from caliban.platform.kubernetes.place import NAME

if TYPE_CHECKING:
    from caliban.commands.cluster.job_wishes import Wishes
    from caliban.commands.image_publication import Images, JobImage
    from caliban.docker.cluster_images import Cluster
    from caliban.history.store import HistoryStore
    from caliban.model.job import JobRequest
    from caliban.platform.kubernetes.options import Options
    from caliban.provenance.gathering import Gathering
    from caliban.remote.backends import Backends

# What a cluster is asked about before there is an image, and a group.
_TRIAL = "trial"


class JobSubmission:
    """What a command line asks for, done step by step."""

    def __init__(self, wishes: Wishes, backends: Backends) -> None:
        """Asks nobody yet.

        Args:
          wishes: what is asked for, with the cluster.
          backends: by which that is reached.
        """
        backend = backends.of(NAME)
        assert isinstance(backend, KubernetesBackend)
        self._wishes = wishes
        self._backends = backends
        self._backend: KubernetesBackend = backend
        self._engine = Engine()

    def run(self) -> int:
        """Sees to the image, and submits or exports the jobs; returns the exit code.

        Raises:
          UsageError: the cluster has nothing of what the jobs ask for.
          PlatformError: the cluster refuses such jobs, or can't be reached.
          CalibanError: the image can't be built, or brought to where the cluster finds it.
        """
        options = self.options()
        self.check(options)
        if self._wishes.export:
            image = self.image(self._images(launch.open_history))
            return self._export(self._wishes.export, options, image)
        with launch.open_history() as store, self._record() as record:
            image = self.image(self._images(lambda: contextlib.nullcontext(store)))
            return self._submit(store, record, options, image)

    def options(self) -> Options:
        """How the jobs are run, now that the cluster can be asked what it is, and has.

        Raises:
          UsageError: the cluster has nothing of what the jobs ask for.
          PlatformError: it can't be reached.
        """
        wishes, target = self._wishes, self._wishes.target
        server = self._backend.server(target)
        if wishes.tracking and wishes.tracking.instance and not server.sidecars:
            version = ".".join(map(str, server.version))
            raise UsageError(
                "jobs reach Cloud SQL by a proxy beside them, which takes Kubernetes 1.29 or "
                f"newer, and this cluster has {version}",
                'Start a tracking server for the database, and name it as "tracking_uri" of '
                '"mlflow_config".',
            )
        is_gke = server.gke or wishes.is_gke
        resources = wishes.resources(is_gke)
        options = wishes.options(resources, is_gke)
        options = replace(options, failure_policy=server.failure_policy)
        if is_gke or not resources.gpus:
            return options
        if not wishes.args.force:
            job_options.check_gpus(resources.gpus, self._cluster)
        if resources.gpu is None:
            return options
        return replace(options, gpu_products=self._backend.gpu_products(target, resources.gpu.type))

    @functools.cached_property
    def _cluster(self) -> Cluster:
        return image_publication.cluster(self._backend, self._wishes.target)

    def check(self, options: Options) -> None:
        """Asks the cluster whether it would take the first job, before its image is built.

        Args:
          options: how the jobs are run.

        Raises:
          UsageError: something that the jobs name isn't there.
          PlatformError: the cluster refuses such jobs, or can't be reached.
        """
        plan = self._wishes.choice.plan
        image = image_publication.expected(self._wishes.publication, plan)
        request = next(self._requests(options, image), None)
        if request is None:
            return
        submission = self._backend.plan(request)
        for note in self._backend.check(submission, self._wishes.experiments.count):
            terminal.note(note)

    def _requests(self, options: Options, image: JobImage) -> Iterator[JobRequest]:
        """The jobs without the history, which alone gives them numbers."""
        group, folder = self._wishes.args.xgroup, self._wishes.output
        if folder and group:
            folder = outputs.group_address(folder, group)
        for each in self._wishes.requests(options, image, group or _TRIAL):
            yield replace(each, output=f"{folder}/{each.uid}" if folder else "")

    def _record(self) -> Gathering:
        """Finds out what the jobs are made of, beside all that is done in its `with`."""
        from caliban.commands.cluster.job import submit

        wishes, args = self._wishes, self._wishes.args
        return launch_record.begin(
            *(args, submit.add_arguments, self._engine),
            projects=[] if wishes.publication.given else [wishes.choice.plan.directory],
            experiments=wishes.experiments.config if args.experiment_config else None,
        )

    def _images(self, history: Callable[[], AbstractContextManager[HistoryStore]]) -> Images:
        return image_choice.images(self._wishes.args, self._wishes.choice, self._engine, history)

    def image(self, images: Images) -> JobImage:
        """The image, where the cluster finds it.

        Args:
          images: how it comes to be.

        Raises:
          CalibanError: the image can't be built, or brought to where the cluster finds it.
        """
        wishes = self._wishes
        is_of_google = wishes.place is not None and wishes.place.gke is not None
        return image_publication.provide(
            wishes.publication,
            images,
            wishes.choice.plan,
            session=self._backends.session,
            cluster=None if is_of_google else lambda: self._cluster,
        )

    def _export(self, file: Path, options: Options, image: JobImage) -> int:
        """Writes the jobs into files, whose names are the result."""
        bodies = [
            manifest_files.to_export(self._backend.plan(request).payload["body"], manifest.MARKS)
            for request in self._requests(options, image)
        ]
        for each in manifest_files.export(file, bodies):
            terminal.result(str(each))
        jobs = launch.count_of_jobs(len(bodies))
        terminal.note(
            f"{jobs} written; nothing was submitted or recorded. 'caliban cluster job submit_file' "
            "submits them, and so does 'kubectl create -f'."
        )
        return 0

    def _submit(
        self, store: HistoryStore, record: Gathering, options: Options, image: JobImage
    ) -> int:
        wishes = self._wishes
        args, user = wishes.args, flags.user_name()
        group = launch.new_group(store, user, args.xgroup)
        wanted = launch.Launch(
            user=user,
            group=group,
            container_spec=image.plan.to_json(),
            requests=list(wishes.requests(options, image, group)),
            output_url=wishes.output,
            rerun=args.rerun or not args.xgroup,
        )
        return sending.send(store, self._backends, NAME, wanted, record, image)
