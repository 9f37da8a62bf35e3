"""Programs of Debian under what every container gets: its user namespace, its
capabilities, its filter of system calls, no_new_privs. One image holds them all;
each starts, serves or computes something, and is asked for the result."""
import os
import pathlib
import shutil
import subprocess

import pytest

PACKAGES = """nginx-light apache2 lighttpd haproxy varnish redis-server memcached postgresql-15 mariadb-server sqlite3 bind9 bind9-dnsutils dnsmasq-base openssh-server vsftpd rsync
mosquitto mosquitto-clients squid python3-flask gunicorn perl ruby nodejs php-cli openjdk-17-jre-headless gcc libc6-dev make git curl gawk jq vim-tiny tmux tar xz-utils zstd openssl
gnupg strace iputils-ping busybox-static util-linux coreutils procps base-passwd base-files bash dash grep sed findutils mount hostname""".split()

# Tools that scripts below use.
PRELUDE = """set -e; cd /tmp; export LC_ALL=C.UTF-8
ask() { i=0; until "$@" 2>/dev/null; do i=$((i+1)); [ $i -lt 150 ] || { "$@"; return 1; }; sleep 0.1; done; }
get() { ask curl -sf -m 2 http://127.0.0.1:${2:-80}/$1; }
"""

PROGRAMS = {
    # servers
    "nginx": ("echo 'events {} http { server { listen 80; location / { return 200 ok; } } }' > n.conf; nginx -c /tmp/n.conf; get", "ok"),
    "apache2": ("m=/usr/lib/apache2/modules; printf 'ServerName x\\nListen 80\\nPidFile /tmp/a.pid\\nErrorLog /tmp/a.log\\nLoadModule mpm_event_module '$m'/mod_mpm_event.so\\nLoadModule authz_core_module '$m'/mod_authz_core.so\\n"
                "DocumentRoot /tmp\\nUser www-data\\nGroup www-data\\n' > a.conf; echo ok > page; apache2 -f /tmp/a.conf; get page", "ok\n"),
    "lighttpd": ("printf 'server.document-root = \"/tmp\"\\nserver.port = 80\\nserver.username = \"www-data\"\\n' > l.conf; echo ok > page; lighttpd -f l.conf; get page", "ok\n"),
    "haproxy": ("printf 'defaults\\n mode http\\n timeout client 5s\\n timeout server 5s\\n timeout connect 5s\\nfrontend f\\n bind :80\\n http-request return status 200 content-type text/plain string ok\\n' > h.cfg; haproxy -D -f h.cfg; get", "ok"),
    "varnish": ("mkdir v; varnishd -j none -n /tmp/v -a :80 -b none > v.log 2>&1; ask sh -c 'test $(curl -s -o /dev/null -w %{http_code} http://127.0.0.1/) = 503'; echo ok", "ok\n"),
    "redis-server": ("redis-server --daemonize yes > /dev/null; ask redis-cli set a b > /dev/null; redis-cli get a; redis-cli bgsave > /dev/null; ask test -s dump.rdb", "b\n"),
    "memcached": ("memcached -d -u nobody; ask bash -c 'exec 3<>/dev/tcp/127.0.0.1/11211; printf \"set a 0 9 1\\r\\nb\\r\\nquit\\r\\n\" >&3; cat <&3'", "STORED\n"),
    "postgresql": ("install -d -o app pg; as='setpriv --reuid app --regid app --clear-groups'; $as /usr/lib/postgresql/15/bin/initdb -D pg > log; $as /usr/lib/postgresql/15/bin/pg_ctl -D pg -o '-k /tmp' -w start >> log; "
                   "psql -h /tmp -U app postgres -Atc 'create table t as select generate_series(1, 1000) n; select sum(n) from t' | tail -1", "500500\n"),
    "mariadb": ("mariadb-install-db --no-defaults --user=app --datadir=/tmp/my --auth-root-authentication-method=normal > log 2>&1; mariadbd --no-defaults --user=app --datadir=/tmp/my --socket=/tmp/s >> log 2>&1 & "
                "ask mariadb-admin --no-defaults -S /tmp/s ping > /dev/null; mariadb --no-defaults -S /tmp/s -Ne 'select 6 * 7'", "42\n"),
    "bind9": ("printf 'options { directory \"/tmp\"; listen-on { 127.0.0.1; }; listen-on-v6 { none; }; pid-file \"/tmp/p\"; version \"ok\"; recursion no; };' > named.conf; named -c /tmp/named.conf; ask dig +short +timeout=1 @127.0.0.1 version.bind chaos txt", '"ok"\n'),
    "dnsmasq": ("dnsmasq --conf-file=/dev/null --no-resolv --address=/x.test/10.1.2.3 --user=root --port=5353; ask dig +short +timeout=1 -p 5353 @127.0.0.1 x.test", "10.1.2.3\n"),
    "openssh": ("mkdir -p /run/sshd /root/.ssh; chmod 700 /root /root/.ssh; ssh-keygen -A > /dev/null; ssh-keygen -q -N '' -f key; cp key.pub /root/.ssh/authorized_keys; printf 'UsePAM no\\nStrictModes no\\n' > sshd.conf; /usr/sbin/sshd -f /tmp/sshd.conf; "
                "ask ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/tmp/known -o LogLevel=ERROR -i key root@127.0.0.1 echo ok", "ok\n"),
    "vsftpd": ("mkdir -p ftp /var/run/vsftpd/empty; echo ok > ftp/file; printf 'listen=YES\\nanonymous_enable=YES\\nanon_root=/tmp/ftp\\nftp_username=app\\nsecure_chroot_dir=/var/run/vsftpd/empty\\n' > f.conf; vsftpd f.conf & ask curl -sf -m 3 ftp://127.0.0.1/file", "ok\n"),
    "rsync": ("mkdir m; echo ok > m/file; printf '[m]\\n path=/tmp/m\\n use chroot=yes\\n uid=nobody\\n gid=nogroup\\n' > r.conf; rsync --daemon --config=r.conf; ask rsync rsync://127.0.0.1/m/file got; cat got", "ok\n"),
    "mosquitto": ("printf 'listener 1883 127.0.0.1\\nallow_anonymous true\\nuser nobody\\n' > m.conf; mosquitto -c m.conf -d; ask mosquitto_pub -t a -m ok -r; mosquitto_sub -t a -C 1", "ok\n"),
    "squid": ("printf 'http_port 3128\\nhttp_access deny all\\npid_filename /tmp/p\\ncache_log /tmp/l\\naccess_log none\\ncoredump_dir /tmp\\ncache_effective_user nobody\\nlogfile_rotate 0\\n' > s.conf; touch l; chmod 666 l; chmod 1777 /tmp; squid -N -f s.conf > log 2>&1 & "
              "ask sh -c 'test $(curl -s -o /dev/null -w %{http_code} -x http://127.0.0.1:3128 http://x.test/) = 403'; echo ok", "ok\n"),
    "gunicorn": ("printf 'from flask import Flask\\napp = Flask(__name__)\\n@app.route(\"/\")\\ndef index():\\n    return \"ok\"\\n' > web.py; gunicorn -D -w 2 -b 127.0.0.1:80 web:app; get", "ok"),
    "nodejs": ("echo 'require(\"http\").createServer((q, a) => a.end(\"ok\")).listen(80)' > s.js; node s.js & get", "ok"),
    "busybox httpd": ("mkdir w; echo ok > w/page; busybox httpd -p 80 -h w; get page", "ok\n"),
    # languages
    "perl": ("perl -MTime::HiRes=usleep,alarm -e '$SIG{ALRM} = sub { print \"ok\\n\"; exit }; alarm 0.05; usleep 5_000_000'", "ok\n"),
    "ruby": ("ruby -e 'puts (1..4).map { |i| Thread.new { fork { exit i }; Process.wait; $?.exitstatus } }.sum(&:value)'", "10\n"),
    "php": ("php -r 'echo array_sum(range(1, 100)), \"\\n\";'", "5050\n"),
    "openjdk": ("java -Xmx64m -XX:+UseG1GC -Xlog:gc -version 2>&1 | grep -c 'OpenJDK 64-Bit'", "1\n"),
    "python3": ("python3 -c 'import multiprocessing as m\nwith m.Pool(4) as p: print(sum(p.map(abs, range(-100, 0))))'", "5050\n"),
    "gcc": ("printf '#include <stdio.h>\\n#include <threads.h>\\nint f(void *p) { return *(int *)p; }\\nint main() { thrd_t t; int n = 42, r; thrd_create(&t, f, &n); thrd_join(t, &r); printf(\"%%d\\\\n\", r); }\\n' > a.c; gcc -O2 -pthread a.c && ./a.out", "42\n"),
    # tools
    "make": ("printf 'all: a b\\n\\t@cat a b\\na b:\\n\\t@echo $@ > $@\\n' > Makefile; make -j4", "a\nb\n"),
    "git": ("git init -q r; cd r; git config user.email a@b; git config user.name a; echo ok > f; git add f; git commit -qm one; git gc -q; cd ..; git clone -q r s; cat s/f", "ok\n"),
    "sqlite3": ("sqlite3 -batch d.sqlite 'pragma journal_mode=wal; create table t (n); insert into t values (1), (41); select sum(n) from t' | tail -1", "42\n"),
    "gawk": ("gawk 'BEGIN { \"echo ok\" |& getline x; print x }'", "ok\n"),
    "jq": ("echo '{\"a\": [1, 2]}' | jq -c '.a | map(. * 2)'", "[2,4]\n"),
    "vim": ("printf 'bad\\n' > f; vim.tiny -es -c 's/bad/ok/' -c wq f; cat f", "ok\n"),
    "tmux": ("tmux new-session -d 'echo ok > /tmp/t; sleep 5'; ask cat t", "ok\n"),
    "tar": ("mkdir d; echo ok > d/f; chown 1000:1000 d/f; mkfifo d/p; ln -s f d/l; tar --xattrs -cf a.tar d; mkdir e; tar --xattrs -C e -xf a.tar; stat -c %u:%g e/d/f; cat e/d/l", "1000:1000\nok\n"),
    "xz": ("head -c 3000000 /dev/zero | xz -T2 | xz -d | wc -c", "3000000\n"),
    "zstd": ("head -c 3000000 /dev/zero | zstd -T2 | zstd -d | wc -c", "3000000\n"),
    "openssl": ("openssl req -x509 -newkey rsa:2048 -nodes -keyout k -out c -days 1 -subj /CN=x 2>/dev/null; openssl s_server -quiet -key k -cert c -www -accept 4433 > log 2>&1 & ask sh -c 'curl -skf https://127.0.0.1:4433/ | grep -o -m1 s_server'", "s_server\n"),
    "gnupg": ("mkdir -m 700 g; export GNUPGHOME=/tmp/g; gpg -q --batch --passphrase '' --quick-gen-key a@b > log 2>&1; echo ok | gpg -q -e -r a@b --trust-model always | gpg -q -d", "ok\n"),
    "util-linux": ("flock l setsid nice -n 5 setpriv --no-new-privs echo ok", "ok\n"),
    "coreutils": ("truncate -s 1M f; cp --reflink=auto --sparse=always f g; mkfifo p; timeout 5 cat p & echo > p; stat -c %s g; nproc > /dev/null; sort -R /etc/passwd | wc -l > /dev/null", "\n1048576\n"),
    "iputils-ping": ("ping -c 1 127.0.0.1 | grep -c '1 received'", "1\n"),
    "procps": ("sleep 100 & ps -o comm= -p $!; kill $!; free > /dev/null; uptime > /dev/null; sysctl -n kernel.ostype", "sleep\nLinux\n"),
}

