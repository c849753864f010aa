import pytest

from tunesmith.http.origins import Origins, Visit
from tunesmith.kernel.problems import Forbidden, Invalid

HOST = "localhost:8000"
LISTED = "https://app.example.com"


def visit(origins: Origins, method: str, **headers: str) -> Visit:
    return origins.check(
        method, HOST, {name.replace("_", "-").encode(): [value.encode()] for name, value in headers.items()}
    )


def refused(origins: Origins, method: str, **headers: str) -> bool:
    try:
        visit(origins, method, **headers)
    except Forbidden:
        return True
    return False


@pytest.mark.parametrize("listed", [(), (LISTED,)])
def test_programs_send_no_origin_and_pass(listed: tuple[str, ...]) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert not refused(Origins(listed), method)


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000",  # another port is another page
        "http://localhost",
        "http://localhost:8000.evil.example",
        "http://localhost:8000/",
        "file://",
        "",
        "HTTP://LOCALHOST:8000",
        "https://app.example.com.evil.example",
        "http://app.example.com",  # listed with https only
        "https://APP.example.com",
        "https://app.example.com:444",
    ],
)
def test_a_page_elsewhere_changes_nothing(origin: str) -> None:
    for listed in ((), (LISTED,)):
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            assert refused(Origins(listed), method, origin=origin)


def test_the_servers_own_page_may_also_behind_tls() -> None:
    for origin in (f"http://{HOST}", f"https://{HOST}"):
        assert not refused(Origins(), "POST", origin=origin, sec_fetch_site="same-origin")


def test_two_origins_are_none() -> None:
    with pytest.raises(Forbidden):
        Origins([LISTED]).check("POST", HOST, {b"origin": [LISTED.encode(), LISTED.encode()]})


def test_a_browser_that_says_cross_site_without_an_origin_changes_nothing() -> None:
    assert refused(Origins([LISTED]), "POST", sec_fetch_site="cross-site")
    assert not refused(Origins(), "GET", sec_fetch_site="cross-site")  # a link that was followed
    for site in ("same-origin", "none"):
        assert not refused(Origins(), "POST", sec_fetch_site=site)


def test_reading_from_elsewhere_is_answered_without_a_word_that_lets_the_page_see_it() -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert visit(Origins(), method, origin="https://evil.example") == Visit()
        assert visit(Origins([LISTED]), method, origin="https://evil.example") == Visit(((b"vary", b"Origin"),))


def test_a_listed_origin_gets_itself_back_and_never_a_star_or_credentials() -> None:
    seen = visit(Origins(["https://other.example", LISTED]), "POST", origin=LISTED, sec_fetch_site="cross-site")
    headers = dict(seen.headers)
    assert headers[b"access-control-allow-origin"] == LISTED.encode()
    assert headers[b"vary"] == b"Origin"
    exposed = set(headers[b"access-control-expose-headers"].decode().split(", "))
    assert exposed >= {"X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"}
    assert b"access-control-allow-credentials" not in headers and b"access-control-allow-methods" not in headers
    assert not seen.preflight


def test_a_preflight_of_a_listed_origin_is_told_what_it_may() -> None:
    seen = visit(Origins([LISTED]), "OPTIONS", origin=LISTED, access_control_request_method="POST")
    headers = dict(seen.headers)
    assert seen.preflight
    assert "DELETE" in headers[b"access-control-allow-methods"].decode()
    assert "Authorization" in headers[b"access-control-allow-headers"].decode()
    assert "*" not in b"".join(headers.values()).decode()


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_a_preflight_of_any_other_is_refused(origin: str) -> None:
    for listed in ((), (LISTED,)):
        assert refused(Origins(listed), "OPTIONS", origin=origin, access_control_request_method="POST")


@pytest.mark.parametrize(
    "written, sent",
    [
        ("HTTPS://App.Example.com/", "https://app.example.com"),
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:80", "http://a.example"),
        ("http://a.example:8080", "http://a.example:8080"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_origins_are_read_as_browsers_send_them(written: str, sent: str) -> None:
    assert not refused(Origins([written]), "POST", origin=sent)


@pytest.mark.parametrize("text", ["*", "null", "app.example.com", "https://", "https://a/b", "https://*.a", "ftp://a"])
def test_what_is_no_origin_is_refused_at_start(text: str) -> None:
    with pytest.raises(Invalid) as caught:
        Origins([text])
    assert caught.value.details == {"field": "cors_origins"}
