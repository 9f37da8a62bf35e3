"""A Docker daemon of its own, in a network namespace of its own: its bridge and
its firewall rules stay there, its cgroups below a parent of its own."""
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time


class Dockerd:
    def __init__(self, *options, bridge=False):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dockerd.", dir="/var/tmp"))
        self.parent = f"caisson-{self.folder.name}"
        self.log = open(self.folder / "log", "w")
        (self.folder / "daemon.json").write_text(json.dumps({"cgroup-parent": "/" + self.parent}))
        network = [] if bridge else ["--bridge=none", "--iptables=false", "--ip6tables=false"]
        daemon = ["dockerd", "--config-file", f"{self.folder}/daemon.json", "--data-root", f"{self.folder}/data", "--exec-root", f"{self.folder}/exec", "--pidfile", f"{self.folder}/pid",
                  "--host", f"unix://{self.folder}/sock", "--storage-driver", "vfs", *network, *options]
        # Debian's programs, whatever else is on PATH.
        self.environment = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        self.process = subprocess.Popen(["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *daemon], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=self.environment)
        deadline = time.monotonic() + 60
        while subprocess.run(self.argv("version"), capture_output=True, env=self.environment).returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                log = (self.folder / "log").read_text()[-2000:]
                self.stop()
                raise RuntimeError("dockerd does not start: " + log)
            time.sleep(0.1)

    def argv(self, *args):
        return ["/usr/bin/docker", "--host", f"unix://{self.folder}/sock", *map(str, args)]

    def __call__(self, *args, **kwargs):
        done = subprocess.run(self.argv(*args), capture_output=True, text=True, timeout=100, env=self.environment, **kwargs)
        assert done.returncode == 0, (args, done.stdout, done.stderr)
        return done.stdout

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for parent in [*pathlib.Path("/sys/fs/cgroup").glob(f"*/{self.parent}"), *pathlib.Path("/sys/fs/cgroup").glob(self.parent)]:
            for folder, _, _ in os.walk(parent, topdown=False):
                os.rmdir(folder)
