"""What is said to differ between two jobs."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest

from caliban.model.comparison import Difference, compare
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, Outcome, Status, Submission
from caliban.model.provenance import Image, Machine, Provenance, Repository, Source
from caliban.model.report import Report

NOW = datetime.datetime(2026, 11, 21, tzinfo=datetime.UTC)


def lock(**versions: str) -> str:
    lines = "".join(f"{name}=={version}\n" for name, version in versions.items())
    return f"# Python 3.11\n# Resolved from abc\n{lines}"


def job(number: int = 1, **changes: Any) -> Job:
    plain = Job(
        id=number,
        uid=f"uid{number}",
        user="tester",
        group=f"group{number}",
        experiment_id=number,
        experiment=Experiment(("--epochs", "20"), {"rate": 0.1}),
        container_spec_id=1,
        container_spec={},
        submission=Submission("local", "here", {"command": [number]}),
        handle=Handle("local", "here", f"caliban-{number}"),
        image="sha256:1",
        outcome=Outcome(Status.SUCCEEDED, 0, "", NOW, NOW + datetime.timedelta(seconds=number)),
        owner=f"owner{number}",
        created=NOW + datetime.timedelta(hours=number),
        report=Report({"accuracy": 0.9}),
    )
    return dataclasses.replace(plain, **changes)


MADE = Provenance(
    version="1.0",
    command="run",
    flags={"nogpu": True, "xgroup": "one"},
    variables=("FOO",),
    plan={"mode": "cpu", "directory": "/a", "base_image": "debian", "lock": lock(numpy="2.1")},
    image=Image(id="sha256:1", base="debian", base_id="sha256:b"),
    source=Source("sha256:s", {"a.py": "1", "b.py": "2"}, Repository(commit="c1")),
    machine=Machine("box", cpu="EPYC", cpus=4),
)


def test_between_jobs_that_are_alike_nothing_differs() -> None:
    again = dataclasses.replace(MADE, flags={"nogpu": True, "xgroup": "two"}, command="resubmit")
    assert compare(job(1), job(2), MADE, again) == []
    assert compare(job(1), job(2), None, None) == []


@pytest.mark.parametrize(
    ("changes", "section", "name", "before", "after"),
    [
        ({"experiment": Experiment(("--epochs", "20"), {"rate": 2})}, "parameters", "rate", 0.1, 2),
        ({"experiment": Experiment((), {"rate": 0.1})}, "parameters", "epochs", "20", None),
        ({"report": Report({"accuracy": 0.8})}, "metrics", "accuracy", 0.9, 0.8),
        ({"details": {"code": "sha256:x"}}, "code", "live code", None, "sha256:x"),
        ({"submission": Submission("gke", "there", {})}, "machine", "platform", "local", "gke"),
    ],
)  # fmt: skip
def test_what_differs_between_the_jobs_themselves_is_told(
    changes: dict[str, Any], section: str, name: str, before: Any, after: Any
) -> None:
    found = compare(job(1), job(2, **changes), MADE, MADE)
    assert found == [Difference(section, name, before, after)]


def test_a_job_that_failed_differs_by_its_state_and_reason() -> None:
    failed = Outcome(Status.FAILED, 1, "exit code 1", NOW, NOW)
    found = compare(job(1), job(2, outcome=failed, report=Report({}, "ValueError: 3")), MADE, MADE)
    assert [(each.name, each.before, each.after) for each in found] == [
        ("status", "SUCCEEDED", "FAILED"),
        ("exit code", 0, 1),
        ("reason", None, "ValueError: 3"),
        ("accuracy", 0.9, None),
    ]


def test_arguments_that_are_no_flags_are_compared_as_they_are() -> None:
    one, two = (Experiment(("--epochs", "20", word), {"rate": 0.1}) for word in ("fit", "test"))
    found = compare(job(1, experiment=one), job(2, experiment=two), MADE, MADE)
    assert found == [
        Difference("parameters", "arguments", ["--epochs", "20", "fit"], ["--epochs", "20", "test"])
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"plan": {**MADE.plan, "lock": lock(numpy="2.2", scipy="1.0")}},
         [("packages", "numpy", "2.1", "2.2"), ("packages", "scipy", None, "1.0")]),
        ({"plan": {**MADE.plan, "extras": ["dev"], "directory": "/b"}},
         [("image", "extras", None, ["dev"])]),
        ({"image": Image("sha256:1", base="ubuntu", base_id="sha256:c")},
         [("image", "base image", "debian", "ubuntu")]),
        ({"image": Image("sha256:1", base="debian", base_id="sha256:c")},
         [("image", "base image", "sha256:b", "sha256:c")]),
        ({"image": Image("sha256:2", base="debian", base_id="sha256:b")},
         [("image", "id", "sha256:1", "sha256:2")]),
        ({"machine": Machine("box", cpu="EPYC", cpus=8)}, [("machine", "cpus", 4, 8)]),
        ({"machine": Machine("box", cpu="EPYC", cpus=4, memory=25276076032)},
         [("machine", "memory", None, "23.5 GiB")]),
        ({"machine": Machine(requested={"cluster": "c"})},
         [("machine", "host", "box", None), ("machine", "cpu", "EPYC", None),
          ("machine", "cpus", 4, None), ("machine", "cluster", None, "c")]),
        ({"plan": {}}, []),  # another's image: what is in it is not known
        ({"flags": {"nogpu": True, "extras": ["a"]}}, [("flags", "extras", None, ["a"])]),
        ({"variables": ()}, [("environment", "FOO", "set", None)]),
        ({"version": "2.0"}, [("caliban", "version", "1.0", "2.0")]),
        ({"source": Source("sha256:t", {"a.py": "9", "c.py": "3"}, Repository(commit="c2"))},
         [("code", "commit", "c1", "c2"), ("code", "a.py", "1", "9"), ("code", "b.py", "2", None),
          ("code", "c.py", None, "3")]),
        ({"source": None}, [("code", "commit", "c1", None), ("code", "files", "sha256:s", None)]),
    ],
)  # fmt: skip
def test_what_differs_in_what_they_ran_is_told(
    changes: dict[str, Any], expected: list[tuple[str, str, Any, Any]]
) -> None:
    other = dataclasses.replace(MADE, **changes)
    found = compare(job(1), job(2), MADE, other)
    assert [dataclasses.astuple(each) for each in found] == expected


def test_of_a_job_without_a_record_just_that_is_told() -> None:
    found = compare(job(1, image="sha256:9"), job(2), None, MADE)
    assert [(each.section, each.name) for each in found] == [
        ("image", "id"),
        ("provenance", "record"),
    ]
