"""The files that make a user known inside a container, whatever its image."""

from __future__ import annotations


def passwd(uid: int, gid: int, name: str, home: str) -> str:
    """The text of /etc/passwd for a container's user."""
    lines = (
        "root:x:0:0:root:/root:/bin/sh",
        f"{name}:x:{uid}:{gid}:{name}:{home}:/bin/sh",
        "nobody:x:65534:65534:nobody:/nonexistent:/bin/false",
    )
    return "".join(f"{line}\n" for line in lines)


def group(gid: int, name: str) -> str:
    """The text of /etc/group for a container's user."""
    lines = ("root:x:0:", *((f"{name}:x:{gid}:",) if gid else ()), "nogroup:x:65534:")
    return "".join(f"{line}\n" for line in lines)
