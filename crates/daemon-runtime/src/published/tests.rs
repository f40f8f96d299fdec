use super::*;

fn ready(subscription: &mut Subscription<u8, char>) -> Vec<Event<u8, char>> {
    std::iter::from_fn(|| subscription.next_ready().map(|(_, event)| event)).collect()
}

#[test]
fn a_watcher_gets_every_object_then_synced_then_each_change() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    let mut watcher = publisher.reader().subscribe();
    assert_eq!(
        ready(&mut watcher),
        [Event::Changed(1, 'a'), Event::Changed(2, 'b')]
    );
    publisher.synced();
    assert_eq!(ready(&mut watcher), [Event::Synced]);
    publisher.set(1, 'c');
    publisher.remove(&2);
    assert_eq!(
        ready(&mut watcher),
        [Event::Changed(1, 'c'), Event::Removed(2)]
    );
}

#[test]
fn synced_comes_before_changes_made_after_the_listing_began() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.synced();
    let mut watcher = publisher.reader().subscribe();
    assert_eq!(
        watcher.next_ready().map(|(_, event)| event),
        Some(Event::Changed(1, 'a'))
    );
    publisher.set(2, 'b');
    assert_eq!(ready(&mut watcher), [Event::Synced, Event::Changed(2, 'b')]);
}

#[test]
fn synced_comes_after_all_that_was_published_before_it() {
    let publisher = Publisher::new();
    let mut watcher = publisher.reader().subscribe();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    publisher.synced();
    assert_eq!(
        ready(&mut watcher),
        [
            Event::Changed(1, 'a'),
            Event::Changed(2, 'b'),
            Event::Synced
        ]
    );
}

#[test]
fn an_object_that_changes_while_it_is_listed_still_comes_before_synced() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    publisher.set(3, 'c');
    publisher.synced();
    let mut watcher = publisher.reader().subscribe();
    let (_, first) = watcher.next_ready().unwrap();
    assert_eq!(first, Event::Changed(1, 'a'));
    publisher.set(2, 'x');
    publisher.remove(&3);
    let events = ready(&mut watcher);
    let synced = events.iter().position(|event| *event == Event::Synced);
    let told = &events[..synced.unwrap()];
    assert_eq!(told, [Event::Changed(2, 'x'), Event::Removed(3)]);
}

#[test]
fn changes_cannot_delay_synced() {
    let publisher = Publisher::new();
    for key in 0..10_u8 {
        publisher.set(key, 'a');
    }
    publisher.synced();
    let mut watcher = publisher.reader().subscribe();
    let mut told = 0;
    for value in ['b', 'c'].into_iter().cycle().take(100) {
        let (_, event) = watcher.next_ready().unwrap();
        if event == Event::Synced {
            break;
        }
        told += 1;
        for key in 0..10_u8 {
            publisher.set(key, value);
        }
    }
    assert_eq!(told, 10);
}

#[test]
fn a_slow_watcher_skips_what_was_overwritten() {
    let publisher = Publisher::new();
    publisher.synced();
    let mut watcher = publisher.reader().subscribe();
    assert_eq!(ready(&mut watcher), [Event::Synced]);
    for value in ['a', 'b', 'c'] {
        publisher.set(1, value);
    }
    publisher.set(2, 'x');
    publisher.remove(&2);
    assert_eq!(
        ready(&mut watcher),
        [Event::Changed(1, 'c'), Event::Removed(2)]
    );
}

#[test]
fn an_equal_object_is_no_change() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    let revision = publisher.reader().snapshot().revision;
    publisher.set(1, 'a');
    publisher.remove(&7);
    assert_eq!(publisher.reader().snapshot().revision, revision);
}

#[test]
fn removals_that_everybody_knows_are_forgotten() {
    let publisher = Publisher::new();
    let mut watcher = publisher.reader().subscribe();
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
fn a_removal_is_kept_for_a_watcher_that_has_not_heard_of_it() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    let mut slow = publisher.reader().subscribe();
    assert_eq!(ready(&mut slow), [Event::Changed(1, 'a')]);
    publisher.remove(&1);
    for key in 2..50_u8 {
        publisher.set(key, 'b');
        publisher.remove(&key);
    }
    assert!(ready(&mut slow).contains(&Event::Removed(1)));
}

#[tokio::test]
async fn a_watch_ends_with_its_publisher() {
    let publisher = Publisher::<u8, char>::new();
    let mut watcher = publisher.reader().subscribe();
    drop(publisher);
    assert_eq!(watcher.next().await, None);
}

#[test]
fn replacing_all_changes_only_what_differs() {
    let publisher = Publisher::new();
    publisher.set(1, 'a');
    publisher.set(2, 'b');
    publisher.synced();
    let mut watcher = publisher.reader().subscribe();
    ready(&mut watcher);
    publisher.replace_all([(2, 'b'), (3, 'c')].into());
    assert_eq!(
        ready(&mut watcher),
        [Event::Removed(1), Event::Changed(3, 'c')]
    );
}
