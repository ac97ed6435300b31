"""`caliban export`: what real jobs ran and came to, in one file."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

import caliban as package
from caliban.bundle.archive import Archive
from caliban.docker.engine import Engine
from caliban.history.store import HistoryStore
from tests.conftest import Caliban, Inline
from tests.provenance.test_git import TOKEN
from tests.report import sweeps
from tests.workshop import docker

pytestmark = pytest.mark.takes(12)

SCHEMA = Path(package.__file__).parent / "resources" / "bundle" / "manifest.schema.json"


@pytest.fixture
def group(caliban: Caliban, sweep: Path) -> Path:
    """A project whose sweep has run, as the group "tries"; one of its three jobs failed."""
    (sweep / "trainer" / "run.sh").write_text("exec python -m trainer.job\n")
    (sweep / "trainer" / "run.sh").chmod(0o755)
    (sweep / "trainer" / "link").symlink_to("run.sh")
    (sweep / "sweep.json").write_text(json.dumps([{"say": "a"}, {"say": "b"}, {"exit": 3}]))
    done = caliban(
        *("run", "--nogpu", "--xgroup", "tries", "--experiment_config", "sweep.json"),
        *("trainer.job", "--", "--say", 'caliban: {"accuracy": 0.5}'),
    )
    assert done.returncode == 1, done.stderr
    return sweep


def exported(caliban: Caliban, *flags: str) -> Path:
    done = caliban("export", "tries", "-o", "tries.tar", *flags)
    assert done.returncode == 0, done.stderr
    with Archive(Path("tries.tar")) as opened:
        opened.check()
        assert done.stdout == f"{opened.digest}\n"
    return Path("tries.tar").resolve()


def test_a_file_holds_what_ran_and_what_it_came_to(
    caliban: Caliban, group: Path, engine: Engine
) -> None:
    with Archive(exported(caliban)) as opened:
        manifest = opened.manifest
        jsonschema.validate(manifest, json.loads(SCHEMA.read_text()))
        (launch,) = manifest["launches"]
        code = {each["path"]: each for each in launch["code"]}
        for name in ("trainer/job.py", "trainer/run.sh"):
            part = code[name]["part"]
            assert opened.read(part, 1 << 20) == (group / name).read_bytes()
        kinds = {name: each["kind"] for name, each in code.items()}
        assert (kinds["trainer/job.py"], kinds["trainer/run.sh"], kinds["trainer/link"]) == (
            "file",
            "program",
            "link",
        )
        assert opened.read(code["trainer/link"]["part"], 99) == b"run.sh"
        assert b"FROM" in opened.read(launch["dockerfile"], 1 << 20)
        experiments = json.loads(opened.read(launch["experiments"], 1 << 20))
        assert experiments == [{"say": "a"}, {"say": "b"}, {"exit": 3}]
        assert engine.image_id(launch["image"]["id"])
        jobs = manifest["jobs"]
        assert [job["status"] for job in jobs] == ["SUCCEEDED", "SUCCEEDED", "FAILED"]
        assert [job["metrics"] for job in jobs] == [{"accuracy": 0.5}] * 3
        assert jobs[2]["exit_code"] == 3
        printed = gzip.decompress(opened.read(jobs[0]["log"], 1 << 20))
        assert printed == b'caliban: {"accuracy": 0.5}\na\n'


def test_code_that_has_been_edited_since_is_taken_from_the_image(
    caliban: Caliban, group: Path
) -> None:
    before = exported(caliban).read_bytes()
    (group / "trainer" / "job.py").write_text("print('edited')\n")
    (group / "trainer" / "run.sh").chmod(0o644)
    (group / "trainer" / "link").unlink()
    assert exported(caliban).read_bytes() == before


def test_the_bytes_do_not_tell_who_wrote_them_where_and_when(
    caliban: Caliban, group: Path, home: Path, tmp_path: Path
) -> None:
    before = exported(caliban).read_bytes()
    for file in group.rglob("*"):
        os.utime(file, (0, 0), follow_symlinks=False)
    shutil.copytree(home, tmp_path / "home")
    env = {
        "HOME": str(tmp_path / "home"),
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "PYTHONUTF8": "0",
        "TZ": "Asia/Kathmandu",
    }
    usual = os.umask(0o077)
    try:
        done = caliban("export", "tries", "-o", "again.tar", cwd=tmp_path, env=env)
    finally:
        os.umask(usual)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again.tar").read_bytes() == before


def test_code_that_is_nowhere_any_more_is_named(
    caliban: Caliban, group: Path, engine: Engine
) -> None:
    with Archive(exported(caliban)) as opened:
        docker("rmi", "--force", opened.manifest["launches"][0]["image"]["id"])
    Path("tries.tar").unlink()
    (group / "trainer" / "job.py").write_text("print('edited')\n")
    done = caliban("export", "tries", "-o", "tries.tar")
    assert done.returncode == 2
    assert "the code that ran is not there any more: trainer/job.py\n" in done.stderr
    assert not Path("tries.tar").exists()


def test_an_image_that_is_in_the_file_can_be_loaded(
    caliban: Caliban, group: Path, engine: Engine
) -> None:
    before = exported(caliban, "--with_image").read_bytes()
    assert exported(caliban, "--with_image").read_bytes() == before
    with Archive(Path("tries.tar")) as opened:
        jsonschema.validate(opened.manifest, json.loads(SCHEMA.read_text()))
        ((image, part),) = opened.manifest["images"].items()
        content = gzip.decompress(b"".join(opened.pieces(part)))
    docker("rmi", "--force", image)
    assert engine.image_id(image) is None
    loaded = subprocess.run(["docker", "load"], input=content, capture_output=True, check=True)
    assert image in loaded.stdout.decode()


def test_what_looks_like_a_key_in_an_output_is_refused(caliban: Caliban, sweep: Path) -> None:
    done = caliban("run", "--nogpu", "--xgroup", "tries", "trainer.job", "--", "--say", TOKEN[:4])
    assert done.returncode == 0, done.stderr
    (sweep / "trainer" / "job.py").write_text(f"print('{TOKEN[:20]}' + '{TOKEN[20:]}')\n")
    assert caliban("run", "--nogpu", "--xgroup", "tries", "trainer.job").returncode == 0
    done = caliban("export", "tries", "-o", "tries.tar")
    assert done.returncode == 2
    assert "logs/2.log.gz, line 1: an access token" in done.stderr
    assert TOKEN not in done.stderr
    assert not Path("tries.tar").exists()
    exported(caliban, "--allow_key", "logs/2*")


def test_jobs_of_which_nothing_is_recorded_cannot_be_exported(home: Path, inline: Inline) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "old", 3)
        with store._database.writing() as connection:
            connection.exec_driver_sql("UPDATE jobs SET provenance = NULL WHERE id = 2")
    done = inline("export", "old", "-o", "old.tar")
    assert done.returncode == 2
    assert "what exactly these jobs ran is not recorded: 2\n" in done.stderr


def test_a_group_that_does_not_exist_is_named_by_export(home: Path, inline: Inline) -> None:
    done = inline("export", "nothing", "-o", "x.tar")
    assert done.returncode == 2
    assert "no experiment group 'nothing'" in done.stderr
