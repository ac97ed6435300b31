"""Registries: which images they have, asked with the credentials that `docker` has for them."""

from __future__ import annotations

import ipaddress
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from caliban.errors import CalibanError
from caliban.model.image_name import DEFAULT_HOST, ImageName

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

# Where the registry is that answers for docker.io.
_DEFAULT_ADDRESS = "registry-1.docker.io"

# Seconds until there is a connection, and until there is an answer.
_TIMEOUT = (5, 20)

# The forms of what a registry has under a name: an image, or a list of those for several platforms.
_ACCEPT = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    )
)


class RegistryError(CalibanError):
    """A registry does not say whether it has an image."""


@dataclass(frozen=True)
class Manifest:
    """What a registry has under a name.

    Attributes:
      digest: which names it for good.
      image_id: id of the image in an engine that keeps images in docker's own format; "" where
        it was not asked for, and for a list of images.
    """

    digest: str
    image_id: str = ""


def find(name: ImageName) -> Manifest | None:
    """Asks a registry for an image.

    As docker does it, a registry on this machine is also asked without encryption, and no other.

    Args:
      name: of the image. By digest, it is told only whether it is there.

    Returns:
      What there is; None if the registry has no such image.

    Raises:
      RegistryError: it can't be reached, won't tell, or is out of order.
    """
    import requests

    reason = ""
    with requests.Session() as session:
        for address in _addresses(name.host):
            try:
                return _read(name, _ask(session, address, name))
            except requests.RequestException as error:
                reason = reason or _innermost(error)
    raise RegistryError(
        f"the registry {name.host} can't be reached: {reason}",
        "Look after this machine's network, and for a mistake in the registry's name.",
    )


def login(host: str) -> str:
    """The command that logs docker in to a registry."""
    if host.endswith((".pkg.dev", "gcr.io")):
        return f"gcloud auth configure-docker {host}"
    return "docker login" if host == DEFAULT_HOST else f"docker login {host}"


def is_on_this_machine(host: str) -> bool:
    """Whether a registry is reached by the loopback interface, whatever its port."""
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _addresses(host: str) -> list[str]:
    if host == DEFAULT_HOST:
        host = _DEFAULT_ADDRESS
    plain = [f"http://{host}"] if is_on_this_machine(host) else []
    return [f"https://{host}", *plain]


def _ask(session: Session, address: str, name: ImageName) -> Response:
    """Asks for a manifest, and once more with an authorization if the registry wants one."""
    method = "HEAD" if name.digest else "GET"
    url = f"{address}/v2/{name.path}/manifests/{name.digest or name.tag or 'latest'}"

    def send(authorization: str) -> Response:
        return session.request(
            method,
            url,
            headers={"Accept": _ACCEPT},
            auth=_header(authorization),
            timeout=_TIMEOUT,
        )

    answer = send("")
    if answer.status_code == 401:
        challenge = answer.headers.get("WWW-Authenticate", "")
        if authorization := _authorization(session, challenge, name):
            return send(authorization)
    return answer


def _read(name: ImageName, answer: Response) -> Manifest | None:
    """What an answer says.

    Raises:
      RegistryError: it says nothing of the image.
    """
    if answer.status_code in (401, 403):
        raise RegistryError(
            f"the registry {name.host} does not show {name.repository} to whom docker is logged in "
            "as, or to nobody",
            f"Log in: {login(name.host)}",
        )
    if answer.status_code == 404:
        return None
    if answer.status_code != 200:
        raise RegistryError(
            f"the registry {name.host} answers {answer.status_code} {answer.reason}".rstrip()
        )
    digest = name.digest or answer.headers.get("Docker-Content-Digest", "")
    if not digest.startswith("sha256:"):
        raise RegistryError(f"the registry {name.host} does not say which image {name} is")
    try:
        config = answer.json().get("config") if answer.content else None
    except (ValueError, AttributeError):
        raise RegistryError(f"the registry {name.host} answers what no registry does") from None
    return Manifest(digest, str(config["digest"]) if isinstance(config, dict) else "")


def _authorization(session: Session, challenge: str, name: ImageName) -> str:
    """The header that a registry asks for; "" where docker has no credentials that would do.

    Raises:
      RegistryError: the credentials can't be had.
    """
    import requests
    from requests.utils import parse_dict_header

    scheme, _, rest = challenge.partition(" ")
    found = _credentials(name.host)
    user, password = found.get("username", ""), found.get("password", "")
    if scheme.lower() == "basic":
        return _basic(user, password) if user else ""
    fields: Mapping[str, str | None] = parse_dict_header(rest)  # type: ignore[no-untyped-call]
    realm = fields.get("realm") or ""
    parts = urlsplit(realm)
    if scheme.lower() != "bearer" or not (
        parts.scheme == "https" or is_on_this_machine(parts.netloc)
    ):
        return ""
    wanted = {
        "service": fields.get("service") or "",
        "scope": fields.get("scope") or f"repository:{name.path}:pull",
    }
    if token := found.get("identitytoken"):
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": "caliban"}
        answer = session.post(realm, {**form, **wanted}, auth=_header(""), timeout=_TIMEOUT)
    else:
        header = _basic(user, password) if user else ""
        answer = session.get(realm, params=wanted, auth=_header(header), timeout=_TIMEOUT)
    try:
        content = answer.json() if answer.ok else {}
        token = content.get("token") or content.get("access_token")
    except (requests.JSONDecodeError, AttributeError):
        return ""
    return f"Bearer {token}" if token else ""


def _credentials(host: str) -> Mapping[str, str]:
    """What docker knows for a registry, by its settings or by its credential helper.

    Raises:
      RegistryError: the helper fails.
    """
    from docker import auth
    from docker.errors import DockerException

    try:
        # It warns of a helper that is not installed, before it fails for that reason.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            found: Mapping[str, Any] = auth.load_config().resolve_authconfig(host) or {}
    except DockerException as error:
        raise RegistryError(
            f"docker's credentials for {host} can't be had: {_first_line(error)}",
            f"Log in: {login(host)}",
        ) from None
    return {key.lower(): value for key, value in found.items() if isinstance(value, str)}


def _basic(user: str, password: str) -> str:
    import base64

    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _header(value: str) -> Callable[[PreparedRequest], PreparedRequest]:
    """Authorizes a request so, and never by what ~/.netrc may have for the host."""

    def authorize(request: PreparedRequest) -> PreparedRequest:
        if value:
            request.headers["Authorization"] = value
        return request

    return authorize


def _innermost(error: BaseException) -> str:
    """The reason behind an error, which the libraries wrap in several others."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return _first_line(error)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200].rstrip(".")
