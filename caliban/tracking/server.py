"""MLflow's tracking server, asked over its REST API.

Reference: https://mlflow.org/docs/latest/rest-api.html
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING, Any

from caliban import __version__
from caliban.errors import CalibanError
from caliban.model import tracking
from caliban.model.tracking import Run
from caliban.tracking.journal import FILES, Names, Request

if TYPE_CHECKING:
    import requests

# Seconds until a server that doesn't accept a connection is taken to be away, and until one is that
# doesn't answer, or doesn't say that it has kept a file.
_CONNECT, _ANSWER, _FILE = 1.0, 10.0, 60.0

# How many of each kind MLflow takes at a time.
_MOST_PARAMETERS, _MOST_TAGS, _MOST_METRICS = 100, 100, 500

_LOG = "caliban/log.txt"
_PROVENANCE = "caliban/provenance.json"

KEPT_ELSEWHERE = "the server keeps files elsewhere"


class AwayError(CalibanError):
    """The server doesn't answer, or is not able to: what is asked now can be asked again later.

    Attributes:
      status: HTTP's; 0 if it doesn't answer at all.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class RefusedError(CalibanError):
    """The server has understood, and says no.

    Attributes:
      code: MLflow's word for why; "" for none.
      status: HTTP's; 0 for none.
    """

    def __init__(self, message: str, code: str = "", status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status

    @property
    def is_lasting(self) -> bool:
        """Whether it is about what was asked, and not who asks whom: it won't be accepted later."""
        is_elsewhere = self.status == 404 and not self.code
        return 400 <= self.status < 500 and self.status not in (401, 403, 407) and not is_elsewhere


class Server:
    """A tracking server. None of its methods may be called by two threads at the same time."""

    def __init__(self, url: str, environment: Mapping[str, str], host: str = "") -> None:
        """Asks nothing yet.

        Args:
          url: of the server.
          environment: with the variables by which MLflow logs in.
          host: the name by which it wants to be asked; "" for that in the address.
        """
        self.url, self._host = url, host
        self._environment = environment
        self._session: requests.Session | None = None
        self._experiments: dict[str, str] = {}

    def close(self) -> None:
        """Ends the connection."""
        if self._session is not None:
            self._session.close()

    def create(self, experiment: str, uid: str, started: int | None = None) -> Mapping[str, Any]:
        """Makes the run of a job; returns it.

        Raises:
          AwayError: the server doesn't answer; there may be a run.
          RefusedError: it says no.
        """
        with self._understanding():
            content = {
                "experiment_id": self._experiment(experiment),
                "run_name": tracking.run_name(uid),
                "start_time": started or int(time.time() * 1000),
                "tags": [
                    {"key": tracking.UID, "value": uid},
                    {"key": tracking.MADE, "value": "true"},
                ],
            }
            made: Mapping[str, Any] = self._post("runs/create", content)["run"]
            Names.of(made)
        return made

    def schedule(self, experiment: str, uid: str) -> str:
        """Makes the run of a job that is to start later; returns its id.

        Raises:
          AwayError: the server doesn't answer; there may be a run.
          RefusedError: it says no.
        """
        run_id = str(self.create(experiment, uid)["info"]["run_id"])
        self._post("runs/update", {"run_id": run_id, "status": "SCHEDULED"})
        return run_id

    def find(
        self, experiment: str, uid: str, known: str, started: int | None = None
    ) -> Mapping[str, Any]:
        """The one run of a job; it is made if there is none.

        Args:
          experiment: name of the experiment.
          uid: of the job.
          known: id of the run that the job was told of; "" if it was told of none.
          started: when it was, in milliseconds since 1970; None for now.

        Raises:
          AwayError: the server doesn't answer.
          RefusedError: it says no.
        """
        with self._understanding():
            there = self._find(experiment, uid, known)
            return there or self._get(str(self.create(experiment, uid, started)["info"]["run_id"]))

    def repeat(self, request: Request) -> None:
        """Asks what a job has asked before.

        Raises:
          AwayError: the server doesn't answer.
          RefusedError: it says no.
        """
        headers = {"Content-Type": request.kind} if request.kind else {}
        address, limit = f"{self.url}{request.address}", _FILE if request.file else _ANSWER
        self._request(request.verb, address, limit, data=request.content, headers=headers)

    def mark(self, run_id: str, uid: str) -> None:
        """Writes a job's uid into its run, where it is already if caliban or the job made that.

        Raises:
          AwayError: the server doesn't answer.
          RefusedError: it says no.
        """
        self._post("runs/set-tag", {"run_id": run_id, "key": tracking.UID, "value": uid})

    def record(self, experiment: str, uid: str, known: str, run: Run, log: IO[bytes] | None) -> str:
        """Writes down all that is known of a job that has ended, in the one run that it has.

        It may be repeated: what is there already is left as it is.

        Args:
          experiment: name of the experiment.
          uid: of the job.
          known: id of the run that the job was told of; "" if it was told of none.
          run: what is known.
          log: what the job has printed; None if nothing was kept.

        Returns:
          Why log and provenance are not there; "" if they are.

        Raises:
          AwayError: the server doesn't answer.
          RefusedError: it says no.
        """
        there = self.find(experiment, uid, known, run.started)
        run_id = str(there["info"]["run_id"])
        with self._understanding():
            self._log(run_id, there.get("data", {}), run)
        why = self._keep(Names.of(there).folder, run, log)
        # Last, so that what has this state is complete.
        end = {"run_id": run_id, "status": run.state}
        if run.finished:
            end["end_time"] = run.finished  # type: ignore[assignment]
        self._post("runs/update", end)
        return why

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        """Deals with answers of a server that is none of MLflow.

        Raises:
          RefusedError: they are none of MLflow's.
        """
        try:
            yield
        except (LookupError, TypeError, AttributeError):
            raise RefusedError(f"{self.url} is no tracking server of MLflow") from None

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            try:
                found = self._ask("GET", "experiments/get-by-name", {"experiment_name": name})
                self._experiments[name] = str(found["experiment"]["experiment_id"])
            except RefusedError as error:
                if error.code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                try:
                    made = self._post("experiments/create", {"name": name})
                    self._experiments[name] = str(made["experiment_id"])
                except RefusedError as other:
                    if other.code != "RESOURCE_ALREADY_EXISTS":
                        raise
                    return self._experiment(name)  # somebody else was quicker
        return self._experiments[name]

    def _get(self, run_id: str) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._ask("GET", "runs/get", {"run_id": run_id})["run"]
        return found

    def _find(self, experiment: str, uid: str, known: str) -> Mapping[str, Any] | None:
        """The run of a job. Of several, the one that the job has made; the others are deleted."""
        if known:
            try:
                found = self._get(known)
                if found["info"].get("lifecycle_stage") != "deleted":
                    return found
            except RefusedError as error:
                if error.code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        content = {
            "experiment_ids": [self._experiment(experiment)],
            "filter": f"tags.`{tracking.UID}` = '{uid}'",
            "max_results": 20,
        }
        runs = self._post("runs/search", content).get("runs", [])
        runs.sort(key=lambda run: (_is_made(run), run["info"]["start_time"]))
        for other in filter(_is_made, runs[1:]):
            # An answer was lost, or came too late for the job to be told of this one.
            self._post("runs/delete", {"run_id": other["info"]["run_id"]})
        return runs[0] if runs else None

    def _log(self, run_id: str, data: Mapping[str, Any], run: Run) -> None:
        # A parameter can't be written twice with different values, and a metric that the job has
        # logged itself has its whole course there.
        params = _missing(run.params, data.get("params", ()))
        metrics = _missing(run.metrics, data.get("metrics", ()))
        at = run.finished or int(time.time() * 1000)
        pieces: list[tuple[str, int, list[dict[str, Any]]]] = [
            ("params", _MOST_PARAMETERS, [{"key": k, "value": v} for k, v in params.items()]),
            ("tags", _MOST_TAGS, [{"key": k, "value": v} for k, v in run.tags.items()]),
            (
                "metrics",
                _MOST_METRICS,
                [
                    {"key": key, "value": tracking.number_text(value), "timestamp": at, "step": 0}
                    for key, value in metrics.items()
                ],
            ),
        ]
        while any(each for _, _, each in pieces):
            batch = {key: each[:most] for key, most, each in pieces}
            self._post("runs/log-batch", {"run_id": run_id, **batch})
            pieces = [(key, most, each[most:]) for key, most, each in pieces]

    def _keep(self, folder: str, run: Run, log: IO[bytes] | None) -> str:
        """Sends the files of a job, if it is the server that keeps them."""
        if not folder:
            return KEPT_ELSEWHERE
        if run.provenance is not None:
            import json

            self._put(f"{folder}/{_PROVENANCE}", json.dumps(run.provenance, indent=2).encode())
        if log is not None:
            self._put(f"{folder}/{_LOG}", log)
        return ""

    def _put(self, path: str, content: bytes | IO[bytes]) -> None:
        from urllib.parse import quote

        self._request("PUT", f"{self.url}{FILES}{quote(path)}", _FILE, data=content)

    def _post(self, method: str, content: Mapping[str, Any]) -> dict[str, Any]:
        return self._answer("POST", method, json=content)

    def _ask(self, verb: str, method: str, query: Mapping[str, str]) -> dict[str, Any]:
        return self._answer(verb, method, params=query)

    def _answer(self, verb: str, method: str, **content: Any) -> dict[str, Any]:
        address = f"{self.url}/api/2.0/mlflow/{method}"
        response = self._request(verb, address, _ANSWER, **content)
        with self._understanding():
            try:
                found: dict[str, Any] = response.json()
            except ValueError:
                raise TypeError from None
            found.keys()
        return found

    def _request(self, verb: str, address: str, limit: float, **content: Any) -> requests.Response:
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.headers["User-Agent"] = f"caliban/{__version__}"
            if self._host:
                self._session.headers["Host"] = self._host
            self._log_in(self._session)
        # The first is also how long it may take to send each piece of a file.
        connect = _ANSWER if limit > _ANSWER else _CONNECT
        try:
            response = self._session.request(
                verb, address, timeout=(connect, limit), allow_redirects=False, **content
            )
        except requests.RequestException as error:
            name = type(error).__name__
            raise AwayError(f"the tracking server at {self.url} doesn't answer ({name})") from None
        if response.status_code >= 500 or response.status_code == 429:
            raise AwayError(
                f"the tracking server at {self.url} is in trouble (HTTP {response.status_code})",
                response.status_code,
            )
        if response.status_code >= 300:
            raise self._refusal(response)
        return response

    def _log_in(self, session: requests.Session) -> None:
        user, password, token = (self._environment.get(n, "") for n in tracking.CREDENTIALS)
        # Not from ~/.netrc, which is nobody's wish here. A proxy stays one.
        session.auth = (user, password) if user else _nobody
        if token and not user:
            session.headers["Authorization"] = f"Bearer {token}"

    def _refusal(self, response: requests.Response) -> RefusedError:
        if response.status_code in (401, 403):
            return RefusedError(
                f"the tracking server at {self.url} wants another login (HTTP "
                f"{response.status_code}): set {' and '.join(tracking.CREDENTIALS[:2])}",
                status=response.status_code,
            )
        try:
            said = response.json()
            code, why = str(said.get("error_code", "")), str(said.get("message", ""))
        except (ValueError, AttributeError):
            code, why = "", ""
        why = why.splitlines()[0][:200] if why else f"HTTP {response.status_code}"
        return RefusedError(
            f"the tracking server at {self.url} says: {why}", code, response.status_code
        )


def _nobody(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _is_made(run: Mapping[str, Any]) -> bool:
    """Whether caliban has made a run, and not the job."""
    return any(tag["key"] == tracking.MADE for tag in run["data"].get("tags", ()))


def _missing(wanted: Mapping[str, Any], there: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    known = {each["key"] for each in there}
    return {key: value for key, value in wanted.items() if key not in known}
