//! The program of the first container of every pod in the lab's cluster.
//!
//! It holds the pod's namespaces until containerd kills it.

fn main() {
    loop {
        std::thread::park();
    }
}
