"""Another machine: a network namespace behind a veth pair, to which this host forwards."""
import contextlib
import os
import signal
import subprocess


def run(*argv):
    subprocess.run(list(map(str, argv)), check=True)


@contextlib.contextmanager
def other_machine(here, there, server):
    """Where `server` runs (an argv), at `there`. The namespace's name; its interface is eth0, this host's end is far0."""
    name = f"far{os.getpid()}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "link", "add", "far0", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "addr", "add", f"{here}/29", "dev", "far0")
        run("ip", "link", "set", "far0", "up")
        run("ip", "-n", name, "addr", "add", f"{there}/29", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", name, "link", "set", device, "up")
        process = subprocess.Popen(["ip", "netns", "exec", name, *server], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            yield name
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # with those that serve
            process.wait()
    finally:
        run("ip", "netns", "delete", name)
        subprocess.run(["ip", "link", "delete", "far0"], stderr=subprocess.DEVNULL)
