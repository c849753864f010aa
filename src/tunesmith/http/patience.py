"""Connections that do not ask: uvicorn closes one that is idle after an answer, but waits for ever for a first request,
or for the rest of one's headers (slow loris). Bodies are ``limits.BodyLimit``'s.

Importing this imports uvicorn; only who starts a server does.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol, closing connections whose next request is not wholly asked in time; give it as ``http=``."""

    patience_s = 20.0  # beside the time uvicorn lets a connection idle
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_headers_complete(self) -> None:
        self._stop()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # else the next one was asked already, and is being answered
        if self.cycle is None or self.cycle.response_complete:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop()
        self._waiting = self.loop.call_later(self.patience_s + self.timeout_keep_alive, self._close)

    def _stop(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    def _close(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()
