"""Containers from images: the everyday verbs."""
import json
import os
import pathlib
import subprocess
import time

import pytest

from conftest import wait_for


def test_roots_relative_to_where_one_stands(caisson, tmp_path):
    """What outlives the command stands somewhere else."""
    caisson("save", "-o", tmp_path / "bb.tar", "bb")
    def here(*args):
        return subprocess.run([caisson.program, "--root", "store", "--run-root", "./state", *args], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    try:
        assert here("load", "-i", "bb.tar").returncode == 0
        done = here("run", "--rm", "--network", "none", "bb", "echo", "here")
        assert (done.returncode, done.stdout) == (0, "here\n"), done.stderr
        assert here("run", "-d", "--network", "none", "--name", "c", "bb", "sleep", "1000").returncode == 0
        assert subprocess.run([caisson.program, "--root", tmp_path / "store", "--run-root", tmp_path / "state", "exec", "c", "true"], timeout=60).returncode == 0
        assert here("rm", "-f", "c").returncode == 0
    finally:
        assert here("system", "reset", "--force").returncode == 0
    done = subprocess.run([caisson.program, "--root", "", "ps"], capture_output=True, text=True)
    assert done.returncode == 1 and "--root" in done.stderr, done


def test_exit_codes(caisson):
    caisson.run("bb", "sh", "-c", "exit 3", code=3)
    caisson.run("--init", "bb", "sh", "-c", "kill -TERM $$", code=143)
    caisson.run("bb", "/nothing-here", code=127)
    caisson.run("bb", "/etc", code=126)
    caisson.run("--memory", "1k", "bb", "true", code=125)
    assert caisson("ps", "--all", "--quiet").out == "", "none of them is left"


def test_output_streams_and_stdin(caisson):
    done = caisson.run("bb", "sh", "-c", "echo out; echo err >&2")
    assert (done.out, done.err) == ("out\n", "err\n")
    assert caisson.run("--interactive", "bb", "cat", input="through\n" * 5000).out == "through\n" * 5000
    assert caisson.run("bb", "cat", input="unseen").out == "", "without -i stdin is empty"
    assert len(caisson.run("bb", "sh", "-c", "yes | head -c 3000000").out) == 3000000


def test_environment_user_and_folder(caisson, tmp_path):
    env = tmp_path / "env"
    env.write_text("# comment\nB=2\n\nC = x\n")
    out = caisson.run("-e", "A=1 2", "--env-file", env, "-w", "/tmp", "-u", "alice", "bb", "sh", "-c", 'echo "$A|$B|$HOME|$PWD"; id').out
    assert out.splitlines() == ["1 2|2|/home|/tmp", "uid=1000(alice) gid=1000(alice) groups=10(wheel),1000(alice)"]
    assert caisson.run("-u", "1234:4321", "bb", "id").out.startswith("uid=1234 gid=4321")
    assert "unable to find user nobody-here" in caisson.run("-u", "nobody-here", "bb", "id", code=125).err
    for bad in ("4294967295", "-1", "2147483648"):
        caisson.run(f"--user={bad}", "bb", "id", code=125)


def test_entrypoint_and_hostname(caisson):
    assert caisson.run("--entrypoint", "/bin/echo", "bb", "a", "b").out == "a b\n"
    assert caisson.run("--hostname", "chamber", "bb", "sh", "-c", "hostname; cat /etc/hostname; grep chamber /etc/hosts | wc -l").out == "chamber\nchamber\n1\n"


def test_default_privileges(caisson):
    status = caisson.run("bb", "cat", "/proc/self/status").out
    assert "CapEff:\t00000000800405fb" in status and "NoNewPrivs:\t1" in status and "Seccomp:\t2" in status
    assert "CapEff:\t0000000000000000" in caisson.run("--cap-drop", "ALL", "bb", "cat", "/proc/self/status").out
    assert "CapEff:\t0000000000200000" in caisson.run("--cap-drop", "all", "--cap-add", "sys_admin", "bb", "cat", "/proc/self/status").out
    assert "CapEff:\t0000000000000000" in caisson.run("-u", "alice", "bb", "cat", "/proc/self/status").out
    assert "Seccomp:\t0" in caisson.run("--security-opt", "seccomp=unconfined", "bb", "cat", "/proc/self/status").out
    caisson.run("bb", "mount", "-t", "tmpfs", "none", "/tmp", code=1)
    caisson.run("bb", "unshare", "-U", "true", code=1)
    assert "not supported" in caisson.run("--security-opt", "apparmor=x", "bb", "true", code=125).err


def test_writes_stay_in_their_container(caisson):
    caisson("run", "-d", "--name", "a", "bb", "sh", "-c", "echo a > /mark; sleep 1000")
    caisson("run", "-d", "--name", "b", "bb", "sh", "-c", "sleep 1000")
    wait_for(lambda: caisson("exec", "a", "cat", "/mark", code=None).out == "a\n")
    caisson("exec", "b", "cat", "/mark", code=1)
    assert not pathlib.Path("/mark").exists()


def test_volumes(caisson, tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host/f").write_text("from the host")
    assert caisson.run("-v", f"{tmp_path}/host:/data", "bb", "sh", "-c", "cat /data/f; echo back > /data/g").out == "from the host"
    assert (tmp_path / "host/g").read_text() == "back\n"
    caisson.run("-v", f"{tmp_path}/host:/data:ro", "bb", "touch", "/data/x", code=1)
    caisson.run("-v", "named:/data", "bb", "sh", "-c", "echo kept > /data/f")
    assert caisson.run("-v", "named:/data", "bb", "cat", "/data/f").out == "kept\n"
    assert json.loads(caisson("volume", "inspect", "named").out)[0]["name"] == "named"
    caisson("create", "--name", "user", "-v", "named:/data", "bb")
    assert "in use by container user" in caisson("volume", "rm", "named", code=1).err
    caisson("rm", "user")
    caisson("volume", "rm", "named")
    assert "only a proc file system" in caisson.run("-v", f"{tmp_path}/host:/proc", "bb", "true", code=125).err
    # A new volume gets what the image has there.
    assert "passwd" in caisson.run("-v", "seeded:/etc", "bb", "ls", "/etc").out
    caisson("volume", "rm", "seeded")


def test_tmpfs_and_read_only_root(caisson):
    caisson.run("--read-only", "bb", "touch", "/x", code=1)
    assert caisson.run("--read-only", "--tmpfs", "/scratch:size=1m", "bb", "sh", "-c", "echo x > /scratch/f; cat /scratch/f; df -m /scratch | tail -1 | awk '{print $2}'").out == "x\n1\n"


def test_terminal(caisson):
    import pty
    pid, fd = pty.fork()
    if pid == 0:
        os.execv(caisson.program, caisson.argv("run", "--rm", "-it", "bb", "sh", "-c", "tty; test -t 0 && test -t 1 && echo yes; read line; echo got $line; exit 6"))
    os.write(fd, b"typed\n")
    out = b""
    try:
        while piece := os.read(fd, 1000):
            out += piece
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    os.close(fd)
    assert os.waitstatus_to_exitcode(status) == 6
    assert b"/dev/pts/0" in out and b"yes" in out and b"got typed" in out


def test_tty_input_cannot_be_pushed_to_the_caller(caisson):  # TIOCSTI
    out = caisson.run("bb", "sh", "-c", "ps -o pid,sid,comm | awk '$1==1{print $2}'").out
    assert out.strip() == "1", "its first process leads a session of its own"


def test_detach_logs_and_wait(caisson):
    container = caisson("run", "-d", "--name", "logger", "bb", "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done; echo bad >&2; printf end; exit 9").out.strip()
    assert len(container) == 64
    assert caisson("wait", "logger").out == "9\n"
    logs = caisson("logs", "logger")
    assert logs.out == "".join(f"line {i}\n" for i in range(1, 6)) + "end" and logs.err == "bad\n"
    assert caisson("logs", "--tail", "1", "logger").out == "end"
    assert caisson("logs", "--timestamps", "logger").out.startswith(time.strftime("%Y-"))
    state = caisson.inspect("logger")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 9)


def test_logs_follow_until_the_end(caisson):
    caisson("run", "-d", "--name", "slow", "bb", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert caisson("logs", "--follow", "slow", timeout=20).out == "1\n2\n3\n"


def test_attach(caisson):
    caisson("run", "-d", "-i", "--name", "talk", "bb", "sh", "-c", "read x; echo heard $x; exit 5")
    assert caisson("attach", "talk", input="you\n", code=5).out == "heard you\n"


def test_exec(caisson):
    caisson("run", "-d", "--name", "c", "-e", "FROM=image", "bb", "sleep", "1000")
    assert caisson("exec", "-e", "X=y", "-w", "/tmp", "-u", "alice", "c", "sh", "-c", "echo $FROM $X $PWD $(id -u)").out == "image y /tmp 1000\n"
    assert caisson("exec", "-i", "c", "cat", input="in").out == "in"
    caisson("exec", "c", "sh", "-c", "exit 4", code=4)
    caisson("exec", "c", "nothing-here", code=127)
    caisson("exec", "-d", "c", "touch", "/by-exec")
    wait_for(lambda: caisson("exec", "c", "test", "-e", "/by-exec", code=None).code == 0)
    assert "CapEff:\t00000000800405fb" in caisson("exec", "c", "cat", "/proc/self/status").out
    assert "Seccomp:\t2" in caisson("exec", "c", "cat", "/proc/self/status").out
    assert "not running" in (caisson("kill", "c"), caisson("wait", "c"), caisson("exec", "c", "true", code=125))[2].err


def test_stop_is_gentle_first(caisson):
    caisson("run", "-d", "--name", "polite", "bb", "sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done")
    wait_for(lambda: "ready" in caisson("logs", "polite").out)
    caisson("stop", "polite")
    assert caisson("logs", "polite").out == "ready\nbye\n" and caisson.inspect("polite")["State"]["ExitCode"] == 0
    caisson("run", "-d", "--name", "deaf", "bb", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    begin = time.monotonic()
    caisson("stop", "--time", "1", "deaf")
    assert time.monotonic() - begin < 5 and caisson.inspect("deaf")["State"]["ExitCode"] == 137


def test_restart_policies(caisson):
    caisson("run", "-d", "--name", "again", "--restart", "on-failure:4", "bb", "sh", "-c", "echo try; exit 1")
    assert caisson("wait", "again", timeout=30).out == "1\n"
    assert caisson("logs", "again").out == "try\n" * 5 and caisson.inspect("again")["RestartCount"] == 4
    caisson("run", "-d", "--name", "forever", "--restart", "always", "bb", "sleep", "1000")
    first = caisson.pid("forever")
    os.kill(first, 9)
    wait_for(lambda: caisson.pid("forever") not in (0, first))
    caisson("stop", "-t", "0", "forever")
    time.sleep(0.3)
    assert caisson.inspect("forever")["State"]["Status"] == "exited", "a stopped container stays stopped"


def test_names(caisson):
    caisson("create", "--name", "web", "bb")
    assert "already in use" in caisson("create", "--name", "web", "bb", code=125).err
    for bad in ("../x", "a b", "-x", "x\ny", "x" * 200):
        assert "invalid container name" in caisson("create", f"--name={bad}", "bb", code=125).err
    caisson("rename", "web", "web2")
    assert "no such container" in caisson("inspect", "--type", "container", "web", code=1).err
    assert caisson.inspect("web2")["Name"] == "web2"


def test_listings_have_json(caisson):
    caisson("run", "-d", "--name", "c", "--label", "k=v", "bb", "sleep", "1000")
    ps = json.loads(caisson("ps", "--format", "json").out)
    assert [(c["name"], c["state"], c["labels"]["k"]) for c in ps] == [("c", "running", "v")]
    assert json.loads(caisson("stats", "--format", "json").out)[0]["pids"] == 1
    assert "sleep 1000" in caisson("top", "c").out
    for listing in (("images",), ("network", "ls"), ("volume", "ls")):
        json.loads(caisson(*listing, "--format", "json").out)


def test_copy(caisson, tmp_path):
    (tmp_path / "d/sub").mkdir(parents=True)
    (tmp_path / "d/sub/f").write_text("deep")
    (tmp_path / "one").write_text("single")
    for state in ("running", "stopped"):
        caisson("run", "-d", "--name", state, "bb", "sleep", "1000")
        if state == "stopped":
            caisson("kill", state)
            caisson("wait", state)
        caisson("cp", tmp_path / "d", f"{state}:/tmp")
        caisson("cp", tmp_path / "one", f"{state}:/tmp/renamed")
        caisson("cp", f"{state}:/tmp/d", tmp_path / f"back-{state}")
        assert (tmp_path / f"back-{state}/sub/f").read_text() == "deep"
        caisson("cp", f"{state}:/tmp/renamed", tmp_path / f"file-{state}")
        assert (tmp_path / f"file-{state}").read_text() == "single"
    assert "No such file" in caisson("cp", "running:/nothing", tmp_path, code=1).err


def test_copy_of_tar_streams(caisson, tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/f").write_bytes(os.urandom(300_000))
    caisson("run", "-d", "--name", "c", "bb", "sleep", "1000")
    tar = subprocess.run(["tar", "-C", tmp_path, "-cf", "-", "d"], stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(caisson.argv("cp", "-", "c:/tmp"), input=tar, check=True)
    back = subprocess.run(caisson.argv("cp", "c:/tmp/d", "-"), stdout=subprocess.PIPE, check=True).stdout
    subprocess.run(["tar", "-C", tmp_path, "--transform", "s,^d,back,", "-xf", "-"], input=back, check=True)
    assert (tmp_path / "back/f").read_bytes() == (tmp_path / "d/f").read_bytes()
    assert subprocess.run(["tar", "-tf", "-"], input=subprocess.run(caisson.argv("cp", "c:/tmp/d/.", "-"), stdout=subprocess.PIPE).stdout, stdout=subprocess.PIPE, check=True).stdout == b"f\n"
    bad = subprocess.run(caisson.argv("cp", "-", "c:/tmp"), input=b"no archive at all" * 100, stderr=subprocess.PIPE)
    assert bad.returncode == 1 and bad.stderr
    assert "No such file" in caisson("cp", "-", "c:/nowhere", input="", code=1).err


def test_several_are_stopped_at_once(caisson):
    for i in range(5):
        caisson("run", "-d", "--name", f"deaf{i}", "bb", "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
    begin = time.monotonic()
    done = caisson("stop", "--time", "2", "deaf0", "nobody", *[f"deaf{i}" for i in range(1, 5)], code=1)
    assert time.monotonic() - begin < 8, "each of them takes two seconds"
    assert done.out.split() == [f"deaf{i}" for i in range(5)] and "nobody" in done.err


def test_copy_follows_no_link_out(caisson, tmp_path):  # CVE-2018-15664
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "f").write_text("host")
    caisson("run", "-d", "--name", "evil", "bb", "sh", "-c", f"ln -s {victim} /out; ln -s {victim}/f /file; sleep 1000")
    wait_for(lambda: caisson("exec", "evil", "test", "-L", "/file", code=None).code == 0)
    (tmp_path / "payload").write_text("evil")
    caisson("cp", tmp_path / "payload", "evil:/out/f", code=1)
    assert (victim / "f").read_text() == "host"
    caisson("cp", "evil:/file", tmp_path / "stolen", code=1)


def test_several_programs_start_in_order_and_stop_in_reverse(caisson, tmp_path, busybox_root):
    start = [
        {"args": ["/bin/sh", "-c", "echo first up; trap 'echo first down; exit 0' TERM; (sleep 0.5; exec nc -ll -p 7000 -e true) & while :; do sleep 0.02; done"], "ready_port": 7000},
        {"args": ["/bin/sh", "-c", "echo second up; id -u; trap 'echo second down; exit 0' TERM; while :; do sleep 0.02; done"], "user": "alice"},
    ]
    caisson("import", "--change", "LABEL io.caisson.start=" + json.dumps(start), busybox_root, "two")
    caisson("run", "-d", "--name", "two", "two")
    wait_for(lambda: "second up" in caisson("logs", "two").out)
    caisson("stop", "two")
    assert [l for l in caisson("logs", "two").out.split("\n") if l] == ["first up", "second up", "1000", "second down", "first down"]


def test_what_prepares_a_program_ends_before_it_starts(caisson, busybox_root):
    def run(first, code):
        start = [{"args": ["/bin/sh", "-c", first], "once": True, "user": "root"}, {"args": ["/bin/sh", "-c", "exit 3"], "once": True, "may_fail": True},
                 {"args": ["/bin/sh", "-c", "cat /tmp/ready; id -u"], "user": "alice"}]
        caisson("import", "--change", "LABEL io.caisson.start=" + json.dumps(start), busybox_root, "prepared")
        return caisson("run", "--rm", "prepared", code=code)
    assert run("sleep 0.3; echo ready > /tmp/ready", 0).out == "ready\n1000\n"
    failed = run("exit 9", 9)
    assert "1000" not in failed.out and "/bin/sh ended with 9" in failed.err


def test_init_reaps_and_forwards(caisson):
    caisson("run", "-d", "--name", "i", "--init", "bb", "sh", "-c", "trap 'echo usr1' USR1; (sleep 0.1 &) ; echo up; while :; do sleep 0.05; done")
    wait_for(lambda: "up" in caisson("logs", "i").out)
    caisson("kill", "--signal", "USR1", "i")
    wait_for(lambda: "usr1" in caisson("logs", "i").out)
    time.sleep(0.3)
    states = [line.split()[3] for line in caisson("top", "i").out.splitlines()[1:]]
    assert "Z" not in states
    caisson.run("--init", "bb", "sh", "-c", "exit 11", code=11)


def test_environment_of_one_never_reaches_another(caisson):  # CVE-2021-21334
    caisson("create", "--name", "a", "-e", "CANARY=leak", "bb")
    assert "leak" not in caisson.run("bb", "env").out


def test_state_is_closed_to_others(caisson):  # CVE-2021-41091
    caisson("run", "-d", "--name", "c", "-e", "SECRET=x", "bb", "sleep", "1000")
    look = f"find {caisson.root} {caisson.run_root} -readable -type f 2>/dev/null | head; ls {caisson.root}/containers 2>/dev/null"
    out = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", look], capture_output=True, text=True).stdout
    assert out == ""


def test_bytes_that_are_no_text(caisson):
    caisson("create", "--name", "odd", "-e", "X=\udcff\udcfe", "bb", "echo", "\udcff")
    assert caisson.inspect("odd")["Name"] == "odd"
    assert "there is no" in caisson("inspect", "--format", "{{.Moon}}", "odd", code=1).err
    assert caisson("inspect", "--format", "/~", "odd", code=1).err.startswith("error: ")


def test_unknown_things_are_one_clear_line(caisson):
    for args, error, code in ((("run", "nothing-here"), "no such image: nothing-here", 125), (("start", "nobody"), "no such container: nobody", 1), (("run", "--network", "nowhere", "bb"), "no such network: nowhere", 125),
                              (("run", "--moon", "bb"), "unknown flag: --moon", 125), (("moon",), 'unknown command "moon"', 125)):
        done = caisson(*args, code=code)
        assert error in done.err and done.err.count("\n") == 1, done


def test_without_privileges_and_a_place(caisson):
    """With one: test_rootless_engine.py."""
    copy = pathlib.Path("/tmp/caisson-unprivileged")
    copy.write_bytes(pathlib.Path(caisson.program).read_bytes())
    copy.chmod(0o755)
    done = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(copy), "ps"], capture_output=True, text=True, env={"HOME": "/nonexistent"})
    copy.unlink()
    assert done.returncode == 1 and "is XDG_RUNTIME_DIR set?" in done.stderr and done.stderr.count("\n") == 1


def test_every_command_has_help_with_an_example(caisson):
    listing = caisson("--help").out
    names = [line.split()[0] for line in listing.split("Commands:\n")[1].split("\n\n")[0].splitlines()]
    assert len(names) > 30
    for name in names:
        text = caisson(name, "--help").out
        assert text.startswith("Usage: caisson " + name) and "Example:" in text, name
