"""What a Job names and isn't there is told before it is sent, as far as the user may see that."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import pytest

from caliban.errors import RefusedError, UsageError
from caliban.platform.kubernetes import needs
from caliban.platform.kubernetes.connection import Connection
from caliban.platform.kubernetes.place import Place

PLACE = Place("tank", "team")
KUEUE = "/apis/kueue.x-k8s.io"
QUEUES = f"{KUEUE}/v1beta2/namespaces/team/localqueues"


class Answers:
    """A cluster that has some objects, by their paths; others it refuses with a status."""

    def __init__(self, there: dict[str, Any], status: int = 404) -> None:
        self._there = there
        self._status = status
        self.asked: list[tuple[str, str]] = []

    def get(self, path: str, params: Any = None, accept: str = "application/json") -> Any:
        self.asked.append((path, accept))
        if path not in self._there:
            raise RefusedError("no", status=self._status)
        return self._there[path]

    def items(self, path: str, params: Any = None, accept: str = "application/json") -> Any:
        self.asked.append((path, accept))
        if self._status == 403:
            raise RefusedError("no", status=403)
        names = [each.rpartition("/")[2] for each in self._there if each.startswith(f"{path}/")]
        return [{"metadata": {"name": name}} for name in reversed(names)]


def job(queue: str = "", **pod: Any) -> dict[str, Any]:
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    return {"metadata": {"labels": labels}, "spec": {"template": {"spec": pod}}}


def check(answers: Answers, body: dict[str, Any], count: int = 1) -> list[str]:
    return needs.check(cast(Connection, answers), PLACE, body, count)


def there(*names: str) -> dict[str, Any]:
    return {f"/api/v1/namespaces/team/{name}": {} for name in names}


EVERYWHERE: dict[str, Any] = {
    "serviceAccountName": "trainer",
    "imagePullSecrets": [{"name": "not-needed-to-start"}],
    "initContainers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "c1"}}}]}],
    "containers": [
        {
            "env": [
                {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
                {
                    "name": "B",
                    "valueFrom": {"secretKeyRef": {"name": "may-lack", "optional": True}},
                },
                {"name": "C", "value": "s9"},
            ],
            "envFrom": [{"secretRef": {"name": "s1"}}, {"configMapRef": {"name": "c2"}}],
        }
    ],
    "volumes": [
        {"secret": {"secretName": "s2"}},
        {"configMap": {"name": "c3"}},
        {"projected": {"sources": [{"secret": {"name": "s3"}}, None]}},
        {"emptyDir": {}},
    ],
}


def test_nothing_is_asked_for_a_job_that_names_nothing() -> None:
    answers = Answers({})
    assert check(answers, job(containers=[{"image": "i"}], volumes=None)) == []
    assert answers.asked == []


def test_a_manifest_may_name_things_anywhere_and_all_that_lack_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        check(Answers({}), job(**EVERYWHERE))
    told = [line for line in caught.value.message.splitlines() if line.startswith("- ")]
    found = [line.removeprefix("- the namespace team of tank has no ") for line in told]
    secrets = {f"Secret 's{number}'" for number in (1, 2, 3)}
    maps = {f"ConfigMap 'c{number}'" for number in (1, 2, 3)}
    assert {*found} == {"service account 'trainer'", *secrets, *maps} and len(found) == 7


def test_the_names_that_there_are_help_but_not_hundreds_of_them() -> None:
    answers = Answers(there(*(f"secrets/s{number:02}" for number in range(30))))
    with pytest.raises(UsageError, match="has no Secret 'nope'") as caught:
        check(answers, job(envFrom=[{"secretRef": {"name": "nope"}}]))
    named = ", ".join(f"s{number:02}" for number in range(12))
    assert f"It has: {named}, and 18 more.\n" in caught.value.hint
    assert "create secret generic nope --from-env-file FILE" in caught.value.hint


def test_what_is_in_a_secret_is_never_asked_for() -> None:
    answers = Answers(there("secrets/s1"))
    assert check(answers, job(envFrom=[{"secretRef": {"name": "s1"}}])) == []
    with pytest.raises(UsageError):
        check(answers, job(envFrom=[{"secretRef": {"name": "s2"}}]))
    assert len(answers.asked) == 3
    assert all("as=PartialObjectMetadata" in accept for _, accept in answers.asked)


def test_what_the_user_may_not_see_is_said_once_and_does_not_stop_the_jobs() -> None:
    body = job("night", serviceAccountName="trainer", envFrom=[{"secretRef": {"name": "s1"}}])
    [note] = check(Answers({}, 403), body)
    for title in ("service account 'trainer'", "Secret 's1'", "Kueue"):
        assert title in note
    assert note.startswith("You may not see whether")


def test_a_cluster_that_answers_something_else_is_not_taken_for_one_without() -> None:
    with pytest.raises(RefusedError):
        check(Answers({}, 401), job(serviceAccountName="trainer"))


class TestAQueue:
    def test_is_looked_for_in_the_version_that_the_cluster_has(self) -> None:
        kueue = {KUEUE: {"preferredVersion": {"version": "v1beta2"}}}
        assert check(Answers({**kueue, f"{QUEUES}/night": {}}), job("night")) == []
        with pytest.raises(UsageError, match="namespace team of tank has no queue 'day'") as caught:
            check(Answers({**kueue, f"{QUEUES}/night": {}}), job("day"))
        assert "It has: night.\n" in caught.value.hint

    def test_is_nowhere_without_kueue(self) -> None:
        with pytest.raises(UsageError, match="the cluster tank has no Kueue") as caught:
            check(Answers({}), job("night"))
        assert "--queue" in caught.value.hint


class TestAClaim:
    def test_of_one_node_is_a_note_for_several_jobs(self) -> None:
        path = "/api/v1/namespaces/team/persistentvolumeclaims/results"
        claim = {"metadata": {"name": "results"}, "spec": {"accessModes": ["ReadWriteOnce"]}}
        body = job(volumes=[{"persistentVolumeClaim": {"claimName": "results"}}] * 2)
        assert check(Answers({path: claim}), body) == []
        [note] = check(Answers({path: claim}), body, count=2)
        assert "'results' is on one node at a time (ReadWriteOnce)" in note


class TestABucket:
    VOLUME: ClassVar = {"csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": {}}}
    DRIVER = "/apis/storage.k8s.io/v1/csidrivers/gcsfuse.csi.storage.gke.io"

    def test_needs_the_driver_that_mounts_it(self) -> None:
        assert check(Answers({self.DRIVER: {}}), job(volumes=[self.VOLUME])) == []
        place = Place.on_gke("fish", "us-east1", "tank")
        body = job(volumes=[self.VOLUME])
        with pytest.raises(UsageError, match="has no driver of buckets") as caught:
            needs.check(cast(Connection, Answers({})), place, body)
        assert caught.value.hint == (
            "Enable it: gcloud container clusters update tank --project fish --location us-east1 "
            "--update-addons GcsFuseCsiDriver=ENABLED"
        )


class TestANamespace:
    def test_that_is_not_there_is_told_with_those_that_are(self) -> None:
        answers = Answers({"/api/v1/namespaces/vision": {}})
        with pytest.raises(UsageError, match="the cluster tank has no namespace 'team'") as caught:
            needs.check_namespace(cast(Connection, answers), PLACE)
        assert "It has: vision.\n" in caught.value.hint
        assert "create namespace team" in caught.value.hint

    def test_what_comes_near_is_named_first_of_many(self) -> None:
        names = (*"abcdefghijklmn", "teams")
        answers = Answers({f"/api/v1/namespaces/{name}": {} for name in names})
        with pytest.raises(UsageError) as caught:
            needs.check_namespace(cast(Connection, answers), PLACE)
        assert "It has: teams, a, b, c, d, e, f, g, h, i, j, k, and 3 more.\n" in caught.value.hint

    def test_that_may_not_be_seen_may_be_there(self) -> None:
        needs.check_namespace(cast(Connection, Answers({}, 403)), PLACE)
