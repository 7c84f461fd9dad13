"""Where a video came from: the record that its manifest keeps."""

from dora.config import Frozen


class Source(Frozen):
    """A downloaded video's origin, as the server and the tool told it; none of it enters a fingerprint."""

    kind: str  # file, youtube, or another site in yt-dlp's words
    url: str  # without its secrets
    tool: str  # with its version
    downloaded_at: str
    size_bytes: int
    id: str | None = None
    format_id: str | None = None
    etag: str | None = None
    duration_s: float | None = None
    fps: float | None = None
    width: int | None = None
    height: int | None = None
    codec: str | None = None
    licence: str | None = None
    title: str | None = None
    uploader: str | None = None
    upload_date: str | None = None

    def __str__(self) -> str:
        """One line for people: youtube fGX0Te6pFvk format 401, yt-dlp 2026.10.26, CC BY."""
        what = f"{self.kind} {self.id}" if self.id and self.kind != "generic" else self.url
        chosen = f" format {self.format_id}" if self.format_id else ""
        return ", ".join(filter(None, (what + chosen, self.tool, self.licence)))
