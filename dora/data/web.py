"""The one place that speaks HTTP for plain files: a request, its answer, and what may be said about an address."""

import email.utils
import importlib.util
import logging
import re
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qs, urlsplit, urlunsplit

from dora.artifacts import Network

if TYPE_CHECKING:
    import httpx

MAX_REDIRECTS = 10
UNREADABLE = "an address that cannot be read"
PROXY_LOGIN = "the proxy wants a login: set network.proxy = http://user:password@host:port."


class Interrupted(Exception):
    """Passing trouble of network or server, in words: worth another try, after `wait_s` if the server says so."""

    def __init__(self, reason: str, wait_s: float = 0):
        super().__init__(reason)
        self.wait_s = wait_s


class Answer(NamedTuple):
    """What a server answered, after all redirects."""

    url: str  # without its secrets
    status: int
    headers: Mapping[str, str]  # names in any case
    chunks: Iterator[bytes]  # as sent, nothing is unpacked


class Web:
    """`with Web(network) as web:` keeps one connection to each host, through the machine's proxy."""

    def __init__(self, network: Network):
        require_extra()
        import httpx

        for name in ("httpx", "httpcore"):  # they log whole addresses, with the secrets in them
            logging.getLogger(name).setLevel(logging.WARNING)
        proxy = network.proxy.get_secret_value() if network.proxy else None
        # The length of what is sent must be that of the file, or nothing could be resumed or checked.
        headers = {"Accept-Encoding": "identity", "User-Agent": "dora"}
        self.client: httpx.Client
        try:
            self.client = httpx.Client(proxy=proxy, timeout=network.timeout_s, headers=headers)
        except (ValueError, ImportError, httpx.InvalidURL):  # their messages show the password
            raise ValueError(
                "the proxy of network.proxy cannot be used. Expected http://user:password@host:port; "
                "for socks5:// install socksio."
            ) from None

    def __enter__(self) -> "Web":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str] | None = None) -> Generator[Answer]:
        """Ask for an address and follow it to its end.

        Raises:
            Interrupted: for trouble of the connection.
            ValueError: for an address or a redirect that leads nowhere, or a host that is not who it says.
            PermissionError: if the proxy wants a login.
        """
        import httpx

        said = public(url)
        if said == UNREADABLE:
            raise ValueError(f"{said} is no valid address.")
        try:
            response = self._follow(self.client.build_request("GET", url, headers=headers))
            try:
                yield Answer(public(str(response.url)), response.status_code, response.headers, response.iter_raw())
            finally:
                response.close()
        except httpx.UnsupportedProtocol:
            raise ValueError(f"{said} is no http(s) address.") from None
        except httpx.TimeoutException as error:
            raise Interrupted(f"no byte for {self.client.timeout.read:g} s ({type(error).__name__})") from None
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ValueError(
                    f"the certificate of {said} is not trusted. Check the clock and the address; behind a company's "
                    "proxy, SSL_CERT_FILE=/path/to/its/certificates.pem."
                ) from None
            raise Interrupted(f"no connection ({error or type(error).__name__})") from None
        except httpx.TransportError as error:
            if isinstance(error, httpx.ProxyError) and str(error).startswith("407"):
                raise PermissionError(PROXY_LOGIN) from None
            raise Interrupted(f"{error or type(error).__name__}") from None
        except httpx.InvalidURL:
            raise ValueError(f"{said} is no valid address.") from None

    def _follow(self, request: "httpx.Request") -> "httpx.Response":
        said = public(str(request.url))
        for _ in range(MAX_REDIRECTS):
            response = self.client.send(request, stream=True)
            if response.next_request is None:
                return response
            response.close()
            before, request = request.url, response.next_request
            if request.url.scheme not in ("http", "https") or (before.scheme, request.url.scheme) == ("https", "http"):
                raise ValueError(
                    f"{said} redirects to {public(str(request.url))}: only http(s) is followed, and never from https "
                    "to http. Give the address of the file itself."
                )
        raise ValueError(f"{said} redirects more than {MAX_REDIRECTS} times. Give the address of the file itself.")


def require_extra() -> None:
    """Refuse to go online without the libraries for it.

    Raises:
        ValueError: naming the extra to install.
    """
    for name in ("httpx", "yt_dlp"):
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"downloading needs {name}, which is not installed: pip install -e '.[acquire]'")


def public(url: str) -> str:
    """An address without what may be secret in it: user, password, query, fragment."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
        return urlunsplit((parts.scheme, host + port, parts.path, "", ""))
    except ValueError:
        return UNREADABLE


def redact(text: str) -> str:
    """A text in which every address is as `public` has it; YouTube's keep the video's id, which is no secret."""
    address = r"[a-z][a-z0-9+.-]*://[^\s'\"<>]*[^\s'\"<>:;,.)\]]"
    return re.sub(address, lambda match: _shown(match[0]), text, flags=re.IGNORECASE)


def shareable(value: Any) -> Any:
    """JSON values whose strings have lost what may be secret in addresses."""
    if isinstance(value, dict):
        return {name: shareable(inner) for name, inner in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [shareable(inner) for inner in value]  # pyright: ignore[reportUnknownVariableType]
    return _without_secrets(value) if isinstance(value, str) else value


def youtube_id(url: str) -> str | None:
    """Of the video at an address of YouTube's, None if there is none."""
    parts = urlsplit(url)
    host = (parts.hostname or "").removeprefix("www.").removeprefix("m.")
    if host == "youtube.com":
        found = parse_qs(parts.query).get("v") or re.findall(r"^/(?:shorts|embed|live|v)/([\w-]{11})", parts.path)
        return found[0] if found else None
    return parts.path.strip("/") if host == "youtu.be" else None


def _without_secrets(text: str) -> str:
    """Of an address, of a parameter that is one (`videos.0.url=https://…`), or of whatever else contains some."""
    name, separator, rest = ("", "", text) if _is_address(text) else text.partition("=")
    return f"{name}{separator}{_shown(rest)}" if _is_address(rest) else redact(text)


def _is_address(text: str) -> bool:
    return bool(re.match(r"https?://", text, re.IGNORECASE))


def _shown(url: str) -> str:
    said = public(url)
    video = youtube_id(url) if said != UNREADABLE else None
    return f"https://www.youtube.com/watch?v={video}" if video else said


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to be left alone, given as such or as a date; 0 if it does not."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    with suppress(ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return 0.0
