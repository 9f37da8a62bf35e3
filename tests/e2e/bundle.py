"""A bundle of its own for each test of `caisson oci`."""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess

from conftest import PROGRAM


class Bundle:
    def __init__(self, folder, rootfs):
        self.folder = pathlib.Path(folder)
        shutil.copytree(rootfs, self.folder / "rootfs", symlinks=True)
        self.state = self.folder / "state"
        self.id = "t" + hashlib.sha1(str(folder).encode()).hexdigest()[:12]
        self.oci("spec", "--bundle", self.folder)
        self.config = json.loads((self.folder / "config.json").read_text())
        self.config["process"]["terminal"] = False
        self.config["root"]["readonly"] = False
        self.args("true")

    def oci(self, *args, code=0, **kwargs):
        if "input" not in kwargs:
            kwargs["stdin"] = subprocess.DEVNULL
        done = subprocess.run([PROGRAM, "oci", "--root", str(self.state), *map(str, args)], capture_output=True, text=True, timeout=60, **kwargs)
        if code is not None:
            assert done.returncode == code, done
        return done

    def args(self, *args):
        self.config["process"]["args"] = list(args)
        return self

    def sh(self, script):
        return self.args("/bin/sh", "-c", script)

    def drop_namespace(self, kind):
        self.config["linux"]["namespaces"] = [n for n in self.config["linux"]["namespaces"] if n["type"] != kind]

    def join_namespace(self, kind, path):
        self.drop_namespace(kind)
        self.config["linux"]["namespaces"].append({"type": kind, "path": str(path)})

    def user_namespace(self, host_id=100000):
        """The container gets one of its own, and the root file system belongs to its root."""
        linux = self.config["linux"]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": host_id, "size": 65536}]
        for path in [self.folder / "rootfs", *(self.folder / "rootfs").rglob("*")]:
            os.chown(path, host_id, host_id, follow_symlinks=False)

    def mount(self, source, destination, *options, kind="bind"):
        self.config["mounts"].append({"source": str(source), "destination": str(destination), "type": kind, "options": list(options)})

    def write(self):
        (self.folder / "config.json").write_text(json.dumps(self.config))
        return self

    def run(self, code=0, **kwargs):
        self.write()
        return self.oci("run", "--bundle", self.folder, self.id, code=code, **kwargs)

    def create(self, code=0):
        self.write()
        # A container that waits keeps its stdio open, so it gets files.
        with open(self.folder / "out", "w") as out:
            done = subprocess.run([PROGRAM, "oci", "--root", str(self.state), "create", "--bundle", str(self.folder), self.id],
                                  stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=60)
        assert done.returncode == code, (self.folder / "out").read_text()
        return (self.folder / "out").read_text()

    def status(self):
        return json.loads(self.oci("state", self.id).stdout)["status"]

    def cgroups(self):
        return [p for p in pathlib.Path("/sys/fs/cgroup").glob(f"**/caisson/{self.id}")]

    def gone(self):
        return not (self.state / self.id).exists() and not self.cgroups()
