# The first process of a node. It prepares the mounts of the node's mount namespace, so that kubelet
# and containerd find their default paths, and then waits. The argument is the name of the node.
# This process is in the node's network, mount, host name, IPC and cgroup namespaces. At its start
# it is the only process in the root cgroup of the node's cgroup namespace.
set -euo pipefail
hostname "$1"

for directory in /var/lib /var/log; do mount -t tmpfs tmpfs "$directory"; done
# /run/lab has credentials and sockets of the lab. The new /run gets /run/lab at the same path.
mkdir /var/lib/lab
mount --rbind /run/lab /var/lib/lab
mount -t tmpfs tmpfs /run
mkdir /run/lab
mount --rbind /var/lib/lab /run/lab
mkdir -p /run/tmp /run/netns /run/containerd /run/lock \
  /var/lib/cni/net.d /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers
# The inherited mounts show another network namespace and the cgroups of the whole machine.
umount --lazy /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# A cgroup can enable controllers for its children only if no process is in the cgroup itself. So
# this process moves to the child cgroup `init`.
mkdir -p /sys/fs/cgroup/init
echo $$ >/sys/fs/cgroup/init/cgroup.procs
for controller in $(</sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mount --make-rshared /

# The kubelet does not start if /proc/cpuinfo has no clock rate, and in a guest it has none.
if ! grep -q '^cpu MHz' /proc/cpuinfo; then
  sed '/^model name/a cpu MHz\t\t: 2000.000' /proc/cpuinfo >/run/cpuinfo
fi
echo "node $1 is set up"
exec sleep infinity
