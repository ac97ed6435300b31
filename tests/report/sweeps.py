"""A sweep in a history, with all that a report has to show, and some that it must survive."""

from __future__ import annotations

import dataclasses
import datetime
import gzip
import math
import random
from collections.abc import Mapping
from typing import Any

from caliban import home, joblog
from caliban.history.store import HistoryStore
from caliban.model.experiment import Experiment
from caliban.model.job import Handle, Job, JobRequest, Outcome, Status, Submission
from caliban.model.provenance import Image, Machine, Provenance, Repository, Source
from caliban.model.report import Report

START = datetime.datetime(2026, 11, 20, 9, 0, tzinfo=datetime.UTC)

LOCK = "# Python 3.11\n# Resolved from abc\nnumpy==2.1.0 \\\n    --hash=sha256:1\nscipy==1.14\n"

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'`|${1}\u2028\x1b[31m"

SPEC = {"mode": "cpu", "directory": "/home/me/digits", "module": {"name": "trainer.train"}}

PROVENANCE = Provenance(
    version="1.0",
    command="run",
    flags={"experiment_config": "sweep.json", "nogpu": True},
    plan={**SPEC, "lock": LOCK},
    image=Image(
        "sha256:" + "4d3da2be" * 8, "caliban:cpu-1", "", "python:3.12", "sha256:" + "0" * 64
    ),
    source=Source(
        digest="sha256:" + "5f" * 32,
        files={"trainer/train.py": "666 aa"},
        repository=Repository(
            commit="9c0ffee" * 5 + "9c0ff",
            branch="main",
            remote="https://example.com/me/digits.git",
            changed={"trainer/train.py": ".M"},
            diff="--- a/trainer/train.py\n+++ b/trainer/train.py\n@@ -1 +1 @@\n-a = 1\n+a = 2\n",
        ),
    ),
    machine=Machine("box", "Debian 12", "6.1", "AMD EPYC 7B13", 32, 2**37, (), "", "28.0"),
)


def record(store: HistoryStore, group: str, number: int, hostile: bool = False) -> list[str]:
    """Records a sweep of so many jobs; returns their uids.

    Args:
      store: where it is recorded.
      group: name of the experiment group.
      number: how many jobs it has.
      hostile: whether some of what jobs are called, say and print is no harmless text.
    """
    chance = random.Random(7)
    params = [_params(chance, hostile and not index % 9) for index in range(number)]
    requests = [
        JobRequest(f"{index:016x}", Experiment(("--epochs", "20"), each), "sha256:4d", group, index)
        for index, each in enumerate(params)
    ]

    def plan(_: int, request: JobRequest) -> tuple[Submission, Handle]:
        return Submission("local", "here", {}), Handle("local", "here", request.uid)

    store.record("tester", group, "nobody/1/1", SPEC, requests, plan)
    outcomes: dict[str, Outcome] = {}
    reports: dict[str, Report] = {}
    for request, each in zip(requests, params, strict=True):
        began = START + datetime.timedelta(seconds=8 * request.index)
        outcomes[request.uid], reports[request.uid] = _end(chance, each, began, hostile)
    store.settle(outcomes, reports=reports)
    uids = [request.uid for request in requests]
    store.provenances.keep(uids, PROVENANCE)
    for uid in uids:
        if outcomes[uid].status is Status.FAILED:
            home.directory(joblog.FOLDER)
            printed = f"epoch 1\n{reports[uid].cause}\n"
            joblog.compressed(uid).write_bytes(gzip.compress(printed.encode(), mtime=0))
    return uids


def with_metrics(job: Job) -> Job:
    """A job that has reported a loss of 0.1 or, if it failed, of -1."""
    loss = -1.0 if job.outcome.status is Status.FAILED else 0.1
    return dataclasses.replace(job, report=dataclasses.replace(job.report, metrics={"loss": loss}))


def _params(chance: random.Random, hostile: bool) -> dict[str, Any]:
    found = {
        "learning_rate": chance.choice([0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3]),
        "width": chance.choice([32, 64, 128, 256]),
        "dropout": round(chance.random() * 0.6, 4),
        "optimizer": chance.choice(["adam", "sgd", "lion"]),
        "augment": chance.random() < 0.5,
        "seed": chance.randrange(10**9),
    }
    if hostile:
        found["optimizer"] = HOSTILE
        found["<b>name"] = "=cmd|' /C calc'!A0"
    return found


def _end(
    chance: random.Random, params: Mapping[str, Any], began: datetime.datetime, hostile: bool
) -> tuple[Outcome, Report]:
    seconds = 20 + params["width"] / 2 * (1 + chance.random())
    ended = began + datetime.timedelta(seconds=seconds)
    if params["learning_rate"] >= 0.3 and chance.random() < 0.6:
        cause = HOSTILE if hostile else "FloatingPointError: the loss is nan"
        return Outcome(Status.FAILED, 1, "exit code 1", began, ended), Report({}, cause)
    if params["width"] == 256 and chance.random() < 0.15:
        return Outcome(Status.FAILED, 137, "out of memory", began, ended), Report({}, "Killed")
    distance = math.log10(params["learning_rate"]) + 2.3
    accuracy = 0.975 - 0.04 * distance**2 - 0.05 * params["dropout"] + 0.004 * chance.gauss(0, 1)
    accuracy += 0.004 * math.log2(params["width"] / 32) + 0.006 * (params["optimizer"] == "adam")
    metrics = {"accuracy": round(accuracy, 4), "loss": round(max(1 - accuracy, 0.002) * 3, 4)}
    if hostile:
        metrics["note"] = HOSTILE
    return Outcome(Status.SUCCEEDED, 0, "", began, ended), Report(metrics)
