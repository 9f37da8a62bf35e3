"""A user without privileges: commands run as uid 1000. Who the user is and which further
ids there are, /etc says only to these commands."""
import os
import pathlib
import shutil
import subprocess
import tarfile

from conftest import PROGRAM, make_busybox_root, wait_for

USER = 1000
FIRST = 200000  # of the further ids


class User:
    def __init__(self, folder, subids=f"alice:{FIRST}:65536\n"):
        self.folder = pathlib.Path(folder)
        self.etc = self.folder / "etc"
        self.etc.mkdir()
        for name, text in {"passwd": f"root:x:0:0::/root:/bin/sh\nalice:x:{USER}:{USER}::/:/bin/sh\n", "group": f"root:x:0:\nalice:x:{USER}:\n", "subuid": subids, "subgid": subids}.items():
            (self.etc / name).write_text(text)
        # Readable by the user, whatever folder the project is in.
        shutil.copy(PROGRAM, self.folder / "caisson")
        (self.folder / "run").mkdir()
        self.hidden = []  # programs that these commands do not find
        self.shown = {}  # files and folders that they see in the place of others
        # As hosts with udev have it.
        os.mknod(self.folder / "tun", 0o020666, os.makedev(10, 200))
        (self.folder / "tun").chmod(0o666)
        self.own(self.folder, self.folder / "run")
        for parent in self.folder.parents:
            if parent != pathlib.Path("/tmp") and pathlib.Path("/tmp") in parent.parents:
                parent.chmod(0o755)

    def own(self, *paths):
        for path in paths:
            os.chown(path, USER, USER, follow_symlinks=False)

    def popen(self, *argv, env=None, **kwargs):
        """Runs `argv` as the user."""
        binds = [(self.etc / name, f"/etc/{name}") for name in ("passwd", "group", "subuid", "subgid")]
        binds += [(self.folder / "tun", "/dev/net/tun"), *((source, to) for to, source in self.shown.items())] + [("/dev/null", path) for name in self.hidden if (path := shutil.which(name))]
        script = "".join(f"[ -e {to} ] || touch {to}; mount --bind {source} {to}; " for source, to in binds)
        return subprocess.Popen(["unshare", "--mount", "sh", "-c", f'{script} exec setpriv --reuid {USER} --regid {USER} --clear-groups -- "$@"', "sh", *map(str, argv)],
                                cwd=self.folder, env={**os.environ, "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder / "run"), **(env or {})}, stdin=subprocess.DEVNULL, text=True, **kwargs)


class Owner(User):
    """Of images and containers."""

    def __call__(self, *args, code=0, env=None):
        process = self.popen(self.folder / "caisson", *args, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=60)
        assert code is None or process.returncode == code, (args, process.returncode, out, err)
        return err if code else out

    @property
    def store(self):
        return self.folder / ".local/share/caisson"

    @property
    def run_root(self):
        return self.folder / "run/caisson"

    def processes(self, word=""):
        """Ids of this user's processes, zombies excepted, which have `word` in their command line."""
        found = []
        for proc in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                line = (proc / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if word in line and str(self.folder) in (line if "caisson" in line else str(self.way_out(proc))) and line:
                    found.append(int(proc.name))
            except OSError:
                pass
        return found

    def way_out(self, proc):
        """The folder, where the process is what lets this user's containers out."""
        record = self.run_root / "rootless/way-out"
        return self.folder if record.exists() and record.read_text().split()[0] == proc.name else ""

    def end(self):
        self("system", "reset", "--force")
        wait_for(lambda: not self.processes(), 15, "the keeper ends")


def make_archive(folder):
    """A tar of busybox, with a file of uid 33."""
    make_busybox_root(folder / "root")
    (folder / "root/home/other").write_text("another's\n")
    os.chown(folder / "root/home/other", 33, 34)
    with tarfile.open(folder / "root.tar", "w") as tar:
        tar.add(folder / "root", ".")
    (folder / "root.tar").chmod(0o644)
    for parent in (folder, *folder.parents):
        if pathlib.Path("/tmp") in parent.parents:
            parent.chmod(0o755)
    return folder / "root.tar"
