"""Images in files of experiments that would be given a name, are others, or are none."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caliban.bundle import images
from caliban.bundle.archive import Archive
from caliban.errors import UsageError
from tests.bundle import forgery

SECONDS = 10.0


def image(
    tags: Any = None,
    config: bytes = b"{}",
    extra: dict[str, bytes] | None = None,
    kind: bytes = tarfile.REGTYPE,
) -> bytes:
    """An image as `docker save` writes it, more or less."""
    packed = io.BytesIO()
    index = [{"Config": "c.json", "RepoTags": tags, "Layers": []}]
    members = {"c.json": config, "manifest.json": json.dumps(index).encode(), **(extra or {})}
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if kind != tarfile.REGTYPE:
            info = tarfile.TarInfo("evil")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    return packed.getvalue()


ID = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"

# What says that an image is to be called as another one.
NAMED = json.dumps([{"Config": "c.json", "RepoTags": ["python:3.12"], "Layers": []}]).encode()


def member(
    name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> bytes:
    """A member of a tar; its size is that of the content, even where members have none."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, len(content)
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)


def with_more(*members: bytes) -> bytes:
    """The image with more members: its own ones take two blocks each."""
    return gzip.compress(image()[: 4 * tarfile.BLOCKSIZE] + b"".join(members) + bytes(1024))


def extended(*records: str) -> bytes:
    """POSIX's extended header, which says of the next member what its own header can't."""
    text = "".join(f"{len(each) + 4} {each}\n" for each in records).encode()
    return member("PaxHeaders.0", text, tarfile.XHDTYPE)


SMUGGLED = member("manifest.json", NAMED)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: gzip.compress(image(tags=["python:3.12"])), "a name that others may have"),
        (lambda: gzip.compress(image(extra={"repositories": b'{"python":{"3.12":"x"}}'})), "name"),
        (lambda: gzip.compress(image(extra={"index.json": b'{"image.name":1}'})), "name"),
        (lambda: gzip.compress(image(config=b"[]")), "is not the image that the jobs ran"),
        (lambda: gzip.compress(image(kind=tarfile.LNKTYPE)), "is no image"),
        (lambda: gzip.compress(image(kind=tarfile.CHRTYPE)), "is no image"),
        (lambda: gzip.compress(image(kind=tarfile.FIFOTYPE)), "is no image"),
        (lambda: gzip.compress(image(extra={"manifest.json": b"[" * 99_999})), "is no image"),
        (lambda: gzip.compress(image(extra={"manifest.json": b"3"})), "name"),
        (lambda: gzip.compress(image())[:-30], "is no image"),
        (lambda: gzip.compress(image() + b"x" * 512), "is no image"),
        (lambda: image(), "is no image"),
        (lambda: b"", "is no image"),
        (lambda: gzip.compress(image(extra={"layer.tar": bytes(1 << 28)}), 9), "is no image"),
        (lambda: gzip.compress(image() + bytes(1 << 28), 9), "is no image"),
        # What one program that reads tars or JSON takes for something else than another one does.
        (lambda: with_more(SMUGGLED), "is no image"),
        (lambda: with_more(member("./manifest.json", NAMED)), "is no image"),
        (lambda: with_more(member("Manifest.json", NAMED)), "is no image"),
        (lambda: with_more(member("d/../manifest.json", NAMED)), "is no image"),
        (lambda: with_more(member("d/", SMUGGLED, tarfile.DIRTYPE)), "is no image"),
        (lambda: with_more(member("d", SMUGGLED, tarfile.SYMTYPE, "c.json")), "is no image"),
        (
            lambda: with_more(
                member("a/d", b"", tarfile.SYMTYPE, ".."), member("a/d/manifest.json", NAMED)
            ),
            "is no image",
        ),
        (lambda: with_more(member("index.json", b"", tarfile.SYMTYPE, "c.json")), "is no image"),
        (lambda: with_more(*(member(f"{n}") for n in range(20_000))), "is no image"),
        (
            lambda: gzip.compress(
                image(extra={"manifest.json": NAMED.replace(b"RepoTags", b"repotags")})
            ),
            "a name that others may have",
        ),
        (
            lambda: gzip.compress(
                image(extra={"manifest.json": NAMED[:-2] + b', "repoTags": null}]'})
            ),
            "is no image",
        ),
        (
            lambda: gzip.compress(image(extra={"index.json": rb'{"image.n\u0061me":1}'})),
            "a name that others may have",
        ),
        (lambda: with_more(extended("path=manifest.json"), member("d", NAMED)), "is no image"),
        (lambda: with_more(extended("size=512"), SMUGGLED[:512]), "is no image"),
        (lambda: with_more(extended("size=512", "size=0"), SMUGGLED), "is no image"),
        (lambda: with_more(extended("size=512"), extended("size=512"), SMUGGLED), "is no image"),
        (lambda: with_more(extended("size=999999999999999"), member("layer.tar")), "is no image"),
        (lambda: with_more(extended("size=-512"), SMUGGLED), "is no image"),
        (lambda: with_more(extended(*["size=1"] * 100_000), SMUGGLED), "is no image"),
    ],
)  # fmt: skip
def test_an_image_that_is_another_or_would_get_a_name_is_not_loaded(
    make: Callable[[], bytes], why: str, tmp_path: Path
) -> None:
    class NoEngine:
        def image_id(self, reference: str) -> str | None:
            return None

        @property
        def client(self) -> Any:
            raise AssertionError("it was given to the engine")

    content = make()
    forgery.write(tmp_path / "x.tar", lambda _, parts: parts.update({"images/0.tar.gz": content}))
    began = time.process_time()
    with Archive(tmp_path / "x.tar") as opened, pytest.raises(UsageError) as caught:
        images.load(opened, "images/0.tar.gz", ID, NoEngine())  # type: ignore[arg-type]
    assert why in caught.value.message
    assert time.process_time() - began < SECONDS


def test_a_layer_may_be_too_large_for_its_own_header(tmp_path: Path) -> None:
    layer = bytes(range(256)) * 4

    class Engine:
        loaded = b""

        def image_id(self, reference: str) -> str | None:
            return ID if self.loaded else None

        @property
        def client(self) -> Any:
            return self

        def errors(self, what: str) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

        def load_image(self, pieces: Iterator[bytes], quiet: bool) -> list[Any]:
            self.loaded = b"".join(pieces)
            return []

    without_size = member("layer.tar")[:512]
    content = with_more(extended(f"size={len(layer)}"), without_size, layer)
    forgery.write(tmp_path / "x.tar", lambda _, parts: parts.update({"images/0.tar.gz": content}))
    engine = Engine()
    with Archive(tmp_path / "x.tar") as opened:
        images.load(opened, "images/0.tar.gz", ID, engine)  # type: ignore[arg-type]
    with tarfile.open(fileobj=io.BytesIO(engine.loaded)) as tar:
        assert tar.getnames() == ["c.json", "manifest.json", "layer.tar"]
        stream = tar.extractfile("layer.tar")
        assert stream and stream.read() == layer
