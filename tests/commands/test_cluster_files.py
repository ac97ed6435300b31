"""Jobs of Kubernetes in files: what is written, who can read it, and what is read back."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from caliban.commands.cluster import manifest_files
from caliban.commands.cluster.job import submit_file
from caliban.errors import UsageError
from caliban.model.experiment import Experiment
from caliban.model.job import JobRequest
from caliban.platform.kubernetes import manifest, needs, particulars
from caliban.platform.kubernetes.connection import Connection
from caliban.platform.kubernetes.options import Options
from caliban.platform.kubernetes.place import Place
from tests.platform.test_kubernetes_needs import Answers

# Text that some reader of YAML takes for a number, a truth value, a date or nothing at all.
ODD = (
    *("1e3", "1_000", "0o17", "0x1f", "017", "1:30", ".5", "+1", "-", "--lr", "=", "<<", "1."),
    *("y", "N", "yes", "Off", "true", "null", "~", "", " ", "2026-11-21", ".inf", ".NaN"),
    *("# no comment", "a: b", "a #b", "{a}", "[a]", "*a", "&a", "!a", "%a", "@a", "`a`", "|", ">"),
    *("two\nlines", "tab\t", "it's", '"', "\\", "ünï", "日本", "\U0001f600", "x" * 300 + " y"),
)


def job(*args: Any, name: str = "trainer-0123456789abcdef") -> dict[str, Any]:
    labels = {"caliban_uid": "0123456789abcdef", "team": "vision"}
    container = {"name": "job", "image": "registry.example.com/trainer:1", "args": list(args)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {
            "backoffLimit": 0,
            "template": {"metadata": {"labels": dict(labels)}, "spec": {"containers": [container]}},
        },
    }


def full() -> dict[str, Any]:
    """A job that has something of all that is looked into."""
    found = job("--a")
    found["metadata"]["annotations"] = {"a": "b"}
    expression = {"key": "gpu", "operator": "In", "values": ["t4"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    secret = {"valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
    pod = found["spec"]["template"]["spec"]
    pod |= {
        "serviceAccountName": "trainer",
        "nodeSelector": {"a": "b"},
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
        "imagePullSecrets": [{"name": "s"}],
        "volumes": [{"persistentVolumeClaim": {"claimName": "c"}}, {"csi": {"driver": "d"}}],
    }
    pod["containers"][0] |= {
        "env": [{"name": "A", **secret}],
        "envFrom": [{"secretRef": {"name": "s"}}],
        "resources": {"limits": {"nvidia.com/gpu": 1}, "requests": {"cpu": "1"}},
    }
    return found


def parts(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all that there is in a value."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from parts(value[key], (*path, key))


def replaced(value: Any, path: tuple[Any, ...], by: object) -> Any:
    """The same value with something else at the end of a way."""
    if not path:
        return by
    found = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = by
    return found


class TestExport:
    def test_one_job_has_the_name_that_was_asked_for(self, tmp_path: Path) -> None:
        file = manifest_files.check_export(str(tmp_path / "my-job.yaml"))
        assert manifest_files.export(file, [job()]) == [file]
        assert yaml.safe_load(file.read_text()) == job()

    @pytest.mark.parametrize("suffix", ["yaml", "json"])
    def test_several_are_numbered_from_0(self, tmp_path: Path, suffix: str) -> None:
        file = manifest_files.check_export(str(tmp_path / f"my.job.{suffix}"))
        jobs = [job("--seed", str(seed)) for seed in range(11)]
        files = manifest_files.export(file, jobs)
        assert [each.name for each in files] == [
            f"my.job_{number}.{suffix}" for number in range(11)
        ]
        assert [manifest_files.read(str(each)) for each in files] == [[each] for each in jobs]
        assert {each.name for each in tmp_path.iterdir()} == {each.name for each in files}

    def test_text_stays_text_for_readers_of_old_and_new_yaml(self) -> None:
        written = manifest_files.as_yaml([job(*ODD)])
        assert yaml.safe_load(written) == job(*ODD)
        assert re.findall(r"^ +- (?!name:)([^\"\n].*)$", written, re.MULTILINE) == []

    def test_words_that_are_nothing_else_are_not_in_quotes(self) -> None:
        written = manifest_files.as_yaml([job("epochs")])
        assert '"' not in written.replace('"0123456789abcdef"', "")

    def test_several_documents_make_one_stream(self) -> None:
        written = manifest_files.as_yaml([job("--a"), job("--b")])
        assert list(yaml.safe_load_all(written)) == [job("--a"), job("--b")]

    @pytest.mark.parametrize("name", ["my-job", "my-job.txt", "yaml"])
    def test_an_extension_that_is_no_format_is_refused(self, name: str) -> None:
        with pytest.raises(UsageError, match=rf"the extension of '{name}' is not one of \.yaml"):
            manifest_files.check_export(name)

    def test_a_folder_that_is_not_there_is_told_before_anything_is_built(self) -> None:
        with pytest.raises(UsageError, match="there is no folder nowhere"):
            manifest_files.check_export("nowhere/my-job.yaml")

    def test_an_exported_job_is_another_one_each_time_it_is_submitted(self) -> None:
        body = job("--seed", "1")
        exported = manifest_files.to_export(body, ["caliban_uid", "caliban/group"])
        assert exported["metadata"] == {"generateName": "trainer-", "labels": {"team": "vision"}}
        assert exported["spec"]["template"]["metadata"] == {"labels": {"team": "vision"}}
        assert body == job("--seed", "1")


class TestReading:
    def write(self, folder: Path, text: str, name: str = "jobs.yaml") -> str:
        (folder / name).write_text(text)
        return str(folder / name)

    def test_yaml_may_have_several_documents_and_empty_ones(self, tmp_path: Path) -> None:
        text = "---\n# nothing\n---\n" + manifest_files.as_yaml([job("--a"), job("--b")]) + "---\n"
        assert manifest_files.read(self.write(tmp_path, text)) == [job("--a"), job("--b")]

    def test_a_list_of_jobs_is_its_items(self, tmp_path: Path) -> None:
        content = {"apiVersion": "v1", "kind": "List", "items": [job("--a"), job("--b")]}
        path = self.write(tmp_path, json.dumps(content), "jobs.json")
        assert manifest_files.read(path) == [job("--a"), job("--b")]

    @pytest.mark.parametrize(
        ("change", "wrong"),
        [
            ({"kind": "CronJob"}, "expected a Job of batch/v1, found kind 'CronJob'"),
            ({"apiVersion": "batch/v1beta1"}, "of apiVersion 'batch/v1beta1'"),
            ({"metadata": {}}, "neither a name nor a generateName"),
            ({"metadata": "a"}, "neither a name nor a generateName"),
            ({"spec": {}}, "it has no containers"),
            ({"spec": {"template": {"spec": {"containers": [{"name": "a"}]}}}}, "has no image"),
            (
                {"spec": {"template": {"spec": {"containers": ["a"]}}}},
                "expected an object at spec.template.spec.containers[0], found 'a'",
            ),
            (
                {"metadata": {"name": "a", "labels": ["b"]}},
                "expected an object at metadata.labels, found ['b']",
            ),
            (
                {"spec": {"template": {"spec": {"volumes": 3, "containers": [{"image": "a"}]}}}},
                "expected a list at spec.template.spec.volumes, found 3",
            ),
            ({"spec": job(1)["spec"]}, "aren't a list of texts"),
        ],
    )
    def test_what_is_no_job_is_told_for_every_document(
        self, tmp_path: Path, change: dict[str, Any], wrong: str
    ) -> None:
        path = self.write(tmp_path, yaml.safe_dump_all([job(), {**job(), **change}, 7]))
        with pytest.raises(UsageError) as caught:
            manifest_files.read(path)
        second, third = caught.value.message.splitlines()
        assert second.startswith(f"{path}, document 2: ") and wrong in second
        assert third == f"{path}, document 3: expected a Job, found no object at all"
        assert "kubectl create -f" in caught.value.hint

    @pytest.mark.parametrize(
        "odd", [None, 3, "x", "", [], {}, [1], [None], {"a": 1}, True], ids=repr
    )
    def test_whatever_stands_in_a_job_it_is_refused_or_can_be_planned(
        self, tmp_path: Path, odd: object
    ) -> None:
        for path in parts(full()):
            file = self.write(tmp_path, json.dumps(replaced(full(), path, odd)), "job.json")
            try:
                [body] = manifest_files.read(file)
            except UsageError:
                continue
            described = submit_file.Described(tmp_path, body)
            options = Options("tank/team", name=described.stem, manifest=described.rest)
            request = JobRequest("0" * 16, Experiment(described.args, {}), "", "g", 0, {})
            submission = manifest.plan(replace(request, settings=options.to_json()))
            assert json.dumps([submission.payload, described.spec])
            assert particulars.of(submission).machine["namespace"] == "team"
            connection = cast(Connection, Answers({}, 403))
            needs.check(connection, Place("tank", "team"), submission.payload["body"])

    def test_a_date_is_text_that_lacks_quotes(self, tmp_path: Path) -> None:
        text = yaml.safe_dump(job()).replace("team: vision", "since: 2026-11-21")
        with pytest.raises(UsageError, match="it has a date or an infinite number"):
            manifest_files.read(self.write(tmp_path, text))

    def test_a_place_in_a_broken_file_is_named(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "kind: Job\nspec: {\n")
        with pytest.raises(UsageError, match=rf"{re.escape(path)}:3:1: "):
            manifest_files.read(path)

    @pytest.mark.parametrize("text", ["", "---\n", "---\n---\n", "kind: List\nitems: []\n"])
    def test_a_file_without_jobs_is_an_error(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(UsageError):
            manifest_files.read(self.write(tmp_path, text))
