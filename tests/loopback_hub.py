"""A Hugging Face Hub in memory, on the loopback interface: pushing and loading without a network.

The libraries read `HF_ENDPOINT` once, when they are imported, so the code under test runs in a process of its own:

    with LoopbackHub() as hub:
        subprocess.run([sys.executable, "script.py"], env=hub.environment(tmp_path), check=True)

It speaks the part of the Hub's HTTP interface that models, processors, cards and Parquet data sets use: repositories
with one branch, `main`, whose commits are known by a hash of their content; LFS uploads; trees; ranges of files.
Anything else is answered with 404, and `hub.requests` tells what was asked.
"""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".parquet", ".safetensors", ".bin", ".arrow", ".png")
REPO = r"(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"


class LoopbackHub:
    """The server and what it stores: `repos[kind, id]` maps paths to contents. One user, `me`."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], dict[str, bytes]] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(self, home: Path) -> dict[str, str]:
        """Environment of a process that takes this for the Hub, logged in as `me`, with its caches in `home`."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": "hf_loopback",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def files(self, repo_id: str, kind: str = "models") -> dict[str, bytes]:
        return self.repos[kind, repo_id]

    def commit_hash(self, kind: str, repo_id: str) -> str:
        content = [(path, _sha1(data)) for path, data in sorted(self.repos[kind, repo_id].items())]
        return _sha1(json.dumps(content).encode())


class _Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(GET_ROUTES)

    def do_HEAD(self) -> None:
        self.answer(GET_ROUTES)

    def do_POST(self) -> None:
        self.answer(POST_ROUTES)

    def do_PUT(self) -> None:
        self.answer(PUT_ROUTES)

    def log_message(self, format: str, *args: object) -> None:
        """Silence: a test that fails prints `hub.requests`."""

    def answer(self, routes: dict[str, Callable]) -> None:
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.read_body()
        self.hub.requests.append(f"{self.command} {self.path}")
        for pattern, route in routes.items():
            match = re.fullmatch(pattern, unquote(url.path))
            if match:
                groups = match.groupdict()
                if "repo" in groups and (groups["kind"], groups["repo"]) not in self.hub.repos:
                    return self.missing("RepoNotFound", "Repository not found")
                return route(self, **groups)
        return self.missing("EntryNotFound", f"Not part of the loopback hub: {self.command} {url.path}")

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/octet-stream"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value: object, status: int = 200, **headers: str) -> None:
        self.send(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def missing(self, code: str, message: str) -> None:
        self.send_json({"error": message}, 404, X_Error_Code=code, X_Error_Message=message)


def who_am_i(request: _Handler) -> None:
    token = {"role": "write", "displayName": "loopback"}
    request.send_json(
        {"name": "me", "type": "user", "orgs": [], "auth": {"type": "access_token", "accessToken": token}}
    )


def create_repo(request: _Handler) -> None:
    asked = json.loads(request.body)
    kind, repo = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or 'me'}/{asked['name']}"
    request.hub.repos.setdefault((kind, repo), {".gitattributes": b""})
    prefix = "" if kind == "models" else f"{kind}/"
    request.send_json({"url": f"{request.hub.url}/{prefix}{repo}", "name": repo, "id": repo})


def validate_yaml(request: _Handler) -> None:
    request.send_json({"errors": [], "warnings": []})


