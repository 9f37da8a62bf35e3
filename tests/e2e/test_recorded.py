"""What visitors ask while an application is watched is asked of its capture too."""
import json
import pathlib
import signal
import subprocess

from conftest import wait_for
from test_capture import Started, free_port, place, running  # noqa: F401  (fixtures)

SHOP = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, code, text):
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())
    def do_GET(self):
        hidden = open(sys.argv[2]).read() if self.headers.get("Host") == "shop.example" and self.path.startswith("/hidden") else "front"
        self.answer(200, hidden)
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        with open(sys.argv[3], "a") as orders: orders.write("order\\n")
        self.answer(201, "ordered")
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
"""

TALKER = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
said = 0
while True:
    client, _ = server.accept()
    stream = client.makefile("rw")
    for line in stream:
        said += 1
        stream.write({"count": f"{said}", "upper hello": "HELLO"}.get(line.strip(), "what?") + "\\n")
        stream.flush()
    client.close()
"""


def recorded(place):
    report = json.loads((place / "report.json").read_text())
    return {r["request"]: r for r in report["verification"]["requests"] if r["request"].startswith("recorded: ")}, report


def test_http_requests_are_asked_again(caisson, place, running):  # noqa: F811
    port = free_port()
    (place / "shop.py").write_text(SHOP)
    (place / "page").write_text("only for those who know\n")
    (place / "orders").touch()
    running.append(Started(["/usr/bin/python3", str(place / "shop.py"), str(port), str(place / "page"), str(place / "orders")], port, cwd=place, env={"PATH": "/usr/bin"}))
    url = f"http://127.0.0.1:{port}"
    # One connection with three requests, and one over IPv4's other loopback address.
    exercise = f"curl -s -H 'Host: shop.example' -H 'Authorization: Bearer planted-token' '{url}/hidden?key=planted-key' {url}/other; curl -s -d amount=3 {url}/order; curl -s http://127.0.0.7:{port}/seventh"
    done = caisson("capture", "--pid", running[0].pid, "--tag", "shop", "--exercise", exercise, "--report", place / "report.json")
    said, report = recorded(place)
    assert "verification passed" in done.err, done
    assert set(said) == {"recorded: GET /hidden?…", "recorded: GET /other", "recorded: GET /seventh"} and all(r["same"] for r in said.values())
    assert (place / "orders").read_text() == "order\n", "an order is not placed again"
    assert "planted" not in json.dumps(report)


def test_what_is_missing_for_a_recorded_request_is_found(caisson, place, running):  # noqa: F811
    """The page changes behind the capture's back: its answer is not the original's."""
    port = free_port()
    (place / "shop.py").write_text(SHOP)
    (place / "page").write_text("one\n")
    running.append(Started(["/usr/bin/python3", str(place / "shop.py"), str(port), str(place / "page"), str(place / "orders")], port, cwd=place, env={"PATH": "/usr/bin"}))
    page = f"{place}/page"
    done = caisson("capture", "--pid", running[0].pid, "--tag", "shop", "--exercise", f"curl -s -H 'Host: shop.example' http://127.0.0.1:{port}/hidden", "--replace", f"{page}:s|one|two|", "--report", place / "report.json", code=1)
    said, _ = recorded(place)
    assert "recorded: GET /hidden: \"one\" became \"two\"" in done.err
    assert not said["recorded: GET /hidden"]["same"]
    # Of what somebody asked as himself, only that it differs.
    done = caisson("capture", "--pid", running[0].pid, "--tag", "shop", "--exercise", f"curl -s -H 'Host: shop.example' -H 'Cookie: session=1' http://127.0.0.1:{port}/hidden", "--replace", f"{page}:s|one|two|", "--report", place / "report.json", code=1)
    said, _ = recorded(place)
    assert "not shown" in done.err and said["recorded: GET /hidden"]["original"].endswith("bytes, not shown") and "one" not in said["recorded: GET /hidden"]["original"]


def test_other_conversations_are_held_again(caisson, place, running):  # noqa: F811
    """With the capture alone; what depends on what was said before is told, and forgiven."""
    port = free_port()
    (place / "talker.py").write_text(TALKER)
    running.append(Started(["/usr/bin/python3", str(place / "talker.py"), str(port)], port, cwd=place, env={"PATH": "/usr/bin"}))
    (place / "ask.py").write_text(f"""
import socket
for words in ["upper hello", "nonsense"], ["count", "count"]:
    stream = socket.create_connection(("127.0.0.1", {port})).makefile("rw")
    for word in words:
        stream.write(word + "\\n"); stream.flush(); stream.readline()
    stream.close()
""")
    done = caisson("capture", "--pid", running[0].pid, "--tag", "talker", "--exercise", f"/usr/bin/python3 {place}/ask.py", "--report", place / "report.json")
    said, _ = recorded(place)
    first, second = said[f"recorded: conversation 1 with port {port}"], said[f"recorded: conversation 2 with port {port}"]
    assert first["same"] and "verification passed" in done.err, done
    assert second["same"] or (second["not_repeatable"] and second["original"].endswith("bytes, not shown"))


def test_a_load_is_not_recorded_as_a_whole(caisson, place, running):  # noqa: F811
    port = free_port()
    (place / "shop.py").write_text(SHOP)
    running.append(Started(["/usr/bin/python3", str(place / "shop.py"), str(port), "/dev/null", str(place / "orders")], port, cwd=place, env={"PATH": "/usr/bin"}))
    script = f"""
import http.client
for k in range(150):
    c = http.client.HTTPConnection("127.0.0.1", {port})
    for i in range(4):
        c.request("GET", f"/{{k}}/{{i}}"); c.getresponse().read()
"""
    (place / "load.py").write_text(script)
    caisson("capture", "--pid", running[0].pid, "--tag", "shop", "--exercise", f"/usr/bin/python3 {place}/load.py", "--report", place / "report.json")
    said, _ = recorded(place)
    assert len(said) == 100 and all(r["same"] for r in said.values())


def test_a_capture_that_is_killed_leaves_no_recorder(caisson, place, running):  # noqa: F811
    port = free_port()
    (place / "shop.py").write_text(SHOP)
    running.append(Started(["/usr/bin/python3", str(place / "shop.py"), str(port), "/dev/null", str(place / "orders")], port, cwd=place, env={"PATH": "/usr/bin"}))
    capture = caisson.popen("capture", "--pid", running[0].pid, "--tag", "shop", "--for", "60", "--verbose", stderr=subprocess.PIPE)
    for line in capture.stderr:
        if "use it now" in line:
            break
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(capture.pid)], capture_output=True, text=True).stdout.split()
    capture.send_signal(signal.SIGKILL)
    capture.wait()
    assert children
    wait_for(lambda: not [p for p in children if pathlib.Path(f"/proc/{p}").exists()], what="the end of the recorder")
