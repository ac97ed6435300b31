"""A Job of Kubernetes: what is sent to make one (pure).

Reference: https://kubernetes.io/docs/reference/kubernetes-api/workload-resources/job-v1/
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from caliban.model import account, tracking
from caliban.model.image import HOME, OUTPUT, OUTPUT_VARIABLE
from caliban.model.job import JobRequest, Submission
from caliban.model.labels import GROUP, LONGEST, UID, Labels, of_job
from caliban.platform.kubernetes import hardware, labels, storage
from caliban.platform.kubernetes.options import Options
from caliban.platform.kubernetes.place import NAME, Place

CONTAINER = "caliban"

# Who a job is unless it is root. Outside of the container nobody has these numbers to themselves.
USER = 1000
_ACCOUNT = "caliban"

# What a label can't hold: the whole name of the group, and the job's flags.
_GROUP_NOTE = "caliban/group"
_FLAGS_NOTE = "caliban/flags"

# The labels and annotations by which caliban knows a job for one of its own.
MARKS = (UID, GROUP, labels.MANAGED_BY, _GROUP_NOTE, _FLAGS_NOTE)

# A pod's own annotations become its passwd and group files, without an object of their own.
_ACCOUNT_NOTES = {"passwd": "caliban/passwd", "group": "caliban/group-file"}

# Version 2 of https://github.com/GoogleCloudPlatform/cloud-sql-proxy, and where jobs find it.
_CLOUD_SQL_PROXY = "gcr.io/cloud-sql-connectors/cloud-sql-proxy:2"
CLOUD_SQL_PORT = 5432
_HEALTH_PORT = 9090

QUEUE = "kueue.x-k8s.io/queue-name"

# How often a job is started anew that has failed without a failure of its own: a node that didn't
# take it after all, for one.
_PATIENCE = 3

# What the server adds, and refuses if it comes from elsewhere.
_OF_SERVER = (
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "generateName",
    "managedFields",
    "ownerReferences",
    "finalizers",
    "selfLink",
)
_LABELS_OF_SERVER = tuple(
    f"{prefix}{key}"
    for prefix in ("", "batch.kubernetes.io/")
    for key in ("job-name", "controller-uid")
)


def plan(request: JobRequest) -> Submission:
    """Puts a job into Kubernetes' words: pure, without asking anybody.

    Args:
      request: whose settings are Options, and whose output is an address as storage has them.
    """
    options = Options.from_json(request.settings)
    make = _body if options.manifest is None else _adopted
    payload: dict[str, Any] = {
        "settings": request.settings,
        "body": make(request, options),
    }
    if request.output:
        payload["output"] = request.output
    return Submission(NAME, options.target, payload)


def with_variables(submission: Submission, variables: Mapping[str, str]) -> Submission:
    """The job that `plan` returned, which finds more in its environment."""
    payload = copy.deepcopy(dict(submission.payload))
    env = payload["body"]["spec"]["template"]["spec"]["containers"][0].setdefault("env", [])
    env += [{"name": name, "value": _literal(value)} for name, value in variables.items()]
    return replace(submission, payload=payload)


def labels_of(request: JobRequest) -> Labels:
    """The labels of a job, and what there is to say of them."""
    options = Options.from_json(request.settings)
    standard = {
        "job_name": options.name,
        "gpu_enabled": str(bool(options.gpus)).lower(),
        "tpu_enabled": str(bool(options.tpus)).lower(),
    }
    extra = dict(options.labels)
    return of_job(request.uid, request.group, standard, extra, request.experiment, labels.RULES)


def job_name(stem: str, uid: str) -> str:
    """The name of a job: NAME-UID, of which the pods' names, and a label, are made."""
    cleaned = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")
    return f"{cleaned[: LONGEST - len(uid) - 1].rstrip('-') or 'caliban'}-{uid}"


def group_of(thing: Mapping[str, Any]) -> str:
    """The experiment group of a Job or a pod; "" for one that caliban hasn't made."""
    metadata = thing["metadata"]
    notes, found = metadata.get("annotations") or {}, metadata.get("labels") or {}
    return str(notes.get(_GROUP_NOTE) or found.get(GROUP, ""))