def preupload(request: _Handler, kind: str, repo: str, revision: str) -> None:
    modes = [
        {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"}
        for file in json.loads(request.body)["files"]
    ]
    request.send_json({"files": [{**mode, "shouldIgnore": False} for mode in modes]})


def lfs_batch(request: _Handler) -> None:
    objects = [
        {**asked, "actions": {"upload": {"href": f"{request.hub.url}/lfs/{asked['oid']}", "header": {}}}}
        for asked in json.loads(request.body)["objects"]
    ]
    request.send_json({"transfer": "basic", "objects": objects})


def lfs_upload(request: _Handler, oid: str) -> None:
    if hashlib.sha256(request.body).hexdigest() != oid:
        return request.send_json({"error": "the content does not have the announced SHA-256"}, 400)
    request.hub.lfs[oid] = request.body
    return request.send(b"")


def commit(request: _Handler, kind: str, repo: str, revision: str) -> None:
    files = request.hub.repos[kind, repo]
    for line in request.body.splitlines():
        operation = json.loads(line)
        key, value = operation["key"], operation["value"]
        if key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = request.hub.lfs[value["oid"]]
        elif key == "deletedFile":
            files.pop(value["path"], None)
    oid = request.hub.commit_hash(kind, repo)
    request.send_json({"success": True, "commitOid": oid, "commitUrl": f"{request.hub.url}/{repo}/commit/{oid}"})


def repo_info(request: _Handler, kind: str, repo: str, revision: str | None = None) -> None:
    siblings = [{"rfilename": path} for path in request.hub.repos[kind, repo]]
    info = {"sha": request.hub.commit_hash(kind, repo), "siblings": siblings, "tags": [], "private": False}
    request.send_json({"id": repo, "modelId": repo, "_id": _sha1(repo.encode())[:24], "disabled": False, **info})


def refs(request: _Handler, kind: str, repo: str) -> None:
    branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": request.hub.commit_hash(kind, repo)}
    request.send_json({"branches": [branch], "converts": [], "tags": []})


def tree(request: _Handler, kind: str, repo: str, revision: str, folder: str | None = None) -> None:
    prefix = f"{folder}/" if folder else ""
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    entries = [
        entry
        for entry in _entries(request.hub.repos[kind, repo])
        if entry["path"].startswith(prefix) and (recursive or "/" not in entry["path"][len(prefix) :])
    ]
    if folder and not entries:
        return request.missing("EntryNotFound", f"{folder} does not exist on {revision}")
    return request.send_json(entries)


def paths_info(request: _Handler, kind: str, repo: str, revision: str) -> None:
    is_json = "json" in request.headers.get("Content-Type", "")
    wanted = json.loads(request.body)["paths"] if is_json else parse_qs(request.body.decode()).get("paths", [])
    request.send_json([entry for entry in _entries(request.hub.repos[kind, repo]) if entry["path"] in wanted])


def resolve(request: _Handler, repo: str, revision: str, path: str, kind: str = "models") -> None:
    commit_hash = request.hub.commit_hash(kind, repo)
    data = request.hub.repos[kind, repo].get(path)
    if data is None:
        return request.missing("EntryNotFound", f"{path} does not exist on {revision}")
    headers = {"ETag": f'"{_sha1(data)}"', "X_Repo_Commit": commit_hash, "Accept_Ranges": "bytes"}
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
    if not asked:
        return request.send(data, **headers)
    first, last = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
    if first > last:
        return request.send(b"", 416, Content_Range=f"bytes */{len(data)}")
    return request.send(data[first : last + 1], 206, Content_Range=f"bytes {first}-{last}/{len(data)}", **headers)


def resolve_model(request: _Handler, **groups: str) -> None:
    if ("models", groups["model"]) not in request.hub.repos:
        return request.missing("RepoNotFound", "Repository not found")
    return resolve(request, groups.pop("model"), **groups)


def _entries(files: dict[str, bytes]) -> list[dict]:
    """Folders and files of a repository as the Hub describes them."""
    folders = {str(parent) for path in files for parent in Path(path).parents} - {"."}
    entries = [{"type": "directory", "path": path, "oid": _sha1(path.encode()), "size": 0} for path in sorted(folders)]
    for path, data in sorted(files.items()):
        entry = {"type": "file", "path": path, "oid": _sha1(data), "size": len(data)}
        if path.endswith(LFS_SUFFIXES):
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
        entries.append(entry)
    return entries


def _sha1(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


GET_ROUTES = {
    r"/api/whoami-v2": who_am_i,
    rf"/api/{REPO}": repo_info,
    rf"/api/{REPO}/revision/(?P<revision>[^/]+)": repo_info,
    rf"/api/{REPO}/refs": refs,
    rf"/api/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?": tree,
    rf"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)": resolve,
    r"/(?P<model>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)": resolve_model,
}
POST_ROUTES = {
    r"/api/repos/create": create_repo,
    r"/api/validate-yaml": validate_yaml,
    rf"/api/{REPO}/preupload/(?P<revision>[^/]+)": preupload,
    rf"/api/{REPO}/commit/(?P<revision>[^/]+)": commit,
    rf"/api/{REPO}/paths-info/(?P<revision>[^/]+)": paths_info,
    r"/.+\.git/info/lfs/objects/batch": lfs_batch,
}
PUT_ROUTES = {r"/lfs/(?P<oid>[0-9a-f]{64})": lfs_upload}
