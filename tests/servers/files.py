"""What vendors do with files, on loopback: three servers that keep what is uploaded and refuse files they do not have.

server = MessagesFiles()          # a MessagesServer; ChatFiles and GeminiFiles likewise
server.kept                       # what was uploaded: id -> (content type, bytes)
server.lose()                     # as if all of it had expired
"""

from __future__ import annotations

import json
import re
from email import message_from_bytes
from typing import Any

from . import anthropic, gemini
from .chat import ChatServer, Said, Seen, fail

__all__ = ["ChatFiles", "GeminiFiles", "MessagesFiles"]


class _Keeps:
    """What was uploaded so far."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, bytes]] = {}
        self.uploads = 0
        self.forms: list[dict[str, str]] = []
        self.expires_in_s: int | None = None
        self.forgets = False
        """Nothing that was uploaded is known afterwards."""
        self.broken: list[Said] = []
        """Answers to the next uploads instead."""
        super().__init__()

    def lose(self) -> None:
        self.kept.clear()

    def knows(self, id: str) -> bool:
        return id in self.kept and not self.forgets

    def keep(self, kind: str, data: bytes) -> str:
        self.uploads += 1
        id = f"{self.uploads:04}"
        self.kept[id] = (kind, data)
        return id

    def keep_form(self, seen: Seen) -> str:
        """Read a form as the standard library does."""
        head = f"content-type: {seen.headers['content-type']}\r\n\r\n".encode()
        parts: Any = message_from_bytes(head + seen.raw).get_payload()
        fields = {part.get_param("name", header="content-disposition"): part for part in parts}
        file = fields.pop("file")
        form = {name: part.get_payload(decode=True).decode() for name, part in fields.items()}
        self.forms.append({**form, "filename": file.get_filename()})
        return self.keep(file.get_content_type(), file.get_payload(decode=True))


def _document(value: Any, **headers: str) -> Said:
    body = b"" if value is None else json.dumps(value).encode()
    return Said(body=body, headers={"content-type": "application/json", **headers})


class MessagesFiles(_Keeps, anthropic.MessagesServer):
    """Anthropic's."""

    def choose(self, seen: Seen) -> Said:
        if seen.path.partition("?")[0] == "/v1/files" and seen.method == "POST":
            if self.broken:
                return self.broken.pop(0)
            self._check(seen)
            return _document({"type": "file", "id": f"file_{self.keep_form(seen)}", "size_bytes": 1})
        for id in re.findall(r'"file_id":"([^"]+)"', seen.raw.decode()):
            self._check(seen)
            if not self.knows(id.removeprefix("file_")):
                return anthropic.refuse(404, "not_found_error", f"File not found: {id}")
        return super().choose(seen)

    def _check(self, seen: Seen) -> None:
        told = seen.headers
        key = told.get("x-api-key") or told["authorization"].removeprefix("Bearer ")
        assert self.key in (None, key)
        if told["anthropic-version"] == "2023-06-01":  # later versions have files without being asked
            assert "files-api-2025-04-14" in told["anthropic-beta"]


class ChatFiles(_Keeps, ChatServer):
    """OpenAI's."""

    def choose(self, seen: Seen) -> Said:
        if seen.path.partition("?")[0] == "/v1/files" and seen.method == "POST":
            if self.broken:
                return self.broken.pop(0)
            id = f"file-{self.keep_form(seen)}"
            return _document({"object": "file", "id": id, "expires_at": self.expires_in_s, "created_at": 0})
        for id in re.findall(r'"file_id":"([^"]+)"', seen.raw.decode()):
            if not self.knows(id.removeprefix("file-")):
                return fail(400, f"No such File object: {id}", type="invalid_request_error", param="file_id")
        return super().choose(seen)


class GeminiFiles(_Keeps, gemini.GeminiServer):
    """Google's: announced, sent, and asked about until it is ready."""

    looks = 0
    """How often a file must be asked about."""

    def choose(self, seen: Seen) -> Said:
        host = self.url.removesuffix("/v1beta")
        told = seen.headers
        assert self.key in (None, told.get("x-goog-api-key")) or "upload_id=" in seen.path  # that says who it is
        if seen.path == "/upload/v1beta/files":
            if self.broken:
                return self.broken.pop(0)
            assert told["x-goog-upload-protocol"] == "resumable"
            assert told["x-goog-upload-command"] == "start"
            about = seen.body["file"]  # either spelling is JSON for the same field
            self.forms.append({"filename": about.get("displayName") or about["display_name"]})
            size, kind = (told[f"x-goog-upload-header-content-{name}"] for name in ("length", "type"))
            where = f"{host}/upload/v1beta/files?upload_id={size}+{kind}"
            return _document(None, **{"x-goog-upload-url": where})
        if found := re.fullmatch(r"/upload/v1beta/files\?upload_id=(\d+)\+(.+)", seen.path):
            assert (told["x-goog-upload-offset"], told["x-goog-upload-command"]) == ("0", "upload, finalize")
            assert len(seen.raw) == int(found[1])
            kept = self._said(self.keep(found[2], seen.raw))
            return _document({"file": kept}, **{"x-goog-upload-status": "final"})
        if found := re.fullmatch(r"/v1beta/files/(\w+)", seen.path):
            assert seen.method == "GET"
            self.looks -= 1
            return _document(self._said(found[1]))
        for id in re.findall(r'"fileUri":"[^"]*/v1beta/files/([^"]+)"', seen.raw.decode()):
            if not self.knows(id):
                text = f"You do not have permission to access the File {id} or it may not exist."
                return gemini.refuse(403, "PERMISSION_DENIED", text)
        return super().choose(seen)

    def _said(self, id: str) -> dict[str, Any]:
        return {
            "name": f"files/{id}", "uri": f"{self.url}/files/{id}", "mimeType": self.kept[id][0],
            "state": "PROCESSING" if self.looks > 0 else "ACTIVE", "expirationTime": "2999-01-01T00:00:00.123456789Z",
        }  # fmt: skip
