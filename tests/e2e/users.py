"""A user without privileges: commands run as uid 1000. Who the user is and which further
ids there are, /etc says only to these commands."""
import os
import pathlib
import shutil
import subprocess

from conftest import PROGRAM

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
        binds += [(self.folder / "tun", "/dev/net/tun")] + [("/dev/null", path) for name in self.hidden if (path := shutil.which(name))]
        script = "".join(f"[ -e {to} ] || touch {to}; mount --bind {source} {to}; " for source, to in binds)
        return subprocess.Popen(["unshare", "--mount", "sh", "-c", f'{script} exec setpriv --reuid {USER} --regid {USER} --clear-groups -- "$@"', "sh", *map(str, argv)],
                                cwd=self.folder, env={**os.environ, "HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder / "run"), **(env or {})}, stdin=subprocess.DEVNULL, text=True, **kwargs)
