"""Where jobs on a cluster write: what --output may be, and what becomes of it in a Job."""

from __future__ import annotations

from typing import Any

import pytest

from caliban.errors import UsageError
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest
from caliban.platform import outputs
from caliban.platform.kubernetes import storage
from caliban.platform.kubernetes.manifest import plan
from caliban.platform.kubernetes.options import Options

UID = "0123456789abcdef"


def body(output: str, **options: Any) -> dict[str, Any]:
    settings = Options("tank/team", **options).to_json()
    request = JobRequest(UID, Experiment((), {}), "image:1", "night", 0, settings, output)
    planned = plan(request)
    assert planned.output == output
    found: dict[str, Any] = planned.payload["body"]
    return found


def pod(output: str, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = body(output, **options)["spec"]["template"]["spec"]
    return found


def claim(**changes: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "results"},
        "spec": {"accessModes": ["ReadWriteOnce"]},
        "status": {"phase": "Bound"},
        **changes,
    }


class TestTheFlag:
    @pytest.mark.parametrize(
        ("text", "folder"),
        [
            (None, ""),
            ("pvc:results", "pvc:results"),
            ("pvc:results/", "pvc:results"),
            ("pvc:my.results-2/a b/ü//", "pvc:my.results-2/a b/ü"),
            ("gs://my-bucket", "gs://my-bucket"),
            ("gs://my.bucket_2/runs/ü/", "gs://my.bucket_2/runs/ü"),
        ],
    )
    def test_names_a_claim_and_a_folder_in_it(self, text: str | None, folder: str) -> None:
        assert storage.understand(text) == folder

    @pytest.mark.parametrize(
        "text",
        [
            *("", "results", "/results", "s3://bucket/path", "PVC:results", "pvc:", "pvc:/path"),
            *("pvc:Results", "pvc:a_b", "pvc:../b", "pvc:-"),
            *("pvc:results/..", "pvc:results/a/../../b", "pvc:results/./a", "pvc:results//a"),
            *("gs://", "gs:///path", "gs://B", "gs://a/b", "gs://bucket/..", "gs://bucket//a"),
            *("gs://bucket/a b", "gs://bucket/a,ro", "gs://bucket/" + "x" * 600),
            *("pvc:results/a\nb", "pvc:results/\udcff", "pvc:results/" + "x" * 600),
        ],
    )
    def test_is_refused_if_it_is_something_else_or_leads_out_of_the_claim(self, text: str) -> None:
        with pytest.raises(UsageError):
            storage.understand(text)


