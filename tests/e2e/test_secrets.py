"""Secrets of many kinds beside an application, of which none may reach an image."""
import json
import subprocess

from test_capture import Started, free_port, get, place, running  # noqa: F401

CANARY = "CanaryThatMustNotLeak1234"
KEY = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"
PLANTED = {
    "tls/server.key": KEY,
    "tls/both.pem": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n" + KEY,
    ".pgpass": f"db:5432:shop:shop:{CANARY}\n",
    ".netrc": f"machine x login y password {CANARY}\n",
    ".aws/credentials": f"[default]\naws_secret_access_key = {CANARY}\n",
    ".env": f"DEBUG=1\nDB_PASSWORD={CANARY}\n",
    "shop.yml": f"database:\n  host: db\n  password: {CANARY}\n",
    "shop.json": json.dumps({"api_key": CANARY}, indent=1),
    "queue.conf": f"broker = amqp://shop:{CANARY}@queue:5672/\n",
    "deploy.toml": f"[git]\nauth = 'ghp_{(CANARY * 2)[:36]}'\n",
    "store.jks": "\xfe\xed" + CANARY,
    ".htpasswd": f"admin:{CANARY}\n",
    "id_ed25519": f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n-----END OPENSSH PRIVATE KEY-----\n",
}
HARMLESS = {"plain.conf": "listen = 80\npassword_file = /etc/shop/password\n# password = example\n", "theme.yml": "colour: blue\n", "tls/server.crt": "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n"}


def test_no_planted_secret_is_in_any_layer(caisson, place, running, tmp_path):  # noqa: F811
    port = free_port()
    for name, content in {**PLANTED, **HARMLESS}.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(content)
    names = sorted([*PLANTED, *HARMLESS])
    (place / "app.py").write_text(f"import http.server\nfor name in {names!r}: open(name, 'rb').read()\nhttp.server.test(http.server.SimpleHTTPRequestHandler, port={port})\n")
    running.append(Started(["/usr/bin/python3", "app.py"], port, cwd=place, env={"PATH": "/usr/bin", "SHOP_TOKEN": CANARY, "DATABASE_PASSWORD": CANARY}))
    done = caisson("capture", "--pid", running[0].pid, "--tag", "shop", "--output", tmp_path / "out")
    assert "verification passed" in done.err, "with all of them handed in"
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {s["path"] for s in report["secrets"]} == {str(place / name) for name in PLANTED}
    assert report["secret_variables"] == ["SHOP_TOKEN", "DATABASE_PASSWORD"]
    kept = {f["path"] for f in report["files"]}
    assert {str(place / name) for name in HARMLESS} <= kept
    # Nor in anything else that was written.
    caisson("save", "--output", tmp_path / "image.tar", "shop")
    (tmp_path / "image").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "image", "-xf", tmp_path / "image.tar"], check=True)
    for path in [*(tmp_path / "image").rglob("*"), *(tmp_path / "out").rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            if content.startswith(b"\x1f\x8b"):
                content = subprocess.run(["gzip", "-dc", path], capture_output=True, check=True).stdout
            assert CANARY.encode() not in content and CANARY[:24].encode() not in content, path
    chosen = place / "shop.yml"
    caisson("capture", "--pid", running[0].pid, "--tag", "shop2", "--include-secret", chosen, "--no-verify", "--report", tmp_path / "second.json")
    assert str(chosen) in {f["path"] for f in json.loads((tmp_path / "second.json").read_text())["files"]}
