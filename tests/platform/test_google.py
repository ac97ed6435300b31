"""The user's credentials: which are taken, that they are tried, and what is said of bad ones."""

from __future__ import annotations

import datetime
import json
import logging
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import google.oauth2.credentials
import pytest

from caliban.errors import CalibanError, UsageError
from caliban.platform import google as platform
from caliban.platform.gcloud import Settings, Token, settings, token
from caliban.platform.google import CredentialsError, access
from caliban.platform.rest import Session
from tests.google_cloud import client
from tests.google_cloud.cloud import GoogleCloud

ROBOT = "robot@p1.iam.gserviceaccount.com"
ADC = {"type": "authorized_user", "client_id": "c", "client_secret": "s"}


@pytest.fixture(scope="session")
def private_key() -> str:
    return client.private_key()


@pytest.fixture
def write_key(cloud: GoogleCloud, tmp_path: Path, private_key: str) -> Callable[[str], str]:
    """Writes the key of an account that the cloud knows; returns its path."""
    return lambda account: client.write_key(
        cloud, tmp_path / f"{account}.json", account, private_key
    )


@pytest.fixture
def adc(cloud: GoogleCloud, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Application default credentials of a user whom the cloud knows."""
    url = cloud.server.url() + "token"
    monkeypatch.setattr(google.oauth2.credentials, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", url)
    file = home / ".config/gcloud/application_default_credentials.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({**ADC, "refresh_token": "user", "quota_project_id": "p2"}))
    return file


@pytest.fixture
def gcloud(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Installs a program called gcloud, with an account that it is logged in to."""

    def install(script: str) -> None:
        program = tmp_path / "bin" / "gcloud"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
        folder = home / ".config/gcloud/configurations"
        folder.mkdir(parents=True)
        (folder / "config_default").write_text("[core]\naccount = me@example.com\nproject = p3\n")

    return install


def helper(token: str, expiry: str = "2030-01-01T00:00:00Z") -> str:
    """The script of a gcloud that has a token."""
    answer = {"credential": {"access_token": token, "token_expiry": expiry}}
    return f"echo '{json.dumps(answer)}'"


def whose(cloud: GoogleCloud, found: platform.Access) -> str:
    """Who a token was issued to."""
    return cloud.tokens.issued[str(found.credentials.token)]


class TestOrder:
    def test_a_key_that_is_named_comes_first(
        self,
        cloud: GoogleCloud,
        write_key: Callable[[str], str],
        adc: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", write_key("other@p1"))
        key = write_key(ROBOT)
        found = access(key, os.environ)
        assert (whose(cloud, found), found.source, found.project) == (ROBOT, key, "p1")

    def test_the_variable_comes_second(
        self,
        cloud: GoogleCloud,
        write_key: Callable[[str], str],
        adc: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", write_key(ROBOT))
        assert whose(cloud, access(None, os.environ)) == ROBOT

    def test_application_default_credentials_come_third(
        self, cloud: GoogleCloud, adc: Path, gcloud: Callable[[str], None]
    ) -> None:
        found = access("", os.environ)
        assert (whose(cloud, found), found.source, found.project) == ("user", str(adc), "p2")

    def test_they_are_where_gcloud_keeps_its_files(
        self, cloud: GoogleCloud, adc: Path, tmp_path: Path
    ) -> None:
        adc.rename(tmp_path / adc.name)
        found = access(None, {"CLOUDSDK_CONFIG": str(tmp_path)})
        assert whose(cloud, found) == "user"

    def test_gclouds_account_comes_last(
        self, cloud: GoogleCloud, gcloud: Callable[[str], None]
    ) -> None:
        gcloud(helper(cloud.tokens.new("me")))
        found = access(None, os.environ)
        assert whose(cloud, found) == "me"
        assert (found.source, found.project) == ("gcloud's account me@example.com", "p3")

    def test_without_any_there_is_a_command_that_makes_some(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(CredentialsError, match="no credentials for Google Cloud") as error:
            access(None, os.environ)
        assert error.value.hint == "Run: gcloud auth application-default login"


class TestRefusals:
    def test_a_key_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=f"{tmp_path}/none.json are not a file"):
            access(str(tmp_path / "none.json"), os.environ)

    @pytest.mark.parametrize(
        "content", ["", "{", "[]", "{}", '{"type": "service_account"}', '{"type": "new"}', "\xff"]
    )
    def test_a_key_that_is_none(self, tmp_path: Path, content: str) -> None:
        file = tmp_path / "key.json"
        file.write_bytes(content.encode("latin-1"))
        with pytest.raises(CredentialsError) as error:
            access(str(file), os.environ)
        assert error.value.message.startswith(f"{file} has no credentials for Google Cloud: ")
        assert "attribute" not in error.value.message  # of Python's
        assert "gcloud iam service-accounts keys create" in error.value.hint

    def test_a_key_that_was_revoked(
        self, cloud: GoogleCloud, write_key: Callable[[str], str]
    ) -> None:
        cloud.tokens.revoked.add(ROBOT)
        key = write_key(ROBOT)
        with pytest.raises(CredentialsError) as error:
            access(key, os.environ)
        assert error.value.message == (
            f"Google doesn't accept {key}: invalid_grant: Token has been expired or revoked"
        )
        assert "gcloud iam service-accounts keys create" in error.value.hint

    def test_a_login_that_has_expired(self, cloud: GoogleCloud, adc: Path) -> None:
        cloud.tokens.revoked.add("user")
        with pytest.raises(CredentialsError, match="expired or revoked") as error:
            access(None, os.environ)
        assert error.value.hint == "Run: gcloud auth application-default login"

    def test_a_gcloud_that_has_none(self, gcloud: Callable[[str], None]) -> None:
        gcloud("echo 'ERROR: (gcloud.config.config-helper) Reauthentication failed.' >&2; exit 1")
        with pytest.raises(CalibanError) as error:
            access(None, os.environ)
        assert error.value.message == ("gcloud gives no access token: Reauthentication failed.")
        assert error.value.hint == "Run: gcloud auth login"

    def test_a_gcloud_that_says_something_else(self, gcloud: Callable[[str], None]) -> None:
        gcloud("echo '{\"credential\": {}}'")
        with pytest.raises(CalibanError, match="no access token that caliban understands"):
            access(None, os.environ)

    @pytest.mark.parametrize("answer", ["<html>", [], 5])
    def test_a_server_that_is_not_googles(
        self, cloud: GoogleCloud, write_key: Callable[[str], str], answer: object
    ) -> None:
        cloud.tokens.answer = answer
        with pytest.raises(CredentialsError, match="can't be tried") as error:
            access(write_key(ROBOT), {})
        assert "proxy" in error.value.hint

    @pytest.mark.parametrize("answer", ["<html>Blocked</html>", ""])
    def test_a_proxy_that_refuses_is_not_mistaken_for_google(
        self, cloud: GoogleCloud, write_key: Callable[[str], str], answer: str
    ) -> None:
        cloud.tokens.status, cloud.tokens.answer = 403, answer
        with pytest.raises(CredentialsError, match="can't be tried") as error:
            access(write_key(ROBOT), {})
        assert "proxy" in error.value.hint

    def test_a_clock_that_is_wrong(
        self, cloud: GoogleCloud, write_key: Callable[[str], str]
    ) -> None:
        said = (
            "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable "
            "timeframe. Check your iat and exp values in the JWT claim."
        )
        cloud.tokens.status = 400
        cloud.tokens.answer = {"error": "invalid_grant", "error_description": said}
        with pytest.raises(CredentialsError, match="in a reasonable timeframe") as error:
            access(write_key(ROBOT), {})
        assert re.match(r"Set this machine's clock: it says \d{4}-\d\d-\d\d", error.value.hint)

    def test_a_file_that_cannot_be_read(self) -> None:
        # It is there, and may be opened, even by root.
        with pytest.raises(CredentialsError, match=r"no credentials .*: [A-Z]"):
            access("/proc/self/mem", {})

    def test_a_network_that_is_down(self, write_key: Callable[[str], str], tmp_path: Path) -> None:
        key = Path(write_key(ROBOT))
        content = {**json.loads(key.read_text()), "token_uri": "http://127.0.0.1:9/token"}
        key.write_text(json.dumps(content))
        with pytest.raises(CredentialsError, match="Google can't be reached") as error:
            access(str(key), os.environ)
        assert error.value.message.endswith(f"{key}: [Errno 111] Connection refused")
        assert "network" in error.value.hint

    def test_a_bundle_of_certificates_that_is_missing(
        self, adc: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = "https://127.0.0.1:9/token"
        monkeypatch.setattr(google.oauth2.credentials, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent.pem")
        with pytest.raises(CredentialsError, match=r"/nonexistent\.pem"):
            access(None, os.environ)


class TestTokens:
    def test_are_had_anew_when_they_expire(
        self, cloud: GoogleCloud, gcloud: Callable[[str], None], tmp_path: Path
    ) -> None:
        tokens = [cloud.tokens.new(), cloud.tokens.new()]
        first, second = map(helper, tokens)
        gcloud(f"if [ -e once ]; then {second}; else touch once; {first}; fi")
        found = access(None, os.environ)
        assert found.credentials.token == tokens[0]
        found.credentials.expiry = datetime.datetime(2020, 1, 1)
        session = Session(found.credentials)
        url = cloud.server.url("aiplatform") + "v1/projects/p1/locations/r1/customJobs"
        assert session.get(url) == {}
        session.close()
        assert found.credentials.token == tokens[1]

    def test_may_come_without_their_end(self, gcloud: Callable[[str], None]) -> None:
        gcloud(helper("ya29.x", ""))
        left = token().expiry - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
        assert datetime.timedelta(minutes=5) < left < datetime.timedelta(minutes=11)

    def test_are_shown_nowhere(
        self,
        cloud: GoogleCloud,
        write_key: Callable[[str], str],
        private_key: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        caplog.set_level(logging.NOTSET)
        logging.getLogger("google.auth").setLevel(logging.DEBUG)
        found = access(write_key(ROBOT), os.environ)
        said = caplog.text + repr(found) + repr(Token("ya29.x", datetime.datetime.min))
        assert "ya29" not in said
        assert private_key.splitlines()[1] not in said

    def test_of_gcloud_are_never_in_a_message(self, gcloud: Callable[[str], None]) -> None:
        gcloud(f"{helper('ya29.x', 'yesterday')}; echo ya29.x >&2; exit 1")
        with pytest.raises(CalibanError) as error:
            token()
        assert "ya29" not in error.value.message + error.value.hint


class TestSettings:
    def configure(self, folder: Path, name: str, text: str) -> dict[str, str]:
        (folder / "configurations").mkdir(exist_ok=True)
        (folder / "configurations" / f"config_{name}").write_text(text)
        return {"CLOUDSDK_CONFIG": str(folder)}

    def test_are_those_of_the_active_configuration(self, tmp_path: Path) -> None:
        self.configure(tmp_path, "default", "[core]\nproject = p0\n")
        text = "[core]\naccount = a@b\nproject = p1\n[compute]\nregion = us-west1\n"
        environment = self.configure(tmp_path, "work", text)
        assert settings(environment) == Settings("", "p0", "")
        (tmp_path / "active_config").write_text("work\n")
        assert settings(environment) == Settings("a@b", "p1", "us-west1")
        environment["CLOUDSDK_ACTIVE_CONFIG_NAME"] = "default"
        assert settings(environment) == Settings("", "p0", "")

    def test_can_be_changed_by_variables(self, tmp_path: Path) -> None:
        text = "[core]\nproject = p1\n[ai]\nregion = us-east1\n[compute]\nregion = us-west1\n"
        environment = self.configure(tmp_path, "default", text)
        assert settings(environment).region == "us-east1"
        environment |= {"CLOUDSDK_CORE_PROJECT": "p2", "CLOUDSDK_AI_REGION": "europe-west4"}
        assert settings(environment) == Settings("", "p2", "europe-west4")

    @pytest.mark.parametrize(
        "text",
        [
            *("", "project = p1", "[core]\nproject", "[core\n", "\0"),
            "[core]\nproject = p1\nproject = p2\n",
            "[core]\nproject = p1\n[core]\n",
        ],
    )
    def test_that_are_damaged_are_none(self, tmp_path: Path, text: str) -> None:
        assert settings(self.configure(tmp_path, "default", text)) == Settings()

    def test_may_have_percent_signs(self, tmp_path: Path) -> None:
        environment = self.configure(tmp_path, "default", "[core]\nproject = p%1\n")
        assert settings(environment).project == "p%1"
