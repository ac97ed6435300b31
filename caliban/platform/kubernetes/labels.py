"""What Kubernetes accepts as labels, and which of them caliban finds its jobs by.

Rules: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#syntax-and-character-set
"""

from __future__ import annotations

import hashlib
import re

from caliban.model.labels import GROUP, LONGEST, UID, Rules

MANAGED_BY = "app.kubernetes.io/managed-by"

# Selects all jobs that caliban has made, and their pods.
OURS = f"{MANAGED_BY}=caliban"

# The annotation of a pod that says which of its containers does the work, to kubectl as well.
WORKER = "kubectl.kubernetes.io/default-container"

# Keys that Kubernetes gives the pods of a job itself.
_TAKEN = ("job-name", "controller-uid")

_UNACCEPTABLE = re.compile("[^A-Za-z0-9_.-]")
_LABEL = re.compile("[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_PART = "[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_PREFIX = re.compile(rf"(?=.{{1,253}}/){_PART}(\.{_PART})*/")
_NEGATIVE = re.compile(r"^-(?=\.?\d)")

# What no label begins or ends with.
_ENDS = "_.-"

_MOST = 256
_HASH = 12


def key(text: str) -> str:
    """Makes a label's key of any text: "learning rate" becomes "learning_rate".

    A prefix such as "example.com/" is kept.
    """
    return _cut(_key(text))


def value(text: str) -> str:
    """Makes a label's value of any text: "0.01" stays, "-1" becomes "minus1"."""
    return _cut(_value(text))


def _key(text: str) -> str:
    prefix = _prefix(text)
    found = _clean(text.removeprefix(prefix))
    if not prefix and found in _TAKEN:
        found = found.replace("-", "_")
    return prefix + found if found else ""


def _value(text: str) -> str:
    return _clean(_NEGATIVE.sub("minus", text, count=1))


def _prefix(text: str) -> str:
    match = _PREFIX.match(text)
    return match[0] if match else ""


def _cut(text: str) -> str:
    prefix = _prefix(text)
    return prefix + text.removeprefix(prefix)[:LONGEST].rstrip(_ENDS)


def group(name: str) -> str:
    """Makes a label's value of the name of a group; of different names different ones."""
    if _LABEL.fullmatch(name):
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:_HASH]
    return f"{_clean(name)[: LONGEST - _HASH - 1]}-{digest}".lstrip("-")


def _clean(text: str) -> str:
    return _UNACCEPTABLE.sub("_", text).strip(_ENDS)


RULES = Rules(_key, _value, _cut, group, _MOST)


def of_group(name: str) -> str:
    """Selects the jobs of an experiment group."""
    return f"{GROUP}={group(name)}"


def of_jobs(uids: list[str]) -> str:
    """Selects these jobs, and their pods."""
    return f"{UID} in ({','.join(uids)})"
