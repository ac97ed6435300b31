"""What exactly each launch ran, kept once for all of its jobs; long texts once for all launches."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, select, update

from caliban.history import rows, schema
from caliban.history.database import Database
from caliban.model.provenance import Provenance

# Where in a record what is long is found, and the same in many of them: it is kept by its digest.
_LONG = (
    ("experiments",),
    ("plan", "lock"),
    ("source", "files"),
    ("source", "repository", "diff"),
)

_SET = (
    update(schema.jobs)
    .where(schema.jobs.c.uid == bindparam("of_uid"))
    .values(provenance=bindparam("new_provenance"))
)


class Provenances:
    """What is known of the origin of jobs, in the history."""

    def __init__(self, database: Database) -> None:
        """The records of a database."""
        self._database = database

    def keep(self, uids: Sequence[str], provenance: Provenance) -> None:
        """Writes down what jobs are made of.

        Args:
          uids: of the jobs; those that the history does not have are passed over.
          provenance: of all of them.
        """
        if not uids:
            return
        now = datetime.datetime.now(datetime.UTC)
        record = provenance.to_json()
        texts = {text.digest: text.packed for text in _take_out(record)}
        digest = rows.digest(record)
        with self._database.writing() as connection:
            for key, packed in sorted(texts.items()):
                connection.execute(
                    rows.insert_new(connection, schema.texts).values(
                        digest=key, created=now, content=packed
                    )
                )
            connection.execute(
                rows.insert_new(connection, schema.provenances).values(
                    digest=digest, created=now, record=rows.to_json(record)
                )
            )
            connection.execute(
                _SET, [{"of_uid": uid, "new_provenance": digest} for uid in sorted(uids)]
            )

    def of_job(self, uid: str) -> Provenance | None:
        """What a job is made of; None if that was not written down, as in older histories."""
        with self._database.reading() as connection:
            of_job = select(schema.jobs.c.provenance).where(schema.jobs.c.uid == uid)
            digest = connection.execute(of_job).scalar()
            return self._find(connection, digest) if digest else None

    def of_image(self, image: str) -> Provenance | None:
        """That of the newest job with an image; None if none of them has any."""
        jobs = schema.jobs.c
        newest = (
            select(jobs.provenance)
            .where(jobs.image == image, jobs.provenance.is_not(None))
            .order_by(jobs.id.desc())
            .limit(1)
        )
        with self._database.reading() as connection:
            digest = connection.execute(newest).scalar()
            return self._find(connection, digest) if digest else None

    def of_jobs(self, uids: Sequence[str]) -> dict[str, tuple[Provenance, list[str]]]:
        """What jobs are made of, and which of them: by a digest, in the order of the jobs."""
        found: dict[str, list[str]] = {}
        jobs = schema.jobs.c
        with self._database.reading() as connection:
            digests: dict[str, str] = {}
            for start in range(0, len(uids), rows.MOST_PARAMETERS):
                some = jobs.uid.in_(uids[start : start + rows.MOST_PARAMETERS])
                query = select(jobs.uid, jobs.provenance).where(some)
                digests.update((uid, digest) for uid, digest in connection.execute(query) if digest)
            for uid in uids:
                if uid in digests:
                    found.setdefault(digests[uid], []).append(uid)
            read = {digest: self._find(connection, digest) for digest in found}
        return {digest: (each, found[digest]) for digest, each in read.items() if each}

    def _find(self, connection: Connection, digest: str) -> Provenance | None:
        table = schema.provenances.c
        stored = connection.execute(select(table.record).where(table.digest == digest)).scalar()
        record = dict(rows.mapping(stored))
        if not record:
            return None
        _put_back(record, lambda key: _text(connection, key))
        try:
            return Provenance.from_json(record)
        except (TypeError, ValueError, AttributeError):
            return None  # damaged; it must not hide the rest of its job


class _Text:
    """A long text, packed, and the digest that it is found by."""

    def __init__(self, value: Any) -> None:
        # A diff may hold what is no UTF-8; in JSON everything has a form.
        content = json.dumps(value, separators=(",", ":")).encode()
        self.digest = hashlib.sha256(content).hexdigest()
        self.packed = gzip.compress(content, 6, mtime=0)


def _take_out(record: dict[str, Any]) -> list[_Text]:
    """Puts digests in the place of what is long in a record, and returns that."""
    found = []
    for *path, last in _LONG:
        place = _place(record, path)
        if place is not None and place.get(last):
            text = _Text(place[last])
            place[last] = text.digest
            found.append(text)
    return found


def _put_back(record: dict[str, Any], read: Any) -> None:
    for *path, last in _LONG:
        place = _place(record, path)
        if place is not None and isinstance(place.get(last), str) and place[last]:
            place[last] = read(place[last])


def _place(record: dict[str, Any], path: Sequence[str]) -> dict[str, Any] | None:
    """An object inside a record, as a copy that is the record's own; None if it has none."""
    place = record
    for name in path:
        inner = place.get(name)
        if not isinstance(inner, Mapping):
            return None
        place[name] = dict(inner)
        place = place[name]
    return place


def _text(connection: Connection, digest: str) -> Any:
    """A long text; None if it is not there or damaged."""
    table = schema.texts.c
    packed = connection.execute(select(table.content).where(table.digest == digest)).scalar()
    try:
        return None if packed is None else json.loads(gzip.decompress(packed))
    except (OSError, EOFError, ValueError, zlib.error):
        return None
