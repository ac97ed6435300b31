"""Headless Chromium, and Jupyter as its users see it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from typing import Any, Literal

import playwright.sync_api as playwright
from playwright.sync_api import BrowserContext, Dialog, Locator, Page, expect, sync_playwright

# How long something may take on a busy machine, in seconds.
_PATIENCE = 120

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def program() -> str | None:
    """Where Chromium is, if it is on PATH."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


def _answer(question: Locator) -> None:
    """Takes what a question proposes; the test's output has its text, if the test fails."""
    print(question.inner_text())
    question.locator(".jp-mod-accept").click()


@dataclass(frozen=True)
class Visit:
    """A page that is open.

    Attributes:
      page: the page.
      said: messages of its console, errors of its scripts, and dialogs.
      requests: the addresses that it asked for, its own first.
    """

    page: Page
    said: list[str]
    requests: list[str]


class Chromium:
    """A Chromium without a window, which is several browsers that know nothing of one another."""

    def __init__(self, executable: str) -> None:
        self._playwright = sync_playwright().start()
        self._program = self._playwright.chromium.launch(executable_path=executable)

    def browser(self) -> Browser:
        """One that has never been anywhere."""
        return Browser(self._program)

    def close(self) -> None:
        """Ends the program."""
        self._program.close()
        self._playwright.stop()


class Browser:
    """What has been opened in it, and is kept of that, nobody else sees."""

    def __init__(self, program: playwright.Browser) -> None:
        self._program = program
        self._contexts: list[BrowserContext] = []

    def close(self) -> None:
        """Closes all pages."""
        for context in self._contexts:
            context.close()

    def visit(
        self, url: str, scheme: Literal["light", "dark"] = "light", width: int = 1280
    ) -> Visit:
        """Opens a page, and takes down what it says and asks for.

        Args:
          url: of the page.
          scheme: the colours that its reader prefers.
          width: of the window.
        """
        page = self._page(color_scheme=scheme, viewport={"width": width, "height": 900})
        visit = Visit(page, [], [])

        def dismiss(dialog: Dialog) -> None:
            visit.said.append("a dialog")
            dialog.dismiss()

        page.on("console", lambda message: visit.said.append(message.text))
        page.on("pageerror", lambda error: visit.said.append(str(error)))
        page.on("request", lambda request: visit.requests.append(request.url))
        page.on("dialog", dismiss)
        page.goto(url)
        return visit

    def _page(self, **options: Any) -> Page:
        """A new page; `options` are those of playwright's new_context."""
        context = self._program.new_context(**options)
        self._contexts.append(context)
        context.set_default_timeout(_PATIENCE * 1000)
        return context.new_page()

    def run_cell(self, url: str, code: str) -> str:
        """Opens Jupyter, makes a notebook, runs a cell, saves, and returns what the cell printed.

        Args:
          url: as `caliban notebook` prints it.
          code: which prints something.
        """
        page = self._page()
        page.goto(url)
        page = self._new_notebook(page)
        # What a slow server makes JupyterLab ask, besides the name that it asks for at the end.
        question = page.locator(".jp-Dialog", has_not_text="Rename")
        page.add_locator_handler(question, _answer)
        page.locator(".jp-CodeCell .cm-content").first.click()
        page.keyboard.insert_text(code)
        self._execute(page)
        output = page.locator(".jp-CodeCell .jp-OutputArea-output").first
        output.wait_for()
        page.keyboard.press("Control+s")
        if "/lab" in page.url:  # it asks for a name
            page.get_by_role("button", name="Rename and Save").click()
        return output.inner_text()

    def _execute(self, page: Page) -> None:
        """Runs the cell that has the cursor, and waits until it has a number, after its end.

        As long as its kernel is not there, or if JupyterLab replaces that by another one, which it
        does now and then, nothing happens, and a user would try again.
        """
        prompt = page.locator(".jp-CodeCell .jp-InputPrompt").first
        for _ in range(_PATIENCE // 5):
            page.keyboard.press("Control+Enter")
            try:
                expect(prompt).to_have_text(re.compile(r"\[\d"), timeout=5000)
                break
            except AssertionError:
                page.locator(".jp-CodeCell .cm-content").first.click()

    def _new_notebook(self, page: Page) -> Page:
        if "/lab" in page.url:
            page.locator(".jp-LauncherCard[data-category=Notebook]", has_text="Python 3").click()
            return page
        page.get_by_text("New", exact=True).click()
        with page.context.expect_page() as opened:
            page.get_by_text("Python 3 (ipykernel)").click()
        return opened.value
