"""What capture --output writes beside the image, each checked with what reads it."""
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import subprocess

import pytest
import yaml

from test_capture import Started, free_port, place, running  # noqa: F401

DATA = "/var/lib/caisson-test-shop"


@dataclasses.dataclass
class Outputs:
    folder: pathlib.Path
    port: int
    key: str

    def text(self, name):
        return (self.folder / name).read_text()

    def json(self, name):
        return json.loads(self.text(name))


@pytest.fixture
def outputs(caisson, place, running, tmp_path):  # noqa: F811
    """Of a server that keeps data, writes a log, and has a key and a password."""
    port = free_port()
    key = place / "server.key"
    key.write_text("-----BEGIN PRIVATE KEY-----\n" + "x" * 64 + "\n-----END PRIVATE KEY-----\n")
    os.makedirs(DATA, exist_ok=True)
    os.makedirs("/var/log/caisson-test-shop", exist_ok=True)
    (place / "shop.py").write_text(f"import http.server, os\nopen('{key}').read()\nopen('{DATA}/orders', 'a').write('x')\nopen('/var/log/caisson-test-shop/log', 'a').write('x')\n"
                                   f"http.server.test(http.server.SimpleHTTPRequestHandler, port={port})\n")
    running.append(Started(["/usr/bin/python3", str(place / "shop.py")], port, cwd=place, env={"PATH": "/usr/bin", "SHOP_PASSWORD": "canary", "COLOUR": "blue"}))
    try:
        done = caisson("capture", "--pid", running[0].pid, "--tag", "test/shop:1.0", "--output", tmp_path / "out")
        assert "verification passed" in done.err, done
        yield Outputs(tmp_path / "out", port, str(key))
    finally:
        for folder in (DATA, "/var/log/caisson-test-shop"):
            for name in os.listdir(folder):
                os.unlink(f"{folder}/{name}")
            os.rmdir(folder)


@pytest.fixture(scope="session")
def checkers():
    """A Python's environment in which the checkers of tests/checkers.txt are."""
    script = pathlib.Path(__file__).resolve().parents[2] / "scripts/checkers"
    return {**os.environ, "PYTHONPATH": subprocess.run([script], capture_output=True, text=True, check=True).stdout.strip()}


def test_the_checkers_of_others_take_them(outputs, checkers):
    """Kubernetes' published schemas, strictly; SPDX's own tool; the model of Amazon's client."""
    script = "import kubernetes_validate, sys, yaml\nfor d in yaml.safe_load_all(sys.stdin): kubernetes_validate.validate(d, '1.31', strict=True)"

    def kubernetes(text):
        return subprocess.run(["/usr/bin/python3", "-c", script], input=text, capture_output=True, text=True, env=checkers)
    text = outputs.text("kubernetes.yaml")
    assert kubernetes(text).returncode == 0, kubernetes(text).stderr[-2000:]
    assert kubernetes(text.replace("containers:", "continers:", 1)).returncode != 0, "the checker sees mistakes"
    spdx = [f"{checkers['PYTHONPATH']}/bin/pyspdxtools", "-i", str(outputs.folder / "sbom.spdx.json")]
    checked = subprocess.run(["/usr/bin/python3", *spdx], capture_output=True, text=True, env=checkers)
    assert checked.returncode == 0, (checked.stdout + checked.stderr)[-2000:]
    ecs = "import botocore.session, botocore.validate, json, sys\nshape = botocore.session.get_session().get_service_model('ecs').operation_model('RegisterTaskDefinition').input_shape\nprint(botocore.validate.ParamValidator().validate(json.load(sys.stdin), shape).generate_report())"
    run = lambda task: subprocess.run(["/usr/bin/python3", "-c", ecs], input=json.dumps(task), capture_output=True, text=True, check=True).stdout.strip()  # noqa: E731
    assert run(outputs.json("ecs-task-definition.json")) == ""
    assert run({**outputs.json("ecs-task-definition.json"), "containerDefinitions": 7}) != ""


def test_every_file_is_in_the_sbom(caisson, outputs, tmp_path):
    sbom = outputs.json("sbom.spdx.json")
    assert sbom["spdxVersion"] == "SPDX-2.3" and sbom["dataLicense"] == "CC0-1.0"
    ids = [e["SPDXID"] for e in [sbom, *sbom["packages"], *sbom["files"]]]
    assert len(ids) == len(set(ids)) and all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", i) for i in ids)
    assert all(r["spdxElementId"] in ids and r["relatedSpdxElement"] in ids for r in sbom["relationships"])
    contained = {r["relatedSpdxElement"] for r in sbom["relationships"] if r["relationshipType"] == "CONTAINS"}
    assert {f["SPDXID"] for f in sbom["files"]} <= contained
    # Against the image itself.
    caisson("create", "--name", "c", "test/shop:1.0")
    subprocess.run(f"{caisson.program} --root {caisson.root} --run-root {caisson.run_root} export c | tar -x -C {tmp_path} --one-top-level=root", shell=True, check=True)
    root = tmp_path / "root"
    there = {"./" + str(p.relative_to(root)) for p in root.rglob("*") if p.is_file() and not p.is_symlink()}
    assert there - {f"./etc/{n}" for n in ("hosts", "hostname", "resolv.conf")} <= {f["fileName"] for f in sbom["files"]}
    for f in sbom["files"]:
        sums = {c["algorithm"]: c["checksumValue"] for c in f["checksums"]}
        content = (root / f["fileName"]).read_bytes()
        assert sums == {"SHA1": hashlib.sha1(content).hexdigest(), "SHA256": hashlib.sha256(content).hexdigest()}, f["fileName"]
    libc = next(p for p in sbom["packages"] if p["name"] == "libc6")
    installed = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "libc6"], capture_output=True, text=True, check=True).stdout
    assert libc["versionInfo"] == installed and libc["externalRefs"][0]["referenceLocator"] == f"pkg:deb/debian/libc6@{installed}?arch=amd64"


