"""A disk whose power fails. All that is written to it is logged in order (QEMU's blklogwrites),
and the log says what the disk may hold had the power failed at any moment: everything from before
the last flush, and of what came after it all, nothing, or any part (dm-log-writes has the
same form, Documentation/admin-guide/device-mapper/log-writes.rst)."""
import contextlib
import os
import pathlib
import random
import struct
import subprocess
import time

SIZE = 640 << 20
FILE_SYSTEM = SIZE - (1 << 20)  # behind it is where marks are written
SECTOR = 512
MAGIC, FLUSH, FUA, DISCARD = 0x6A736677736872, 1, 2, 4

# `mark NAME` notes in the log that all before it has returned, and flushes nothing.
MARK = """mark() { printf 'mark %s ' "$1" | /bin/busybox dd of=$DISK bs=4096 seek=@AT@ conv=sync,notrunc oflag=direct 2>/dev/null || exit 9; }
""".replace("@AT@", str(FILE_SYSTEM // 4096))


class Disk:
    """An ext4 file system on a disk that keeps a log."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.file, self.before, self.log = (self.folder / name for name in ("disk", "before", "log"))
        with open(self.file, "wb") as f:
            f.truncate(SIZE)
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", self.file, f"{FILE_SYSTEM // 1024}k"], check=True)
        subprocess.run(["cp", "--sparse=always", self.file, self.before], check=True)
        self.log.touch()

    def nodes(self):
        """Of QEMU's: the node `disk`."""
        return ["-blockdev", f"driver=file,node-name=content,filename={self.file}", "-blockdev", f"driver=file,node-name=log,filename={self.log}",
                "-blockdev", "driver=blklogwrites,node-name=disk,file=content,log=log"]

    @contextlib.contextmanager
    def here(self):
        """The disk as a block device of this host, through FUSE and a loop device."""
        (self.folder / "device").touch()
        options = [option.replace("-blockdev", "--blockdev") for option in self.nodes()]
        server = subprocess.Popen(["qemu-storage-daemon", *options, "--export", f"type=fuse,id=export,node-name=disk,mountpoint={self.folder}/device,writable=on"], stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 10
            while (self.folder / "device").stat().st_size != SIZE:
                assert server.poll() is None and time.monotonic() < deadline, "qemu-storage-daemon does not show the disk"
                time.sleep(0.02)
            with loop(self.folder / "device") as device:
                yield device
        finally:
            server.terminate()
            server.wait(20)

    def writes(self):
        """(flags, offset, content), in their order."""
        with open(self.log, "rb") as log:
            magic, version, entries, sector = struct.unpack("<QQQI", log.read(28))
            assert magic == MAGIC and version == 1 and sector == SECTOR, "no log of writes"
            log.seek(SECTOR)
            for _ in range(entries):
                first, count, flags, _ = struct.unpack("<QQQQ", log.read(SECTOR)[:32])
                content = bytes(count * SECTOR) if flags & DISCARD else log.read(count * SECTOR)
                yield flags, first * SECTOR, content

    def states(self, count, seed):
        """After each of `count` moments and after each mark: (names of the marks before it, what
        became of the writes since the last flush, the disk's file, which goes with the next)."""
        chance = random.Random(seed)
        writes = list(self.writes())
        marks = {i: content[5:].split(b" ", 1)[0].decode() for i, (_, offset, content) in enumerate(writes) if offset == FILE_SYSTEM and content.startswith(b"mark ")}
        first = min(marks)
        moments = sorted({*marks, *chance.sample(range(first, len(writes)), min(count, len(writes) - first))})
        passed, waiting, state = [], [], self.folder / "state"
        with open(self.before, "r+b", buffering=0) as durable:
            def write(to, offset, content):
                os.pwrite(to.fileno(), content, offset)

            for i, (flags, offset, content) in enumerate(writes):
                if flags & FLUSH:
                    for other in waiting:
                        write(durable, *other)
                    waiting.clear()
                if i in marks:
                    passed.append(marks[i])
                elif content and flags & FUA:
                    write(durable, offset, content)
                elif content:
                    waiting.append((offset, content))
                if i in moments:
                    how = "nothing" if i in marks else chance.choice(["nothing", "all", "some"])
                    subprocess.run(["cp", "--sparse=always", self.before, state], check=True)
                    with open(state, "r+b", buffering=0) as f:
                        for other in waiting:
                            if how == "all" or how == "some" and chance.random() < 0.5:
                                write(f, *other)
                    yield list(passed), f"write {i} of {len(writes)}, {how} of {len(waiting)} since the last flush", state


@contextlib.contextmanager
def loop(file):
    device = subprocess.run(["losetup", "--find", "--show", file], check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


@contextlib.contextmanager
def mounted(device, place):
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "ext4", device, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
