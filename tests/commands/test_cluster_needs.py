"""What jobs name and a real namespace doesn't have: told before anything is built or sent."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands.conftest import wait_for
from tests.commands.kubernetes import Namespace
from tests.commands.test_cluster_on_kubernetes import SUBMIT, status, submitted
from tests.conftest import Inline
from tests.kubernetes_cluster import Cluster


def make(namespace: Namespace, kind: str, name: str, **content: Any) -> None:
    body = {"metadata": {"name": name}, **content}
    code, answer = namespace.ask("POST", namespace.path(kind), body)
    assert code == 201, answer


def may_only_submit(namespace: Namespace) -> Path:
    """The kubeconfig of somebody who may submit jobs there, and nothing else."""
    make(namespace, "serviceaccounts", "somebody")
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace.name}/role"
    verbs = ["create", "get", "list", "delete"]
    rules = [{"apiGroups": ["batch"], "resources": ["jobs"], "verbs": verbs}]
    subject = {"kind": "ServiceAccount", "name": "somebody", "namespace": namespace.name}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "submit"}
    bodies = (("s", {"rules": rules}), ("bindings", {"subjects": [subject], "roleRef": reference}))
    for end, content in bodies:
        body = {"metadata": {"name": "submit"}, **content}
        code, answer = namespace.ask("POST", f"{roles}{end}", body)
        assert code == 201, answer
    asked = {"namespace": namespace.name, "group": "batch", "resource": "jobs", "verb": "create"}
    user = f"system:serviceaccount:{namespace.name}:somebody"
    review = {"user": user, "resourceAttributes": asked}
    reviews = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    # The server that made the role has heard of it a moment later.
    wait_for(lambda: namespace.ask("POST", reviews, {"spec": review})[1]["status"]["allowed"])
    path = f"{namespace.path('serviceaccounts', 'somebody')}/token"
    code, answer = namespace.ask("POST", path, {"spec": {}})
    assert code == 201, answer
    content = yaml.safe_load(namespace.kubeconfig.read_text())
    for user in content["users"]:
        user["user"] = {"token": answer["status"]["token"]}
    file = namespace.kubeconfig.with_name("somebody")
    file.write_text(yaml.safe_dump(content))
    file.chmod(0o600)
    return file


def test_all_that_is_missing_is_told_at_once_with_the_names_that_there_are(
    own_namespace: Namespace, sweep: Path, inline: Inline
) -> None:
    make(own_namespace, "secrets", "wandb", stringData={"KEY": "hush-hush"})
    make(own_namespace, "serviceaccounts", "trainer")
    wanted = ("--env_secret", "wandb-key", "--service_account", "train", "--queue", "night")
    ended = inline(*SUBMIT, *wanted, "trainer.job")
    assert (ended.returncode, ended.stdout) == (2, "")
    where = f"the namespace {own_namespace.name} of {own_namespace.context}"
    assert (
        f"- {where} has no Secret 'wandb-key'\n  It has: wandb.\n  Make it: kubectl" in ended.stderr
    )
    # First of all what may have been meant.
    assert (
        f"- {where} has no service account 'train'\n  It has: trainer, default.\n" in ended.stderr
    )
    assert "hush" not in ended.stderr and "token" not in ended.stderr
    # Whoever runs these tests may have Kueue; the queue isn't there in either case.
    assert re.search(
        r"- the (cluster \S+ has no Kueue|namespace .* has no queue 'night')", ended.stderr
    )
    assert "Build" not in ended.stderr and status(inline) == [] and own_namespace.jobs() == []

    ended = inline(*SUBMIT, *wanted, "--dry_run", "trainer.job")
    assert ended.returncode == 0 and "wandb-key" in ended.stdout


def test_who_may_not_see_it_is_told_so_and_the_jobs_are_submitted(
    own_namespace: Namespace, cluster: Cluster, sweep: Path, inline: Inline
) -> None:
    kubeconfig = may_only_submit(own_namespace)
    wanted = ("--env_secret", "wandb", "--service_account", "trainer", "--output", "pvc:results")
    given = ("--kubeconfig", str(kubeconfig), "--image_tag", cluster.image)
    ended = inline(*SUBMIT, *given, *wanted, "trainer.job")
    assert len(submitted(ended)) == 1
    unseen = (
        "You may not see whether the PersistentVolumeClaim 'results' and the service account "
        "'trainer' and the Secret 'wandb' are there: if not, the jobs wait.\n"
    )
    assert unseen in ended.stderr


@pytest.mark.parametrize("again", ["--resume", "resubmit"])
def test_what_has_gone_since_is_told_before_jobs_are_sent_again(
    again: str, own_namespace: Namespace, sweep: Path, inline: Inline
) -> None:
    make(own_namespace, "secrets", "wandb", stringData={"KEY": "hush-hush"})
    given = ("--env_secret", "wandb", "--xgroup", "g", "trainer.job", "--", "--exit", "3")
    submitted(inline(*SUBMIT, *given))
    own_namespace.wait(1)
    own_namespace.ask("DELETE", own_namespace.path("secrets", "wandb"))
    resume = ("cluster", "job", "submit", "--resume", "g")
    command = resume if again == "--resume" else ("resubmit", "--xgroup", "g", "--yes")
    ended = inline(*command)
    assert ended.returncode == 2
    assert f"the namespace {own_namespace.name} of " in ended.stderr
    assert "has no Secret 'wandb'" in ended.stderr and "rebuilding" not in ended.stderr
    assert [job["status"] for job in status(inline)] == ["FAILED"]


def test_the_manifests_of_others_are_held_to_the_same(
    own_namespace: Namespace, cluster: Cluster, sweep: Path, inline: Inline
) -> None:
    container = {
        "name": "main",
        "image": cluster.image,
        "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a"}}}],
    }
    pod = {"restartPolicy": "Never", "containers": [container]}
    body = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "mine"},
        "spec": {"template": {"spec": pod}},
    }
    Path("mine.yaml").write_text(yaml.safe_dump(body))
    ended = inline("cluster", "job", "submit_file", "mine.yaml")
    assert ended.returncode == 2 and "has no ConfigMap 'settings'" in ended.stderr
    assert own_namespace.jobs() == []
