"""A registry of images on loopback, which engines pull from: as much of one as that takes."""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.tarball import packed

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class Registry:
    """Serves images by name, tag and digest.

    Attributes:
      host: its address, which the names of its images begin with.
      answer: what it answers whoever asks for a manifest, instead: a status and a code.
    """

    def __init__(self) -> None:
        self.answer: tuple[int, str] | None = None
        self._content: dict[str, tuple[str, bytes]] = {}
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                registry._serve(self)

            do_HEAD = do_GET  # noqa: N815 - the name that the server asks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, name: str, files: Mapping[str, str], labels: Mapping[str, str]) -> str:
        """Puts an image there, in the place of the one of that name and tag.

        Args:
          name: of the image, like "team/base:1".
          files: what it holds, by path.
          labels: those of the image.

        Returns:
          Its digest, "sha256:...".
        """
        repository, _, tag = name.partition(":")
        unpacked = packed({path: text.encode() for path, text in files.items()})
        layer = gzip.compress(unpacked, mtime=0)
        machine = platform.machine()
        config = {
            "architecture": _ARCHITECTURES.get(machine, machine),
            "os": "linux",
            "config": {"Labels": dict(labels), "Cmd": ["true"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(unpacked)]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self._blob(repository, "container.image.v1", json.dumps(config).encode()),
            "layers": [self._blob(repository, "image.rootfs.diff.tar.gzip", layer)],
        }
        content = json.dumps(manifest).encode()
        for reference in (tag, _digest(content)):
            self._content[f"/v2/{repository}/manifests/{reference}"] = (_MANIFEST, content)
        return _digest(content)

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()

    def _blob(self, repository: str, kind: str, content: bytes) -> dict[str, Any]:
        digest = _digest(content)
        self._content[f"/v2/{repository}/blobs/{digest}"] = ("application/octet-stream", content)
        kind = f"application/vnd.docker.{kind}"
        if "json" not in kind and "tar" not in kind:
            kind += "+json"
        return {"mediaType": kind, "size": len(content), "digest": digest}

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        status, kind, content = 200, "application/json", b"{}"
        if request.path != "/v2/":
            found = self._content.get(request.path)
            if self.answer:
                status, content = self.answer[0], _error(self.answer[1])
            elif found is None:
                status, content = 404, _error("MANIFEST_UNKNOWN")
            else:
                kind, content = found
        request.send_response(status)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(content)))
        request.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        if kind == _MANIFEST:
            request.send_header("Docker-Content-Digest", _digest(content))
        if status == 401:
            request.send_header("WWW-Authenticate", 'Basic realm="test"')
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(content)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _error(code: str) -> bytes:
    message = code.replace("_", " ").lower()
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()
