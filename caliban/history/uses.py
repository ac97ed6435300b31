"""Which images the jobs of a history run, or ran."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from sqlalchemy import func, select

from caliban.history import schema
from caliban.history.database import Database
from caliban.model.job import Status


@dataclass(frozen=True)
class Use:
    """What a group has to do with an image.

    Attributes:
      image: its id.
      user: whose group.
      group: its name.
      last: when a job of it with this image was recorded last (UTC).
      is_open: whether one of them has not ended.
    """

    image: str
    user: str
    group: str
    last: datetime.datetime
    is_open: bool


def find(database: Database) -> list[Use]:
    """All uses of images by all users' jobs."""
    jobs, groups = schema.jobs.c, schema.experiment_groups.c
    is_open = jobs.status.in_([each.value for each in Status if not each.is_final])
    query = (
        select(
            jobs.image,
            jobs.user,
            groups.name,
            func.max(jobs.created),
            func.count(jobs.id).filter(is_open),
        )
        .select_from(schema.jobs)
        .outerjoin(schema.experiments, schema.experiments.c.id == jobs.experiment_id)
        .outerjoin(schema.experiment_groups, groups.id == schema.experiments.c.group_id)
        .group_by(jobs.image, jobs.user, groups.name)
    )
    with database.reading() as connection:
        return [
            Use(image, user or "", group or "", last, bool(number))
            for image, user, group, last, number in connection.execute(query)
        ]