def uid_of(name: str) -> str:
    """The uid that the name of a job ends with."""
    return name.rpartition("-")[2]


def _body(request: JobRequest, options: Options) -> dict[str, Any]:
    """The Job of a request."""
    notes = {_GROUP_NOTE: request.group, _FLAGS_NOTE: json.dumps(request.experiment.flags())}
    marks = {**labels_of(request).values, labels.MANAGED_BY: "caliban"}
    template: dict[str, Any] = {
        "metadata": {
            "labels": marks,
            "annotations": {
                **notes,
                labels.WORKER: CONTAINER,
                **storage.notes(request.output),
            },
        },
        "spec": _pod(request, options),
    }
    if not options.root:
        template["metadata"]["annotations"] |= {
            _ACCOUNT_NOTES["passwd"]: account.passwd(USER, USER, _ACCOUNT, HOME),
            _ACCOUNT_NOTES["group"]: account.group(USER, _ACCOUNT),
        }
    spec: dict[str, Any] = {**_ending(options), "template": template}
    queue = {}
    if options.queue:
        # Kueue lets it go on when its turn has come.
        queue = {QUEUE: options.queue}
        spec["suspend"] = True
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(options.name, request.uid),
            "namespace": Place.parse(options.target).namespace,
            "labels": {**marks, **queue},
            "annotations": notes,
        },
        "spec": spec,
    }


def _ending(options: Options) -> dict[str, Any]:
    """When a job has failed for good, and how long it is remembered."""
    found: dict[str, Any] = {"backoffLimit": options.max_retries}
    if options.failure_policy:
        # A pod that was driven away is no failure, and doesn't count.
        # Schemas before 1.35 require the status, which the server would fill in.
        disruption = {"type": "DisruptionTarget", "status": "True"}
        rules: list[dict[str, Any]] = [{"action": "Ignore", "onPodConditions": [disruption]}]
        if not options.max_retries and not options.timeout:
            found["backoffLimit"] = _PATIENCE
            codes = {"containerName": CONTAINER, "operator": "NotIn", "values": [0]}
            rules.append({"action": "FailJob", "onExitCodes": codes})
        found["podFailurePolicy"] = {"rules": rules}
    if options.ttl:
        found["ttlSecondsAfterFinished"] = options.ttl
    return found


def _pod(request: JobRequest, options: Options) -> dict[str, Any]:
    volumes = _volumes(options)
    if request.output:
        volumes.append(storage.volume(request.output, 0 if options.root else USER))
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": options.grace,
        # As process 1 Python would ignore SIGTERM.
        "shareProcessNamespace": True,
        # Variables that tell of the namespace's services are none of the job's business.
        "enableServiceLinks": False,
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(request, options, volumes)],
        "volumes": [volume for volume, _ in volumes],
        **hardware.placement(options),
    }
    if options.cloud_sql:
        pod["initContainers"] = [_cloud_sql_proxy(options.cloud_sql)]
    if not options.root:
        pod["securityContext"] |= {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
        }
        if request.output:
            # A claim may hold millions of files: they get this group once, and not for each job.
            pod["securityContext"]["fsGroupChangePolicy"] = "OnRootMismatch"
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    else:
        pod["automountServiceAccountToken"] = False
    if options.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in options.pull_secrets]
    if options.timeout:
        # Of the pod, not of the Job, whose time passes while it waits for a node as well.
        pod["activeDeadlineSeconds"] = options.timeout
    return pod


def _cloud_sql_proxy(instance: str) -> dict[str, Any]:
    """What leads to an instance of Cloud SQL: it starts before the job, and ends after it.

    Reference: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
    """
    return {
        "name": "cloud-sql-proxy",
        "image": _CLOUD_SQL_PROXY,
        "args": [
            *("--port", str(CLOUD_SQL_PORT)),
            *("--health-check", "--http-address", "0.0.0.0", "--http-port", str(_HEALTH_PORT)),
            instance,
        ],
        "restartPolicy": "Always",
        # The job starts when this says that it is ready.
        "startupProbe": {
            "httpGet": {"path": "/startup", "port": _HEALTH_PORT},
            "periodSeconds": 1,
            "failureThreshold": 60,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
        },
    }


