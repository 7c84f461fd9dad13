"""What yt-dlp says when something is wrong, as one sentence that says what to do."""

import logging
import re
from collections.abc import Generator
from typing import Any

from dora.data.download import PASSING, STATUS_ERRORS
from dora.data.web import Interrupted, public, redact, retry_after_s

log = logging.getLogger("dora.youtube")


def translated(url: str, error: Exception) -> Exception:
    """Our exception for one of yt-dlp's."""
    from yt_dlp.networking.exceptions import CertificateVerifyError, HTTPError, TransportError

    said, text = public(url), redact(str(error)).removeprefix("ERROR: ").strip()
    text = re.sub(r" \(caused by .*|; please report this issue .*", "", re.sub(r"\s+", " ", text))
    status, wait_s, is_passing = None, 0.0, False
    for cause in _causes(error):
        if isinstance(cause, HTTPError):
            status, wait_s = cause.status, retry_after_s({k.lower(): v for k, v in cause.response.headers.items()})
        is_passing |= isinstance(cause, TransportError) and not isinstance(cause, CertificateVerifyError)
    if status is None and (match := re.search(r"HTTP Error (\d{3})", text)):
        status = int(match[1])
    words = re.sub(r"https?://\S+", "", text)  # an address may be about anything
    for pattern, kind, what_to_do in _EXPLANATIONS:
        if re.search(pattern, words, re.IGNORECASE):
            return kind(f"{said}: {what_to_do} (yt-dlp says: {text})")
    if is_passing or (status and (status in PASSING or status >= 500)) or re.search(_PASSING_TEXTS, words):
        return Interrupted(text, wait_s)
    if status in STATUS_ERRORS:
        kind, what_to_do = STATUS_ERRORS[status]
        return kind(f"{said} answers {status}. {what_to_do}")
    return ValueError(
        f"{said} could not be read: {text}. Sites change: pip install --upgrade 'yt-dlp[default]' may help."
    )


def _causes(error: BaseException) -> Generator[BaseException]:
    """An exception and what led to it, as yt-dlp and Python keep it."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseException) and one not in seen:
            seen.append(one)
            yield one
            waiting += [
                *(getattr(one, "exc_info", None) or ()),
                getattr(one, "cause", None),
                one.__cause__,
                one.__context__,
            ]


# What yt-dlp says of a video that will not come however often it is asked for, and what helps.
_LOGIN = "set network.cookies to the cookies.txt of an account that may see it"
_EXPLANATIONS: tuple[tuple[str, type[Exception], str], ...] = (
    ("private video|video is private", PermissionError, f"it is private: ask its owner, or {_LOGIN}."),
    (
        "confirm you.{1,3}re not a bot|not a robot|captcha",
        PermissionError,
        "the site takes this machine for a bot: wait some hours, use another network, or set network.cookies to the "
        "cookies.txt of a signed-in browser.",
    ),
    ("confirm your age|age.restricted", PermissionError, f"it is for adults only: {_LOGIN}."),
    ("members.only|join this channel|requires payment|premium", PermissionError, f"it is not for everybody: {_LOGIN}."),
    (
        "available (in|from) your (country|location)|geo.?restrict|blocked it in your country",
        PermissionError,
        "it is not shown in this country: set network.proxy to one in another country, or use a mirror.",
    ),
    (
        "removed|terminated|no longer available|video unavailable|does not exist|been deleted",
        FileNotFoundError,
        "it is gone: find a mirror, and give its address or a file.",
    ),
    (
        "premieres in|will begin in|live event",
        ValueError,
        "it has not been shown yet: wait until its recording is there.",
    ),
    ("unsupported url|is not a valid url", ValueError, "yt-dlp finds no video there: give the address of one video."),
    (
        "certificate",
        ValueError,
        "its certificate is not trusted: check the clock and the address, or SSL_CERT_FILE=/path/to/certificates.pem.",
    ),
)
_PASSING_TEXTS = r"timed out|bytes read|Connection|Remote end closed|data blocks|gave up without a reason"


class Log:
    """yt-dlp's messages in our log, without what is secret in them."""

    def debug(self, message: str) -> None:
        """What it does."""
        log.debug("%s", redact(message))

    info = debug

    def warning(self, message: str, **_: Any) -> None:
        """What it does without."""
        log.warning("%s", redact(message))

    def error(self, message: str) -> None:
        """What it also raises."""
        log.debug("%s", redact(message))
