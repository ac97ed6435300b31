"""Secrets of a build: how they are named, what is made of them, and who never sees them."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path

import pytest

from caliban.docker.engine import Engine
from caliban.docker.image import build_secrets, builder, dockerfile
from caliban.docker.image.build_secrets import BuildSecrets, Opened, Secret, parse
from caliban.docker.image.builder import Builder
from caliban.errors import UsageError
from caliban.model.image import ImagePlan, Mode

PASSWORD = "correct-horse-battery"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file, with a comma"
    path.write_text(f"machine host login me password {PASSWORD}\n")
    return path


def opened(secrets: BuildSecrets) -> Opened:
    return secrets.open(secrets.ids)


class TestParse:
    @pytest.mark.parametrize(
        "word",
        [
            'id=netrc,"src={}"',
            '"src={}",id=netrc',
            'type=file,id=netrc,"source={}"',
            'ID=netrc,"Src={}"',
        ],
    )
    def test_a_file(self, word: str, file: Path) -> None:
        found = parse([word.format(file)], {})
        assert found.given == (Secret("netrc", path=file),)
        assert found.ids == ("netrc",)
        assert found.files == [file]

    @pytest.mark.parametrize(
        "word", ["id=TOKEN,env=TOKEN", "id=TOKEN", "type=env,id=TOKEN,src=TOKEN"]
    )
    def test_a_variable(self, word: str) -> None:
        assert parse([word], {"TOKEN": PASSWORD}).given == (Secret("TOKEN", variable="TOKEN"),)

    def test_a_file_named_as_the_id(self, tmp_path: Path) -> None:
        (tmp_path / "netrc").touch()
        assert parse(["id=netrc"], {}).given == (Secret("netrc", path=tmp_path / "netrc"),)

    def test_a_file_in_the_home_directory(self, home: Path) -> None:
        (home / ".netrc").touch()
        assert parse(["id=netrc,src=~/.netrc"], {}).files == [home / ".netrc"]

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            ([""], "an id of letters"),
            ([PASSWORD], "expected id="),
            (["id=a,color=red"], "expected id="),
            (["id=a,env=A\nB"], "expected id="),
            (["src=x"], "an id of letters"),
            (["id=a b,env=HOME"], "an id of letters"),
            (["id=../x,env=HOME"], "an id of letters"),
            (["id=a,env=MISSING"], "the environment variable MISSING is not set"),
            (["id=a,src=/missing"], "cannot read /missing: No such file"),
            (["id=a,src=/tmp"], "cannot read /tmp: Is a directory"),
            (["id=MISSING"], "cannot read "),
            (["id=a,env=HOME", "id=a,env=PATH"], "the id a is given twice"),
            (["id=a,type=red,env=HOME"], "neither 'file' nor 'env'"),
            (["id=ssh"], "no SSH agent runs here"),
            (["id=ssh,src=key"], "has no other source"),
        ],
    )
    def test_what_is_wrong(self, words: list[str], message: str) -> None:
        with pytest.raises(UsageError) as error:
            parse(words, {"HOME": "/root", "PATH": "/bin"})
        assert message in error.value.message
        assert PASSWORD not in error.value.message + error.value.hint

    def test_more_than_a_builder_takes(self, tmp_path: Path) -> None:
        (tmp_path / "big").write_bytes(bytes(600_000))
        with pytest.raises(UsageError, match="larger than 500 KiB"):
            parse(["id=big"], {})


class TestBuild:
    def test_arguments_name_files_and_variables_only(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOKEN", PASSWORD)
        found = opened(parse([f'id=netrc,"src={file}"', "id=TOKEN"], {"TOKEN": PASSWORD}))
        assert found.arguments() == [
            *("--secret", "id=TOKEN,env=TOKEN"),
            *("--secret", f'id=netrc,"src={file}"'),
        ]
        assert found.environment() == {}

    def test_values_that_caliban_makes_are_in_the_environment(self) -> None:
        found = Opened({"a": Secret("a", text=PASSWORD)})
        assert found.arguments() == ["--secret", "id=a,env=CALIBAN_BUILD_SECRET_0"]
        assert found.environment() == {"CALIBAN_BUILD_SECRET_0": PASSWORD}

    def test_no_representation_shows_a_value(self) -> None:
        assert PASSWORD not in repr(Opened({"a": Secret("a", text=PASSWORD)}))

    def test_what_a_plan_needs_has_to_be_given(self) -> None:
        with pytest.raises(UsageError) as error:
            BuildSecrets().open(["netrc", "TOKEN"])
        assert error.value.message == (
            "the image needs build secrets that were not given: netrc, TOKEN"
        )

    def test_they_decide_nothing_of_an_image(self) -> None:
        plan = ImagePlan(Mode.CPU, "base", "/project", requirements=("a",), lock="six==1.17.0\n")
        lent = dataclasses.replace(plan, secrets=("TOKEN", "netrc"))
        assert dockerfile.render(lent) == dockerfile.render(plan)
        text = dockerfile.render(lent, buildkit=True)
        assert "--mount=type=secret,id=TOKEN --mount=type=secret,id=netrc " in text
        assert text != dockerfile.render(plan, buildkit=True)

    def test_plans_record_names(self) -> None:
        plan = ImagePlan(Mode.CPU, "base", "/project", secrets=("TOKEN", "netrc"))
        assert plan.to_json()["secrets"] == ["TOKEN", "netrc"]
        assert ImagePlan.from_json(plan.to_json()) == plan
        assert "secrets" not in dataclasses.replace(plan, secrets=()).to_json()


class TestBuilder:
    @pytest.mark.parametrize(
        ("is_podman", "variable", "why", "hint"),
        [
            (False, "0", "DOCKER_BUILDKIT=0 asks for the legacy builder", "Unset"),
            (True, "", "podman, at unix:///var/run/docker.sock, takes no", "a Docker"),
            (False, "", "this docker has no BuildKit", "docker-buildx-plugin"),
        ],
    )
    def test_one_that_cannot_lend_them_says_why(
        self, is_podman: bool, variable: str, why: str, hint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("DOCKER_BUILDKIT", variable)
        engine = Engine()
        monkeypatch.setattr(engine, "is_podman", lambda: is_podman)
        monkeypatch.setattr(builder, "_of_client", lambda: Builder.LEGACY)
        with pytest.raises(UsageError) as error:
            builder.check_secrets(engine, ["netrc"])
        assert "the build needs secrets (netrc)" in error.value.message
        assert why in error.value.message and hint in error.value.hint
        builder.check_secrets(engine, [])

    def test_one_that_can_is_taken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = Engine()
        monkeypatch.setattr(engine, "is_podman", lambda: False)
        monkeypatch.setattr(builder, "_of_client", lambda: Builder.BUILDKIT)
        builder.check_secrets(engine, ["netrc"])


class TestStep:
    def shell(self, ids: list[str], folder: Path, command: str) -> str:
        lines = " && ".join([*build_secrets.exports(ids), command])
        script = lines.replace(build_secrets.FOLDER, str(folder))
        done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, check=True)
        return done.stdout

    def test_a_variable_holds_its_value(self, tmp_path: Path) -> None:
        (tmp_path / "UV_INDEX").write_text('https://me:it\'s $HOME "x"@host/\n')
        found = self.shell(["UV_INDEX"], tmp_path, 'printf %s "$UV_INDEX"')
        assert found == 'https://me:it\'s $HOME "x"@host/'

    def test_programs_are_told_of_files(self, tmp_path: Path) -> None:
        ids = ["netrc", "pip.conf", "uv.toml", "ssh"]
        command = 'echo "$NETRC $PIP_CONFIG_FILE $UV_CONFIG_FILE $SSH_AUTH_SOCK"'
        assert self.shell(ids, tmp_path, command).split() == [f"{tmp_path}/{each}" for each in ids]

    def test_git_finds_its_credentials(self, tmp_path: Path) -> None:
        (tmp_path / "git-credentials").write_text(f"https://me:{PASSWORD}@host.example\n")
        ask = "printf 'protocol=https\\nhost=host.example\\n\\n' | git credential fill"
        found = self.shell(["git-credentials"], tmp_path, ask)
        assert f"password={PASSWORD}" in found.splitlines()

    def test_ssh_knows_the_hosts_and_the_key(self, tmp_path: Path) -> None:
        (tmp_path / "ssh-key").touch()
        found = self.shell(["known_hosts", "ssh-key"], tmp_path, 'echo "$GIT_SSH_COMMAND"')
        options = subprocess.run(
            [*found.split(), "-G", "host"], capture_output=True, text=True, check=True
        ).stdout
        assert f"userknownhostsfile {tmp_path}/known_hosts" in options
        assert f"identityfile {tmp_path}/ssh-key" in options

    def test_other_ids_are_files_and_no_more(self) -> None:
        assert list(build_secrets.exports(["license.dat"])) == []
        assert list(build_secrets.mounts(["license.dat", "ssh"])) == [
            "--mount=type=secret,id=license.dat",
            "--mount=type=ssh,target=/run/secrets/ssh",
        ]


class TestSsh:
    def test_the_agent_comes_with_the_hosts_that_the_user_knows(self, home: Path) -> None:
        (home / ".ssh").mkdir()
        (home / ".ssh/known_hosts").write_text("host ssh-ed25519 AAAA\n")
        found = parse(["id=ssh"], {"SSH_AUTH_SOCK": "/tmp/agent"})
        assert found.ids == ("known_hosts", "ssh")
        assert opened(found).arguments() == [
            *("--secret", f"id=known_hosts,src={home}/.ssh/known_hosts"),
            *("--ssh", "default"),
        ]
        assert found.files == []

    def test_unknown_hosts_are_not_trusted(self) -> None:
        with pytest.raises(UsageError, match="by which a build can tell the right SSH host"):
            parse(["id=ssh"], {"SSH_AUTH_SOCK": "/tmp/agent"})


class TestPip:
    def test_its_indexes_become_those_of_uv(self, tmp_path: Path) -> None:
        (tmp_path / "pip.conf").write_text(
            f"[global]\nindex-url = https://me:{PASSWORD}@host/simple\n"
            "[install]\nextra-index-url =\n  https://one/%20s\n  https://two\ntrusted-host = host\n"
        )
        found = parse(["id=pip.conf"], {})
        assert found.ids == ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INSECURE_HOST", "pip.conf")
        contents = opened(found).contents()
        assert contents["UV_DEFAULT_INDEX"].decode() == f"https://me:{PASSWORD}@host/simple"
        assert contents["UV_INDEX"] == b"https://one/%20s https://two"
        assert PASSWORD not in " ".join(opened(found).arguments())

    def test_what_uv_is_told_itself_counts_more(self, tmp_path: Path) -> None:
        (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://host\n")
        found = opened(parse(["id=pip.conf", "id=UV_DEFAULT_INDEX"], {"UV_DEFAULT_INDEX": "x"}))
        assert found.secrets["UV_DEFAULT_INDEX"].variable == "UV_DEFAULT_INDEX"

    def test_what_is_wrong_is_not_shown(self, tmp_path: Path) -> None:
        (tmp_path / "pip.conf").write_text(f"index-url = https://me:{PASSWORD}@host\n")
        with pytest.raises(UsageError, match=r"is not a configuration file of pip") as error:
            parse(["id=pip.conf"], {})
        assert PASSWORD not in error.value.message


class TestConceal:
    @pytest.fixture
    def found(self, monkeypatch: pytest.MonkeyPatch) -> Opened:
        values = {"TOKEN": PASSWORD, "ODD": "p@ss/word", "UV_INDEX": f"https://me:{PASSWORD}@host"}
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        return opened(parse([f"id={name}" for name in values], values))

    def test_the_variables_come_back(self, found: Opened) -> None:
        lock = (
            f"a @ git+https://{PASSWORD}@host/a@0123\n"
            f"b @ https://me:{PASSWORD}@host/b.whl --hash=sha256:0\n"
            "c @ git+https://me:p%40ss%2Fword@host/c@45\nd==1\n"
        )
        assert found.conceal(lock) == (
            "a @ git+https://${TOKEN}@host/a@0123\n"
            "b @ https://me:${TOKEN}@host/b.whl --hash=sha256:0\n"
            "c @ git+https://me:${ODD}@host/c@45\nd==1\n"
        )

    def test_indexes_that_the_build_is_told_of_in_secret_are_left_out(self, found: Opened) -> None:
        lock = (
            "--index-url https://index.example/simple\n"
            "--extra-index-url https://me:other-password@host/simple\n"
            "--extra-index-url https://me:${TOKEN}@host/simple\n\na==1\n"
        )
        kept = [line for line in lock.splitlines(keepends=True) if "other" not in line]
        assert found.conceal(lock) == "".join(kept)

    def test_other_passwords_are_refused(self, found: Opened) -> None:
        with pytest.raises(UsageError) as error:
            found.conceal("a @ https://me:hunter2@host/a.whl\n")
        assert "hunter2" not in error.value.message
        assert "a @ https://****@host/a.whl" in error.value.message

    def test_output_is_shown_without_them(self, found: Opened) -> None:
        assert found.mask(f"fetching https://me:{PASSWORD}@host/x") == "fetching ****/x"
        assert found.mask(f"401 for {PASSWORD}") == "401 for ****"

    def test_so_is_what_files_hold(self, tmp_path: Path) -> None:
        (tmp_path / "netrc").write_text("machine host\nlogin me\npassword hunter2hunter2\n")
        (tmp_path / "uv.toml").write_text('index-url = "https://me:h%40nter222@host/"\n')
        found = opened(parse(["id=netrc", "id=uv.toml"], {}))
        text = "machine host: hunter2hunter2 h%40nter222 h@nter222"
        assert found.mask(text) == "machine host: **** **** ****"


class TestGoogle:
    def test_a_token_is_for_its_repositories_and_indexes(self, tmp_path: Path) -> None:
        requirements = tmp_path / "requirements.txt"
        requirements.write_text(
            "--extra-index-url https://europe-west4-python.pkg.dev/project/repository/simple\n"
            "# not at evil-python.pkg.dev.example.com\n"
        )
        secrets = parse([], {}, lambda: f"ya29.{PASSWORD}")
        assert secrets.ids == ("git-credentials", "netrc")
        found = secrets.open(secrets.ids, [requirements, tmp_path / "missing"]).contents()
        user = f"oauth2accesstoken:ya29.{PASSWORD}"
        assert found["git-credentials"].decode() == (
            f"https://{user}@source.developers.google.com\n"
        )
        assert found["netrc"].decode() == (
            "machine europe-west4-python.pkg.dev login oauth2accesstoken "
            f"password ya29.{PASSWORD}\n"
        )

    def test_it_stands_beside_what_the_user_gives(self, tmp_path: Path) -> None:
        (tmp_path / "netrc").write_text("machine host login me password x")
        secrets = parse(["id=netrc"], {}, lambda: "token")
        found = secrets.open(secrets.ids)
        assert found.contents()["netrc"] == b"machine host login me password x\n"
        assert found.arguments()[2:] == ["--secret", "id=netrc,env=CALIBAN_BUILD_SECRET_1"]

    def test_no_token_is_made_where_none_is_needed(self) -> None:
        secrets = parse([], {}, lambda: pytest.fail("a token was made"))
        assert secrets.open(()).secrets == {}
