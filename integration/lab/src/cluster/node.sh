# The first process of a node: gives it a file system view of its own, so that
# kubelet and containerd find every path where they expect it, and waits.
# Arguments: the node's name. It is in the node's network, mount, host name, IPC
# and cgroup namespaces, alone in the cgroup that is their root.
set -euo pipefail
hostname "$1"

for directory in /var/lib /var/log; do mount -t tmpfs tmpfs "$directory"; done
# Credentials and sockets of the lab stay where they are.
mkdir /var/lib/lab
mount --rbind /run/lab /var/lib/lab
mount -t tmpfs tmpfs /run
mkdir /run/lab
mount --rbind /var/lib/lab /run/lab
mkdir -p /run/tmp /run/netns /run/containerd /run/lock \
  /var/lib/cni/net.d /var/lib/kubelet /var/lib/containerd /var/log/pods /var/log/containers
# Those that were there show another network namespace and the whole hierarchy.
umount --lazy /sys
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup

# Only a cgroup without processes of its own can divide its resources.
mkdir -p /sys/fs/cgroup/init
echo $$ >/sys/fs/cgroup/init/cgroup.procs
for controller in $(</sys/fs/cgroup/cgroup.controllers); do
  echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
mount --make-rshared /

# A guest's lacks the clock rate, without which kubelet's cadvisor gives up.
if ! grep -q '^cpu MHz' /proc/cpuinfo; then
  sed '/^model name/a cpu MHz\t\t: 2000.000' /proc/cpuinfo >/run/cpuinfo
fi
echo "node $1 is set up"
exec sleep infinity
