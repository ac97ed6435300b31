"""Shows how GKE makes or deletes a cluster, which takes minutes and goes on without caliban."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caliban import terminal
from caliban.errors import CalibanError, UnknownOutcomeError
from caliban.platform.gke.clusters import GKE, Cluster
from caliban.steps import Steps


def see_through(
    gke: GKE, cluster: Cluster, operation: Mapping[str, Any], title: str, what: str
) -> None:
    """Waits until an operation is done, with a line that says how far it is.

    Args:
      gke: to ask.
      cluster: that it is about.
      operation: see GKE.create and GKE.delete.
      title: of the line: "creating blueshift".
      what: the same, for messages: "creation".

    Raises:
      CalibanError: it has failed, in Google's words.
      UnknownOutcomeError: Google can't be reached any more.
      KeyboardInterrupt: the user waits no longer.
    """
    view = Steps()
    view.begin(title)
    goes_on = f"The {what} goes on without caliban, see {cluster.console} or caliban cluster ls."
    said = ""
    try:
        for now in gke.progress(cluster, operation):
            if now == said:
                view.tick()
            else:
                view.line(now, now)
                said = now
    except UnknownOutcomeError as error:
        view.end(failed=False)
        raise UnknownOutcomeError(error.message, goes_on, error.status, error.reason) from None
    except CalibanError as error:
        view.end(failed=False)
        raise CalibanError(
            f"the {what} of the cluster {cluster.name} has failed: {error.message}",
            f"Its page is {cluster.console}. What there is of it costs money until it is deleted: "
            f"caliban cluster delete --project_id {cluster.project} --cluster_name {cluster.name}",
        ) from None
    except KeyboardInterrupt:
        view.end(failed=False)
        terminal.note(goes_on)
        raise
    view.end(failed=False)
