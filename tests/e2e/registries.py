"""Registries for the tests: Debian's docker-registry, and one that lies on request."""
import contextlib
import hashlib
import http.server
import json
import pathlib
import subprocess
import threading

from conftest import wait_for
from test_capture import free_port

MANIFEST, INDEX = "application/vnd.oci.image.manifest.v1+json", "application/vnd.oci.image.index.v1+json"


class DockerRegistry:
    """Debian's, with its data and settings in `folder`."""

    def __init__(self, folder, tls=None, htpasswd=None):
        self.folder, self.port = pathlib.Path(folder), free_port()
        self.host = f"localhost:{self.port}" if tls else f"127.0.0.1:{self.port}"
        self.scheme = "https" if tls else "http"
        settings = {"version": 0.1, "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": str(self.folder / "data")}, "delete": {"enabled": True}}, "http": {"addr": f"127.0.0.1:{self.port}"}}
        if tls:
            settings["http"]["tls"] = {"certificate": str(tls[0]), "key": str(tls[1])}
        if htpasswd:
            settings["auth"] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
        (self.folder / "config.yml").write_text(json.dumps(settings))
        self.log = open(self.folder / "log", "w")
        self.process = subprocess.Popen(["docker-registry", "serve", self.folder / "config.yml"], stdout=self.log, stderr=self.log)
        wait_for(lambda: subprocess.run(["curl", "-sk", "-o", "/dev/null", f"{self.scheme}://{self.host}/v2/"]).returncode == 0, 20, "the registry")

    def close(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


@contextlib.contextmanager
def docker_registry(folder, **kwargs):
    registry = DockerRegistry(folder, **kwargs)
    try:
        yield registry
    finally:
        registry.close()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


class LyingRegistry:
    """Serves what it is given; `answer(request)` may do otherwise by returning True."""

    def __init__(self):
        self.documents, self.requests, self.answer = {}, [], lambda request: False
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer.requests.append((self.command, self.path, dict(self.headers)))
                if outer.answer(self):
                    return
                found = outer.documents.get(self.path)
                if self.path == "/v2/":
                    self.reply(200, b"{}")
                elif found is None:
                    self.reply(404, json.dumps({"errors": [{"code": "NOT_FOUND", "message": "not here"}]}).encode())
                else:
                    body, ranged = found[1], self.headers.get("Range", "").startswith("bytes=")
                    first, last = self.headers["Range"][6:].split("-") if ranged else ("0", "")
                    self.reply(206 if ranged else 200, body[int(first):int(last or len(body)) + 1], found[0])

            do_HEAD = do_GET

            def reply(self, status, body, kind="application/json", **fields):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                for name, value in fields.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.host = f"127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def blob(self, data, repository="app"):
        self.documents[f"/v2/{repository}/blobs/{digest(data)}"] = ("application/octet-stream", data)
        return {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(data), "size": len(data)}

    def manifest(self, document, tag="1", kind=MANIFEST, repository="app"):
        data = json.dumps(document).encode()
        for name in tag, digest(data):
            self.documents[f"/v2/{repository}/manifests/{name}"] = (kind, data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def image(self, layers, tag="1", packed=lambda layer: layer, **config):
        described = [self.blob(packed(layer)) for layer in layers]
        settings = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]}, "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}, **config}
        described_config = {**self.blob(json.dumps(settings).encode()), "mediaType": "application/vnd.oci.image.config.v1+json"}
        return self.manifest({"schemaVersion": 2, "mediaType": MANIFEST, "config": described_config, "layers": described}, tag)
