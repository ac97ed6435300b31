"""Jobs on a real cluster: what they can do there, what becomes of them, and why they wait."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caliban.errors import CalibanError, RefusedError, UsageError
from caliban.model.experiment import Experiment
from caliban.model.image import HOME
from caliban.model.job import Handle, JobRequest, Outcome, Status
from caliban.platform import outputs
from caliban.platform.kubernetes import kubeconfig
from caliban.platform.kubernetes.backend import KubernetesBackend
from caliban.platform.kubernetes.options import Options
from tests.kubernetes_cluster import Cluster, lock_nodes

# What a job is that no node ever has room for, so that it costs nothing.
HUGE = 10**7

Submit = Callable[..., Handle]


def request(
    cluster: Cluster, *command: str, args: tuple[str, ...] = (), group: str = "", **options: Any
) -> JobRequest:
    """A job that runs a command, in a group of its own."""
    uid = uuid.uuid4().hex[:16]
    changes = {"failure_policy": False, "grace": 2, **options}
    image = changes.pop("image", cluster.image)
    found = Options(cluster.target, command=command, **changes)
    return JobRequest(uid, Experiment(args, {}), image, group or uid, 0, found.to_json())


@pytest.fixture(scope="module")
def backend(cluster: Cluster) -> KubernetesBackend:
    return KubernetesBackend({})


@pytest.fixture(scope="module")
def submit(cluster: Cluster, backend: KubernetesBackend) -> Iterator[Submit]:
    """Submits a job that runs a command; it is deleted after the tests."""
    handles: list[Handle] = []

    def run(*command: str, **options: Any) -> Handle:
        submission = backend.plan(request(cluster, *command, **options))
        handles.append(backend.submit(submission, is_new=True))
        return handles[-1]

    yield run
    for handle in handles:
        backend.stop(handle)


@pytest.fixture(scope="module", autouse=True)
def retried(submit: Submit) -> Handle:
    """A job that fails twice, which takes a while: it begins with the first test."""
    return submit("sh", "-c", "hostname; exit 3", max_retries=1)


def wait(backend: KubernetesBackend, handle: Handle, is_met: Callable[[Outcome], bool]) -> Outcome:
    """The outcome of a job, once it meets a condition."""
    deadline = time.monotonic() + 120
    found = backend.status([handle]).get(handle)
    while found is None or not is_met(found):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
        found = backend.status([handle]).get(handle)
    return found


def ended(backend: KubernetesBackend, handle: Handle) -> Outcome:
    return wait(backend, handle, lambda found: found.status.is_final)


def waiting(backend: KubernetesBackend, handle: Handle, word: str) -> str:
    """Why a job waits, once a word is in it."""
    found = wait(backend, handle, lambda found: word in found.reason)
    assert found.status is Status.SUBMITTED
    return found.reason


def printed(backend: KubernetesBackend, handle: Handle) -> str:
    return b"".join(backend.logs(handle)).decode()


# What a job can find out about itself.
LOOK = """
import getpass, json, os, pathlib, pwd, signal, sys
(pathlib.Path.home() / "file").write_text("x")
room = os.statvfs("/dev/shm")
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "pid": os.getpid(), "user": getpass.getuser(),
    "entry": pwd.getpwuid(os.getuid()).pw_dir, "home": str(pathlib.Path.home()),
    "room": room.f_blocks * room.f_frsize, "arguments": sys.argv[1:],
    "secret": os.environ.get("TOKEN"), "variable": os.environ.get("VARIABLE"),
    "buffered": os.environ["PYTHONUNBUFFERED"],
    "powers": [line for line in open("/proc/self/status") if line.startswith("CapEff")][0].split(),
    "account": os.path.exists("/var/run/secrets/kubernetes.io"),
}))
"""


class TestAJob:
    def test_finds_what_it_needs_and_is_nobody_in_particular(
        self, cluster: Cluster, backend: KubernetesBackend, submit: Submit
    ) -> None:
        cluster.create("secrets", {"metadata": {"name": "key"}, "stringData": {"TOKEN": "hidden"}})
        arguments = ("--a", "$(HOME)", "$$", "", "two words", "ü\n'\"", "-1")
        handle = submit(
            *("python3", "-c", LOOK),
            args=arguments,
            env_secrets=("key",),
            environment=(("VARIABLE", "$(TOKEN)"),),
        )
        assert ended(backend, handle).status is Status.SUCCEEDED
        found = json.loads(printed(backend, handle))
        assert found.pop("room") > 64 << 20
        assert found.pop("pid") != 1
        assert found == {
            "uid": 1000,
            "gid": 1000,
            "user": "caliban",
            "entry": HOME,
            "home": HOME,
            "arguments": list(arguments),
            "secret": "hidden",
            "variable": "$(TOKEN)",
            "buffered": "1",
            "powers": ["CapEff:", "0000000000000000"],
            "account": False,
        }

    def test_can_be_root(self, backend: KubernetesBackend, submit: Submit) -> None:
        handle = submit("sh", "-c", "id -u; touch /etc/file", root=True)
        assert ended(backend, handle).status is Status.SUCCEEDED
        assert printed(backend, handle) == "0\n"

    def test_has_started_and_finished_when_its_container_did(
        self, backend: KubernetesBackend, submit: Submit
    ) -> None:
        handle = submit("sleep", "2")
        running = wait(backend, handle, lambda found: found.status is Status.RUNNING)
        assert running.started
        found = ended(backend, handle)
        assert (found.status, found.exit_code, found.started) == (
            Status.SUCCEEDED,
            0,
            running.started,
        )
        assert found.finished and 1 <= (found.finished - running.started).total_seconds() <= 9

    @pytest.mark.parametrize(
        ("command", "options", "code", "reason"),
        [
            (("sh", "-c", "exit 7"), {}, 7, "exit code 7"),
            (("no-such-program",), {}, 127, 'exit code 127 (command not found): exec: "no-such-pr'),
            (("sh", "-c", "kill -9 $PPID $$"), {}, 137, "signal 9 (SIGKILL)"),
            (
                ("python3", "-c", "x = bytearray(300_000_000)"),
                {"memory_limit": 50},
                137,
                "out of memory",
            ),
        ],
    )
    def test_fails_for_a_reason(
        self,
        backend: KubernetesBackend,
        submit: Submit,
        command: tuple[str, ...],
        options: dict[str, Any],
        code: int,
        reason: str,
    ) -> None:
        found = ended(backend, submit(*command, **options))
        assert found.status is Status.FAILED
        assert found.exit_code == code
        assert found.reason.startswith(reason)

    def test_fails_when_its_time_is_up(self, backend: KubernetesBackend, submit: Submit) -> None:
        found = ended(backend, submit("sleep", "60", timeout=1))
        assert found.status is Status.FAILED
        assert found.reason == "it ran longer than its time limit of 1 s"
        assert found.exit_code in (143, None)  # where it has not even started by then

    def test_that_is_stopped_ends_soon_and_is_missing_then(
        self, backend: KubernetesBackend, submit: Submit
    ) -> None:
        handle = submit("python3", "-c", "import time; time.sleep(99)", grace=60)
        wait(backend, handle, lambda found: found.status is Status.RUNNING)
        backend.stop(handle)
        assert backend.status([handle]) == {}
        backend.stop(handle)  # it needs nothing any more
        deadline = time.monotonic() + 30
        while backend.pods(handle.target, f"job-name={handle.id}"):
            assert time.monotonic() < deadline, "SIGTERM has not ended it"
            time.sleep(0.2)
        with pytest.raises(RefusedError) as caught:
            printed(backend, handle)
        assert caught.value.status == 404

    def test_is_found_by_its_group_and_only_there(
        self, cluster: Cluster, backend: KubernetesBackend, submit: Submit
    ) -> None:
        group = "Ein Abend, über den man spricht"
        handles = {submit("true", group=group, cpu=HUGE) for _ in range(2)}
        submit("true", group=f"{group}!", cpu=HUGE)
        found = backend.find(cluster.target, group)
        assert set(found.values()) == handles
        assert all(handle.id.endswith(uid) for uid, handle in found.items())


class TestAJobThatWaits:
    @pytest.mark.parametrize(
        ("options", "word", "said"),
        [
            ({"gpus": 8}, "Unschedulable", "no node has 8 GPUs free; ask for less"),
            ({"cpu": HUGE}, "Unschedulable", "no node has 10k CPUs free"),
            (
                {"gke": True, "gpus": 1, "gpu_type": "nvidia-l4", "spot": True},
                "Unschedulable",
                "gke-accelerator=nvidia-l4",
            ),
            ({"image": "127.0.0.1:1/no/such:1"}, "Pull", "can't fetch the image 127.0.0.1:1/no/su"),
            ({"image": "Not An Image"}, "InvalidImageName", "'Not An Image' isn't the name of an"),
            (
                {"env_secrets": ("no-such-secret",)},
                "CreateContainerConfigError",
                " create secret generic no-such-secret --from-literal",
            ),
        ],
    )
    def test_says_what_for(
        self,
        backend: KubernetesBackend,
        submit: Submit,
        options: dict[str, Any],
        word: str,
        said: str,
    ) -> None:
        assert said in waiting(backend, submit("true", **options), word)

    def test_for_quota_says_which(
        self, cluster: Cluster, backend: KubernetesBackend, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from datetime import timedelta

        monkeypatch.setattr("caliban.platform.kubernetes.survey._POD_COMES", timedelta(seconds=1))
        namespace = f"{cluster.namespace}-full"
        path = "/api/v1/namespaces"
        cluster.connection.create(path, {"metadata": {"name": namespace}})
        try:
            cluster.connection.create(
                f"{path}/{namespace}/resourcequotas",
                {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "0"}}},
            )
            place = kubeconfig.place("", str(cluster.kubeconfig), namespace, {})
            wanted = request(cluster, "true")
            there = JobRequest(
                wanted.uid,
                wanted.experiment,
                wanted.image,
                wanted.group,
                0,
                {**wanted.settings, "target": place.target},
            )
            handle = backend.submit(backend.plan(there), is_new=True)
            assert "the quota 'team' of the namespace is used up" in waiting(
                backend, handle, "FailedCreate"
            )
        finally:
            cluster.connection.delete(f"{path}/{namespace}", {})

    @lock_nodes(alone=True)
    def test_for_gpus_runs_where_there_are_some(
        self, cluster: Cluster, backend: KubernetesBackend, submit: Submit
    ) -> None:
        node = f"/api/v1/nodes/{cluster.node}"
        label = "nvidia.com/gpu.product"
        gke = "cloud.google.com/gke-accelerator"
        driver = "cloud.google.com/gke-gpu-driver-version"

        def give(count: str | None, *labels: str | None) -> None:
            named = dict(zip((label, gke, driver), labels, strict=True))
            cluster.patch(node, {"metadata": {"labels": named}})
            cluster.patch(
                f"{node}/status",
                {"status": {k: {"nvidia.com/gpu": count} for k in ("capacity", "allocatable")}},
            )

        assert backend.gpu_products(cluster.target, "T4") == ()
        try:
            give("2", "Tesla-T4", "nvidia-tesla-t4", "default")
            assert backend.gpu_products(cluster.target, "T4") == ("Tesla-T4",)
            with pytest.raises(UsageError, match="no GPUs of type V100") as caught:
                backend.gpu_products(cluster.target, "V100")
            assert caught.value.hint == "Its nodes have: Tesla-T4."
            here = submit("true", gpus=1, gpu_products=("Tesla-T4",))
            on_gke = submit("true", gpus=1, gpu_type="nvidia-tesla-t4", gke=True)
            elsewhere = submit("true", gpus=1, gpu_products=("Tesla-V100-SXM2-16GB",))
            assert "gpu.product In Tesla-V100" in waiting(backend, elsewhere, "Unschedulable")
            assert ended(backend, here).status is Status.SUCCEEDED
            assert ended(backend, on_gke).status is Status.SUCCEEDED
        finally:
            give(None, None, None, None)


class TestTheCluster:
    def test_says_what_it_is(self, cluster: Cluster, backend: KubernetesBackend) -> None:
        server = backend.server(cluster.target)
        assert server.version >= (1, 20)
        assert not server.gke
        assert server.failure_policy == (server.version >= (1, 26))

    def test_checks_a_job_without_making_it(
        self, cluster: Cluster, backend: KubernetesBackend
    ) -> None:
        submission = backend.plan(request(cluster, "true"))
        backend.check(submission)
        assert backend.find(cluster.target, submission.payload["body"]["metadata"]["name"]) == {}
        submission.payload["body"]["spec"]["template"]["spec"]["restartPolicy"] = "Sometimes"
        with pytest.raises(RefusedError, match="restartPolicy") as caught:
            backend.check(submission)
        assert caught.value.status == 422
        assert not caught.value.is_general

    def test_refuses_a_name_that_somebody_else_has_taken(
        self, cluster: Cluster, backend: KubernetesBackend
    ) -> None:
        submission = backend.plan(request(cluster, "true", cpu=HUGE))
        body = submission.payload["body"]
        there = {**body, "metadata": {"name": body["metadata"]["name"], "labels": {"a": "b"}}}
        cluster.connection.create(f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs", there)
        with pytest.raises(RefusedError, match="already exists"):
            backend.submit(submission)

    def test_has_no_such_namespace(self, cluster: Cluster, backend: KubernetesBackend) -> None:
        place = kubeconfig.place("", str(cluster.kubeconfig), "no-such-namespace", {})
        wanted = request(cluster, "true")
        moved = JobRequest(
            wanted.uid, wanted.experiment, "i", "g", 0, {**wanted.settings, "target": place.target}
        )
        with pytest.raises(RefusedError, match='"no-such-namespace" not found') as caught:
            backend.submit(backend.plan(moved))
        assert caught.value.is_general
        assert "create namespace no-such-namespace" in caught.value.hint

    def test_does_not_know_somebody_with_a_wrong_token(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        content = yaml.safe_load(cluster.kubeconfig.read_text())
        content["users"] = [{**each, "user": {"token": "wrong"}} for each in content["users"]]
        (tmp_path / "k").write_text(yaml.safe_dump(content))
        target = kubeconfig.place("", str(tmp_path / "k"), cluster.namespace, {}).target
        with pytest.raises(RefusedError, match="answers 401: Unauthorized") as caught:
            KubernetesBackend({}).jobs(target)
        assert caught.value.is_general
        assert "credentials have expired, or are wrong" in caught.value.hint

    def test_is_not_believed_with_a_certificate_of_somebody_else(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        content = yaml.safe_load(cluster.kubeconfig.read_text())
        if not content["clusters"][0]["cluster"]["server"].startswith("https://"):
            pytest.skip("the cluster is reached without TLS")
        content["clusters"][0]["cluster"].pop("certificate-authority-data", None)
        content["clusters"][0]["cluster"].pop("certificate-authority", None)
        (tmp_path / "k").write_text(yaml.safe_dump(content))
        place = kubeconfig.place("", str(tmp_path / "k"), "", {})
        with pytest.raises(CalibanError, match=r"certificate of the .* can't be verified"):
            KubernetesBackend({}).server(place.target)


@pytest.fixture
def viewer(cluster: Cluster, tmp_path: Path) -> str:
    """The target as it is for somebody who has no rights there."""
    name = f"nobody-{uuid.uuid4().hex[:6]}"
    cluster.create("serviceaccounts", {"metadata": {"name": name}})
    made = cluster.create(f"serviceaccounts/{name}/token", {"spec": {}})
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["users"] = [
        {**each, "user": {"token": made["status"]["token"]}} for each in content["users"]
    ]
    (tmp_path / "viewer").write_text(yaml.safe_dump(content))
    return kubeconfig.place("", str(tmp_path / "viewer"), cluster.namespace, {}).target


class TestSomebodyWithoutRights:
    def test_cannot_submit_and_is_told_so(
        self, cluster: Cluster, backend: KubernetesBackend, viewer: str
    ) -> None:
        wanted = request(cluster, "true")
        settings = {**wanted.settings, "target": viewer}
        there = JobRequest(wanted.uid, wanted.experiment, "i", "g", 0, settings)
        with pytest.raises(RefusedError, match="cannot create resource") as caught:
            backend.submit(backend.plan(there))
        assert caught.value.is_general
        assert "auth can-i create jobs" in caught.value.hint

    def test_cannot_see_jobs_which_are_unknown_then(
        self, backend: KubernetesBackend, submit: Submit, viewer: str
    ) -> None:
        known = submit("true", cpu=HUGE)
        unseen = Handle(known.platform, viewer, known.id)
        found = backend.status([known, unseen])
        assert found[known].status is Status.SUBMITTED
        assert found[unseen].status is Status.UNKNOWN
        assert "cannot list resource" in found[unseen].reason
        assert "auth can-i list jobs" in found[unseen].hint

    def test_cannot_see_which_gpus_there_are(self, backend: KubernetesBackend, viewer: str) -> None:
        assert backend.gpu_products(viewer, "V100") == ()


names = st.from_regex("[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80)


@st.composite
def wishes(draw: st.DrawFn) -> dict[str, Any]:
    """Options and flags in all combinations that there are."""
    gke = draw(st.booleans())
    accelerator = draw(st.sampled_from(["", "gpu", "tpu"] if gke else ["", "gpu"]))
    found: dict[str, Any] = {
        "name": draw(texts),
        "gke": gke,
        "spot": gke and draw(st.booleans()),
        "failure_policy": draw(st.booleans()),
        "root": draw(st.booleans()),
        "own_home": draw(st.booleans()),
        "cpu": draw(st.integers(0, 10**6)),
        "memory": draw(st.integers(0, 10**6)),
        "max_retries": draw(st.integers(0, 9)),
        "ttl": draw(st.integers(0, 10**6)),
        "timeout": draw(st.integers(0, 10**6)),
        "queue": draw(st.sampled_from(["", "team"])),
        "service_account": draw(st.sampled_from(["", "default"])),
        "pull_policy": draw(st.sampled_from(["", "Always", "IfNotPresent", "Never"])),
        "pull_secrets": tuple(draw(st.lists(names, max_size=2, unique=True))),
        "env_secrets": tuple(draw(st.lists(names, max_size=2, unique=True))),
        "labels": tuple(draw(st.lists(st.tuples(texts, texts), max_size=3))),
        "environment": tuple(draw(st.dictionaries(names, texts, max_size=3)).items()),
    }
    if accelerator == "gpu":
        found |= {"gpus": draw(st.integers(1, 16)), "gpu_type": draw(st.sampled_from(["", "t4"]))}
        found["gpu_products"] = tuple(draw(st.lists(names, max_size=2)))
    if accelerator == "tpu":
        found |= {"tpus": draw(st.integers(1, 8)), "tpu_type": "tpu-v6e-slice", "topology": "2x4"}
    return found


class TestAnyCombination:
    @settings(
        max_examples=200,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        wishes(),
        st.lists(texts, max_size=3),
        st.dictionaries(texts, texts, max_size=5),
        texts,
        st.sampled_from(["", "pvc:results", "gs://my-bucket/runs"]),
    )
    def test_is_one_that_the_cluster_would_take(
        self,
        cluster: Cluster,
        backend: KubernetesBackend,
        options: dict[str, Any],
        args: list[str],
        params: dict[str, str],
        group: str,
        folder: str,
    ) -> None:
        from kubernetes.client import ApiClient, V1Job

        made = Options(cluster.target, command=("true",), **options)
        experiment = Experiment(tuple(args), dict(params))
        uid = uuid.uuid4().hex[:16]
        # Of a bucket only some names can be mounted, see storage.
        of_group = "g" if folder.startswith("gs://") else group or "g"
        output = outputs.address(folder, of_group, 7, uid) if folder else ""
        asked = JobRequest(uid, experiment, "image:1", group, 0, made.to_json(), output)
        submission = backend.plan(asked)
        body = submission.payload["body"]
        # What this cluster may be too old to know, today's clusters do.
        known: Any = ApiClient()
        assert known.sanitize_for_serialization(V1Job.from_dict(body)) == body
        path = f"/apis/batch/v1/namespaces/{cluster.namespace}/jobs"
        cluster.connection.create(path, body, {"dryRun": "All"})


def test_a_job_is_started_again_if_that_is_wanted(
    backend: KubernetesBackend, retried: Handle
) -> None:
    assert ended(backend, retried).reason == "exit code 3"
    _, last = sorted(
        backend.pods(retried.target, f"job-name={retried.id}"),
        key=lambda pod: str(pod["metadata"]["creationTimestamp"]),
    )
    assert printed(backend, retried) == f"{last['metadata']['name']}\n"
