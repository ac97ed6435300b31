"""Names of images."""

from __future__ import annotations

import pytest

from caliban.errors import UsageError
from caliban.model.image_name import ImageName, registry

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "host", "path"),
    [
        ("python", "docker.io", "library/python"),
        ("python:3.12-slim", "docker.io", "library/python"),
        ("team/image", "docker.io", "team/image"),
        ("docker.io/team/image:1", "docker.io", "team/image"),
        ("localhost/image", "localhost", "image"),
        ("localhost:5000/image:1", "localhost:5000", "image"),
        ("[::1]:5000/image:1", "[::1]:5000", "image"),
        ("registry.example.com/a/b_c/d--e:V1.0", "registry.example.com", "a/b_c/d--e"),
        (f"us-central1-docker.pkg.dev/p/r/caliban@{DIGEST}", "us-central1-docker.pkg.dev", None),
        (f"gcr.io/example.com/p/image:1@{DIGEST}", "gcr.io", "example.com/p/image"),
    ],
)
def test_a_name_says_where_its_image_is(text: str, host: str, path: str | None) -> None:
    name = ImageName.parse(text)
    assert (name.host, name.path) == (host, path or "p/r/caliban")
    assert str(name) == text


def test_a_name_has_a_tag_or_a_digest_or_both_or_neither() -> None:
    assert ImageName.parse("a/b") == ImageName("a/b")
    assert ImageName.parse("a/b:c") == ImageName("a/b", "c")
    assert ImageName.parse(f"a/b@{DIGEST}") == ImageName("a/b", "", DIGEST)
    assert ImageName.parse(f"h:1/b:c@{DIGEST}") == ImageName("h:1/b", "c", DIGEST)


@pytest.mark.parametrize(
    "text",
    [
        *("", ":tag", "a b", "-a", "a/", "/a", "a//b", "a:", "a:b:c", "a@b", "a@sha256:12", "a/-b"),
        *("a:-x", "a:" + "x" * 129, "--image", "a;b", "a\n", "https://registry.example.com/a"),
    ],
)
def test_what_no_image_can_be_called_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not the name of an image"):
        ImageName.parse(text)


def test_the_usual_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="it has to be in lower case"):
        ImageName.parse("registry.example.com/Team/image")
    with pytest.raises(UsageError, match="leave out what ends with ://"):
        registry("http://localhost:5000")


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("localhost:5000", "localhost:5000"),
        (" localhost:5000/ ", "localhost:5000"),
        ("me", "me"),
        ("us-docker.pkg.dev/example.com/p/r", "us-docker.pkg.dev/example.com/p/r"),
    ],
)
def test_a_registry_is_what_the_names_of_its_images_begin_with(text: str, prefix: str) -> None:
    assert registry(text) == prefix


@pytest.mark.parametrize("text", ["", "/", "a:b/c:d", f"a@{DIGEST}", "a/b:tag", "a b"])
def test_what_no_name_can_begin_with_is_no_registry(text: str) -> None:
    with pytest.raises(UsageError, match="is not what the names of images"):
        registry(text)
