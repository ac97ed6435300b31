"""Locks as text, and what has changed between two of them."""

from __future__ import annotations

from caliban.model.lock import Lock, changes

PACKAGES = """\
--index-url https://index.example.com/simple
numpy==2.1.0 \\
    --hash=sha256:0123 \\
    --hash=sha256:4567
pandas[parquet]==2.2.3 ; python_full_version >= '3.10' \\
    --hash=sha256:89ab
metrics @ git+https://example.com/metrics@5e1fe5
"""
LOCK = Lock("3.12", "cdef", PACKAGES)


def test_a_lock_is_read_as_it_was_written() -> None:
    assert Lock.parse(str(LOCK)) == LOCK
    assert Lock.parse("") == Lock("", "", "")


def test_what_is_installed_does_not_say_what_it_was_resolved_from() -> None:
    other = Lock("3.12", "0123", PACKAGES)
    assert LOCK.installed == other.installed == f"# Python 3.12\n{PACKAGES}"
    assert str(LOCK) != str(other)


def test_it_names_each_version() -> None:
    assert LOCK.versions == {
        "numpy": "2.1.0",
        "pandas": "2.2.3",
        "metrics": "git+https://example.com/metrics@5e1fe5",
    }


def test_each_package_that_has_changed_is_named() -> None:
    new = PACKAGES.replace("2.1.0", "2.2.0").replace("pandas[parquet]", "polars")
    assert list(changes(LOCK, Lock("3.13", "", new))) == [
        "Python 3.12 -> 3.13",
        "numpy 2.1.0 -> 2.2.0",
        "pandas 2.2.3, which is not needed any more",
        "polars 2.2.3, which is new",
    ]
    assert list(changes(LOCK, Lock("3.12", "other", PACKAGES))) == []
