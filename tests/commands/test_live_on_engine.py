"""`caliban run --live`: the code of this moment runs, and what is secret beside it stays so."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from caliban.docker.engine import Engine
from tests.commands.conftest import Start, wait_for
from tests.commands.test_run_on_engine import RUN, Write, containers, jobs
from tests.conftest import Caliban
from tests.workshop import Workshop

LIVE = (*RUN, "--live")

SECRET = "no job may read this"

# Tells all that a job can read in the directory, and whether the user's home directory is there.
SEARCH = """
import json
import os
import sys
from pathlib import Path

found, visible = [], []
for place, _, names in os.walk("/usr/app"):
    for name in names:
        path = Path(place, name)
        try:
            found.append([str(path), path.read_text()])
        except (OSError, UnicodeDecodeError) as error:
            found.append([str(path), type(error).__name__])
print(json.dumps({
    "files": dict(found),
    "cloud": sorted(os.listdir("cloud")),
    "key": Path(os.environ["GOOGLE_APPLICATION_CREDENTIALS"]).read_text(),
    "outside": [each for each in sys.argv[1:] if os.path.exists(each)],
}))
"""


def test_an_edit_is_live_without_a_build_and_the_history_tells_the_code_apart(
    caliban: Caliban, sweep: Path
) -> None:
    flags = ("trainer.job", "--", "--say", "hi", "--env", "CALIBAN_OUTPUT")
    first = caliban(*LIVE, *flags)
    (sweep / "trainer/job.py").write_text("import os\nprint('edited', os.getcwd())\n")
    second = caliban(*LIVE, *flags)
    third = caliban(*LIVE, *flags)
    assert first.stdout == "hi\nNone\n", first.stderr
    assert second.stdout == third.stdout == "edited /usr/app\n"
    assert "Building" not in second.stderr + third.stderr
    rows = jobs(caliban)
    assert len({row["image"] for row in rows}) == 1
    before, after, same = [row["code"] for row in rows]
    assert before != after == same
    assert all(code.startswith("sha256:") for code in (before, after))
    status = caliban("status").stdout
    assert f" live code: {after[7:19]} in " in status
    assert "extra dirs: None, live code\n" in status


def test_live_code_that_has_changed_is_run_again_in_its_group(
    caliban: Caliban, sweep: Path
) -> None:
    launch = (*LIVE, "--xgroup", "again", "trainer.job", "--", "--say", "hi")
    first, same = caliban(*launch), caliban(*launch)
    (sweep / "trainer/job.py").write_text("print('edited')\n")
    edited = caliban(*launch)
    assert [first.stdout, same.stdout, edited.stdout] == ["hi\n", "", "edited\n"], edited.stderr
    assert len({row["image"] for row in jobs(caliban)}) == 1


def test_what_is_secret_in_the_project_is_not_there_for_the_job(
    caliban: Caliban, sweep: Path, home: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sweep
    for name in ("keys/mine.json", "keys/other.json", "variable.json", "ssh/id", "cloud/token"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(SECRET)
    settings = {
        "gcloud": {"cloud_key": "keys/other.json"},
        "base_image": "x",
        "default_mode": "cpu",
    }
    (folder / ".calibanconfig.json").write_text(json.dumps(settings))
    (folder / "alias.json").symlink_to("keys/mine.json")
    os.link(folder / "keys/mine.json", folder / "trainer/hard.json")
    (home / ".ssh").symlink_to(folder / "ssh")
    monkeypatch.setenv("CLOUDSDK_CONFIG", "cloud")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(folder / "variable.json"))
    (folder / "trainer/search.py").write_text(SEARCH)
    before = state(folder)
    secrets = [home / ".caliban", home / ".ssh", folder]
    flags = ("--cloud_key", "alias.json", "trainer.search", "--", *map(str, secrets))
    done = caliban(*LIVE, *flags)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["key"] == SECRET
    assert seen["cloud"] == seen["outside"] == []
    empty = {name for name, content in seen["files"].items() if content == ""}
    assert {f"/usr/app/{name}" for name in (".calibanconfig.json", "alias.json")} <= empty
    assert {f"/usr/app/keys/{name}.json" for name in ("mine", "other")} <= empty
    assert {"/usr/app/variable.json", "/usr/app/trainer/hard.json"} <= empty
    assert SECRET not in seen["files"].values()
    assert "/usr/app/trainer/search.py" in seen["files"]
    [line] = [line for line in done.stderr.splitlines() if line.startswith("Mounted: ")]
    assert f"Mounted: {folder} -> /usr/app; " in line
    hidden = (
        *(".calibanconfig.json", "cloud", "keys/mine.json", "keys/other.json", "ssh"),
        *("trainer/hard.json", "variable.json"),
    )
    assert line.endswith(f"; hidden {', '.join(f'/usr/app/{name}' for name in hidden)}")
    assert state(folder) == before
    assert containers(engine, jobs(caliban)) == []


def state(folder: Path) -> dict[str, Any]:
    """All that is in a folder, and whose it is; without what Python compiles."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_uid,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def test_a_hidden_file_that_goes_is_not_made_anew(
    caliban: Caliban, start: Start, experiments: Write, sweep: Path
) -> None:
    (sweep / ".calibanconfig.json").write_text("{}")
    (sweep / "trainer/wait.py").write_text(
        "import os, time\n"
        "open('here', 'w').close()\n"
        "while os.path.exists('here'): time.sleep(0.05)\n"
    )
    name = experiments({"number": [1, 2]})
    child = start(*LIVE, "--experiment_config", name, "trainer.wait")
    wait_for(lambda: (sweep / "here").exists())
    (sweep / ".calibanconfig.json").unlink()
    (sweep / "here").unlink()
    child.communicate(timeout=30)
    assert child.returncode == 1
    rows = jobs(caliban)
    assert [(row["status"], row["reason"]) for row in rows] == [
        ("SUCCEEDED", ""),
        ("FAILED", "a file that it must not see has come or gone since the launch"),
    ]
    assert not (sweep / ".calibanconfig.json").exists()


def test_code_is_live_over_any_image(
    caliban: Caliban, sweep: Path, workshop: Workshop, engine: Engine
) -> None:
    (sweep / "data").mkdir()
    (sweep / "data/numbers").write_text("1 2 3\n")
    (sweep / "go.sh").write_text('pwd\ncat data/numbers\necho "$@" > ~/file\ncat ~/file\n')
    image = workshop.base("plain")
    done = caliban(*LIVE, "--image_id", image, "-d", "data", "go.sh", "--", "a b", "--c")
    assert done.stdout == "/usr/app\n1 2 3\na b --c\n", done.stderr
    [row] = jobs(caliban)
    assert row["image"] == engine.image_id(image)
    assert row["code"].startswith("sha256:")


def test_code_that_cannot_be_read_is_a_mistake_before_anything_is_recorded(
    caliban: Caliban, sweep: Path
) -> None:
    (sweep / ".dockerignore").write_text("trainer\n")
    done = caliban(*LIVE, "trainer.job")
    assert done.returncode == 2
    assert ".dockerignore leaves out trainer, which holds the code" in done.stderr
    assert jobs(caliban) == []
