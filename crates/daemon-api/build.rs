//! Build script that compiles `proto/` without an external protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let files = [
        "portlb/announcer/v1/announcer.proto",
        "portlb/dataplane/v1/dataplane.proto",
        "portlb/discovery/v1/discovery.proto",
        "portlb/noderoute/v1/noderoute.proto",
        "portlb/reflector/v1/reflector.proto",
    ];
    let mut compiler = protox::Compiler::new([&root])?;
    // grpcurl shows the comments of the contracts only if the descriptors have source information.
    compiler
        .include_imports(true)
        .include_source_info(true)
        .open_files(files)?;
    let descriptors = compiler.encode_file_descriptor_set();
    let path = Path::new(&std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(path, descriptors)?;
    tonic_prost_build::configure().compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
