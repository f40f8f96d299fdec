use futures::StreamExt;

use super::*;

fn ready(subscription: &mut Subscription<u8, char>) -> Vec<PublishedEvent<u8, char>> {
    std::iter::from_fn(|| next(subscription)).collect()
}

fn next(subscription: &mut Subscription<u8, char>) -> Option<PublishedEvent<u8, char>> {
    let ready = subscription.next_ready().unwrap();
    ready.map(|(_, event)| event)
}

#[test]
fn a_watcher_gets_every_object_then_synced_then_each_change() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    let mut watcher = publisher.reader().subscribe().unwrap();
    assert_eq!(
        ready(&mut watcher),
        [
            PublishedEvent::Changed(1, 'a'),
            PublishedEvent::Changed(2, 'b')
        ]
    );
    publisher.synced();
    assert_eq!(ready(&mut watcher), [PublishedEvent::Synced]);
    publisher.set(1, 'c');
    publisher.remove(&2);
    assert_eq!(
        ready(&mut watcher),
        [PublishedEvent::Changed(1, 'c'), PublishedEvent::Removed(2)]
    );
}

#[test]
fn synced_comes_before_changes_made_after_the_listing_began() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    assert_eq!(next(&mut watcher), Some(PublishedEvent::Changed(1, 'a')));
    publisher.set(2, 'b');
    assert_eq!(
        ready(&mut watcher),
        [PublishedEvent::Synced, PublishedEvent::Changed(2, 'b')]
    );
}

#[test]
fn synced_comes_after_each_object_that_was_published_before_the_owner_was_synced() {
    let publisher = Publisher::new();
    let mut watcher = publisher.reader().subscribe().unwrap();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    publisher.synced();
    assert_eq!(
        ready(&mut watcher),
        [
            PublishedEvent::Changed(1, 'a'),
            PublishedEvent::Changed(2, 'b'),
            PublishedEvent::Synced
        ]
    );
}

#[test]
fn an_object_that_changes_during_the_listing_comes_before_synced() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    publisher.set(3, 'c');
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    let first = next(&mut watcher).unwrap();
    assert_eq!(first, PublishedEvent::Changed(1, 'a'));
    publisher.set(2, 'x');
    publisher.remove(&3);
    let events = ready(&mut watcher);
    let synced = events
        .iter()
        .position(|event| *event == PublishedEvent::Synced);
    let before_synced = &events[..synced.unwrap()];
    assert_eq!(
        before_synced,
        [PublishedEvent::Changed(2, 'x'), PublishedEvent::Removed(3)]
    );
}

#[test]
fn changes_during_the_listing_do_not_delay_synced() {
    let publisher = Publisher::new();
    for key in 0..10_u8 {
        publisher.set(key, 'a');
    }
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    let mut received = 0;
    for value in ['b', 'c'].into_iter().cycle().take(100) {
        let event = next(&mut watcher).unwrap();
        if event == PublishedEvent::Synced {
            break;
        }
        received += 1;
        for key in 0..10_u8 {
            publisher.set(key, value);
        }
    }
    assert_eq!(received, 10);
}

#[test]
fn a_slow_watcher_gets_only_the_last_change_of_an_object() {
    let publisher = Publisher::new();
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    assert_eq!(ready(&mut watcher), [PublishedEvent::Synced]);
    for value in ['a', 'b', 'c'] {
        publisher.set(1, value);
    }
    publisher.set(2, 'x');
    publisher.remove(&2);
    assert_eq!(
        ready(&mut watcher),
        [PublishedEvent::Changed(1, 'c'), PublishedEvent::Removed(2)]
    );
}

#[test]
fn publishing_an_equal_object_causes_no_event() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    let revision = publisher.reader().snapshot().revision;
    publisher.set(1, 'a');
    publisher.remove(&7);
    assert_eq!(publisher.reader().snapshot().revision, revision);
}

#[test]
fn removals_that_every_watcher_has_read_are_dropped() {
    let publisher = Publisher::new();
    let mut watcher = publisher.reader().subscribe().unwrap();
    for key in 0..100_u8 {
        publisher.set(key, 'a');
        ready(&mut watcher);
        publisher.remove(&key);
        ready(&mut watcher);
    }
    let table = lock(&publisher.table);
    assert!(table.latest.len() < 4);
    assert_eq!(table.log.len(), table.latest.len());
}

#[test]
fn a_removal_is_kept_until_a_slow_watcher_has_read_it() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    let mut slow = publisher.reader().subscribe().unwrap();
    assert_eq!(ready(&mut slow), [PublishedEvent::Changed(1, 'a')]);
    publisher.remove(&1);
    for key in 2..50_u8 {
        publisher.set(key, 'b');
        publisher.remove(&key);
    }
    assert!(ready(&mut slow).contains(&PublishedEvent::Removed(1)));
}

#[tokio::test]
async fn a_watch_ends_when_its_publisher_is_dropped() {
    let publisher = Publisher::<u8, char>::new();
    let mut watcher = publisher.reader().subscribe().unwrap();
    drop(publisher);
    assert_eq!(watcher.next().await, None);
}

#[test]
fn replace_all_causes_events_only_for_different_objects() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    ready(&mut watcher);
    publisher.replace_all([(2, 'b'), (3, 'c')].into());
    assert_eq!(
        ready(&mut watcher),
        [PublishedEvent::Removed(1), PublishedEvent::Changed(3, 'c')]
    );
}

