//! The program of the pause container, the first container of every pod in the lab's cluster.
//!
//! The program holds the pod's namespaces until containerd kills the program.

fn main() {
    loop {
        std::thread::park();
    }
}