class TestTheJob:
    def test_sees_its_own_directory_of_the_claim_and_nothing_else(self) -> None:
        address = outputs.address("pvc:results/some/path", "a/b", 61, UID)
        assert address == "pvc:results/some/path/a_b/61-012345"
        found = pod(address)
        claims = [each for each in found["volumes"] if "persistentVolumeClaim" in each]
        assert claims == [{"name": "output", "persistentVolumeClaim": {"claimName": "results"}}]
        (container,) = found["containers"]
        mounts = [each for each in container["volumeMounts"] if each["name"] == "output"]
        path = "some/path/a_b/61-012345"
        assert mounts == [{"name": "output", "mountPath": "/output", "subPath": path}]
        assert {"name": "CALIBAN_OUTPUT", "value": "/output"} in container["env"]

    def test_may_write_there_without_all_files_being_looked_at_each_time(self) -> None:
        security = pod("pvc:results/g/1-012345")["securityContext"]
        assert (security["fsGroup"], security["runAsUser"]) == (1000, 1000)
        assert security["fsGroupChangePolicy"] == "OnRootMismatch"
        as_root = pod("pvc:results/g/1-012345", root=True)["securityContext"]
        assert "fsGroup" not in as_root

    def test_sees_its_own_directory_of_a_bucket_by_the_driver_of_gke(self) -> None:
        address = outputs.address("gs://my-bucket/runs", "night", 61, UID)
        job = body(address, service_account="trainer")
        template = job["spec"]["template"]
        assert template["metadata"]["annotations"]["gke-gcsfuse/volumes"] == "true"
        (volume,) = [each for each in template["spec"]["volumes"] if each["name"] == "output"]
        options = "only-dir=runs/night/61-012345,uid=1000,gid=1000"
        attributes = {"bucketName": "my-bucket", "mountOptions": options}
        driver = "gcsfuse.csi.storage.gke.io"
        assert volume["csi"] == {"driver": driver, "volumeAttributes": attributes}
        (container,) = template["spec"]["containers"]
        assert {"name": "output", "mountPath": "/output"} in container["volumeMounts"]
        assert storage.mounts_bucket(job) and list(storage.claims(job)) == []
        as_root = pod(address, root=True)["volumes"][-1]["csi"]["volumeAttributes"]
        assert as_root["mountOptions"] == "only-dir=runs/night/61-012345"

    @pytest.mark.parametrize("group", ["a,ro", "a b", "a\tb"])
    def test_cannot_have_a_directory_of_a_bucket_whose_name_would_be_more(self, group: str) -> None:
        with pytest.raises(UsageError, match="can't be a folder of a bucket"):
            body(outputs.address("gs://my-bucket/runs", group, 61, UID))

    def test_is_as_ever_without(self) -> None:
        found = pod("")
        assert all("persistentVolumeClaim" not in each for each in found["volumes"])
        assert "gke-gcsfuse/volumes" not in body("")["spec"]["template"]["metadata"]["annotations"]
        assert not storage.mounts_bucket(body(""))
        assert "fsGroupChangePolicy" not in found["securityContext"]
        assert "CALIBAN_OUTPUT" not in [each["name"] for each in found["containers"][0]["env"]]

    def test_has_a_directory_of_its_name_where_it_is_submitted_by_others(self) -> None:
        job = body(f"pvc:results/$(X)/{UID}")
        storage.named_by_job(job)
        container = job["spec"]["template"]["spec"]["containers"][0]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "output"]
        assert mount["subPathExpr"] == "$$(X)/$(CALIBAN_JOB_NAME)" and "subPath" not in mount
        assert container["env"][-1]["valueFrom"]["fieldRef"]["fieldPath"].endswith("['job-name']")
        job = body(f"pvc:results/{UID}")
        storage.named_by_job(job)
        assert "'subPathExpr': '$(CALIBAN_JOB_NAME)'" in str(job)

    def test_tells_the_claims_that_it_mounts_also_if_others_have_written_it(self) -> None:
        assert list(storage.claims(body("pvc:results/g/1-012345"))) == ["results"]
        odd = body("")
        odd["spec"]["template"]["spec"]["volumes"] = [
            *({"persistentVolumeClaim": {"claimName": "a"}}, {"persistentVolumeClaim": None}),
            *({"persistentVolumeClaim": {}}, None, {"emptyDir": {}}),
        ]
        assert list(storage.claims(odd)) == ["a"]
        del odd["spec"]["template"]["spec"]["volumes"]
        assert list(storage.claims(odd)) == []


class TestTheClaim:
    def test_is_good_if_something_can_be_written_to_it(self) -> None:
        storage.check(claim())
        storage.check(claim(status={"phase": "Pending"}))
        storage.check(claim(spec={}))
        assert not storage.is_shared(claim())
        assert storage.is_shared(claim(status={"accessModes": ["ReadOnlyMany", "ReadWriteMany"]}))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"spec": {"accessModes": ["ReadOnlyMany"]}}, "can only be read"),
            ({"status": {"phase": "Lost"}}, "has lost its volume"),
            (
                {"metadata": {"name": "results", "deletionTimestamp": "2026-11-21T11:00:00Z"}},
                "is being deleted",
            ),
        ],
    )
    def test_is_refused_if_nothing_can(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(UsageError, match=f"'results' {said}"):
            storage.check(claim(**changes))
