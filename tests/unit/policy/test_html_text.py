"""The text of error pages of common servers and proxies."""

from __future__ import annotations

import pytest
from relay.policy.html_text import HTML_MAX_CHARS, html_text

PAGES = {
    "nginx": (
        503,
        "<html>\r\n<head><title>503 Service Temporarily Unavailable</title></head>\r\n<body>\r\n"
        "<center><h1>503 Service Temporarily Unavailable</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n",
        "Service Temporarily Unavailable; nginx",
    ),
    "nginx, plain HTTP to its TLS port": (
        400,
        "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head><body><center>"
        "<h1>400 Bad Request</h1></center><center>The plain HTTP request was sent to HTTPS port</center></body></html>",
        "The plain HTTP request was sent to HTTPS port; Bad Request",
    ),
    "Apache": (
        502,
        '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN"><html><head>\n<title>502 Proxy Error</title>\n</head>\n'
        "<body><h1>Proxy Error</h1>\n<p>The proxy server received an invalid\r\nresponse from an upstream server.<br />"
        "\r\n</p><p>Reason: <strong>Error reading from remote server</strong></p>\n<hr>\n"
        "<address>Apache/2.4.57 (Debian) Server at a.example Port 443</address>\n</body></html>",
        "Proxy Error; The proxy server received an invalid response from an upstream server.;"
        " Reason: Error reading from remote…",
    ),
    "HAProxy": (
        503,
        "<html><body><h1>503 Service Unavailable</h1>\nNo server is available to handle this request.\n</body></html>",
        "Service Unavailable; No server is available to handle this request.",
    ),
    "Laravel": (
        503,
        f"<html><head><title>Service Unavailable</title><style>{'body{margin:0}' * 600}</style></head><body>"
        "<div>\n 503 </div><div>\n Service Unavailable </div></body></html>",
        "Service Unavailable",
    ),
}


@pytest.mark.parametrize(("status", "page", "message"), PAGES.values(), ids=PAGES)
def test_the_text_of_an_error_page_is_short_without_repetition(status: int, page: str, message: str) -> None:
    found = html_text(page, status)

    assert found == message
    assert len(found) <= HTML_MAX_CHARS


@pytest.mark.parametrize(
    ("page", "message"),
    [
        pytest.param("<p>The <b>key</b> has <a href='x'>a</a> fault</p>", "The key has a fault", id="tags in a line"),
        pytest.param("<style>p{", "", id="cut within a style"),
        pytest.param("<h1>Oops</h1><p cl", "Oops", id="cut within a tag"),
        pytest.param("1 < 2 and 3 > 2", "1 < 2 and 3 > 2", id="no tag"),
        pytest.param("<p>5000 of 500</p>", "5000 of 500", id="a number that is not the status"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_texts_that_are_not_error_pages(page: str, message: str) -> None:
    assert html_text(page, 500) == message


@pytest.mark.parametrize("part", ["<a", "<style", "<style><", "<script>", "<b", "<b>", "<b ", "<", " "])
def test_a_page_made_to_be_slow_takes_linear_time(part: str) -> None:
    """The time limit of the test fails a quadratic search, which would take minutes for 64 KiB."""
    html_text((part * 65536)[:65536], 500)
