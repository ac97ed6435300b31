"""Places: which cluster and namespace are meant, and that their names lead there again."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from caliban.errors import CalibanError, UsageError
from caliban.model.job import Handle
from caliban.platform.kubernetes import kubeconfig
from caliban.platform.kubernetes.backend import KubernetesBackend
from caliban.platform.kubernetes.connection import Connection
from caliban.platform.kubernetes.place import Place
from caliban.platform.quota import Clock


def write(file: Path, *contexts: str, current: str = "", **changes: Any) -> Path:
    """A kubeconfig with these contexts, all of one cluster: "name" or "name:namespace"."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = [each.partition(":") for each in contexts]
    cluster = {"server": "https://127.0.0.1:6443", **changes}
    content: dict[str, Any] = {
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [
            {
                "name": name,
                "context": {"cluster": "c", "user": "u"} | ({"namespace": ns} if ns else {}),
            }
            for name, _, ns in names
        ],
    }
    if current:
        content["current-context"] = current
    file.write_text(yaml.safe_dump(content))
    return file


class TestTargets:
    @pytest.mark.parametrize(
        ("place", "target"),
        [
            (Place("minikube"), "minikube/default"),
            (Place("kind-a", "team"), "kind-a/team"),
            (Place.on_gke("fish", "us-east1", "tank"), "gke:fish/us-east1/tank/default"),
            (Place("a@b", "n", "/etc/k 1"), "a@b/n (/etc/k 1)"),
            (Place("arn:aws:eks:x:1:cluster/y", "n"), "arn:aws:eks:x:1:cluster/y/n"),
        ],
    )
    def test_are_readable_and_lead_back(self, place: Place, target: str) -> None:
        assert place.target == str(place) == target
        assert Place.parse(target) == place

    @given(st.text(), st.from_regex("[a-z0-9]{1,9}", fullmatch=True), st.booleans())
    def test_lead_back_or_are_refused(self, cluster: str, namespace: str, has_path: bool) -> None:
        try:
            place = Place(cluster, namespace, "/k (1)/x" if has_path else "")
        except UsageError:
            return
        assert Place.parse(place.target) == place

    def test_of_gke_are_told_from_contexts(self) -> None:
        assert Place.on_gke("fish", "us-east1-b", "tank", "n").gke == ("fish", "us-east1-b", "tank")
        assert Place("gke_fish_us-east1_tank").gke is None

    def test_are_links_for_people(self) -> None:
        backend = KubernetesBackend({})
        for place in (Place("gke_fish_us-east1_tank"), Place.on_gke("fish", "us-east1", "tank")):
            links = backend.links(Handle("kubernetes", place.target, "j-1"))
            assert links.console == (
                "https://console.cloud.google.com/kubernetes/job/us-east1/tank/default/j-1"
                "?project=fish"
            )
            assert links.logs == (
                "kubectl --context gke_fish_us-east1_tank --namespace default logs --follow job/j-1"
            )
        links = backend.links(Handle("kubernetes", Place("a b", "n", "/k").target, "j-1"))
        assert links.console == ""
        assert links.logs.startswith("kubectl --kubeconfig /k --context 'a b' --namespace n logs")
        # The flag takes one file, the variable several.
        assert Place("a", "n", "/k:/l").kubectl == "env KUBECONFIG=/k:/l kubectl --context a"

    @pytest.mark.parametrize("cluster", ["", "gke:fish/tank", "gke:a//b"])
    def test_that_say_nothing_are_refused(self, cluster: str) -> None:
        with pytest.raises(UsageError):
            Place(cluster)

    @pytest.mark.parametrize("namespace", ["", "Team", "a b", "-a", "a" * 64])
    def test_have_namespaces_as_kubernetes_has_them(self, namespace: str) -> None:
        with pytest.raises(UsageError, match="namespace"):
            Place("minikube", namespace)


