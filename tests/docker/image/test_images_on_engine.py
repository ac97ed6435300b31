"""What is in an image, built for real: the declared dependencies, the code and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Caliban
from tests.docker.conftest import Build, Built, inside, inspect, listing, write
from tests.docker.wire import Wire
from tests.workshop import Workshop


def test_the_code_runs_with_all_that_the_project_declares(everything: Built) -> None:
    packages = (
        "python -c 'import importlib.metadata as m; "
        'print({d.metadata["Name"]: d.version for d in m.distributions()})\'; '
        "python -m trainer.train; test -e /usr/games/sl && echo 'from apt'"
    )
    said = inside(everything.image, packages).splitlines()
    assert {"'six': '1.16.0'", "'toml': '0.10.2'", "'everything': '1.2'"} <= set(
        said[0].strip("{}").split(", ")
    )
    assert "iniconfig" in said[0]
    assert said[1:] == ["trained", "from apt"]


def test_an_extra_that_setup_py_lacks_is_told_of_and_the_rest_is_installed(
    everything: Built,
) -> None:
    warnings = [line for line in everything.messages.splitlines() if line.startswith("warning:")]
    assert any("does not have an extra named `missing`" in line for line in warnings)


def test_only_what_is_needed_lies_in_the_image_and_everybody_may_change_it(
    everything: Built,
) -> None:
    folders = ("", "my data", "my data/all of [it]", "trainer", "trainer/sub")
    files = (
        *("my data/all of [it]/numbers $1.txt", "trainer/__init__.py", "trainer/train.py"),
        *("trainer/sub/helper.py", "trainer/sub/unique"),
    )
    expected = [f"{name} d 777 0:0" for name in folders] + [f"{name} f 666 0:0" for name in files]
    assert listing(everything.image, "/usr/app", "%P %y %m %U:%G") == sorted(expected)


def test_the_dependencies_are_compiled(everything: Built) -> None:
    compiled = "cd /opt/venv/lib/python3*/site-packages && ls __pycache__ toml/__pycache__"
    said = inside(everything.image, compiled)
    assert "six.cpython" in said
    assert "encoder.cpython" in said


def test_nothing_is_left_of_the_installation(everything: Built, workshop: Workshop) -> None:
    folders = "/opt/uv /opt/dependencies /root /home /tmp /var/cache/apt /var/lib/apt"
    before = set(listing(workshop.base("plain"), "/root /home /tmp /var/cache/apt /var/lib/apt"))
    left = {line for line in listing(everything.image, folders) if " f " in line} - before
    assert {line.split(" f ")[0] for line in left} - {"/var/lib/apt/extended_states"} == {
        *("/opt/dependencies/requirements.txt", "/opt/dependencies/parts/base requirements.txt"),
        *("/opt/dependencies/setup.py", "/opt/dependencies/README.md"),
        *("/opt/dependencies/pyproject.toml", "/opt/dependencies/trainer/__init__.py"),
        *("/opt/dependencies/requirements.lock", "/opt/dependencies/compile.py"),
    }
    assert inside(everything.image, "command -v uv || echo none") == "none\n"


def test_the_container_finds_no_setting_of_the_installation_in_its_environment(
    everything: Built, workshop: Workshop
) -> None:
    before = set(inspect(workshop.base("plain"))["Config"]["Env"] or [])
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    path = next((line[5:] for line in before if line.startswith("PATH=")), path)
    assert set(inspect(everything.image)["Config"]["Env"]) - before == {
        "HOME=/home/caliban",
        "PYTHONUNBUFFERED=1",
        "VIRTUAL_ENV=/opt/venv",
        f"PATH=/opt/venv/bin:{path}",
    }


def test_labels_say_what_it_is_and_what_it_was_built_on(
    everything: Built, workshop: Workshop
) -> None:
    found = inspect(everything.image)
    labels = found["Config"]["Labels"]
    assert labels["caliban"]
    assert labels["caliban.base"] == workshop.base("plain")
    [tag] = found["RepoTags"]
    assert tag.endswith(f"caliban:cpu-{labels['caliban.fingerprint']}")
    assert found["Config"]["Entrypoint"] == ["python", "-m", "trainer.train"]


KINDS: dict[str, tuple[Mapping[str, str], str]] = {
    "trainer/train.py": ({"trainer/train.py": "print('ran')"}, "trainer"),
    "./trainer/train.py": ({"trainer/train.py": "print('ran')"}, "trainer"),
    "script.sh": ({"script.sh": "echo ran", "beside": ""}, "beside elsewhere script.sh"),
    "bin/script": ({"bin/script": "[[ 1 -eq 1 ]] && echo ran"}, "bin"),
    "mycode": ({"mycode.py": "print('ran')"}, "elsewhere mycode.py"),
    "package": (
        {"package/__main__.py": "from package import x", "package/x.py": "print('ran')"},
        "package",
    ),
}


@pytest.mark.parametrize("module", KINDS)
def test_code_of_every_kind_runs_in_its_place(
    workshop: Workshop, caliban: Caliban, folder: Path, module: str
) -> None:
    files, copied = KINDS[module]
    write(folder, {**files, "elsewhere/data": ""})
    ran = caliban("run", "--nogpu", module)
    assert (ran.returncode, ran.stdout) == (0, "ran\n"), ran.stderr
    image = json.loads(caliban("status", "--json").stdout)[0]["image"]
    found = set(inside(image, "ls").split())
    assert found == set(copied.split())


def test_names_and_links_arrive_as_they_are(workshop: Workshop, build: Build, folder: Path) -> None:
    long = f"{'deep/' * 30}{'x' * 120}"
    names = ["with space", "it's", 'say "hi"', "a[0]*?", "$HOME", "ünï", "new\nline", long]
    write(folder, {"code/run.sh": "", **{f"code/{name}/file": name for name in names}})
    (folder / "code/run.sh").chmod(0o700)
    (folder / "code/link").symlink_to("run.sh")
    (folder / "code/dangling").symlink_to("/no/such/thing")
    list_names = (
        "import os, json; print(json.dumps([sorted(p for p, _, f in os.walk('code') if 'file' in f)"
        ", os.readlink('code/link'), os.readlink('code/dangling'), os.stat('code/link').st_mode]))"
    )
    image = build("code/run.sh")
    found, link, dangling, mode = json.loads(inside(image, f'python3 -c "{list_names}"'))
    assert found == sorted(f"code/{name}" for name in names)
    assert (link, dangling) == ("run.sh", "/no/such/thing")
    assert mode & 0o777 == 0o777


def test_a_large_neighbour_of_the_code_is_not_sent(
    workshop: Workshop, build: Build, wire: Wire, folder: Path
) -> None:
    write(folder, {"trainer/train.sh": "", "data/numbers": ""})
    os.truncate(folder / "data/numbers", 200 << 20)
    build("trainer/train.sh")
    assert wire.builds
    assert len(wire.sent) < 100_000
