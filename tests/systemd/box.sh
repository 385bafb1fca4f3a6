#!/bin/bash
# The inside of a box (see box.py): run as PID 1 of fresh namespaces, it ends as systemd on a root of its own.
#   BOX      a directory of the host; its notify/ and wheels/ are seen in the box as /run/host and /srv/wheels
#   GROUP    the box's cgroup
#   RIGHTS   what setpriv takes away
#   CHECKOUT seen as /srv/checkout, and may be written there: what is written goes nowhere
set -eu

if [ "${1:-}" != inside ]; then
    echo 0 >"$GROUP/cgroup.procs" # PID 1 alone: systemctl status fails where a process of outside is in its cgroup
    exec unshare --cgroup -- bash "$0" inside
fi

layer() { # LOWER WHERE: what is written at WHERE stays off LOWER
    local kept
    kept=$(mktemp -d -p "$BOX/machine")
    mkdir -p "$kept/upper" "$kept/work" "$2"
    mount -t overlay -o "lowerdir=$1,upperdir=$kept/upper,workdir=$kept/work" overlay "$2"
}
appear() { # SOURCE WHERE
    mkdir -p "$2"
    mount --bind "$1" "$2"
}

mount -t tmpfs -o size=2G,mode=755 machine "$BOX/machine" # outside the root that the layer lies over
root=$BOX/machine/root
layer / "$root"
: >"$root/etc/machine-id" # one of its own
: >"$root/etc/fstab"      # this machine's disks are not for it
echo box >"$root/etc/hostname"
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/rc?.d/S* # nor its services
ln -sf /dev/null "$root/etc/systemd/system/systemd-modules-load.service"

mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys" # the kernel's settings are the host's
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"

mount -t tmpfs -o mode=755 dev "$root/dev"
for name in null zero full random urandom tty; do
    : >"$root/dev/$name"
    mount --bind "/dev/$name" "$root/dev/$name"
done
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
ln -s fd/0 "$root/dev/stdin"
ln -s fd/1 "$root/dev/stdout"
ln -s fd/2 "$root/dev/stderr"
mount -t tmpfs -o mode=1777 shm "$root/dev/shm"
mount -t tmpfs -o mode=755 run "$root/run"
mount -t tmpfs -o mode=1777 tmp "$root/tmp"
appear "$BOX/notify" "$root/run/host"
appear "$BOX/wheels" "$root/srv/wheels"
layer "$CHECKOUT" "$root/srv/checkout"

mkdir -p "$root/.host"
cd "$root"
pivot_root . .host
umount -l /.host
exec env -i container=box NOTIFY_SOCKET=/run/host/socket PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
    setpriv $RIGHTS -- /lib/systemd/systemd systemd.unit=multi-user.target