class TestAKubeconfig:
    def test_is_the_usual_one_with_its_current_context(self, home: Path) -> None:
        write(home / ".kube/config", "a", "b:team", current="b")
        assert kubeconfig.place("", "", "", {}) == Place("b", "team")
        assert kubeconfig.place("a", "", "", {}) == Place("a")
        assert kubeconfig.place("b", "", "mine", {}) == Place("b", "mine")

    def test_that_is_named_is_part_of_the_place(self, home: Path, tmp_path: Path) -> None:
        write(home / ".kube/config", "a", current="a")
        other = write(tmp_path / "other", "b", current="b")
        assert kubeconfig.place("", "other", "", {}) == Place("b", kubeconfig=str(other))
        assert kubeconfig.place("", "", "", {"KUBECONFIG": "other"}).kubeconfig == str(other)
        assert kubeconfig.place("", "~/.kube/config", "", {"KUBECONFIG": "other"}) == Place("a")

    def test_can_be_several_of_which_the_first_counts(self, tmp_path: Path) -> None:
        one, two = write(tmp_path / "1", "a:x"), write(tmp_path / "2", "a:y", "b", current="b")
        variables = {"KUBECONFIG": f"{one}:{tmp_path / 'missing'}:{two}"}
        assert kubeconfig.place("", "", "", variables).cluster == "b"
        assert kubeconfig.place("a", "", "", variables).namespace == "x"

    def test_that_is_missing_is_said(self, home: Path) -> None:
        assert not kubeconfig.is_there("", {})
        with pytest.raises(UsageError, match=r"no kubeconfig .*\.kube/config") as caught:
            kubeconfig.place("", "", "", {})
        assert "--kubeconfig" in caught.value.hint

    def test_without_that_context_names_those_that_it_has(self, home: Path) -> None:
        write(home / ".kube/config", "a", "b")
        with pytest.raises(UsageError, match="no context 'c'") as caught:
            kubeconfig.place("c", "", "", {})
        assert caught.value.hint == "There are: a, b."
        with pytest.raises(UsageError, match="no current context") as caught:
            kubeconfig.place("", "", "", {})
        assert "a, b" in caught.value.hint

    @pytest.mark.parametrize(
        "text",
        [
            *("", "[", "just words", "contexts: [1]"),
            "{current-context: a, contexts: [{name: a, context: words}]}",
        ],
    )
    def test_that_is_none_is_said(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "bad").write_text(text)
        with pytest.raises(UsageError, match="bad"):
            kubeconfig.place("", "bad", "", {})

    def test_may_have_names_that_yaml_takes_for_numbers(self, tmp_path: Path) -> None:
        context = "{name: 1, context: {cluster: c, user: u, namespace: 123}}"
        (tmp_path / "k").write_text(f"current-context: 1\ncontexts: [{context}]\n")
        place = kubeconfig.place("", "k", "", {})
        assert (place.cluster, place.namespace) == ("1", "123")

    def test_has_to_have_certificates_verified(self, tmp_path: Path) -> None:
        file = write(tmp_path / "k", "a", current="a", **{"insecure-skip-tls-verify": True})
        with pytest.raises(CalibanError, match="certificate of 'a' is not to be verified"):
            kubeconfig.configuration(kubeconfig.place("", str(file), "", {}))

    def test_must_not_have_credentials_sent_in_clear_text(self, tmp_path: Path) -> None:
        file = write(tmp_path / "k", "a", current="a", server="http://example.com:8001")
        with pytest.raises(CalibanError, match="without encryption"):
            kubeconfig.configuration(kubeconfig.place("", str(file), "", {}))
        file = write(tmp_path / "k", "a", current="a", server="http://127.0.0.1:8001")
        found = kubeconfig.configuration(kubeconfig.place("", str(file), "", {}))
        assert found.host == "http://127.0.0.1:8001"

    def test_whose_parts_are_missing_is_said(self, tmp_path: Path) -> None:
        file = write(tmp_path / "k", "a", current="a", **{"certificate-authority": "gone.crt"})
        with pytest.raises(CalibanError, match=r"'a' of .*/k can't be used: .*gone\.crt"):
            kubeconfig.configuration(kubeconfig.place("", str(file), "", {}))

    @pytest.mark.parametrize("text", ["{{{", "contexts: 7", "- 1", "\0", ""])
    def test_that_has_been_damaged_since_is_said(self, tmp_path: Path, text: str) -> None:
        file = write(tmp_path / "k", "a", current="a")
        place = kubeconfig.place("", str(file), "", {})
        file.write_text(text)
        with pytest.raises(CalibanError, match=r"the context 'a' of .*/k can't be used: "):
            kubeconfig.configuration(place)

    def test_that_has_lost_the_context_since_is_said(self, tmp_path: Path) -> None:
        file = write(tmp_path / "k", "a", "b", current="a")
        place = kubeconfig.place("", str(file), "", {})
        write(file, "b", current="b")
        with pytest.raises(CalibanError, match=r"/k has no context 'a' any more"):
            kubeconfig.configuration(place)

    @pytest.mark.parametrize(
        ("command", "said"), [("no-such-program", "no-such-program"), ("false", "returned 1")]
    )
    def test_whose_program_gives_no_credentials_is_no_way_for_anybody(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str, said: str
    ) -> None:
        place = of_user(tmp_path / "k", program(command))
        with pytest.raises(CalibanError, match=f"the context 'a' of .*/k can't be used: .*{said}"):
            kubeconfig.configuration(place)
        assert "ERROR" not in capfd.readouterr().err

    def test_whose_program_has_failed_on_a_terminal_is_none_either(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # There it has told the user itself.
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        with (tmp_path / "empty").open("w+") as empty:
            monkeypatch.setattr("sys.stdin", empty)
            monkeypatch.setattr("sys.stderr", empty)
            with pytest.raises(CalibanError, match="the program that makes its credentials has"):
                kubeconfig.configuration(of_user(tmp_path / "k", program("false")))

    @pytest.mark.parametrize("kind", ["oidc", "gcp"])
    def test_whose_login_is_damaged_shows_no_secret(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
        login = {"name": kind, "config": {"client-secret": "hush"}}
        place = of_user(tmp_path / "k", {"auth-provider": login, "password": "hush"})
        with pytest.raises(CalibanError, match=r"the context 'a' of .*/k can't be used") as caught:
            kubeconfig.configuration(place)
        assert "hush" not in f"{caught.value.message} {caught.value.hint}"

    def test_whose_user_acts_as_somebody_else_is_refused(self, tmp_path: Path) -> None:
        # The client would pass over it, and jobs would be the user's own.
        place = of_user(tmp_path / "k", {"token": "t", "as": "robot", "as-groups": ["bots"]})
        with pytest.raises(CalibanError, match="acts as robot, which") as caught:
            kubeconfig.configuration(place)
        assert "Name a context" in caught.value.hint


def program(command: str, *args: str) -> dict[str, Any]:
    """A user whose credentials a program makes."""
    version = "client.authentication.k8s.io/v1"
    return {"exec": {"apiVersion": version, "command": command, "args": list(args)}}


def of_user(file: Path, user: dict[str, Any]) -> Place:
    """The place of a kubeconfig with this user."""
    content = yaml.safe_load(write(file, "a", current="a").read_text())
    content["users"][0]["user"] = user
    file.write_text(yaml.safe_dump(content))
    return kubeconfig.place("", str(file), "", {})


class TestCredentials:
    def test_are_a_token_without_the_end_of_its_line(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("abc\n")
        found = kubeconfig.configuration(of_user(tmp_path / "k", {"tokenFile": "token"}))
        assert kubeconfig.credentials(found) == {"authorization": "Bearer abc"}

    @pytest.mark.parametrize("token", ["hush\nhush", "hush\u043f", "hush\0"])
    def test_that_no_request_can_have_are_not_shown(self, tmp_path: Path, token: str) -> None:
        found = kubeconfig.configuration(of_user(tmp_path / "k", {"token": token}))
        with pytest.raises(ValueError, match="the token has characters") as caught:
            kubeconfig.credentials(found)
        assert "hush" not in str(caught.value)

    def test_that_have_expired_are_not_sent_if_there_are_no_new_ones(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        status = {"token": "abc", "expirationTimestamp": "2020-01-01T00:00:00Z"}
        version = "client.authentication.k8s.io/v1"
        made = {"apiVersion": version, "kind": "ExecCredential", "status": status}
        (tmp_path / "made").write_text(json.dumps(made))
        user = program("cat", str(tmp_path / "made"))
        found = kubeconfig.configuration(of_user(tmp_path / "k", user))
        assert kubeconfig.credentials(found) == {"authorization": "Bearer abc"}
        (tmp_path / "made").unlink()
        with pytest.raises(ValueError, match="No such file"):
            kubeconfig.credentials(found)
        assert "ERROR" not in capfd.readouterr().err

    @pytest.mark.parametrize(
        ("proxy", "said"),
        [
            ("socks5://me:hush@127.0.0.1:1", "by a SOCKS proxy, which takes PySocks"),
            ("http://me:hush@:: not a url", "the address of the proxy of the cluster a can't be"),
            ("hush", "the address of the proxy of the cluster a can't be"),
        ],
    )
    def test_go_through_no_proxy_that_cannot_be_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
    ) -> None:
        monkeypatch.setitem(sys.modules, "socks", None)
        monkeypatch.delitem(sys.modules, "urllib3.contrib.socks", raising=False)
        file = write(tmp_path / "k", "a", current="a", **{"proxy-url": proxy})
        place = kubeconfig.place("", str(file), "", {})
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(CalibanError, match=said) as caught,
        ):
            Connection(place, {}, None, Clock())
        assert "hush" not in f"{caught.value.message} {caught.value.hint}"
