"""A view of this host's cgroups for the processes of a test or a benchmark alone."""
import os

# In a mount namespace of its own: the host's v2 hierarchy where a host of v2 has it, with what
# the host gives that hierarchy (on a hybrid one, few controllers).
ONLY_V2 = """
mount --make-rprivate / &&
there=$(awk '$5 ~ "^/sys/fs/cgroup" && / - cgroup2 / {print $5; exit}' /proc/self/mountinfo) &&
[ -n "$there" ] || exit 99
[ "$there" = /sys/fs/cgroup ] && exec "$@"
hold=$(mktemp -d) && mount --bind "$there" "$hold" &&
for m in $(awk '$5 ~ "^/sys/fs/cgroup" {print $5}' /proc/self/mountinfo | tac); do umount "$m"; done &&
mount --bind "$hold" /sys/fs/cgroup && umount "$hold" && rmdir "$hold" &&
exec "$@"
"""
# Debian's crun refuses hybrid hierarchies: their v2 part is not mounted.
ONLY_V1 = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'


def within(view, argv):
    """The argv of a command in that view."""
    return ["unshare", "--mount", "sh", "-c", view, "sh", *map(os.fspath, argv)]
