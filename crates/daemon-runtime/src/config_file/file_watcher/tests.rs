use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for reported changes until the file has the expected content. Returns the duration of the
/// wait.
async fn wait_for_content(
    watcher: &mut FileWatcher,
    path: &Path,
    expected: Option<&str>,
) -> Duration {
    let begin = Instant::now();
    while fs::read_to_string(path).ok().as_deref() != expected {
        timeout(DEADLINE, watcher.changed())
            .await
            .expect("the watcher reports a change");
    }
    begin.elapsed()
}

/// Makes one change and waits until the watcher reports it. Returns the time from the change to the
/// report.
async fn expect_change(watcher: &mut FileWatcher, change: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    change();
    timeout(DEADLINE, watcher.changed())
        .await
        .expect("the watcher reports the change");
    begin.elapsed()
}

/// Updates a ConfigMap volume to `version`, in the same way as the kubelet.
///
/// In the volume, `file` is a link to `..data/file`, and `..data` is a link to a directory.
fn mount(directory: &Path, version: &str, content: &str) {
    let data = directory.join(version);
    fs::create_dir(&data).unwrap();
    fs::write(data.join("file"), content).unwrap();
    let swap = directory.join("..data_tmp");
    symlink(version, &swap).unwrap();
    fs::rename(&swap, directory.join("..data")).unwrap();
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_reported() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    expect_change(&mut watcher, || fs::write(&path, "two").unwrap()).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
}

#[tokio::test]
async fn each_rename_of_a_new_file_over_the_old_file_is_reported() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "0").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    for round in 1..5 {
        let content = round.to_string();
        let new = directory.path().join("file.new");
        fs::write(&new, &content).unwrap();
        expect_change(&mut watcher, || fs::rename(&new, &path).unwrap()).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn a_new_file_is_reported_if_an_editor_moves_the_old_file_away_first() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    expect_change(&mut watcher, || {
        fs::rename(&path, directory.path().join("file~")).unwrap();
        fs::write(&path, "new").unwrap();
    })
    .await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

#[tokio::test]
async fn each_update_of_a_mounted_config_map_is_reported() {
    let directory = directory();
    mount(directory.path(), "..1", "1");
    let path = directory.path().join("file");
    symlink("..data/file", &path).unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    for round in 2..6 {
        let version = format!("..{round}");
        expect_change(&mut watcher, || {
            mount(directory.path(), &version, &version);
        })
        .await;
        assert_eq!(fs::read_to_string(&path).unwrap(), version);
        fs::remove_dir_all(directory.path().join(format!("..{}", round - 1))).unwrap();
    }
}

#[tokio::test]
async fn a_change_of_a_link_target_in_another_directory_is_reported() {
    let (directory, elsewhere) = (directory(), directory());
    let target = elsewhere.path().join("target");
    fs::write(&target, "one").unwrap();
    let path = directory.path().join("file");
    symlink(&target, &path).unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    expect_change(&mut watcher, || fs::write(&target, "two").unwrap()).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
}

#[tokio::test]
async fn the_removal_and_the_creation_of_the_file_are_reported() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    expect_change(&mut watcher, || fs::remove_file(&path).unwrap()).await;
    expect_change(&mut watcher, || fs::write(&path, "two").unwrap()).await;
}

#[tokio::test]
async fn a_file_is_reported_if_its_directories_are_created_after_the_watcher() {
    let directory = directory();
    let path = directory.path().join("a/b/file");
    let mut watcher = FileWatcher::new(&path).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "one").unwrap();
    wait_for_content(&mut watcher, &path, Some("one")).await;
    fs::write(&path, "two").unwrap();
    timeout(DEADLINE, watcher.changed()).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_replaces_a_removed_watched_directory_is_watched() {
    let directory = directory();
    let path = directory.path().join("inner/file");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    expect_change(&mut watcher, || {
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    })
    .await;
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "two").unwrap();
    timeout(DEADLINE, watcher.changed()).await.unwrap();
    expect_change(&mut watcher, || fs::write(&path, "three").unwrap()).await;
}

#[tokio::test]
async fn a_file_that_is_written_but_not_closed_is_reported() {
    let directory = directory();
    let path = directory.path().join("file");
    let mut file = fs::File::create(&path).unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    expect_change(&mut watcher, || file.write_all(b"one").unwrap()).await;
}

#[tokio::test]
async fn changes_of_other_files_in_the_directory_are_not_reported() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    fs::write(directory.path().join("other"), "x").unwrap();
    fs::read(&path).unwrap();
    fs::remove_file(directory.path().join("other")).unwrap();
    // The wait is longer than the time to the next poll and the delay of a report after the poll.
    assert!(
        timeout(POLL_INTERVAL + 4 * SETTLED_AFTER, watcher.changed())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_file_that_is_closed_after_writing_is_reported_without_delay() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "0").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    let mut times = Vec::new();
    for round in 0..9 {
        let content = round.to_string();
        times.push(expect_change(&mut watcher, || fs::write(&path, content).unwrap()).await);
    }
    // Only the fastest report is checked, because a busy machine can delay the other reports.
    assert!(times.iter().min() < Some(&SETTLED_AFTER), "{times:?}");
}

#[tokio::test]
async fn without_inotify_a_change_is_reported_by_polling() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    watcher.watcher = None;
    expect_change(&mut watcher, || fs::write(&path, "longer").unwrap()).await;
}
