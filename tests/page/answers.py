"""What a page receives of the server, compared with what the server says of itself: the page is built on the latter."""

import json
from urllib.parse import urlsplit

from playwright.sync_api import Error, Page, Request

from tests.described import of_this_version


class Answers:
    """JSON answers with status 200 of the server at ``url``, each different one once, from all pages that are watched.

    An answer whose page was left before it could be read is not among them.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._heard: set[tuple[str, str, bytes]] = set()

    def watch(self, page: Page) -> None:
        """Listen to what ``page`` receives from now on."""
        page.on("requestfinished", self._hear)

    def _hear(self, request: Request) -> None:
        if not request.url.startswith(self._url + "/"):
            return
        try:
            response = request.response()
            if response and response.status == 200 and response.headers.get("content-type") == "application/json":
                self._heard.add((request.method, urlsplit(request.url).path, response.body()))
        except Error:
            return  # the page has gone elsewhere

    def findings(self) -> list[str]:
        """How what was heard differs from its descriptions; see ``Described.findings``."""
        described = of_this_version() if self._heard else None
        return [
            finding
            for method, path, body in sorted(self._heard)
            if described is not None
            for finding in described.findings(method, path, json.loads(body))
        ]
