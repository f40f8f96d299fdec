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

/// Waits until the file has the content; fails when no change is told although it has.
async fn reads(watcher: &mut FileWatcher, path: &Path, expected: Option<&str>) -> Duration {
    let begin = Instant::now();
    while fs::read_to_string(path).ok().as_deref() != expected {
        timeout(DEADLINE, watcher.changed())
            .await
            .expect("a change is told");
    }
    begin.elapsed()
}

/// Makes one change, waits until it is told, and returns how long that took.
async fn told(watcher: &mut FileWatcher, change: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    change();
    timeout(DEADLINE, watcher.changed())
        .await
        .expect("the change is told");
    begin.elapsed()
}

/// A ConfigMap volume: `file` links to `..data/file`, `..data` to a directory of this version.
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
async fn a_file_written_in_place_is_told() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    told(&mut watcher, || fs::write(&path, "two").unwrap()).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
}

#[tokio::test]
async fn a_file_renamed_over_the_old_one_is_told_each_time() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "0").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    for round in 1..5 {
        let content = round.to_string();
        let new = directory.path().join("file.new");
        fs::write(&new, &content).unwrap();
        told(&mut watcher, || fs::rename(&new, &path).unwrap()).await;
        assert_eq!(fs::read_to_string(&path).unwrap(), content);
    }
}

#[tokio::test]
async fn an_editor_that_moves_the_old_file_away_first_is_told_once_the_new_one_is_closed() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "old").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    told(&mut watcher, || {
        fs::rename(&path, directory.path().join("file~")).unwrap();
        fs::write(&path, "new").unwrap();
    })
    .await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "new");
}

#[tokio::test]
async fn the_swap_of_a_mounted_config_map_is_told_each_time() {
    let directory = directory();
    mount(directory.path(), "..1", "1");
    let path = directory.path().join("file");
    symlink("..data/file", &path).unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    for round in 2..6 {
        let version = format!("..{round}");
        told(&mut watcher, || {
            mount(directory.path(), &version, &version);
        })
        .await;
        assert_eq!(fs::read_to_string(&path).unwrap(), version);
        fs::remove_dir_all(directory.path().join(format!("..{}", round - 1))).unwrap();
    }
}

#[tokio::test]
async fn the_target_of_a_link_in_another_directory_is_told() {
    let (directory, elsewhere) = (directory(), directory());
    let target = elsewhere.path().join("target");
    fs::write(&target, "one").unwrap();
    let path = directory.path().join("file");
    symlink(&target, &path).unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    told(&mut watcher, || fs::write(&target, "two").unwrap()).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "two");
}

#[tokio::test]
async fn removal_and_re_creation_are_told() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    told(&mut watcher, || fs::remove_file(&path).unwrap()).await;
    told(&mut watcher, || fs::write(&path, "two").unwrap()).await;
}

#[tokio::test]
async fn a_file_that_appears_later_is_told_with_the_directories_above_it() {
    let directory = directory();
    let path = directory.path().join("a/b/file");
    let mut watcher = FileWatcher::new(&path).unwrap();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, "one").unwrap();
    reads(&mut watcher, &path, Some("one")).await;
    fs::write(&path, "two").unwrap();
    timeout(DEADLINE, watcher.changed()).await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_watched_again() {
    let directory = directory();
    let path = directory.path().join("inner/file");
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    told(&mut watcher, || {
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
    })
    .await;
    fs::create_dir(path.parent().unwrap()).unwrap();
    fs::write(&path, "two").unwrap();
    timeout(DEADLINE, watcher.changed()).await.unwrap();
    told(&mut watcher, || fs::write(&path, "three").unwrap()).await;
}

#[tokio::test]
async fn a_file_that_is_never_closed_is_told_when_it_is_left_alone() {
    let directory = directory();
    let path = directory.path().join("file");
    let mut file = fs::File::create(&path).unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    told(&mut watcher, || file.write_all(b"one").unwrap()).await;
}

#[tokio::test]
async fn what_happens_to_other_files_is_not_told() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    fs::write(directory.path().join("other"), "x").unwrap();
    fs::read(&path).unwrap();
    fs::remove_file(directory.path().join("other")).unwrap();
    // Longer than a file takes to settle and a look takes to come.
    assert!(
        timeout(LOOK_INTERVAL + 4 * SETTLED_AFTER, watcher.changed())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_complete_change_is_told_without_waiting_for_the_file_to_settle() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "0").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    let mut times = Vec::new();
    for round in 0..9 {
        let content = round.to_string();
        times.push(told(&mut watcher, || fs::write(&path, content).unwrap()).await);
    }
    // The fastest, since a busy machine may delay the others.
    assert!(times.iter().min() < Some(&SETTLED_AFTER), "{times:?}");
}

#[tokio::test]
async fn a_system_without_watches_left_costs_a_second_not_the_change() {
    let directory = directory();
    let path = directory.path().join("file");
    fs::write(&path, "one").unwrap();
    let mut watcher = FileWatcher::new(&path).unwrap();
    watcher.watcher = None;
    told(&mut watcher, || fs::write(&path, "longer").unwrap()).await;
}
