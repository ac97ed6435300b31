"""What a job writes into mounted directories belongs to the user, whoever that is."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.docker.conftest import Somebody, write
from tests.workshop import Workshop

CODE = """
import os
from pathlib import Path

output = Path(os.environ["CALIBAN_OUTPUT"])
(output / "deep/er").mkdir(parents=True)
(output / "deep/er/model").write_text("weights")
Path("beside").write_text(Path("keys/mine.json").read_text())
import trainer.other
"""

UID = 12345


def test_outputs_and_what_is_written_beside_live_code_are_the_users(
    workshop: Workshop, somebody: Somebody, public: Path
) -> None:
    home, project, results = public / "home", public / "project", public / "results"
    write(project, {"trainer/train.py": CODE, "trainer/other.py": "", "keys/mine.json": "secret"})
    for folder in (home, results):
        folder.mkdir()
    for path in (home, results, project, *project.rglob("*")):
        os.chown(path, UID, UID)
    for path in (home, results, project):
        path.chmod(0o700)

    flags = ("--live", "--output", str(results), "--xgroup", "g", "--cloud_key", "keys/mine.json")
    done = somebody(UID, "run", "--nogpu", *flags, "trainer.train", cwd=project, home=home)
    assert done.returncode == 0, done.stderr
    assert (results / "g/1/deep/er/model").read_text() == "weights"
    assert (project / "beside").read_text() == ""
    assert (project / "trainer/__pycache__").is_dir()
    owners = {(each.st_uid, each.st_gid) for each in map(Path.lstat, public.rglob("*"))}
    assert owners == {(UID, UID)}
    history = somebody(UID, "status", "--json", cwd=project, home=home)
    assert json.loads(history.stdout)[0]["output"] == f"{results}/g/1"
    assert "your entry in /etc/passwd and /etc/group" in done.stderr
