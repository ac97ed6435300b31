"""The page of a report, in a browser."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from caliban import joblog
from caliban.history.store import HistoryStore
from caliban.model.job import Status
from caliban.report import facts, page
from tests.browser import Browser
from tests.conftest import Caliban, Inline
from tests.report import sweeps


@pytest.fixture
def report(home: Path, inline: Inline, tmp_path: Path) -> Path:
    """The page of a sweep of 200 jobs."""
    with HistoryStore.open() as store:
        sweeps.record(store, "digits-sweep", 200)
    file = tmp_path / "report.html"
    done = inline("report", "digits-sweep", "-o", str(file))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"Written: {file}\n")
    return file


@pytest.fixture
def hostile(home: Path, inline: Inline, tmp_path: Path) -> Path:
    """The page of jobs that are called, say and print what would do harm as HTML."""
    with HistoryStore.open() as store:
        sweeps.record(store, "<img src=x onerror=alert(3)>", 60, hostile=True)
    file = tmp_path / "report.html"
    assert not inline("report", "<img src=x onerror=alert(3)>", "-o", str(file)).returncode
    return file


def test_a_browser_opens_it_without_an_error_and_without_the_network(
    report: Path, browser: Browser
) -> None:
    visit = browser.visit(report.as_uri())
    visit.page.wait_for_selector("#against .main-svg")
    visit.page.wait_for_selector("#durations .main-svg")
    assert visit.said == []
    assert visit.requests == [report.as_uri()]
    assert visit.page.locator("h1").inner_text() == "digits-sweep"
    assert visit.page.locator("#against .xtitle, #against .x2title").count() == 2
    assert visit.page.locator("#against .scatterlayer .trace").count() > 6
    buttons = visit.page.locator("#against .modebar-btn")
    titles = buttons.evaluate_all("all => all.map(each => each.dataset.title)")
    assert "Download plot as a PNG" in titles
    assert not any("Share" in title or "Cloud" in title for title in titles)
    assert "unsafe-eval" not in report.read_text()[:2000]


def test_numbers_of_the_best_runs_stand_below_one_another(report: Path, browser: Browser) -> None:
    table = browser.visit(report.as_uri()).page.locator("#best")
    heads = table.locator("th").all_inner_texts()
    aligned = "all => all.map(each => getComputedStyle(each).textAlign)"
    for cells in ("th", "tbody tr:first-child td"):
        how = dict(zip(heads, table.locator(cells).evaluate_all(aligned), strict=True))
        assert how == {
            **dict.fromkeys(heads, "left"),
            **dict.fromkeys(("job", "accuracy", "learning_rate", "width"), "right"),
            **dict.fromkeys(("dropout", "seed", "time"), "right"),
        }
    figures = "each => getComputedStyle(each).fontVariantNumeric"
    assert table.locator("td").first.evaluate(figures) == "tabular-nums"


def test_runs_that_failed_are_hollow_and_not_among_the_medians(
    tmp_path: Path, browser: Browser, home: Path
) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 60)
        jobs = store.group_jobs("tester", "sweep", 1)
    found = facts.find("sweep", [sweeps.with_metrics(job) for job in jobs])
    path = tmp_path / "report.html"
    path.write_text(page.render(found, {}))
    visit = browser.visit(path.as_uri())
    visit.page.wait_for_selector("#against .main-svg")
    points, medians, *_ = visit.page.locator("#against").evaluate("each => each.data")
    failed = [run.job.outcome.status is Status.FAILED for run in found.runs]
    assert 0 < sum(failed) < 60
    assert [each == "circle-open" for each in points["marker"]["symbol"]] == failed
    rates = {run.parameters["learning_rate"] for run in found.runs}
    assert medians["y"] == [0.1] * len(rates)
    assert "Runs that did not succeed are hollow." in visit.page.content()


@pytest.mark.parametrize(("number", "jobs"), [(1, "1 job"), (2, "2 jobs")])
def test_jobs_of_which_nothing_is_recorded_are_counted(home: Path, number: int, jobs: str) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", number)
        found = facts.find("sweep", store.group_jobs("tester", "sweep", 1))
    assert f"Of {jobs} it is not recorded what exactly ran" in page.render(found, {})


def test_the_table_is_sorted_by_any_column(report: Path, browser: Browser) -> None:
    visit = browser.visit(report.as_uri())
    table = visit.page.locator("#jobs")

    def column(number: int) -> list[str]:
        return table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()

    heads = [each.split("\n")[-1] for each in table.locator("th").all_inner_texts()]
    accuracy = heads.index("accuracy") + 1
    table.get_by_role("button", name="accuracy").click()
    best = [float(text) for text in column(accuracy)]
    assert best == sorted(best, reverse=True)
    assert len(best) == 25
    assert table.locator("th[aria-sort=descending]").inner_text().endswith("accuracy")
    table.get_by_role("button", name="accuracy").click()
    worst = [float(text) for text in column(accuracy)]
    assert worst == sorted(worst)
    assert worst[0] < best[-1]
    for _ in range(2):
        visit.page.get_by_role("button", name="show more").click()
    assert column(accuracy)[-1] == ""  # of those that failed, there is none: they come last
    assert len(column(accuracy)) == 200
    table.get_by_role("button", name="optimizer").click()
    names = column(heads.index("optimizer") + 1)
    assert names == sorted(names)
    assert visit.said == []


def test_the_table_is_filtered_by_words(report: Path, browser: Browser) -> None:
    visit = browser.visit(report.as_uri())
    visit.page.locator("#filter").fill("FAILED memory")
    rows = visit.page.locator("#jobs tbody tr").all_inner_texts()
    assert len(rows) == 9
    assert all("out of memory" in row for row in rows)


def test_another_metric_can_be_looked_at(report: Path, browser: Browser) -> None:
    visit = browser.visit(report.as_uri())
    title = visit.page.locator("#against .ytitle")
    assert title.text_content() == "accuracy"
    visit.page.locator("#metric").select_option("loss")
    assert title.text_content() == "loss"
    assert visit.said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_both_colour_schemes(
    report: Path, browser: Browser, scheme: str
) -> None:
    visit = browser.visit(report.as_uri(), "dark" if scheme == "dark" else "light")
    contrast = """(selector) => {
      const light = (colour) => {
        const [r, g, b] = colour.match(/[0-9.]+/g).map((each) => {
          const part = each / 255;
          return part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const element = document.querySelector(selector), style = getComputedStyle(element);
      const colour = element instanceof SVGElement ? style.fill : style.color;
      const [a, b] = [colour, getComputedStyle(document.body).backgroundColor].map(light);
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }"""
    for selector in ("h1", "small", ".xtitle", ".ytick text", ".SUCCEEDED", ".FAILED", "summary"):
        assert visit.page.evaluate(contrast, selector) >= 4.5, selector


def test_on_a_narrow_screen_the_page_is_no_wider_than_it(report: Path, browser: Browser) -> None:
    visit = browser.visit(report.as_uri(), width=380)
    visit.page.wait_for_selector("#against .main-svg")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= 380
    assert visit.page.evaluate("document.querySelector('#against').scrollWidth") <= 380


def test_on_paper_it_says_how_many_jobs_are_not_on_it(report: Path, browser: Browser) -> None:
    page = browser.visit(report.as_uri(), width=720).page
    page.emulate_media(media="print")
    assert page.locator("#shown").inner_text() == "25 of 200 are shown"
    assert page.locator("#shown").is_visible()
    for control in ("input", "select", "#more"):
        assert not page.locator(control).is_visible()
    page.emulate_media(media="screen")
    page.get_by_role("button", name="show more").click()
    page.emulate_media(media="print")
    # A head that is repeated on each page has words in it, but no buttons.
    assert page.locator("#jobs th button").first.evaluate("e => getComputedStyle(e).display") == (
        "contents"
    )


def test_what_jobs_are_called_say_and_print_is_text(hostile: Path, browser: Browser) -> None:
    visit = browser.visit(hostile.as_uri())
    visit.page.wait_for_selector("#against .main-svg")
    for button in visit.page.locator("#jobs th button").all():
        button.click()
    visit.page.locator("summary").first.click()
    visit.page.mouse.move(400, 500)
    assert visit.said == []
    assert visit.requests == [hostile.as_uri()]
    assert visit.page.locator("main img, main script, main svg a, main b b").count() == 0
    assert visit.page.locator("h1").inner_text() == "<img src=x onerror=alert(3)>"
    assert "</script><script>alert(1)" in visit.page.locator("#jobs").inner_text()
    assert "alert(1)</script>" in visit.page.locator(".cause code").first.inner_text()


def test_a_script_that_is_not_the_page_s_own_would_not_run(report: Path, browser: Browser) -> None:
    changed = report.read_text().replace("<footer>", "<script>alert(1)</script><footer>")
    report.write_text(changed)
    visit = browser.visit(report.as_uri())
    assert len(visit.said) == 1
    assert "Content Security Policy" in visit.said[0]


def test_the_same_history_gives_the_same_bytes(report: Path, caliban: Caliban) -> None:
    for seed in ("1", "2"):
        again = report.with_name(f"again{seed}.html")
        done = caliban(
            *("report", "digits-sweep", "-o", str(again)),
            env={"PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo"},
        )
        assert done.returncode == 0, done.stderr
        assert again.read_bytes() == report.read_bytes()


def test_ten_thousand_jobs_are_one_page(home: Path, inline: Inline, browser: Browser) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "large", 10_000)
    assert not inline("report", "large", "-o", "large.html").returncode
    file = Path("large.html").resolve()
    assert file.stat().st_size < 8_000_000
    visit = browser.visit(file.as_uri())
    assert visit.page.locator("#shown").inner_text() == "25 of 10000 are shown"
    visit.page.get_by_role("button", name="accuracy").click()
    assert visit.page.locator("#jobs tbody tr").count() == 25
    assert visit.page.locator("#against .main-svg").count() > 0
    assert "not supported" not in visit.page.locator("#against").inner_text()
    # Of WebGL, a browser without a GPU says that it is slow.
    assert [said for said in visit.said if "GPU stall" not in said] == []


def test_numbers_of_jobs_are_whole_ones_each_once(
    home: Path, inline: Inline, browser: Browser
) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "few", 3)
    assert inline("report", "few", "-o", "few.html").returncode == 0
    visit = browser.visit(Path("few.html").resolve().as_uri())
    visit.page.wait_for_selector("#durations .ytick")
    labels = visit.page.locator("#durations .ytick").all_text_contents()
    assert len(labels) == len(set(labels)) > 1


def test_without_the_plotting_library_the_message_says_how_to_get_it(
    home: Path, caliban: Caliban, tmp_path: Path
) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 2)
    (tmp_path / "plotly.py").write_text("raise ImportError('not here')\n")
    root = Path(__file__).parents[2]
    done = caliban("report", "sweep", "-o", "x.html", env={"PYTHONPATH": f"{tmp_path}:{root}"})
    assert done.returncode == 2
    assert "pip install 'caliban[report]'" in done.stderr
    assert not Path("x.html").exists()
    assert (
        caliban("report", "sweep", "--md", env={"PYTHONPATH": f"{tmp_path}:{root}"}).returncode == 0
    )


def test_what_a_failed_job_printed_last_is_shown_as_a_terminal_shows_it(
    home: Path, inline: Inline
) -> None:
    with HistoryStore.open() as store:
        uids = sweeps.record(store, "sweep", 60)
    printed = b"first line\r\n 10 %\r100 %\r\n\x1b[31mred\x1b[0m <end>\r\n"
    for uid in uids:
        joblog.compressed(uid).write_bytes(gzip.compress(printed))
    page = inline("report", "sweep").stdout
    assert "<pre>first line\n100 %\nred &lt;end&gt;</pre>" in page


def test_the_page_goes_to_stdout_unless_a_file_is_named(home: Path, caliban: Caliban) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 2)
    done = caliban("report", "sweep")
    assert done.stdout.startswith("<!DOCTYPE html>")
    assert done.stderr == ""


def test_a_file_that_cannot_be_written_is_one_clear_message(home: Path, inline: Inline) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 2)
    done = inline("report", "sweep", "-o", "no/such/folder/x.html")
    assert done.returncode == 2
    assert "cannot write no/such/folder/x.html: No such file or directory" in done.stderr


def test_a_group_that_does_not_exist_is_named(home: Path, inline: Inline) -> None:
    done = inline("report", "nothing", "--md")
    assert done.returncode == 2
    assert "no experiment group 'nothing'" in done.stderr


def test_markdown_keeps_what_jobs_say_within_spans_of_code(home: Path, inline: Inline) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 60, hostile=True)
    text = inline("report", "sweep", "--md").stdout
    outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)
    assert "<" not in outside
    assert "alert" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in rows if not line.startswith("|-")}
    assert len(widths) == 3  # of the three tables
    assert text.count("## ") == 4


def test_markdown_has_the_best_runs_the_failures_and_what_ran(home: Path, inline: Inline) -> None:
    with HistoryStore.open() as store:
        sweeps.record(store, "sweep", 200)
    text = inline("report", "sweep", "--md", "--sort", "-loss").stdout
    assert "200 experiments: 177 SUCCEEDED, 23 FAILED." in text
    assert "Time of all jobs together: 6 h 6 min; median 1 min 21 s, longest 4 min 28 s." in text
    assert "## Best by `loss`, the smallest first" in text
    assert "|---:|---:|" in text.split("## Best by")[1].splitlines()[3]
    assert "|---|---|---:|---:|---:|---:|" in text  # parameter, value, runs, failed, best, median
    assert "| 14 | `FloatingPointError: the loss is nan` | 14, 16, 30, 44, 54, ... |" in text
    assert "`commit 9c0ffee9c0ffee9c0ffee9c0ffee9c0ffee9c0ff and 1 changed file`" in text


def test_the_data_of_a_page_is_json(report: Path) -> None:
    found = re.search(
        r'<script type="application/json" id="data">(.*?)</script>', report.read_text()
    )
    assert found
    data = json.loads(found[1])
    assert {len(column["values"]) for column in data["columns"]} == {200}
    assert sys.getsizeof(found[1]) < 100_000


def test_asking_for_help_does_not_load_the_plotting_library(caliban: Caliban) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "caliban", "report", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "plotly" not in done.stderr
