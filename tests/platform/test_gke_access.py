"""The way to a cluster's own API: its address, its certificate, and tokens that stay valid."""

from __future__ import annotations

import base64
import datetime
import inspect
import threading
from pathlib import Path
from typing import Any

import pytest

from caliban.errors import CalibanError, RefusedError, UnknownOutcomeError
from caliban.platform.gke import access
from caliban.platform.gke.clusters import Cluster
from caliban.platform.kubernetes.connection import Connection
from caliban.platform.kubernetes.place import Place
from caliban.platform.quota import Clock
from tests import kubernetes_cluster
from tests.google_cloud import faults, real_cluster
from tests.google_cloud.client import private_key, write_key
from tests.google_cloud.cloud import GoogleCloud

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
CLUSTER = Cluster("p1", "us-central1-a", "blueshift")
DNS = {"endpoint": "gke-1234.us-central1.gke.goog", "allowExternalTraffic": True}


def cluster(**changes: Any) -> dict[str, Any]:
    certificate = base64.b64encode(PEM.encode()).decode()
    found = {
        "name": "blueshift",
        "status": "RUNNING",
        "endpoint": "34.1.2.3",
        "masterAuth": {"clusterCaCertificate": certificate},
    }
    return {**found, **changes}


def endpoints(dns: bool = False, **ip: Any) -> dict[str, Any]:
    name = DNS if dns else {**DNS, "allowExternalTraffic": False}
    return {"controlPlaneEndpointsConfig": {"dnsEndpointConfig": name, "ipEndpointsConfig": ip}}


AUTHORIZED: dict[str, Any] = {"authorizedNetworksConfig": {"enabled": True}}
ENABLE = (
    "gcloud container clusters update blueshift --location us-central1-a --project p1 "
    "--enable-dns-access"
)


def test_a_cluster_is_known_by_its_own_certificate() -> None:
    server, certificate, hint = access.way(CLUSTER, cluster())
    assert (server, certificate) == ("https://34.1.2.3", PEM)
    assert CLUSTER.console in hint
    # What a current cluster says of itself.
    usual = cluster(**endpoints(enabled=True, enablePublicEndpoint=True))
    assert access.way(CLUSTER, usual)[:2] == ("https://34.1.2.3", PEM)


def test_an_address_of_ipv6_is_written_in_brackets() -> None:
    assert access.way(CLUSTER, cluster(endpoint="2600:1900::1"))[0] == "https://[2600:1900::1]"


