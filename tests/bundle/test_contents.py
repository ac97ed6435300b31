"""What is looked for before a file of experiments is written: keys, wherever they would be."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from caliban import home as folder
from caliban import joblog
from caliban.bundle import code, contents
from caliban.bundle.code import Kind
from caliban.bundle.contents import Contents
from caliban.bundle.spool import Spool
from caliban.docker.engine import Engine
from caliban.errors import UsageError
from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.image import ImagePlan, Mode
from caliban.model.job import Job
from caliban.model.provenance import Provenance, Source
from tests.docker.conftest import write
from tests.report import sweeps

ADDRESS = "postgresql://me:hunter2-hunter2@db.example.com/x"


@pytest.fixture
def job(home: Path) -> Iterator[Job]:
    """A job that has ended."""
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 1)
        yield store.group_jobs("tester", "sweep", 1)[0]


def gathered(job: Job, project: Path, files: Mapping[str, str], *allowed: str) -> Contents:
    """What the file of one job would hold, which ran these files of a project."""
    write(project, files)
    recorded = {
        name: code.recorded(Kind.FILE, hashlib.sha256(text.encode()).hexdigest())
        for name, text in files.items()
    }
    provenance = Provenance(
        version="1.0",
        command="run",
        plan=ImagePlan(Mode.CPU, "debian:12", str(project)).to_json(),
        source=Source("sha256:0", recorded),
    )
    with Spool() as spool:
        launches = [(provenance, [job.id])]
        return contents.gather("sweep", [job], launches, Engine(), spool, allowed)


def refusal(job: Job, project: Path, files: Mapping[str, str]) -> str:
    with pytest.raises(UsageError) as caught:
        gathered(job, project, files)
    assert "hunter2" not in caught.value.message + caught.value.hint
    return caught.value.message


def test_files_that_hold_the_same_are_judged_by_all_their_names(job: Job, tmp_path: Path) -> None:
    text = "API_TOKEN=hunter2-hunter2\n"
    found = refusal(job, tmp_path, {"a.txt": text, "settings/.env": text})
    assert found.splitlines()[1:] == ["  settings/.env, line 1: a password or token"]


def test_an_address_with_a_password_among_the_arguments_of_a_job_is_found(
    job: Job, tmp_path: Path
) -> None:
    job = replace(job, experiment=Experiment(("--database", ADDRESS), {}))
    assert "manifest.json, line 1: a password in a URL" in refusal(job, tmp_path, {"a.py": ""})
    assert gathered(job, tmp_path, {"a.py": ""}, "manifest.json").parts


def test_an_address_with_a_password_in_an_output_is_found(job: Job, tmp_path: Path) -> None:
    folder.directory(joblog.FOLDER)
    joblog.compressed(job.uid).write_bytes(gzip.compress(f"epoch 1\nat {ADDRESS}\n".encode()))
    found = refusal(job, tmp_path, {"a.py": ""})
    assert f"logs/{job.id}.log.gz, line 2: a password in a URL" in found


def test_an_address_in_code_is_judged_as_it_was_for_the_image(job: Job, tmp_path: Path) -> None:
    assert gathered(job, tmp_path, {"test_urls.py": f"URL = '{ADDRESS}'\n"}).parts
    found = refusal(job, tmp_path, {"requirements.txt": f"--index-url {ADDRESS}\n"})
    assert "requirements.txt, line 1: a password in a URL" in found


def test_a_key_deep_in_a_long_output_is_found_in_little_memory(job: Job, tmp_path: Path) -> None:
    folder.directory(joblog.FOLDER)
    line = b"epoch 1: loss 0.123456789\n"
    with gzip.open(joblog.compressed(job.uid), "wb", compresslevel=1) as log:
        for _ in range(60):
            log.write(line * 40_000)  # a megabyte
        log.write(f"at {ADDRESS}\n".encode())
    data = "x" * 99 + "\n"
    tracemalloc.start()
    try:
        found = refusal(job, tmp_path, {"a.py": "", "data.csv": data * 200_000})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"logs/{job.id}.log.gz, line 2400001: a password in a URL" in found
    assert most < 60_000_000  # 20 MB of it are the test's own
