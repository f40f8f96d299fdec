//! Tests of the Containerfiles of all programs.

use std::{fs, path::PathBuf};

use cargo_metadata::MetadataCommand;

fn containerfiles() -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(lab::repository().join("containers")).unwrap();
    let folders = entries
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir());
    folders
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, entry.path().join("Containerfile"))
        })
        .collect()
}

#[test]
fn containerfiles_differ_only_in_name_description_and_user() {
    let files = containerfiles();
    assert!(files.len() >= 7, "{files:?}");
    for (name, path) in files {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let description = lines[2]
            .trim()
            .trim_start_matches("org.opencontainers.image.description=");
        assert!(description.ends_with(".\""), "{name}: {description}");
        let user = lines[4];
        let expected = [
            "FROM scratch".to_owned(),
            format!("LABEL org.opencontainers.image.title=\"portlb {name}\" \\"),
            lines[2].to_owned(),
            format!("COPY {name} /{name}"),
            user.to_owned(),
            format!("ENTRYPOINT [\"/{name}\"]"),
        ];
        assert_eq!(lines, expected, "{name}");
        assert!(
            ["USER 0:0", "USER 65532:65532"].contains(&user),
            "{name}: {user}"
        );
        // The file begins with a comment about the user of the image.
        assert!(text.starts_with(&format!("# {name} ")), "{name}");
    }
}

#[test]
fn every_program_has_an_image() {
    let metadata = MetadataCommand::new()
        .manifest_path(lab::repository().join("Cargo.toml"))
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .unwrap();
    let crates = lab::repository().join("crates");
    let programs = metadata.packages.iter().filter(|package| {
        let is_in_crates = package.manifest_path.as_std_path().starts_with(&crates);
        is_in_crates && package.targets.iter().any(|target| target.is_bin())
    });
    let mut programs: Vec<String> = programs.map(|package| package.name.to_string()).collect();
    let mut images: Vec<String> = containerfiles().into_iter().map(|(name, _)| name).collect();
    programs.sort();
    images.sort();
    assert_eq!(programs, images);
}