/// Publishes and removes one object for each key.
fn churn(publisher: &Publisher<u32, char>, keys: std::ops::Range<u32>) {
    for key in keys {
        publisher.set(key, 'a');
        publisher.remove(&key);
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_costs_a_bounded_number_of_removals_and_ends_as_lagging() {
    let publisher = Publisher::new();
    publisher.set(0, 'a');
    publisher.synced();
    let mut lagging = publisher.reader().subscribe().unwrap();
    lagging.next().await;
    lagging.next().await;
    let mut reading = publisher.reader().subscribe().unwrap();
    churn(&publisher, 1..16_001);
    {
        let table = lock(&publisher.table);
        assert_eq!(table.removals.len(), KEPT_REMOVALS);
        assert_eq!(table.latest.len(), KEPT_REMOVALS + 1);
        assert_eq!(table.log.len(), KEPT_REMOVALS + 1);
    }
    let mut events = std::pin::pin!(lagging.into_stream());
    let ended = events.next().await.unwrap().unwrap_err();
    assert_eq!(ended, WatchEnded::Lagging);
    assert_eq!(tonic::Status::from(ended).code(), tonic::Code::Aborted);
    assert_eq!(events.next().await, None);
    // A new watch gets all objects.
    drop(std::mem::replace(
        &mut reading,
        publisher.reader().subscribe().unwrap(),
    ));
    assert_eq!(
        reading.next().await.unwrap().unwrap().1,
        PublishedEvent::Changed(0, 'a')
    );
    assert_eq!(
        reading.next().await.unwrap().unwrap().1,
        PublishedEvent::Synced
    );
}

#[test]
fn a_watcher_that_reads_at_least_every_1000_removals_is_never_lagging() {
    let publisher = Publisher::new();
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    for round in 0..20 {
        let first = round * 900;
        churn(&publisher, first..first + 900);
        let mut removed = 0;
        while let Some((_, event)) = watcher.next_ready().unwrap() {
            removed += usize::from(matches!(event, PublishedEvent::Removed(_)));
        }
        assert_eq!(removed, 900);
    }
}

#[test]
fn a_table_that_had_3000_objects_keeps_about_as_many_removals() {
    let publisher = Publisher::new();
    for key in 0..3_000 {
        publisher.set(key, 'a');
    }
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    while watcher.next_ready().unwrap().is_some() {}
    churn(&publisher, 10_000..12_500);
    assert!(watcher.next_ready().is_ok());
    churn(&publisher, 12_500..14_000);
    assert_eq!(watcher.next_ready().unwrap_err(), WatchEnded::Lagging);
}

#[test]
fn the_removal_of_all_objects_does_not_end_a_watch() {
    let publisher = Publisher::new();
    let table = |first: u32| (first..first + 3_000).map(|key| (key, 'a')).collect();
    publisher.replace_all(table(0));
    publisher.synced();
    let mut watcher = publisher.reader().subscribe().unwrap();
    let mut read = || {
        let mut removed = 0;
        while let Some((_, event)) = watcher.next_ready().unwrap() {
            removed += usize::from(matches!(event, PublishedEvent::Removed(_)));
        }
        removed
    };
    assert_eq!(read(), 0);
    publisher.replace_all([].into());
    assert_eq!(read(), 3_000);
    publisher.replace_all(table(3_000));
    publisher.replace_all(table(6_000));
    assert_eq!(read(), 3_000);
}

#[test]
fn an_emptied_table_keeps_fewer_removals_after_every_watcher_has_read_them() {
    let publisher = Publisher::new();
    publisher.replace_all((0..3_000).map(|key| (key, 'a')).collect());
    publisher.synced();
    publisher.replace_all([].into());
    let mut watcher = publisher.reader().subscribe().unwrap();
    while watcher.next_ready().unwrap().is_some() {}
    churn(&publisher, 10_000..11_001);
    assert_eq!(watcher.next_ready().unwrap_err(), WatchEnded::Lagging);
}

#[test]
fn watches_of_one_publisher_are_limited_and_an_ended_watch_allows_a_new_watch() {
    let publisher = Publisher::<u8, char>::new();
    let reader = publisher.reader();
    let mut watches: Vec<_> = (0..MOST_WATCHES)
        .map(|_| reader.subscribe().unwrap())
        .collect();
    assert_eq!(reader.subscribe().unwrap_err(), WatchEnded::TooMany);
    watches.pop();
    reader.subscribe().unwrap();
}

#[test]
fn the_owner_reads_a_published_object_until_the_owner_removes_the_object() {
    let publisher = Publisher::new();
    publisher.set("web", 1);
    assert_eq!(publisher.read(&"web", |read| read.copied()), Some(1));
    assert_eq!(publisher.read(&"shop", |read| read.copied()), None);
    publisher.remove(&"web");
    assert_eq!(publisher.read(&"web", |read| read.copied()), None);
}

#[test]
fn a_snapshot_page_begins_after_a_key_and_has_the_total_of_all_objects() {
    let publisher = Publisher::new();
    for (key, value) in [(1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')] {
        publisher.set(key, value);
    }
    publisher.remove(&2);
    let reader = publisher.reader();
    let snapshot = reader.snapshot_after(Some(&1), 1);
    assert_eq!((snapshot.total, snapshot.objects), (3, vec![(3, 'c')]));
    let after_a_removed_key = reader.snapshot_after(Some(&2), 9).objects;
    assert_eq!(after_a_removed_key, [(3, 'c'), (4, 'd')]);
    assert_eq!(reader.snapshot_after(Some(&4), 9).objects, []);
}
