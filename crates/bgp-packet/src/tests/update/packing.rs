//! Tests of the distribution of the prefixes of an UPDATE among messages.

use super::*;

#[test]
fn prefixes_are_sent_in_as_few_messages_as_possible() {
    for (extended_message, maximum) in [(false, 4096), (true, 65535)] {
        let options = CodecOptions {
            extended_message,
            ..with_add_path()
        };
        for next_hop in ["10.0.0.1", "2001:db8::1"] {
            let nlri: Vec<Nlri> = (0..20_000).map(|id| path("192.0.2.0/24", id)).collect();
            let update = announcement(attributes(next_hop), nlri.clone());
            check_packed(&update, &options, maximum, &nlri);
            check_packed(&withdrawal(nlri.clone()), &options, maximum, &nlri);
        }
    }
}

fn check_packed(update: &Update, options: &CodecOptions, maximum: usize, nlri: &[Nlri]) {
    let octets = encoded(&Message::Update(update.clone()), options);
    let total = octets.len();
    let messages = decode_all(octets, options);
    assert!(
        messages.len() <= total / (maximum - 20) + 1,
        "{} messages for {total} octets",
        messages.len()
    );
    assert_eq!(prefixes_of(messages), nlri);
}

/// Returns all withdrawn and announced prefixes of the messages.
fn prefixes_of(messages: Vec<Message>) -> Vec<Nlri> {
    let mut prefixes = Vec::new();
    for message in messages {
        let Message::Update(update) = message else {
            panic!("not an UPDATE: {message:?}");
        };
        prefixes.extend(update.withdrawn);
        prefixes.extend(update.announced.into_iter().flat_map(|group| group.nlri));
    }
    prefixes
}

#[test]
fn prefixes_that_do_not_fit_into_a_message_with_their_attributes_are_withdrawn_and_returned() {
    // The header and the length fields (23 octets), ORIGIN, AS_PATH and NEXT_HOP (14 octets), and
    // COMMUNITIES (4 octets and 1013 communities of 4 octets) leave 3 of 4096 octets for prefixes.
    let large = PathAttributes {
        communities: vec![Community(1); 1013],
        ..attributes("10.0.0.1")
    };
    let fits = prefix("10.0.0.0/8");
    let does_not = prefix("10.1.0.0/24");
    let update = announcement(large, vec![fits, does_not, fits]);
    let mut octets = BytesMut::new();
    assert_eq!(
        encode(&Message::Update(update.clone()), &internal(), &mut octets),
        [does_not]
    );
    let messages = decode_all(octets, &internal());
    let [
        Message::Update(first),
        Message::Update(second),
        Message::Update(last),
    ] = &messages[..]
    else {
        panic!("expected three UPDATEs: {messages:?}");
    };
    assert_eq!(first.announced[0].nlri, [fits]);
    assert_eq!(second.announced[0].nlri, [fits]);
    assert_eq!(*last, withdrawal(vec![does_not]));

    let options = CodecOptions {
        extended_message: true,
        ..internal()
    };
    check_packed(&update, &options, 65535, &[fits, does_not, fits]);
}

#[test]
fn prefixes_whose_attributes_fit_into_no_message_are_withdrawn() {
    for next_hop in ["10.0.0.1", "2001:db8::1"] {
        let oversized = PathAttributes {
            communities: vec![Community(1); 20_000],
            ..attributes(next_hop)
        };
        let nlri = vec![prefix("10.0.0.0/8"), prefix("2001:db8::/32")];
        let update = Message::Update(announcement(oversized, nlri.clone()));
        for extended_message in [false, true] {
            let options = CodecOptions {
                extended_message,
                ..internal()
            };
            let mut octets = BytesMut::new();
            assert_eq!(encode(&update, &options, &mut octets), nlri);
            assert_eq!(
                decode_all(octets, &options),
                [
                    Message::Update(withdrawal(vec![nlri[0]])),
                    Message::Update(withdrawal(vec![nlri[1]])),
                ]
            );
        }
    }
}

#[test]
fn announced_prefixes_of_both_families_are_sent_with_the_ipv4_prefixes_first() {
    let mixed = vec![prefix("2001:db8::/32"), prefix("10.0.0.0/8")];
    let update = announcement(attributes("2001:db8::1"), mixed.clone());
    let octets = encoded(&Message::Update(update), &internal());
    let sent = prefixes_of(decode_all(octets, &internal()));
    assert_eq!(sent, [mixed[1], mixed[0]]);
}
