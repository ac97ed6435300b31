"""Places: which cluster and namespace are meant, and that their names lead there again."""

from __future__ import annotations

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
from caliban.platform.kubernetes.place import Place


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

    @pytest.mark.parametrize("text", ["", "[", "just words", "contexts: [1]"])
    def test_that_is_none_is_said(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "bad").write_text(text)
        with pytest.raises(UsageError, match="bad"):
            kubeconfig.place("", "bad", "", {})

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
        file = write(tmp_path / "k", "a", current="a")
        content = yaml.safe_load(file.read_text())
        program = {"apiVersion": "client.authentication.k8s.io/v1", "command": command}
        for user in content["users"]:
            user["user"] = {"exec": program}
        file.write_text(yaml.safe_dump(content))
        place = kubeconfig.place("", str(file), "", {})
        with pytest.raises(CalibanError, match=f"the context 'a' of .*/k can't be used: .*{said}"):
            kubeconfig.configuration(place)
        assert "ERROR" not in capfd.readouterr().err