def test_compose_takes_it(outputs):
    document = yaml.safe_load(outputs.text("compose.yaml"))
    service = document["services"]["shop"]
    assert service["image"] == "test/shop:1.0" and service["ports"] == [f"{outputs.port}:{outputs.port}"] and service["read_only"] is True
    assert f"var-lib-caisson-test-shop:{DATA}" in service["volumes"] and "/var/log/caisson-test-shop" in service["volumes"]
    assert service["secrets"][0]["target"] == outputs.key and "canary" not in outputs.text("compose.yaml")
    (outputs.folder / "secrets").mkdir()
    (outputs.folder / "secrets" / service["secrets"][0]["source"]).write_text("key")

    def config(**env):
        # Its own schema is older than `services` alone at the top.
        (outputs.folder / "compose-3.8.yaml").write_text('version: "3.8"\n' + outputs.text("compose.yaml"))
        return subprocess.run(["docker-compose", "-f", str(outputs.folder / "compose-3.8.yaml"), "config"], capture_output=True, text=True, cwd=outputs.folder, env={"PATH": os.environ["PATH"], **env})

    assert "left this secret out" in config().stderr, "it says what is missing"
    done = config(SHOP_PASSWORD="x")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"]["shop"]["environment"]["SHOP_PASSWORD"] == "x"


def test_kubernetes_manifests_refer_to_what_they_have(outputs):
    text = outputs.text("kubernetes.yaml")
    workload, service = yaml.safe_load_all(text)
    assert (workload["apiVersion"], workload["kind"]) == ("apps/v1", "StatefulSet"), "it keeps data"
    assert "kubectl create secret generic shop-secrets" in text and "canary" not in text
    pod = workload["spec"]["template"]["spec"]
    container, = pod["containers"]
    volumes = {v["name"] for v in pod["volumes"]} | {c["metadata"]["name"] for c in workload["spec"]["volumeClaimTemplates"]}
    assert {m["name"] for m in container["volumeMounts"]} == volumes
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in volumes)
    mounts = {m["mountPath"]: m for m in container["volumeMounts"]}
    assert DATA in mounts and mounts[outputs.key]["subPath"] and mounts[outputs.key]["readOnly"]
    assert container["env"] == [{"name": "SHOP_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "shop-secrets", "key": "SHOP_PASSWORD"}}}]
    assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"] and container["readinessProbe"]["tcpSocket"]["port"] == outputs.port
    assert container["securityContext"]["readOnlyRootFilesystem"] is True and container["securityContext"]["allowPrivilegeEscalation"] is False


def test_ecs_and_dockerfile(outputs):
    task = outputs.json("ecs-task-definition.json")
    container, = task["containerDefinitions"]
    assert container["image"] == "test/shop:1.0" and container["portMappings"][0]["containerPort"] == outputs.port
    assert {m["sourceVolume"] for m in container["mountPoints"]} == {v["name"] for v in task["volumes"]}
    dockerfile = outputs.text("Dockerfile")
    assert 'ENTRYPOINT ["/usr/bin/python3' in dockerfile and "python3" in dockerfile and 'ENV COLOUR="blue"' in dockerfile
    assert f"COPY {outputs.key[1:]}" not in dockerfile and "canary" not in dockerfile


def test_the_page_holds_the_report(outputs):
    page = outputs.text("report.html")
    data = re.search(r'<script type="application/json" id="report">(.*?)</script>', page, re.S)[1]
    report = json.loads(data)
    assert report["name"] == "test/shop:1.0" and report["verification"]["result"] == "passed"
    assert [f["path"] for f in report["files"]] == [f["path"] for f in outputs.json("report.json")["files"]]
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page, "it needs nothing else"
    assert report["secrets"][0]["path"] == outputs.key and report["secret_variables"] == ["SHOP_PASSWORD"] and "canary" not in page


def test_a_folder_that_cannot_be_made(caisson, tmp_path):
    """Is told before anything is captured."""
    (tmp_path / "file").touch()
    done = caisson("capture", "--output", tmp_path / "file", "--tag", "x", "--", "/bin/true", code=None)
    assert done.code != 0 and "--output" in done.err and "captured" not in done.err
