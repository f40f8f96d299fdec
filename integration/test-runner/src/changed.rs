//! The crates that a change affects, and their unit tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Message, Metadata, MetadataCommand};

use crate::output::print_line;

/// The beginnings of the paths of files that belong to no crate, each with the names of the crates
/// whose tests read these files.
const READ_BY: [(&str, &[&str]); 2] = [
    ("proto/", &["daemon-api"]),
    ("docs/", &["pod-watcher", "route-reflector"]),
];
/// Crates whose tests read files of other crates, so these tests run after every change.
const GUARDS: [&str; 2] = ["integration", "test-runner"];
/// The beginnings of the paths of files that no unit test reads, except unit tests of the crates of
/// `GUARDS`.
const READ_BY_NO_CRATE: [&str; 3] = ["containers/", "integration/fuzz", "manifests/"];

/// Compiles all unit tests. Runs the unit tests of the crates that the changes since the commit
/// `base` affect, and of the crates of `GUARDS`. Returns an error if a test binary fails, and
/// otherwise `true`.
pub(crate) fn run_unit_tests(root: &Path, base: Option<&str>) -> Result<bool> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cannot read the workspace")?;
    let base = base.map_or_else(|| default_base(root), |base| Ok(base.to_owned()))?;
    let mut affected = affected(&crates(&metadata, root)?, &changed_files(root, &base)?);
    affected.extend(GUARDS.map(str::to_owned));
    let names: Vec<&str> = affected.iter().map(String::as_str).collect();
    print_line(&format!(
        "crates that differ from {base}, and their dependents: {}",
        names.join(" ")
    ));
    let mut failed = Vec::new();
    for test in build(root, &affected)? {
        let status = Command::new(&test.program)
            .current_dir(&test.folder)
            // When cargo runs a test, it also sets this variable and the working directory to the
            // folder of the crate.
            .env("CARGO_MANIFEST_DIR", &test.folder)
            .status()
            .with_context(|| format!("cannot start {}", test.program.display()))?;
        if !status.success() {
            failed.push(test.name);
        }
    }
    ensure!(
        failed.is_empty(),
        "failed test binaries: {}",
        failed.join(", ")
    );
    Ok(true)
}

/// A crate of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    /// The folder of the crate, relative to the root of the repository.
    folder: PathBuf,
    /// The names of the crates of the workspace on which this crate depends.
    uses: BTreeSet<String>,
}

#[derive(Debug)]
struct TestProgram {
    name: String,
    program: PathBuf,
    folder: PathBuf,
}

fn crates(metadata: &Metadata, root: &Path) -> Result<BTreeMap<String, Member>> {
    let members = metadata.workspace_packages();
    let names: BTreeSet<&str> = members
        .iter()
        .map(|package| package.name.as_str())
        .collect();
    let member = |package: &&cargo_metadata::Package| {
        let folder = package.manifest_path.as_std_path().parent();
        let folder = folder.context("a manifest is not in a folder")?;
        let folder = folder
            .strip_prefix(root)
            .context("a crate is outside of the repository")?;
        let uses = package
            .dependencies
            .iter()
            .map(|dependency| dependency.name.clone());
        let member = Member {
            folder: folder.to_owned(),
            uses: uses.filter(|name| names.contains(name.as_str())).collect(),
        };
        Ok((package.name.to_string(), member))
    };
    members.iter().map(member).collect()
}

/// Returns the crates that contain a file of `changed`, the crates whose tests read a file of
/// `changed` that belongs to no crate, and all crates that depend on a returned crate. Returns all
/// crates if the effect of a file is unknown, such as the effect of Cargo.lock.
fn affected(crates: &BTreeMap<String, Member>, changed: &[PathBuf]) -> BTreeSet<String> {
    let mut affected: BTreeSet<String> = BTreeSet::new();
    for file in changed {
        let owner = crates
            .iter()
            .filter(|(_, member)| file.starts_with(&member.folder))
            .max_by_key(|(_, member)| member.folder.components().count());
        let readers = READ_BY.iter().find(|(folder, _)| file.starts_with(folder));
        match (owner, readers) {
            (Some((name, _)), _) => affected.extend([name.clone()]),
            (None, Some((_, names))) => affected.extend(names.iter().map(|&name| name.to_owned())),
            (None, None) if has_no_reader(file) => {}
            (None, None) => return crates.keys().cloned().collect(),
        }
    }
    loop {
        let dependents = crates.iter().filter(|(name, member)| {
            !affected.contains(*name) && !member.uses.is_disjoint(&affected)
        });
        let dependents: Vec<String> = dependents.map(|(name, _)| name.clone()).collect();
        if dependents.is_empty() {
            return affected;
        }
        affected.extend(dependents);
    }
}

