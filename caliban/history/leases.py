"""Which job has which GPU of a machine to itself, for all terminals of the machine."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, text, update

from caliban.history import schema
from caliban.history.database import Database
from caliban.model.job import Status


@dataclass(frozen=True)
class Lease:
    """A device that a job has to itself.

    Attributes:
      id: of the lease; a device that is leased again has another one.
      device: its id, as the driver gives it.
      uid: of the job.
      owner: the process that launched the job, see process.identity().
      target: where the job runs, see Handle; "" if the history does not say.
      has_ended: whether the history has the job as ended.
      job: its number; 0 if the history does not know it.
    """

    id: int
    device: str
    uid: str
    owner: str
    target: str
    has_ended: bool
    job: int = 0


class Leases:
    """The leases of one machine, in the history.

    A device is leased by a row that is unique: of two terminals that want the same one at the same
    moment, one gets it.
    """

    def __init__(self, database: Database, host: str) -> None:
        """The leases of the machine that `host` names."""
        self._database = database
        self._host = host

    def take(
        self,
        devices: Sequence[str],
        number: int,
        uid: str,
        owner: str,
        over: Iterable[Lease] = (),
    ) -> list[str]:
        """Takes devices for a job, if enough are free; those that it has already are free to it.

        Args:
          devices: those that the machine has, those first that are to be taken first.
          number: how many the job needs.
          uid: of the job.
          owner: see Lease.
          over: leases of which neither the owner nor the job is there any more.

        Returns:
          The devices, or [] if there are too few; nothing is taken then.
        """
        table = schema.leases
        with self._database.writing() as connection:
            if not self._database.path:
                # SQLite lets one writer in at a time. On a server two would take the same device.
                connection.execute(text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))
            _delete(connection, over)
            mine = table.c.host == self._host
            query = select(table.c.device).where(mine, table.c.uid != uid)
            held = set(connection.execute(query).scalars())
            free = [device for device in devices if device not in held][:number]
            if len(free) < number:
                return []
            connection.execute(delete(table).where(mine, table.c.uid == uid))
            now = datetime.datetime.now(datetime.UTC)
            common = {"host": self._host, "uid": uid, "owner": owner, "created": now}
            connection.execute(table.insert(), [{**common, "device": each} for each in free])
            return free

    def take_back(self, over: Iterable[Lease]) -> None:
        """Ends leases of which neither the owner nor the job is there any more."""
        with self._database.writing() as connection:
            _delete(connection, over)

    def adopt(self, uid: str, owner: str) -> None:
        """Makes a process the owner of the leases that a job has."""
        of_job = schema.leases.c.uid == uid
        with self._database.writing() as connection:
            connection.execute(update(schema.leases).where(of_job).values(owner=owner))

    def give_back(self, uid: str) -> None:
        """Ends the leases of a job, if it has any."""
        with self._database.writing() as connection:
            connection.execute(delete(schema.leases).where(schema.leases.c.uid == uid))

    def held(self) -> list[Lease]:
        """All leases of the machine."""
        leases, jobs = schema.leases, schema.jobs
        query = (
            select(leases, jobs.c.handle_target, jobs.c.status, jobs.c.id.label("job"))
            .join(jobs, jobs.c.uid == leases.c.uid, isouter=True)
            .where(leases.c.host == self._host)
            .order_by(leases.c.id)
        )
        final = {each.value for each in Status if each.is_final}
        with self._database.reading() as connection:
            return [
                Lease(
                    row.id,
                    row.device,
                    row.uid,
                    row.owner,
                    row.handle_target or "",
                    row.status in final,
                    row.job or 0,
                )
                for row in connection.execute(query)
            ]


def _delete(connection: Connection, leases: Iterable[Lease]) -> None:
    # With the owner: somebody may have adopted the job since.
    for lease in leases:
        is_it = (schema.leases.c.id == lease.id, schema.leases.c.owner == lease.owner)
        connection.execute(delete(schema.leases).where(*is_it))
