"""That what a page is told, and what the server says it tells, are compared."""

from playwright.sync_api import Browser

from tests.page.answers import Answers
from tests.server import Server


def test_a_field_that_the_server_does_not_describe_is_found(page_server: Server, browser: Browser) -> None:
    answers = Answers(page_server.url)
    context = browser.new_context(base_url=page_server.url)
    page = context.new_page()
    answers.watch(page)
    page.goto("/app/")
    told = page_server.get("/session").json()

    def ask() -> None:
        with page.expect_event("requestfinished", lambda request: request.url.endswith("/session")):
            page.evaluate("fetch('/session').then((answer) => answer.text())")

    ask()
    assert answers.findings() == []
    page.route("**/session", lambda route: route.fulfill(json={**told, "more": 1}))
    ask()
    [found] = answers.findings()
    context.close()
    assert found.startswith("GET /session") and "'more'" in found
