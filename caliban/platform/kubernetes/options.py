"""How the jobs of a launch are run on Kubernetes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caliban.errors import UsageError
from caliban.model import settings

# Names of objects: https://kubernetes.io/docs/concepts/overview/working-with-objects/names/
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")

# https://kubernetes.io/docs/tasks/inject-data-application/define-environment-variable-container/
_VARIABLE = re.compile(r"[A-Za-z_.-][A-Za-z0-9_.-]*")

_ACCOUNT = "a service account"

_NUMBERS = ("cpu", "memory", "memory_limit", "gpus", "tpus", "max_retries", "ttl", "timeout")


@dataclass(frozen=True)
class Options:
    """How the jobs of a launch are run.

    Attributes:
      target: where, see Place.
      name: what they are called, before their uid.
      labels: of the user.
      environment: variables that they find.
      env_secrets: names of the Secrets of the namespace whose entries they find as variables.
      command: argv before the job's own arguments, instead of what the image itself starts.
      cpu: thousandths of a CPU that each needs; 0 if that isn't said.
      memory: MB that each needs; 0 if that isn't said.
      memory_limit: MB with which a job is ended for taking too much; 0 for no such limit.
      gke: whether the cluster is one of GKE, where labels of nodes tell GPUs, TPUs and spot
        machines apart.
      gpus: how many GPUs each gets.
      gpu_type: which, as GKE has it: "nvidia-l4"; "" for any.
      gpu_products: which, as the label nvidia.com/gpu.product of other clusters' nodes has it; any
        of these; empty for any.
      tpus: how many chips of TPUs each gets.
      tpu_type: which, as GKE has it: "tpu-v5-lite-podslice".
      topology: how those are connected: "2x4".
      spot: whether Google may take the machines away, which costs less.
      failure_policy: whether the cluster knows podFailurePolicy.
      max_retries: how often a job is started again that has failed by itself.
      ttl: seconds after its end until the cluster forgets a job; 0 if it doesn't.
      timeout: seconds that a job may run; 0 for no limit.
      grace: seconds between SIGTERM and SIGKILL for a job that is stopped.
      service_account: as whom they run; "" for the namespace's default.
      queue: of Kueue, in which they wait; "" without.
      pull_policy: when nodes fetch the image: "Always", "IfNotPresent" or "Never"; "" for what is
        usual.
      pull_secrets: names of the Secrets by which nodes may fetch it.
      root: whether the job is root in its container.
      own_home: whether the image has a home directory that anybody may write to.
      cloud_sql: instance of Cloud SQL that they reach on the loopback: "project:region:name"; ""
        for none.
      manifest: a whole Job that is sent instead of one made of all this; None without.

    Raises:
      UsageError: there are no such jobs.
    """

    target: str
    name: str = "caliban"
    labels: tuple[tuple[str, str], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    env_secrets: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    cpu: int = 0
    memory: int = 0
    memory_limit: int = 0
    gke: bool = False
    gpus: int = 0
    gpu_type: str = ""
    gpu_products: tuple[str, ...] = ()
    tpus: int = 0
    tpu_type: str = ""
    topology: str = ""
    spot: bool = False
    failure_policy: bool = True
    max_retries: int = 0
    ttl: int = 0
    timeout: int = 0
    grace: int = 30
    service_account: str = ""
    queue: str = ""
    pull_policy: str = ""
    pull_secrets: tuple[str, ...] = ()
    root: bool = False
    own_home: bool = False
    cloud_sql: str = ""
    manifest: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for each in (*_NUMBERS, "grace"):
            if getattr(self, each) < 0:
                raise UsageError(f"a job's {each} can't be {getattr(self, each)}")
        if self.memory_limit and self.memory > self.memory_limit:
            raise UsageError(
                f"a job can't need {self.memory} MB and be ended at {self.memory_limit} MB"
            )
        if (self.spot or self.tpus) and not self.gke:
            what = "spot machines" if self.spot else "TPUs"
            raise UsageError(f"only clusters of GKE have {what}, and {self.target} is none")
        if self.pull_policy not in ("", "Always", "IfNotPresent", "Never"):
            raise UsageError(
                f"'{self.pull_policy}' is no policy of fetching images",
                "There are Always, IfNotPresent and Never.",
            )
        for kind, names in (
            ("a Secret", (*self.env_secrets, *self.pull_secrets)),
            (_ACCOUNT, (self.service_account,)),
            ("a queue", (self.queue,)),
        ):
            for name in filter(None, names):
                check_name(kind, name)
        for name, _ in self.environment:
            if not _VARIABLE.fullmatch(name):
                raise UsageError(f"'{name}' can't be the name of a variable in a container")

    def to_json(self) -> dict[str, Any]:
        """The options as JSON, without what is as usual; `from_json` reads it back."""
        return settings.to_json(self, Options(""))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Options:
        """Reads what `to_json` wrote.

        Raises:
          TypeError: it was not written by that.
        """
        return cls(**settings.read(value, "labels", "environment"))


def check_name(kind: str, name: str) -> None:
    """Sees to it that an object can have a name.

    Raises:
      UsageError: it can't.
    """
    if kind == _ACCOUNT and "@" in name:
        raise UsageError(
            f"'{name}' is an account of Google's, and jobs run as a service account of a namespace",
            "On GKE, such a one can be given the rights of a Google account: it is named here.",
        )
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' can't be the name of {kind}",
            "It is made of lowercase letters, digits, '-' and '.', as in 'wandb-key'.",
        )
