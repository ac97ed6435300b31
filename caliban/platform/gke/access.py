"""The way to a cluster's own API: its address, the certificate that it is known by, tokens."""

from __future__ import annotations

import base64
import binascii
import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from caliban.errors import CalibanError, RefusedError, UnknownOutcomeError
from caliban.platform.gke.clusters import GKE, Cluster, problem

if TYPE_CHECKING:
    from caliban.platform.google import Access

# Seconds for an answer of Google's when a token is asked for.
_PATIENCE = 20


@dataclass(frozen=True)
class Connection:
    """What it takes to speak with a cluster.

    Attributes:
      server: its address, without a slash at the end.
      certificate: of the authority that its own is signed by, as PEM; "" for one of those that
        everybody trusts.
      token: gives an access token that is valid now; for several threads.
      hint: what to do if there is no answer.
    """

    server: str
    certificate: str
    token: Callable[[], str] = field(repr=False)
    hint: str


def connection(
    project: str,
    location: str,
    name: str,
    environment: Mapping[str, str],
    cloud_key: str | None = None,
) -> Connection:
    """Asks GKE for the way to a cluster.

    Args:
      project: id of the project.
      location: zone or region of the cluster.
      name: of the cluster.
      environment: variables, by which credentials are found, and by which the API can be elsewhere.
      cloud_key: path of a key, as the user has named it; see google.access.

    Raises:
      RefusedError: there is no such cluster, or the user may not use it.
      UnknownOutcomeError: Google can't be reached.
      CalibanError: there are no credentials, or the cluster can't be spoken with (yet).
    """
    from caliban.platform import google
    from caliban.platform.rest import Session

    access = google.access(cloud_key, environment)
    session = Session(access.credentials, login=access.remedy)
    cluster = Cluster(project, location, name)
    try:
        found = GKE(session, environment).cluster(cluster)
    except RefusedError as error:
        if error.status != 404:
            raise
        raise RefusedError(
            error.message,
            f"Run: caliban cluster ls --project_id {project}",
            error.status,
            error.reason,
        ) from None
    finally:
        session.close()
    server, certificate, hint = way(cluster, found)
    return Connection(server, certificate, _Token(access), hint)


def way(cluster: Cluster, found: Mapping[str, Any]) -> tuple[str, str, str]:
    """The address of a cluster, the certificate, and a hint; see Connection.

    Args:
      cluster: which.
      found: what the API says of it.

    Raises:
      CalibanError: there is no way yet, or none at all.
    """
    status = found.get("status")
    if status in ("PROVISIONING", "STOPPING"):
        doing = "made" if status == "PROVISIONING" else "deleted"
        raise CalibanError(
            f"the cluster {cluster.name} is being {doing}", f"Its page is {cluster.console}"
        )
    endpoints = found.get("controlPlaneEndpointsConfig", {})
    dns = endpoints.get("dnsEndpointConfig", {})
    ip = endpoints.get("ipEndpointsConfig", {})
    has_address = ip.get("enabled", True) and bool(found.get("endpoint"))
    narrow = _narrow(found, ip)
    hint = (
        "Look after this machine's network, and its proxy if it has one. The cluster's page is "
        f"{cluster.console}"
    )
    # By its name it can be reached from anywhere.
    if (narrow or not has_address) and dns.get("allowExternalTraffic") and dns.get("endpoint"):
        return f"https://{dns['endpoint']}", "", hint
    remedy = (
        f"Let it be reached by its name: gcloud container clusters update {cluster.name} "
        f"--location {cluster.location} --project {cluster.project} --enable-dns-access"
    )
    if not has_address:
        reason = problem(found) or "it has no address"
        raise CalibanError(f"the cluster {cluster.name} can't be reached: {reason}", remedy)
    if narrow:
        hint = f"The cluster {cluster.name} {narrow}. {remedy}"
    return f"https://{_host(found['endpoint'])}", _certificate(cluster, found), hint


def _narrow(found: Mapping[str, Any], ip: Mapping[str, Any]) -> str:
    """Why the address of a cluster can't be reached from everywhere, in words; "" if it can."""
    # Each of the two is said in one of two places, depending on how the cluster was made.
    private = found.get("privateClusterConfig", {})
    is_private = private.get("enablePrivateEndpoint", False) or not ip.get(
        "enablePublicEndpoint", True
    )
    if is_private or found.get("endpoint") in (
        private.get("privateEndpoint"),
        ip.get("privateEndpoint"),
    ):
        return "has an address that only its own network reaches"
    old = found.get("masterAuthorizedNetworksConfig", {})
    if ip.get("authorizedNetworksConfig", old).get("enabled"):
        return "has an address that only its authorized networks reach"
    return ""


def _host(address: str) -> str:
    return f"[{address}]" if address.count(":") > 1 else address


def _certificate(cluster: Cluster, found: Mapping[str, Any]) -> str:
    """The certificate that a cluster is known by, without which it isn't spoken with."""
    encoded = found.get("masterAuth", {}).get("clusterCaCertificate", "")
    try:
        text = base64.b64decode(encoded, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    if "BEGIN CERTIFICATE" not in text:
        raise CalibanError(f"Google tells no certificate of the cluster {cluster.name}")
    return text


class _Token:
    """Gives an access token, and gets a new one before it expires; for several threads."""

    def __init__(self, access: Access) -> None:
        from google.auth.transport.requests import Request

        self._credentials, self._remedy = access.credentials, access.remedy
        self._request = functools.partial(Request(), timeout=_PATIENCE)
        self._lock = threading.Lock()

    def __call__(self) -> str:
        from google.auth.exceptions import GoogleAuthError, TransportError

        with self._lock:
            # A few minutes before it expires it counts as expired.
            if not self._credentials.valid:
                try:
                    self._credentials.refresh(self._request)  # type: ignore[no-untyped-call]
                except (TransportError, OSError) as error:
                    raise UnknownOutcomeError(f"no access token: {error}") from None
                except GoogleAuthError as error:
                    raise RefusedError(
                        f"Google gives no access token any more: {error}",
                        self._remedy,
                        401,
                    ) from None
            return str(self._credentials.token)
