"""The tables of older forms of the history, as they were, for migrations that read or make them.

Nothing here changes any more.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from caliban.history.schema import NAMING_CONVENTION, UtcDateTime

# Form 1: what caliban 0.4 wrote.
V1 = MetaData()

Table(
    "container_specs",
    V1,
    Column("id", Integer, primary_key=True),
    Column("user", String),
    Column("spec", JSON),
    Column("created", DateTime(timezone=True), nullable=False),
)
Table(
    "experiment_groups",
    V1,
    Column("id", Integer, primary_key=True),
    Column("name", String),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("user", String),
)
Table(
    "experiments",
    V1,
    Column("id", Integer, primary_key=True),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("args", JSON),
    Column("kwargs", JSON),
    Column("container_spec_id", Integer, ForeignKey("container_specs.id")),
    Column("xgroup_id", Integer, ForeignKey("experiment_groups.id")),
)
Table(
    "job_specs",
    V1,
    Column("id", Integer, primary_key=True),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("spec", JSON, nullable=False),
    Column(
        "platform",
        Enum("CAIP", "GKE", "LOCAL", "TEST", name="platform", create_constraint=True),
        nullable=False,
    ),
    Column("experiment_id", Integer, ForeignKey("experiments.id")),
)
Table(
    "jobs",
    V1,
    Column("id", Integer, primary_key=True),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("job_spec_id", Integer, ForeignKey("job_specs.id")),
    Column("experiment_id", Integer, ForeignKey("experiments.id")),
    Column("container", String, nullable=False),
    Column(
        "status",
        Enum(
            *("SUBMITTED", "RUNNING", "SUCCEEDED", "FAILED", "STOPPED", "UNKNOWN"),
            name="jobstatus",
            create_constraint=True,
        ),
    ),
    Column("details", JSON),
    Column("user", String),
)

# Form 2: with uids, outcomes, handles and digests.
V2 = MetaData(naming_convention=NAMING_CONVENTION)

Table("caliban_schema", V2, Column("version", Integer, nullable=False))

Table(
    "experiment_groups",
    V2,
    Column("id", Integer, primary_key=True),
    Column("user", String),
    Column("name", String),
    Column("created", UtcDateTime, nullable=False),
    UniqueConstraint("user", "name"),
)

Table(
    "container_specs",
    V2,
    Column("id", Integer, primary_key=True),
    Column("digest", String, unique=True),
    Column("user", String),
    Column("created", UtcDateTime, nullable=False),
    Column("spec", Text),
)

Table(
    "experiments",
    V2,
    Column("id", Integer, primary_key=True),
    Column("digest", String, unique=True),
    Column("created", UtcDateTime, nullable=False),
    Column("group_id", ForeignKey("experiment_groups.id")),
    Column("container_spec_id", ForeignKey("container_specs.id")),
    Column("args", Text),
    Column("params", Text),
    Index("ix_experiments_group", "group_id"),
)

Table(
    "job_specs",
    V2,
    Column("id", Integer, primary_key=True),
    Column("digest", String, unique=True),
    Column("created", UtcDateTime, nullable=False),
    Column("experiment_id", ForeignKey("experiments.id")),
    Column("platform", String, nullable=False),
    Column("target", String, nullable=False),
    Column("payload", Text, nullable=False),
)

Table(
    "jobs",
    V2,
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
    Index("ix_jobs_experiment", "experiment_id", "id"),
    Index("ix_jobs_user", "user", "id"),
    Index("ix_jobs_status", "user", "status"),
)