/// Reports whether no unit test reads `file`, except unit tests of the crates of `GUARDS`.
fn has_no_reader(file: &Path) -> bool {
    let is_markdown = file.extension().is_some_and(|extension| extension == "md");
    let names = ["LICENSE", "Makefile", ".gitignore", ".ci/run", "deny.toml"];
    is_markdown
        || names.iter().any(|name| file == Path::new(name))
        || READ_BY_NO_CRATE
            .iter()
            .any(|folder| file.starts_with(folder))
}

fn default_base(root: &Path) -> Result<String> {
    for candidate in ["@{upstream}", "HEAD~1"] {
        if let Ok(base) = git(root, &["merge-base", "HEAD", candidate]) {
            return Ok(base.trim().to_owned());
        }
    }
    bail!("HEAD has neither an upstream nor a parent; set a commit with --base")
}

fn changed_files(root: &Path, base: &str) -> Result<Vec<PathBuf>> {
    let changed = git(root, &["diff", "--name-only", "--no-renames", base])?;
    let untracked = git(root, &["ls-files", "--others", "--exclude-standard"])?;
    Ok(changed
        .lines()
        .chain(untracked.lines())
        .map(PathBuf::from)
        .collect())
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .args(arguments)
        .current_dir(root)
        .output()
        .context("cannot start git")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "git {} failed: {}",
        arguments.join(" "),
        stderr.trim()
    );
    String::from_utf8(output.stdout).context("cannot decode the output of git")
}

/// Compiles the unit tests of the whole workspace and returns the test programs of the crates
/// `affected`. If cargo compiled only these crates, it would select other features of the
/// dependencies than for the whole workspace, and compile the dependencies a second time.
fn build(root: &Path, affected: &BTreeSet<String>) -> Result<Vec<TestProgram>> {
    let mut cargo = Command::new("cargo")
        .args([
            "test",
            "--locked",
            "--workspace",
            "--lib",
            "--tests",
            "--no-run",
        ])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo")?;
    let output = cargo
        .stdout
        .take()
        .context("cannot open the standard output of cargo")?;
    let mut programs = Vec::new();
    for message in Message::parse_stream(BufReader::new(output)) {
        let Message::CompilerArtifact(artifact) =
            message.context("cannot read cargo's messages")?
        else {
            continue;
        };
        let Some(program) = artifact.executable else {
            continue;
        };
        let folder = artifact
            .manifest_path
            .parent()
            .context("a manifest is not in a folder")?;
        let package = folder.file_name().unwrap_or_default();
        if affected.contains(package) && artifact.profile.test {
            programs.push(TestProgram {
                name: format!("{package} {}", artifact.target.name),
                program: program.into(),
                folder: folder.into(),
            });
        }
    }
    ensure!(
        cargo.wait().context("cannot wait for cargo")?.success(),
        "the tests do not compile"
    );
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The crates `daemon` and `tool` depend on `library`. The crate `integration` depends on
    /// `daemon`.
    fn crates() -> BTreeMap<String, Member> {
        let member = |folder: &str, uses: &[&str]| Member {
            folder: PathBuf::from(folder),
            uses: uses.iter().map(|&name| name.to_owned()).collect(),
        };
        [
            ("daemon-api", member("crates/daemon-api", &[])),
            ("library", member("crates/library", &[])),
            ("daemon", member("crates/daemon", &["library"])),
            ("tool", member("crates/tool", &["library"])),
            ("integration", member("integration", &["daemon"])),
            ("lab", member("integration/lab", &[])),
        ]
        .map(|(name, member)| (name.to_owned(), member))
        .into()
    }

    fn assert_affected(changed: &[&str], expected: &[&str]) {
        let changed: Vec<PathBuf> = changed.iter().map(PathBuf::from).collect();
        let affected = affected(&crates(), &changed);
        let expected: BTreeSet<String> = expected.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(affected, expected, "{changed:?}");
    }

    #[test]
    fn a_changed_library_affects_all_crates_that_depend_on_it() {
        let expected = ["daemon", "integration", "library", "tool"];
        assert_affected(&["crates/library/src/lib.rs"], &expected);
        assert_affected(&["crates/daemon/src/main.rs"], &["daemon", "integration"]);
    }

    #[test]
    fn a_file_belongs_to_the_innermost_crate_that_contains_it() {
        assert_affected(&["integration/lab/src/lib.rs"], &["lab"]);
    }

    #[test]
    fn a_file_outside_of_crates_affects_the_crates_whose_tests_read_it() {
        assert_affected(
            &["proto/portlb/dataplane/v1/dataplane.proto"],
            &["daemon-api"],
        );
        assert_affected(&["README.md", "Makefile"], &[]);
        assert_affected(&[], &[]);
    }

    #[test]
    fn a_file_with_an_unknown_effect_affects_all_crates() {
        let all: Vec<String> = crates().into_keys().collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        assert_affected(&["Cargo.lock"], &all);
        assert_affected(&[".cargo/config.toml", "crates/tool/src/main.rs"], &all);
    }
}
