"""Requests to Google's APIs: what is sent again, what never is, and what is said of failures."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import logging
import re
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

import caliban
from caliban.errors import CalibanError, RefusedError, UnknownOutcomeError, UsageError
from caliban.platform import answers, google
from caliban.platform.quota import Clock, TokenBucket
from caliban.platform.rest import Session, endpoint, once
from tests.google_cloud import client, faults
from tests.google_cloud.client import FakeTime, credentials
from tests.google_cloud.cloud import GoogleCloud
from tests.google_cloud.faults import Fault
from tests.google_cloud.test_server import JOB

CREATE, LIST = "customJobs.create", "customJobs.list"

BAD = [
    faults.UNAVAILABLE,
    faults.ACCEPTED_BUT_UNAVAILABLE,
    faults.ANSWER_LOST,
    faults.REQUEST_LOST,
    Fault(accepted=True, status=500),
]


@pytest.fixture
def jobs(cloud: GoogleCloud) -> str:
    """The address of a region's jobs."""
    return cloud.server.url("aiplatform") + "v1/projects/p1/locations/us-central1/customJobs"


class TestPost:
    def test_makes_something(self, cloud: GoogleCloud, session: Session, jobs: str) -> None:
        assert session.post(jobs, JOB)["name"] == cloud.vertex.jobs[0]["name"]

    @pytest.mark.parametrize("fault", BAD)
    def test_is_never_sent_again_when_nobody_knows(
        self, cloud: GoogleCloud, session: Session, jobs: str, fault: Fault
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, fault))
        with pytest.raises(UnknownOutcomeError):
            session.post(jobs, JOB)
        assert len(cloud.server.calls(CREATE)) == 1
        assert len(cloud.vertex.jobs) == fault.accepted

    def test_is_not_sent_again_on_a_connection_that_was_closed_meanwhile(
        self, cloud: GoogleCloud, session: Session, jobs: str
    ) -> None:
        session.get(jobs)  # opens a connection, which the next request finds
        cloud.faults.add(CREATE, faults.first(1, faults.ANSWER_LOST))
        with pytest.raises(UnknownOutcomeError):
            session.post(jobs, JOB)
        assert len(cloud.vertex.jobs) == 1

    def test_waits_for_as_long_as_google_asks(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        cloud.faults.add(CREATE, faults.first(3, faults.TOO_MANY))
        session.post(jobs, JOB)
        assert time.slept == [2, 2, 2]
        assert len(cloud.vertex.jobs) == 1

    def test_waits_longer_each_time_where_google_does_not_say(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        cloud.faults.add(CREATE, faults.first(4, faults.TOO_MANY_WITHOUT_ADVICE))
        session.post(jobs, JOB)
        assert time.slept == sorted(time.slept)
        assert 10 < sum(time.slept) < 20

    def test_holds_up_all_that_share_the_bucket(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        bucket = TokenBucket(60, time.clock)
        cloud.faults.add(CREATE, faults.first(1, Fault(status=429, retry_after=20)))
        session.post(jobs, JOB, bucket)
        assert sum(time.slept) == pytest.approx(20)

    def test_says_until_when_it_waits(
        self, cloud: GoogleCloud, session: Session, jobs: str
    ) -> None:
        assert session.held_up is None
        cloud.faults.add(CREATE, faults.first(1, Fault(status=429, retry_after=20)))
        session.post(jobs, JOB)
        now = datetime.datetime.now(datetime.UTC)
        assert session.held_up is not None
        assert 15 < (session.held_up - now).total_seconds() <= 20

    def test_gives_up_at_last(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        cloud.faults.add(CREATE, Fault(status=429, retry_after=100))
        with pytest.raises(RefusedError) as error:
            session.post(jobs, JOB)
        assert (error.value.status, error.value.reason) == (429, "RESOURCE_EXHAUSTED")
        assert "iam-admin/quotas" in error.value.hint
        assert 800 <= sum(time.slept) <= 900

    def test_does_not_wait_for_longer_than_anybody_would(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        cloud.faults.add(CREATE, Fault(status=429, retry_after=86_400))
        with pytest.raises(RefusedError, match="answers 429"):
            session.post(jobs, JOB)
        assert time.slept == []

    @pytest.mark.parametrize("text", ["\u00b2", "-1", "soon", "Wed, 99 Foo 99999 99:99:99 GMT"])
    def test_waits_as_usual_where_nobody_knows_what_google_asks_for(self, text: str) -> None:
        answer = requests.Response()
        answer.headers["Retry-After"] = text
        assert answers.retry_after(answer) == 0

    def test_waits_until_a_time_by_the_clock_of_google(self) -> None:
        answer = requests.Response()
        answer.headers["Date"] = "Wed, 21 Oct 2015 07:28:00 GMT"
        answer.headers["Retry-After"] = "Wed, 21 Oct 2015 07:28:30 GMT"
        assert answers.retry_after(answer) == 30

    @pytest.mark.parametrize(
        "answer",
        [
            {"error": {"message": 5, "status": ["x"], "details": 7}},
            {"error": {"message": None, "status": None, "details": None}},
            {"error": {"details": [{"reason": "SERVICE_DISABLED", "metadata": None}]}},
            {"error": ["no"]},
            [],
        ],
    )
    def test_understands_a_refusal_in_any_form(
        self, cloud: GoogleCloud, session: Session, jobs: str, answer: object
    ) -> None:
        cloud.faults.add(CREATE, Fault(status=400, answer=answer))
        with pytest.raises(RefusedError, match="answers 400: Bad Request"):
            session.post(jobs, JOB)

    def test_tells_nothing_that_a_terminal_would_obey(
        self, cloud: GoogleCloud, session: Session, jobs: str
    ) -> None:
        cloud.faults.add(CREATE, Fault(status=400, message="\033[31mno\n\x07 such thing"))
        with pytest.raises(RefusedError, match=r"400: \[31mno such thing"):
            session.post(jobs, JOB)

    def test_does_not_wait_for_gpus_that_are_all_in_use(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        cloud.faults.add(CREATE, faults.ALL_IN_USE)
        with pytest.raises(RefusedError, match="CustomModelTrainingT4GPUs") as error:
            session.post(jobs, JOB)
        assert "iam-admin/quotas" in error.value.hint
        assert time.slept == []

    def test_says_in_words_that_there_are_no_tokens_any_more(
        self, cloud: GoogleCloud, jobs: str, tmp_path: Path
    ) -> None:
        account = "robot@p1.iam.gserviceaccount.com"
        key = client.write_key(cloud, tmp_path / "key.json", account, client.private_key())
        access = google.access(key, {})
        session = Session(access.credentials, login=access.remedy)
        cloud.tokens.revoked.add(account)
        cloud.faults.add(CREATE, faults.EXPIRED)
        with pytest.raises(RefusedError) as error:
            session.post(jobs, JOB)
        session.close()
        assert "gcloud iam service-accounts keys create" in error.value.hint
        assert error.value.message == (
            "Google gives no access token any more: invalid_grant: "
            "Token has been expired or revoked."
        )

    def test_gets_a_new_token_for_one_that_has_expired(
        self, cloud: GoogleCloud, session: Session, jobs: str
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, faults.EXPIRED))
        session.post(jobs, JOB)
        assert len(cloud.vertex.jobs) == 1
        assert len(cloud.tokens.issued) == 2

    def test_tells_what_google_says_of_a_wrong_body(self, session: Session, jobs: str) -> None:
        with pytest.raises(RefusedError) as error:
            session.post(jobs, {**JOB, "labels": {"lr": 0.1}})
        assert error.value.status == 400
        assert "labels.lr: expected string, found 0.1" in error.value.message
        assert error.value.message.startswith("127.0.0.1:")


class TestGet:
    @pytest.mark.parametrize("fault", BAD)
    def test_is_tried_again(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime, fault: Fault
    ) -> None:
        cloud.faults.add(LIST, faults.first(4, fault))
        assert session.get(jobs) == {}
        assert len(time.slept) == 4

    def test_gives_up_at_last(self, cloud: GoogleCloud, session: Session, jobs: str) -> None:
        cloud.faults.add(LIST, faults.UNAVAILABLE)
        with pytest.raises(UnknownOutcomeError, match="answers 503: that is what the test wants"):
            session.get(jobs)
        assert len(cloud.server.calls(LIST)) == 5

    def test_that_takes_a_minute_to_fail_is_not_tried_again(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        def slow(count: int) -> Fault:
            time.sleep(60)
            return faults.REQUEST_LOST

        cloud.faults.add(LIST, slow)
        with pytest.raises(UnknownOutcomeError):
            session.get(jobs)
        assert len(cloud.server.calls(LIST)) == 1

    def test_of_what_is_not_there_is_refused_at_once(self, session: Session, jobs: str) -> None:
        with pytest.raises(RefusedError) as error:
            session.get(f"{jobs}/17")
        assert (error.value.status, error.value.reason) == (404, "NOT_FOUND")

    def test_reads_all_pages(self, cloud: GoogleCloud, session: Session, jobs: str) -> None:
        for _ in range(5):
            session.post(jobs, JOB)
        cloud.faults.add(LIST, faults.every(2, faults.ANSWER_LOST))
        pages = list(session.pages(jobs, {"pageSize": "2"}))
        assert [len(page["customJobs"]) for page in pages] == [2, 2, 1]

    def test_reads_pages_that_are_asked_for_by_post(
        self, cloud: GoogleCloud, session: Session
    ) -> None:
        for number in range(3):
            cloud.logs.write("projects/p1/locations/r/customJobs/17", f"line {number}")
        url = cloud.server.url("logging") + "v2/entries:list"
        body = {"resourceNames": ["projects/p1"], "pageSize": 2}
        assert [len(page["entries"]) for page in session.pages(url, {}, body)] == [2, 1]


def test_deletes_what_it_is_told(cloud: GoogleCloud, session: Session, jobs: str) -> None:
    name = session.post(jobs, JOB)["name"]
    cloud.vertex.end(name, "SUCCEEDED")
    assert session.delete(f"{jobs}/{name.rpartition('/')[2]}")["done"]
    assert cloud.vertex.jobs == []


def test_the_client_that_sends_a_post_again_is_not_used() -> None:
    for file in Path(caliban.__file__).parent.rglob("*.py"):
        assert "import googleapiclient" not in file.read_text(), file
        assert "from googleapiclient" not in file.read_text(), file


def test_nobody_there_is_said_in_a_few_words(cloud: GoogleCloud, time: FakeTime) -> None:
    session = Session(credentials(cloud), time.clock)
    with pytest.raises(UnknownOutcomeError) as error:
        session.get("http://127.0.0.1:9/v1/x")
    assert error.value.message == "no answer from 127.0.0.1:9: [Errno 111] Connection refused"
    assert "network" in error.value.hint
    session.close()


def test_a_missing_bundle_of_certificates_is_said_too(
    cloud: GoogleCloud, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent.pem")
    session = Session(credentials(cloud), time.clock)
    with pytest.raises(UnknownOutcomeError, match=r"/nonexistent\.pem"):
        session.get("https://127.0.0.1:9/v1/x")
    session.close()


class TestOnce:
    """Nothing is made twice, and nothing is forgotten."""

    @pytest.mark.parametrize("fault", BAD)
    @pytest.mark.parametrize("times", [1, 3])
    def test_makes_one_thing_whatever_happens(
        self,
        cloud: GoogleCloud,
        session: Session,
        jobs: str,
        time: FakeTime,
        fault: Fault,
        times: int,
    ) -> None:
        cloud.faults.add(CREATE, faults.first(times, fault))
        body = {**JOB, "labels": {"caliban_uid": "a1"}}

        def find() -> str | None:
            found = session.get(jobs, {"filter": "labels.caliban_uid=a1"}).get("customJobs")
            return found[0]["name"] if found else None

        name = once(lambda: str(session.post(jobs, body)["name"]), find, time.clock)
        assert [job["name"] for job in cloud.vertex.jobs] == [name]
        assert len(cloud.server.calls(CREATE)) == (1 if fault.accepted else times + 1)

    def test_looks_several_times_for_what_comes_late(self, time: FakeTime) -> None:
        answers: Iterator[str | None] = iter([None, None, "late"])

        def send() -> str:
            raise UnknownOutcomeError("lost")

        assert once(send, lambda: next(answers), time.clock) == "late"
        assert time.slept == [1, 2, 4]

    def test_looks_for_less_long_after_an_answer_of_the_api_itself(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, faults.UNAVAILABLE))
        once(lambda: str(session.post(jobs, JOB)["name"]), lambda: None, time.clock)
        assert time.slept[:2] == [0.5, 1]
        assert sum(time.slept) < 2

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(status=500),
            Fault(status=503, answer="a proxy's own"),
            Fault(status=503, answer={"error": "busy"}),
        ],
    )
    def test_looks_longer_after_an_error_that_may_come_while_the_request_is_under_way(
        self, cloud: GoogleCloud, session: Session, jobs: str, time: FakeTime, fault: Fault
    ) -> None:
        cloud.faults.add(CREATE, faults.first(1, fault))
        once(lambda: str(session.post(jobs, JOB)["name"]), lambda: None, time.clock)
        assert time.slept[:3] == [1, 2, 4]

    def test_says_each_time_that_it_was_not_there(self, time: FakeTime) -> None:
        absent: list[bool] = []
        attempts = 0

        def send() -> str:
            nonlocal attempts
            attempts += 1
            raise UnknownOutcomeError("lost")

        with pytest.raises(UnknownOutcomeError):
            once(send, lambda: None, time.clock, lambda: absent.append(True), attempts=3)
        assert (attempts, len(absent)) == (3, 3)

    def test_does_not_repeat_what_is_refused(self, time: FakeTime) -> None:
        def send() -> str:
            raise RefusedError("no")

        with pytest.raises(RefusedError):
            once(send, lambda: None, time.clock)
        assert time.slept == []


class TestEndpoint:
    URL = "https://us-central1-aiplatform.googleapis.com/"

    def test_is_googles_unless_gcloud_has_another(self) -> None:
        assert endpoint("aiplatform", self.URL, {}) == self.URL
        name = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
        other = "https://proxy.example/aiplatform"
        assert endpoint("aiplatform", self.URL, {name: other}) == f"{other}/"

    @pytest.mark.parametrize("address", ["http://[::1", "aiplatform", "ftp://127.0.0.2/"])
    def test_must_be_an_address(self, address: str) -> None:
        name = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
        with pytest.raises(UsageError, match=re.escape(f"{name} is '{address}'")):
            endpoint("aiplatform", "https://example.com/", {name: address})

    def test_gets_no_token_in_clear_text(self) -> None:
        name = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
        with pytest.raises(CalibanError, match=f"{name} is 'http://proxy.example/'"):
            endpoint("aiplatform", self.URL, {name: "http://proxy.example/"})
        assert endpoint("aiplatform", self.URL, {name: "http://127.0.0.1:8000/"})


class TestSecrecy:
    def test_a_stranger_with_a_certificate_of_their_own_gets_nothing(
        self, cloud: GoogleCloud, tmp_path: Path
    ) -> None:
        arrived: list[str] = []

        class Stranger(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                arrived.append(str(self.headers))

        server = http.server.HTTPServer(("127.0.0.1", 0), Stranger)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(_certificate(tmp_path))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        session = Session(credentials(cloud), Clock(sleep=lambda seconds: None))
        with pytest.raises(UnknownOutcomeError, match="CERTIFICATE_VERIFY_FAILED"):
            session.get(f"https://127.0.0.1:{server.server_port}/v1/x")
        session.close()
        server.shutdown()
        server.server_close()
        assert arrived == []

    def test_verification_is_turned_off_nowhere(self) -> None:
        package = Path(caliban.__file__).parent
        for file in package.rglob("*.py"):
            text = file.read_text()
            for way in (
                "verify=False",
                "CERT_NONE",
                "_create_unverified",
                "check_hostname = False",
            ):
                assert way not in text, file

    def test_no_log_has_a_token(
        self, cloud: GoogleCloud, session: Session, jobs: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.NOTSET)
        logging.getLogger("google.auth").setLevel(logging.DEBUG)
        for fault in (faults.EXPIRED, faults.UNAVAILABLE, faults.ANSWER_LOST, faults.TOO_MANY):
            cloud.faults.add(LIST, faults.first(1, fault))
            session.get(jobs)
        said = caplog.text
        with pytest.raises(RefusedError) as error:
            session.get(f"{jobs}/17")
        said += repr(error.value) + error.value.message
        assert "customJobs" in said
        assert cloud.tokens.issued
        assert not [token for token in cloud.tokens.issued if token in said]

    def test_a_password_of_netrc_is_sent_to_nobody(
        self,
        cloud: GoogleCloud,
        jobs: str,
        tmp_path: Path,
        time: FakeTime,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("default login somebody password hunter2\n")
        monkeypatch.setenv("NETRC", str(netrc))
        file = tmp_path / "key.json"
        account = "robot@p1.iam.gserviceaccount.com"
        key = client.write_key(cloud, file, account, client.private_key())
        session = Session(google.access(key, {}).credentials, time.clock)
        session.get(jobs)
        session.close()
        assert {"Basic"} & {each.partition(" ")[0] for each in cloud.server.authorizations} == set()
        assert any(each.startswith("Bearer ") for each in cloud.server.authorizations)

    def test_a_redirection_is_not_followed(self, cloud: GoogleCloud) -> None:
        arrived: list[str] = []

        class Elsewhere(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                arrived.append(self.path)
                self.send_response(302)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        session = Session(credentials(cloud))
        url = f"http://127.0.0.1:{server.server_port}/here"
        with pytest.raises(UnknownOutcomeError, match="answers 302"):
            session.post(url, {})
        session.close()
        server.shutdown()
        server.server_close()
        assert arrived == ["/here"]


@pytest.mark.parametrize(
    ("reason", "details", "hint"),
    [
        ("PERMISSION_DENIED", [], "roles/aiplatform.user"),
        ("RESOURCE_EXHAUSTED", [], "iam-admin/quotas"),
        ("UNAUTHENTICATED", [], "Log in."),
        (
            "PERMISSION_DENIED",
            [
                {
                    "reason": "SERVICE_DISABLED",
                    "metadata": {"consumer": "projects/p1", "service": "aiplatform.googleapis.com"},
                }
            ],
            "Run: gcloud services enable aiplatform.googleapis.com --project p1",
        ),
    ],
)
def test_errors_that_can_be_mended_say_how(reason: str, details: list[object], hint: str) -> None:
    assert hint in answers.hint(reason, details, "Log in.")


def _certificate(folder: Path) -> Path:
    """A certificate that nobody has signed, with its key, for 127.0.0.1."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    alternative = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return file