# What is left out, and the one flag that gives it back.
WITH_A_FLAG = {
    "strace": (("--cap-add", "SYS_PTRACE"), "strace -f -o log sh -c 'echo ok'", "ok\n"),
    "mount": (("--privileged",), "mkdir m && mount -t tmpfs t m && mountpoint -q m && echo ok", "ok\n"),
    "unshare": (("--security-opt", "seccomp=unconfined"), "unshare --user --map-root-user id -u", "0\n"),
    "su": (("--security-opt", "no-new-privileges=false"), "setpriv --reuid 1000 --clear-groups su-as-root id -u", "0\n"),
    "ionice": (("--cap-add", "SYS_NICE"), "ionice -c 2 -n 7 echo ok", "ok\n"),
}


@pytest.fixture(scope="module")
def debian(caisson, tmp_path_factory):
    place = tmp_path_factory.mktemp("debian")
    root, packages = place / "root", place / "packages"
    (packages / "partial").mkdir(parents=True)
    (place / "status").touch()
    # As on a machine with nothing installed: everything that they need comes too.
    install = ["apt-get", "-q", "-y", "-o", f"Dir::State::status={place}/status", "-o", f"Dir::Cache::archives={packages}", "-o", "APT::Sandbox::User=root", "--no-install-recommends", "--download-only", "install", *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode != 0:
        subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
        done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-1000:]
    for name in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / name).mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(f"usr/{name}")
    subprocess.run(f"ls {packages}/*.deb | xargs -P 2 -I @ sh -c 'dpkg-deb --fsys-tarfile @ | tar -C {root} --keep-directory-symlink --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale -xf -'", shell=True, check=True)
    shutil.rmtree(packages)
    for file in ("passwd", "group"):
        base = (root / f"usr/share/base-passwd/{file}.master").read_text()
        (root / "etc" / file).write_text(base + ("app:x:1000:1000::/tmp:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n" if file == "passwd" else "app:x:1000:\n"))
    for link, target in {"usr/bin/sh": "dash", "usr/bin/awk": "gawk", "usr/bin/php": "php8.2", "usr/bin/java": "../lib/jvm/java-17-openjdk-amd64/bin/java"}.items():
        if not (root / link).exists():
            (root / link).symlink_to(target)
    # A program that runs as its owner, root.
    shutil.copy(root / "usr/bin/env", root / "usr/bin/su-as-root")
    (root / "usr/bin/su-as-root").chmod(0o4755)
    caisson("import", root, "debian", timeout=300)
    shutil.rmtree(root)
    yield "debian"
    caisson("rmi", "debian")


def run(caisson, image, script, *options):
    return caisson("run", "--rm", *options, image, "/bin/bash", "-c", PRELUDE + script, code=None, timeout=60)


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(caisson, debian, program):
    script, expected = PROGRAMS[program]
    done = run(caisson, debian, script)
    assert done.code == 0 and done.out == expected, done


@pytest.mark.parametrize("program", WITH_A_FLAG)
def test_program_that_needs_a_flag(caisson, debian, program):
    options, script, expected = WITH_A_FLAG[program]
    without = run(caisson, debian, script)
    assert without.code != 0 or without.out != expected, "it works without: the table in docs/security.md is wrong"
    done = run(caisson, debian, script, *options)
    assert done.code == 0 and done.out == expected, done


def test_enough_packages_are_named():
    assert len(PROGRAMS) >= 30
