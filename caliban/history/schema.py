"""The tables of the history as they are today; `migrations` brings older ones here."""

from __future__ import annotations

import datetime

from sqlalchemy import (
    Column,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)


class UtcDateTime(TypeDecorator[datetime.datetime]):
    """A moment: aware in Python, UTC without a zone in the database, as SQLite keeps no zones."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(
        self, value: datetime.datetime | None, dialect: Dialect
    ) -> datetime.datetime | None:
        """From Python to the database; a moment without a zone is taken as local time."""
        return value and value.astimezone(datetime.UTC).replace(tzinfo=None)

    def process_result_value(
        self, value: datetime.datetime | None, dialect: Dialect
    ) -> datetime.datetime | None:
        """From the database to Python."""
        return value and value.replace(tzinfo=datetime.UTC)


# Every constraint has a name of ours, so that no table of an older form, renamed while its rows
# are copied, stands in the way with a name that a server made up.
NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
}

metadata = MetaData(naming_convention=NAMING_CONVENTION)

# One row: the number of the newest migration that the database has been through.
schema_version = Table("caliban_schema", metadata, Column("version", Integer, nullable=False))

# What caliban 0.4 allowed to be NULL still is, because its rows are here, unchanged.
experiment_groups = Table(
    "experiment_groups",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("user", String),
    Column("name", String),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("user", "name"),
)

# JSON is kept as text that only the store reads and writes: a damaged row is then one damaged row,
# and the order of an experiment's parameters survives.
#
# A digest stands for everything that makes two rows the same; see the store. The rows of 0.4 have
# none: nothing that is recorded today is equal to them.
container_specs = Table(
    "container_specs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String, unique=True),
    Column("user", String),
    Column("created", UtcDateTime, nullable=False),
    Column("spec", Text),
)

experiments = Table(
    "experiments",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String, unique=True),
    Column("created", UtcDateTime, nullable=False),
    Column("group_id", ForeignKey("experiment_groups.id")),
    Column("container_spec_id", ForeignKey("container_specs.id")),
    Column("args", Text),
    Column("params", Text),
    Index("ix_experiments_group", "group_id"),
)

job_specs = Table(
    "job_specs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", String, unique=True),
    Column("created", UtcDateTime, nullable=False),
    Column("experiment_id", ForeignKey("experiments.id")),
    Column("platform", String, nullable=False),
    Column("target", String, nullable=False),
    Column("payload", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String, nullable=False, unique=True),
    Column("user", String),
    Column("owner", String, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Column("experiment_id", ForeignKey("experiments.id")),
    Column("job_spec_id", ForeignKey("job_specs.id")),
    Column("image", String, nullable=False),
    Column("status", String),
    Column("handle_target", String),
    Column("handle_id", String),
    Column("exit_code", Integer),
    Column("reason", String, nullable=False),
    Column("started", UtcDateTime),
    Column("finished", UtcDateTime),
    Column("details", Text),
    Column("stop_requested", UtcDateTime),
    Column("metrics", Text),
    Column("cause", Text),
    Column("provenance", String),
    Index("ix_jobs_experiment", "experiment_id", "id"),
    Index("ix_jobs_user", "user", "id"),
    Index("ix_jobs_status", "user", "status"),
)

# A GPU that a job has to itself, as long as the row is there.
leases = Table(
    "leases",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("host", String, nullable=False),
    Column("device", String, nullable=False),
    Column("uid", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("host", "device"),
)

# The versions that declared dependencies have been resolved to. The lock that an image was built
# with is in its plan as well.
locks = Table(
    "locks",
    metadata,
    Column("declaration", String, primary_key=True),
    Column("project", String, nullable=False),
    Column("lock", Text, nullable=False),
    Column("created", UtcDateTime, nullable=False),
    Index("ix_locks_project", "project", "created"),
)

# What exactly jobs ran: jobs.provenance has the digest of a record. What is long in one, as a lock
# or a diff, is a text of its own.
provenances = Table(
    "provenances",
    metadata,
    Column("digest", String, primary_key=True),
    Column("created", UtcDateTime, nullable=False),
    Column("record", Text, nullable=False),
)

# Long texts of records, compressed, by their digest.
texts = Table(
    "texts",
    metadata,
    Column("digest", String, primary_key=True),
    Column("created", UtcDateTime, nullable=False),
    Column("content", LargeBinary, nullable=False),
)
