"""Who a container runs as, and the credentials that it finds."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from caliban.docker.identity import (
    ADC_PATH,
    KEY_PATH,
    AccountFile,
    Credentials,
    account_files,
    credentials,
)
from caliban.errors import CalibanError, UsageError
from tests.conftest import Unprivileged

ADC = "application_default_credentials.json"


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    return path


class TestCredentials:
    def test_there_may_be_none(self) -> None:
        found = credentials(None, {})
        assert found == Credentials()
        assert (found.files, found.environment) == ({}, {})

    def test_a_key_is_mounted_and_named(self, tmp_path: Path) -> None:
        key = make(tmp_path / "key.json")
        found = credentials(str(key), {})
        assert found.files == {key: KEY_PATH}
        assert found.environment == {"GOOGLE_APPLICATION_CREDENTIALS": KEY_PATH}

    def test_those_of_the_user_are_mounted_where_google_looks_for_them(self, home: Path) -> None:
        own = make(home / ".config/gcloud" / ADC)
        found = credentials(None, {})
        assert found.files == {own: ADC_PATH}
        assert found.environment == {}

    def test_gcloud_may_keep_its_files_elsewhere(self, home: Path, tmp_path: Path) -> None:
        make(home / ".config/gcloud" / ADC)
        own = make(tmp_path / "elsewhere" / ADC)
        assert credentials(None, {"CLOUDSDK_CONFIG": str(own.parent)}).adc == own
        assert credentials(None, {"CLOUDSDK_CONFIG": str(tmp_path)}).adc is None

    def test_with_both_the_key_wins_because_the_variable_names_it(self, home: Path) -> None:
        own = make(home / ".config/gcloud" / ADC)
        key = make(home / "key.json")
        found = credentials("~/key.json", {})
        assert found.files == {key: KEY_PATH, own: ADC_PATH}
        assert found.environment == {"GOOGLE_APPLICATION_CREDENTIALS": KEY_PATH}

    def test_a_key_may_be_named_relative_to_the_working_directory(self, tmp_path: Path) -> None:
        key = make(tmp_path / "keys" / "key.json")
        assert credentials("keys/key.json", {}).key == key

    @pytest.mark.parametrize("name", ["missing.json", "", "~nobody-has-this-name/key.json"])
    def test_a_key_that_is_no_file_is_wrong_usage(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError) as error:
            credentials(name or str(tmp_path), {})
        assert name in error.value.message
        assert error.value.message.endswith("is not a file that can be read")
        assert "--cloud_key" in error.value.hint

    def test_a_key_of_somebody_else_is_wrong_usage(self, unprivileged: Unprivileged) -> None:
        def attempt(folder: Path) -> str:
            key = make(folder / "key.json")
            key.chmod(0)
            try:
                credentials(str(key), {})
            except UsageError as error:
                return error.message
            return "it was taken"

        assert unprivileged(attempt).endswith("/key.json is not a file that can be read")


def entries(file: AccountFile) -> list[list[str]]:
    assert file.content.endswith("\n")
    return [line.split(":") for line in file.content.splitlines()]


class TestAccountFiles:
    def test_root_is_known_to_every_image(self) -> None:
        assert account_files(0, 0, "root") == []

    def test_the_user_has_a_name_a_group_and_a_home_directory(self, home: Path) -> None:
        passwd, group = account_files(1234, 567, "totoro")
        assert (passwd.target, group.target) == ("/etc/passwd", "/etc/group")
        assert passwd.path == home / ".caliban/accounts/passwd-1234-567-totoro"
        assert group.path == home / ".caliban/accounts/group-1234-567-totoro"
        assert passwd.content == (
            "root:x:0:0:root:/root:/bin/sh\n"
            "totoro:x:1234:567:totoro:/home/caliban:/bin/sh\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
        )
        assert group.content == "root:x:0:\ntotoro:x:567:\nnogroup:x:65534:\n"

    @pytest.mark.parametrize(
        ("user", "name"),
        [
            ("totoro", "totoro"),
            ("t_2", "t_2"),
            ("root", "caliban"),
            ("nobody", "caliban"),
            ("1234", "caliban"),
            ("DOMAIN\\user", "caliban"),
            ("a:b", "caliban"),
            ("a\nb", "caliban"),
            ("a/b", "caliban"),
            ("", "caliban"),
        ],
    )
    def test_whatever_the_user_is_called_the_files_can_be_read(self, user: str, name: str) -> None:
        passwd, group = account_files(1234, 567, user)
        assert [len(entry) for entry in entries(passwd)] == [7, 7, 7]
        assert [len(entry) for entry in entries(group)] == [4, 4, 4]
        assert [entry[0] for entry in entries(passwd)] == ["root", name, "nobody"]
        assert {entry[2]: entry[0] for entry in entries(passwd)}["1234"] == name

    def test_the_group_of_root_is_there_once(self) -> None:
        _, group = account_files(1234, 0, "totoro")
        assert [entry[:3] for entry in entries(group)] == [
            ["root", "x", "0"],
            ["nogroup", "x", "65534"],
        ]

    def test_they_are_written_for_the_user_alone(self, home: Path) -> None:
        for file in account_files(1234, 567, "totoro"):
            file.write()
            assert file.path.read_text() == file.content
            assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
        assert stat.S_IMODE((home / ".caliban").stat().st_mode) == 0o700
        # Nothing is left over from writing them.
        assert len(list((home / ".caliban/accounts").iterdir())) == 2

    def test_they_are_left_alone_while_they_are_right(self) -> None:
        file, _ = account_files(1234, 567, "totoro")
        file.write()
        before = file.path.stat()
        file.write()
        assert (file.path.stat().st_ino, file.path.stat().st_mtime_ns) == (
            before.st_ino,
            before.st_mtime_ns,
        )
        file.path.write_text("something else")
        file.write()
        assert file.path.read_text() == file.content

    def test_a_home_directory_that_cannot_be_written_is_an_error(
        self, unprivileged: Unprivileged, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def attempt(folder: Path) -> str:
            monkeypatch.setenv("HOME", str(folder))
            folder.chmod(0o500)
            try:
                account_files(1234, 567, "totoro")[0].write()
            except CalibanError as error:
                return error.message
            return "it was written"

        assert unprivileged(attempt).startswith("cannot make the folder /")