@pytest.mark.parametrize(
    "changes",
    [
        endpoints(True, enabled=False),
        endpoints(True, enabled=True, enablePublicEndpoint=False),
        endpoints(True, enabled=True, enablePublicEndpoint=True, **AUTHORIZED),
        {**endpoints(True), "masterAuthorizedNetworksConfig": {"enabled": True}},
        {**endpoints(True), "privateClusterConfig": {"enablePrivateEndpoint": True}},
        {**endpoints(True), "endpoint": ""},
    ],
)
def test_a_cluster_with_a_name_is_reached_by_it_where_its_address_is_not(
    changes: dict[str, Any],
) -> None:
    server, certificate, _ = access.way(CLUSTER, cluster(**changes))
    # Everybody trusts the certificate of that name.
    assert (server, certificate) == ("https://gke-1234.us-central1.gke.goog", "")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (endpoints(enabled=True, enablePublicEndpoint=False), "only its own network reaches"),
        ({"privateClusterConfig": {"enablePrivateEndpoint": True}}, "only its own network"),
        (endpoints(enabled=True, privateEndpoint="34.1.2.3"), "only its own network"),
        (endpoints(enabled=True, enablePublicEndpoint=True, **AUTHORIZED), "authorized networks"),
        ({"masterAuthorizedNetworksConfig": {"enabled": True}}, "authorized networks"),
    ],
)
def test_why_there_may_be_no_answer_is_said_with_the_command_that_mends_it(
    changes: dict[str, Any], reason: str
) -> None:
    server, _, hint = access.way(CLUSTER, cluster(**changes))
    assert server == "https://34.1.2.3"
    assert reason in hint
    assert ENABLE in hint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"status": "PROVISIONING"}, "the cluster blueshift is being made"),
        ({"status": "STOPPING"}, "the cluster blueshift is being deleted"),
        (endpoints(enabled=False), "the cluster blueshift can't be reached: it has no address"),
        (
            {"status": "ERROR", "endpoint": "", "conditions": [{"message": "Out of quota."}]},
            "the cluster blueshift can't be reached: Out of quota.",
        ),
        ({"masterAuth": {}}, "no certificate of the cluster blueshift"),
        ({"masterAuth": {"clusterCaCertificate": "%"}}, "no certificate of the cluster"),
        ({"masterAuth": {"clusterCaCertificate": "Z2FyYmFnZQ=="}}, "no certificate of the"),
    ],
)
def test_a_cluster_that_can_not_be_spoken_with_is_told(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(CalibanError, match=message):
        access.way(CLUSTER, cluster(**changes))


@pytest.fixture(scope="module")
def secret() -> str:
    return private_key()


@pytest.fixture
def key(cloud: GoogleCloud, tmp_path: Path, secret: str) -> str:
    return write_key(cloud, tmp_path / "key.json", "robot@p1", secret)


class TestConnection:
    def connect(self, cloud: GoogleCloud, key: str) -> access.Connection:
        cloud.gke.clusters[CLUSTER.path] = cluster(location="us-central1-a")
        return access.connection("p1", "us-central1-a", "blueshift", cloud.environment(), key)

    def test_tokens_are_valid_and_new_ones_are_asked_for_only_in_time(
        self, cloud: GoogleCloud, key: str
    ) -> None:
        connection = self.connect(cloud, key)
        assert (connection.server, connection.certificate) == ("https://34.1.2.3", PEM)
        tokens = {connection.token() for _ in range(20)}
        assert len(tokens) == 1 and cloud.tokens.is_valid(*tokens)
        self.age(connection)
        threads = [
            threading.Thread(target=lambda: tokens.add(connection.token())) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(tokens) == 2
        assert len(cloud.tokens.issued) == 2

    def age(self, connection: access.Connection) -> None:
        """Lets so much time go by that a token is about to expire."""
        credentials: Any = connection.token._credentials  # type: ignore[attr-defined]
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=60)
        credentials.expiry = soon.replace(tzinfo=None)

    def test_a_login_that_has_ended_is_told(self, cloud: GoogleCloud, key: str) -> None:
        connection = self.connect(cloud, key)
        cloud.tokens.revoked.add("robot@p1")
        self.age(connection)
        with pytest.raises(RefusedError, match="gives no access token any more") as error:
            connection.token()
        assert error.value.status == 401

    def test_no_token_is_shown_by_accident(self, cloud: GoogleCloud, key: str) -> None:
        connection = self.connect(cloud, key)
        assert connection.token() not in repr(connection)

    def test_a_cluster_that_is_not_there_is_told(self, cloud: GoogleCloud, key: str) -> None:
        with pytest.raises(RefusedError, match="Not found") as error:
            access.connection("p1", "us-east1", "nothing", cloud.environment(), key)
        assert error.value.status == 404
        assert error.value.hint == "Run: caliban cluster ls --project_id p1"

    def test_a_service_that_is_not_enabled_is_told(self, cloud: GoogleCloud, key: str) -> None:
        cloud.faults.add("clusters.get", faults.disabled("container.googleapis.com", "p1"))
        with pytest.raises(RefusedError) as error:
            self.connect(cloud, key)
        assert "gcloud services enable container.googleapis.com" in error.value.hint

    def test_without_a_network_there_are_no_tokens(self, cloud: GoogleCloud, key: str) -> None:
        connection = self.connect(cloud, key)
        self.age(connection)
        credentials: Any = connection.token._credentials  # type: ignore[attr-defined]
        credentials._token_uri = "http://127.0.0.1:9/token"
        with pytest.raises(UnknownOutcomeError, match="no access token"):
            connection.token()


class TestRealCluster:
    """A real API server, which Google is made to tell the way to."""

    def connect(self, cloud: GoogleCloud, key: str, namespace: str) -> Connection:
        place = Place.on_gke("p1", "us-central1-a", "blueshift", namespace)
        return Connection(place, cloud.environment(), key, Clock())

    def test_it_is_spoken_with(
        self, cloud: GoogleCloud, key: str, cluster: kubernetes_cluster.Cluster
    ) -> None:
        with real_cluster.lent(cloud, cluster, CLUSTER):
            connection = self.connect(cloud, key, cluster.namespace)
            path = f"/api/v1/namespaces/{cluster.namespace}"
            assert connection.get(path)["metadata"]["name"] == cluster.namespace
            # As whom: somebody who may only look.
            with pytest.raises(RefusedError, match="cannot delete") as error:
                connection.delete(path, {})
            connection.close()
        assert f"system:serviceaccount:{cluster.namespace}:default" in error.value.message

    def test_an_expired_token_is_replaced(
        self, cloud: GoogleCloud, key: str, cluster: kubernetes_cluster.Cluster
    ) -> None:
        with real_cluster.lent(cloud, cluster, CLUSTER):
            valid, cloud.tokens.given = cloud.tokens.given, ""
            # Google's, which this cluster doesn't know.
            connection = self.connect(cloud, key, cluster.namespace)
            with pytest.raises(RefusedError) as error:
                connection.get("/api/v1/nodes")
            assert error.value.status == 401
            cloud.tokens.given = valid
            way: Any = connection
            token = inspect.getclosurevars(way._configuration.refresh_api_key_hook).nonlocals
            token["way"].token._credentials.expiry = datetime.datetime(2020, 1, 1)
            assert connection.get(f"/api/v1/namespaces/{cluster.namespace}")
            connection.close()

    def test_a_cluster_with_another_certificate_is_not_spoken_with(
        self, cloud: GoogleCloud, key: str, cluster: kubernetes_cluster.Cluster
    ) -> None:
        with real_cluster.lent(cloud, cluster, CLUSTER):
            other = base64.b64encode(strangers_certificate().encode()).decode()
            cloud.gke.clusters[CLUSTER.path]["masterAuth"] = {"clusterCaCertificate": other}
            connection = self.connect(cloud, key, cluster.namespace)
            with pytest.raises(RefusedError, match="can't be verified"):
                connection.get("/version")
            connection.close()

    def test_a_cluster_that_does_not_answer_is_told_with_what_may_be_the_reason(
        self, cloud: GoogleCloud, key: str, cluster: kubernetes_cluster.Cluster
    ) -> None:
        with real_cluster.lent(cloud, cluster, CLUSTER):
            found = cloud.gke.clusters[CLUSTER.path]
            found["endpoint"] = "127.0.0.1:9"
            found["masterAuthorizedNetworksConfig"] = {"enabled": True}
            connection = self.connect(cloud, key, cluster.namespace)
            with pytest.raises(UnknownOutcomeError, match="doesn't answer") as error:
                connection.get("/version")
            connection.close()
        assert "authorized networks" in error.value.hint and ENABLE in error.value.hint


def strangers_certificate() -> str:
    """The certificate of an authority that nobody here knows."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "stranger")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
