"""`caliban resubmit` of jobs that cannot be run again from here."""

from __future__ import annotations

import datetime
from pathlib import Path

from caliban.docker.image import context, provenance
from caliban.docker.image.provenance import Parts, changes, of_labels
from caliban.history.store import DEFAULT_URL, HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.image import ImagePlan, Mode
from caliban.model.job import JobRequest, Outcome, Status, Submission
from caliban.model.module import Kind, Module
from tests.conftest import USER, Inline

NOW = datetime.datetime(2026, 11, 21, 3, 43, 41, tzinfo=datetime.UTC)


def record(group: str, submission: Submission) -> None:
    """Writes down a job that has failed."""
    with HistoryStore.open(DEFAULT_URL) as store:
        request = JobRequest(f"uid of {group}", Experiment((), {}), "image", group, 0)
        store.group(USER, group, NOW)
        store.record(USER, group, "", {"mode": "cpu"}, [request], lambda *_: (submission, None))
        store.settle({request.uid: Outcome(Status.FAILED, 1, "exit code 1", NOW, NOW)})


def test_jobs_of_the_cloud_and_of_caliban_0_4_are_refused(inline: Inline, home: Path) -> None:
    record("cloud", Submission("caip", "project", {"name": "x"}))
    record("old", Submission("local", "here", {"command": ["docker", "run"]}))
    done = inline("resubmit", "--xgroup", "cloud", "--yes")
    assert done.returncode == 2
    assert "job 1 cannot be run again from here: it ran on CAIP" in done.stderr
    done = inline("resubmit", "--xgroup", "old", "--yes")
    assert done.returncode == 2
    assert "job 2 cannot be run again from here: it is not recorded how" in done.stderr
    assert "caliban 0.4" in done.stderr


def test_a_group_that_does_not_exist_is_refused(inline: Inline) -> None:
    done = inline("resubmit", "--xgroup", "nothing")
    assert done.returncode == 2
    assert "no experiment group 'nothing'" in done.stderr


def test_code_and_dependencies_are_told_apart(project: Path) -> None:
    module = Module(Kind.PYTHON_MODULE, "trainer.train", "trainer")
    requirements = project / "requirements.txt"
    requirements.touch()
    plan = ImagePlan(Mode.CPU, "base", str(project), module, (requirements.name,))

    def changed_by(path: Path, text: str) -> list[str]:
        before = provenance.of_files(plan, "sha256:1", context.files(plan))
        path.write_text(text)
        after = provenance.of_files(plan, "sha256:1", context.files(plan))
        return [name for name, is_other in changes(before, after) if is_other]

    assert changed_by(project / "trainer" / "train.py", "print()") == ["code"]
    assert changed_by(requirements, "six") == ["dependencies"]
    assert changed_by(project / "README", "hello") == []


def test_an_image_tells_by_its_labels_what_it_was_made_of() -> None:
    before = Parts("f", "sha256:1", "d", "c")
    assert of_labels({f"caliban{key}": value for key, value in before.labels().items()}) == before
    assert of_labels({"caliban": "1.0", "caliban.fingerprint": "f"}) is None
    assert dict(changes(before, before)) == dict.fromkeys(
        ("code", "dependencies", "base image"), False
    )
    after = Parts("g", "sha256:2", "d", "c")
    assert [name for name, is_other in changes(before, after) if is_other] == ["base image"]
    after = Parts("g", "sha256:1", "d", "c")
    assert [name for name, is_other in changes(before, after) if is_other] == [
        "the way that caliban builds"
    ]