# A volume and where the container sees it.
_Volume = tuple[dict[str, Any], list[dict[str, Any]]]


def _volumes(options: Options) -> list[_Volume]:
    # Programs that load data in several processes need more than the usual 64 MB of it.
    memory = {"name": "shared-memory", "emptyDir": {"medium": "Memory"}}
    found: list[_Volume] = [(memory, [{"name": "shared-memory", "mountPath": "/dev/shm"}])]
    if options.root:
        return found
    if not options.own_home:
        found.append(({"name": "home", "emptyDir": {}}, [{"name": "home", "mountPath": HOME}]))
    items = [
        {"path": file, "fieldRef": {"fieldPath": f"metadata.annotations['{note}']"}}
        for file, note in _ACCOUNT_NOTES.items()
    ]
    mounts = [
        {"name": "account", "mountPath": f"/etc/{file}", "subPath": file, "readOnly": True}
        for file in _ACCOUNT_NOTES
    ]
    return [*found, ({"name": "account", "downwardAPI": {"items": items}}, mounts)]


def _container(request: JobRequest, options: Options, volumes: list[_Volume]) -> dict[str, Any]:
    variables = {"PYTHONUNBUFFERED": "1"}
    if not options.root:
        variables |= {"HOME": HOME, "USER": _ACCOUNT, "LOGNAME": _ACCOUNT}
    variables |= dict(options.environment)
    if tracking.URI in variables:
        variables |= tracking.own_variables(request.uid)
    if request.output:
        variables[OUTPUT_VARIABLE] = OUTPUT
    found: dict[str, Any] = {
        "name": CONTAINER,
        "image": request.image,
        "env": [{"name": name, "value": _literal(text)} for name, text in variables.items()],
        "volumeMounts": [mount for _, mounts in volumes for mount in mounts],
    }
    if options.command:
        found["command"] = [_literal(word) for word in options.command]
    if arguments := request.experiment.flags():
        found["args"] = [_literal(word) for word in arguments]
    if options.pull_policy:
        found["imagePullPolicy"] = options.pull_policy
    if options.env_secrets:
        found["envFrom"] = [{"secretRef": {"name": name}} for name in options.env_secrets]
    if needed := hardware.resources(options):
        found["resources"] = needed
    if not options.root:
        found["securityContext"] = {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
    return found


def _literal(text: str) -> str:
    """A text that Kubernetes, which replaces $(NAME) in it, makes this one of."""
    return text.replace("$", "$$")


def _adopted(request: JobRequest, options: Options) -> dict[str, Any]:
    """The Job of the user's own manifest: with a name and labels by which it is found again.

    The arguments of its first container are those of the request, just as they are.
    """
    assert options.manifest is not None
    body: dict[str, Any] = copy.deepcopy(dict(options.manifest))
    body.pop("status", None)
    spec = body["spec"]
    template = spec["template"]
    if not spec.get("manualSelector"):
        spec.pop("selector", None)
    marks = {
        UID: request.uid,
        GROUP: labels.group(request.group),
        labels.MANAGED_BY: "caliban",
    }
    for each in (body, template):
        metadata = each["metadata"] = dict(each.get("metadata") or {})
        for key in _OF_SERVER:
            metadata.pop(key, None)
        found = dict(metadata.get("labels") or {})
        for key in _LABELS_OF_SERVER:
            found.pop(key, None)
        metadata["labels"] = {**found, **marks}
        metadata["annotations"] = {
            **(metadata.get("annotations") or {}),
            _GROUP_NOTE: request.group,
        }
    body["metadata"] |= {
        "name": job_name(options.name, request.uid),
        "namespace": Place.parse(options.target).namespace,
    }
    container = template["spec"]["containers"][0]
    if name := container.get("name"):  # else the cluster says so
        template["metadata"]["annotations"].setdefault(labels.WORKER, str(name))
    if request.image:
        container["image"] = request.image
    container.pop("args", None)
    if arguments := request.experiment.flags():
        container["args"] = arguments
    return body
