"""The user's cookies file as text, looked into before yt-dlp gets it."""

import re

from dora.artifacts import Network


def cookies(network: Network) -> str | None:
    """The text of the user's cookies file, None if there is none.

    Raises:
        FileNotFoundError, PermissionError, ValueError: for a file, or a line, that is of no use to yt-dlp, which would
            quote such a line.
    """
    if network.cookies is None:
        return None
    path = network.cookies.expanduser()
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no cookies file {path}. Export one from a browser, or unset network.cookies."
        ) from None
    except PermissionError:
        raise PermissionError(f"the cookies file {path} may not be read by this user. chmod u+r it.") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ValueError(f"{path} is no cookies file in Netscape's format (cookies.txt).") from None
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.removeprefix("#HttpOnly_")
        fields = line.split("\t")
        if (
            line.strip()
            and not line.startswith("#")
            and (len(fields) != 7 or not re.fullmatch(r"(\d+(\.\d+)?)?", fields[4]))
        ):
            raise ValueError(
                f"line {number} of the cookies file {path} is no cookie in Netscape's format (seven fields with tabs "
                "between them). Export it again as cookies.txt."
            )
    return text
