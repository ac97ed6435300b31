"""The labels of jobs elsewhere: what they are made of, and what Google accepts as one.

Limits: https://cloud.google.com/resource-manager/docs/labels-overview#requirements
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from caliban.errors import UsageError
from caliban.model.experiment import Experiment

# What a job is found by; nobody else can set these.
UID = "caliban_uid"
GROUP = "caliban_group"

MOST = 64
LONGEST = 63

_UNACCEPTABLE = re.compile("[^a-z0-9_-]")
_NUMBER = re.compile(r"-\.?\d.*")


@dataclass(frozen=True)
class Labels:
    """The labels of a job.

    Attributes:
      values: by key, as Google accepts them.
      notes: what the user may not expect: labels that lost to others or were cut, flags that got
        none.
    """

    values: Mapping[str, str]
    notes: tuple[str, ...] = ()


def key(text: str) -> str:
    """Makes a label's key of any text: "learning.rate" becomes "learning_rate".

    Returns:
      A key that begins with a letter; "" if nothing is left of the text.
    """
    return _cut(_key(text))


def value(text: str) -> str:
    """Makes a label's value of any text: "0.01" becomes "0_01"."""
    return _cut(_clean(text))


def _cut(text: str) -> str:
    return text[:LONGEST]


def _key(text: str) -> str:
    cleaned = _clean(text).lstrip("-")
    return f"k{cleaned}" if cleaned and not cleaned[0].isalpha() else cleaned


def _clean(text: str) -> str:
    return _UNACCEPTABLE.sub("", text.replace(".", "_").lower())


@dataclass(frozen=True)
class Rules:
    """What a platform accepts as labels.

    Attributes:
      key: makes a label's key of any text, however long; "" if nothing is left of it.
      value: makes a label's value of any text, however long.
      cut: makes such a key or value as short as the platform wants it.
      group: makes a label's value of the name of an experiment group, by which that is found.
      most: how many a job can have.
    """

    key: Callable[[str], str]
    value: Callable[[str], str]
    cut: Callable[[str], str]
    group: Callable[[str], str]
    most: int


GOOGLE = Rules(_key, _clean, _cut, value, MOST)


def parse(text: str) -> tuple[str, str]:
    """Reads a label of the command line: "key=value", or "key:value".

    Raises:
      UsageError: it is neither, nothing of its key is acceptable, or the key is caliban's own.
    """
    match = re.fullmatch(r"([^=:]+)[=:](.*)", text, re.DOTALL)
    if not match:
        raise UsageError(f"the label '{text}' is not of the form key=value")
    if not key(match[1]):
        raise UsageError(
            f"the key of the label '{text}' has no letter or digit that Google accepts",
            "Keys are made of the letters a to z, digits, _ and -.",
        )
    if key(match[1]) in (UID, GROUP):
        raise UsageError(f"the label '{key(match[1])}' is caliban's own", "Choose another key.")
    return match[1], match[2]


def of_job(
    uid: str,
    group: str,
    standard: Mapping[str, str],
    extra: Mapping[str, str],
    experiment: Experiment,
    rules: Rules = GOOGLE,
) -> Labels:
    """Puts together the labels of a job.

    A flag of the job wins over a label of the user with the same key, and that over a standard one.

    Args:
      uid: of the job.
      group: its experiment group.
      standard: what every job has: job_name, gpu_enabled, tpu_enabled.
      extra: labels of the user.
      experiment: whose flags become labels.
      rules: what the platform accepts.
    """
    reserved = {UID: uid, GROUP: rules.group(group)}
    found: dict[str, str] = {}
    setters: dict[str, str] = {}
    notes: list[str] = []
    left_out = 0
    usual = [("", name, text) for name, text in standard.items()]
    by_user = [(f"--label {name}", name, text) for name, text in extra.items()]
    by_flags = [(f"--{name}", name, text) for name, text in _labelled(experiment)]
    for setter, name, text in (*usual, *by_user, *by_flags):
        whole, content = rules.key(name), rules.value(text)
        label = rules.cut(whole)
        if not label or label in reserved:
            continue
        if label not in found and len(found) + len(reserved) == rules.most:
            left_out += 1
            continue
        if setters.get(label):
            notes.append(f"{setters[label]} and {setter} are one label, '{label}': {setter} wins")
        setters[label] = setter
        found[label] = rules.cut(content)
        if (label, found[label]) != (whole, content):
            notes.append(f"{setter or name}: its label is cut to {LONGEST} characters")
    if left_out:
        notes.append(f"{left_out} flags or labels are left out: a job can have {rules.most} labels")
    return Labels(found | reserved, tuple(notes))


def _labelled(experiment: Experiment) -> list[tuple[str, str]]:
    """The flags of a job, without dashes, and their values; each once, the last if repeated."""
    flags = dict(_flags(experiment.args))
    for name, each in experiment.params.items():
        flags.pop(name, None)
        flags[name] = str(each).lower() if isinstance(each, bool) else str(each)
    return list(flags.items())


def _flags(args: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The flags among arguments: "--key value", "--key=value", and "--key", which is "true"."""
    words = [*args, "--"]
    for word, following in pairwise(words):
        if not _is_flag(word):
            continue
        name, equals, text = word.lstrip("-").partition("=")
        if not equals:
            text = "true" if _is_flag(following) else following
        yield name, text


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not _NUMBER.fullmatch(word)
