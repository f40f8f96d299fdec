//! The first container of every pod of the lab's cluster: holds the pod's namespaces until
//! containerd kills it.

fn main() {
    loop {
        std::thread::park();
    }
}
