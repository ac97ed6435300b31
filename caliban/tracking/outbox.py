"""Jobs whose runs are not written down yet: a small file for each, until they are."""

from __future__ import annotations

import contextlib
import fcntl
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from caliban import home
from caliban.tracking.journal import Journal
from caliban.tracking.place import Place

_FOLDER = "mlflow"


@dataclass(frozen=True)
class Entry:
    """A job whose run is not written down yet.

    Attributes:
      uid: of the job.
      place: where it is to be.
      experiment: its name there.
      run_id: of its run; "" if it has none yet, or the job was told of none.
      port: of the relay that the job speaks with; 0 for none.
      secret: by which that knows the user's jobs.
    """

    uid: str
    place: Place
    experiment: str
    run_id: str = ""
    port: int = 0
    secret: str = ""


# Several threads may have something to say of a job at once.
_telling = threading.Lock()


def expect(entries: Iterable[Entry]) -> None:
    """Takes note of jobs; of those that are known already, what is known stays."""
    for entry in entries:
        with _telling:
            if not _file(entry.uid).exists():
                _write(entry)


def tell(uid: str, run_id: str, port: int = 0, secret: str = "") -> None:
    """Takes note of the run that a job has, and whom it speaks with."""
    with _telling:
        if (entry := find(uid)) is not None:
            run_id = run_id or entry.run_id
            port, secret = (port, secret) if port else (entry.port, entry.secret)
            _write(replace(entry, run_id=run_id, port=port, secret=secret))


def forget(uid: str) -> None:
    """Takes no more note of a job."""
    for file in (_file(uid), _journal_file(uid), _lock_file(uid)):
        file.unlink(missing_ok=True)


def journal(uid: str) -> Journal:
    """What a job has said itself that is not passed on yet."""
    return Journal(_journal_file(uid))


def find(uid: str) -> Entry | None:
    """A job that is not written down yet; None if it is, or never was to be."""
    try:
        found = json.loads(_file(uid).read_bytes())
        place = Place.from_json(found["place"])
        run_id, port = str(found["run_id"]), int(found.get("port", 0))
        secret = str(found.get("secret", ""))
        return Entry(uid, place, str(found["experiment"]), run_id, port, secret)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def entries() -> list[Entry]:
    """All of the history that is in use."""
    try:
        names = sorted(file.name for file in _folder().iterdir() if file.name.isalnum())
    except OSError:
        return []
    return [entry for entry in map(find, names) if entry]


@contextlib.contextmanager
def holding(entry: Entry) -> Iterator[bool]:
    """Yields whether an entry is still to be sent, while nobody else does."""
    file, lock = _file(entry.uid), _lock_file(entry.uid)
    if not file.exists():
        yield False
        return
    # A file of its own, as the other one is replaced whenever something becomes known of the job.
    with lock.open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not file.exists():
            lock.unlink(missing_ok=True)  # whoever had it has sent it
            yield False
            return
        yield True


@contextlib.contextmanager
def sending(entry: Entry) -> Iterator[bool]:
    """The same; then it is forgotten."""
    with holding(entry) as is_wanted:
        yield is_wanted
        forget(entry.uid)


def _write(entry: Entry) -> None:
    content = {
        "place": entry.place.to_json(),
        "experiment": entry.experiment,
        "run_id": entry.run_id,
        "port": entry.port,
        "secret": entry.secret,
    }
    home.write_private(
        home.directory(_FOLDER, home.history_mark()) / entry.uid, json.dumps(content)
    )


def _folder() -> Path:
    return home.path(_FOLDER, home.history_mark())


def _file(uid: str) -> Path:
    return _folder() / uid


def _journal_file(uid: str) -> Path:
    return _folder() / f"{uid}.requests"


def _lock_file(uid: str) -> Path:
    return _folder() / f"{uid}.lock"
