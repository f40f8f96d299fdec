//! Property tests of the codec with arbitrary messages.

use bytes::BytesMut;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::{arbitrary, decode_all};
use crate::{
    Announced, CodecOptions, Decoder, Family, Message, Nlri, PathAttributes, Update, encode,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn an_encoded_message_decodes_to_the_original_message(
        message in arbitrary::message(),
        options in arbitrary::options(),
    ) {
        let mut buffer = BytesMut::new();
        prop_assert_eq!(encode(&message, &options, &mut buffer), []);
        let decoded = decode_all(buffer, &options);
        match message {
            Message::Update(update) => {
                prop_assert_eq!(merged(decoded), expected_content(update, &options));
            }
            Message::Open(_)
            | Message::Notification(_)
            | Message::Keepalive
            | Message::RouteRefresh(_) => prop_assert_eq!(decoded, [message]),
        }
    }

    #[test]
    fn the_decoder_returns_every_message_of_a_stream_that_arrives_in_arbitrary_pieces(
        messages in vec(arbitrary::message(), 1..5),
        cuts in vec(any::<Index>(), 0..6),
    ) {
        let options = CodecOptions::default();
        let mut stream = BytesMut::new();
        for message in &messages {
            encode(message, &options, &mut stream);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(stream.len());
        let mut decoder = Decoder::new();
        let mut buffer = BytesMut::new();
        let mut decoded = Vec::new();
        let mut fed = 0;
        for cut in cuts {
            buffer.extend_from_slice(&stream[fed..cut]);
            fed = cut;
            while let Some(message) = decoder.decode(&mut buffer).unwrap() {
                decoded.push(message);
            }
        }
        prop_assert_eq!(decoded, decode_all(stream, &options));
    }

    #[test]
    fn arbitrary_octets_do_not_make_the_decoder_panic(
        octets in vec(any::<u8>(), 0..200),
        message_type in 0..7_u8,
        options in arbitrary::options(),
    ) {
        let mut decoder = Decoder::new();
        decoder.set_options(options);
        let _ = decoder.decode(&mut BytesMut::from(&octets[..]));
        let framed = super::framed(message_type, &octets);
        let _ = decoder.decode(&mut BytesMut::from(&framed[..]));
    }

    #[test]
    fn a_damaged_message_does_not_make_the_decoder_panic(
        message in arbitrary::message(),
        options in arbitrary::options(),
        decoded_with in arbitrary::options(),
        damage in vec((any::<Index>(), any::<u8>()), 1..8),
    ) {
        let mut buffer = BytesMut::new();
        encode(&message, &options, &mut buffer);
        for (index, octet) in damage {
            // The marker stays intact, because the decoder refuses a damaged marker before it reads
            // any other part of the message.
            if buffer.len() > 16 {
                let index = 16 + index.index(buffer.len() - 16);
                buffer[index] = octet;
            }
        }
        let mut decoder = Decoder::new();
        decoder.set_options(decoded_with.clone());
        while let Ok(Some(message)) = decoder.decode(&mut buffer) {
            // The encoder can encode each accepted message, and the decoder accepts the encoded
            // message.
            let mut sent = BytesMut::new();
            encode(&message, &decoded_with, &mut sent);
            decode_all(sent, &decoded_with);
        }
    }
}

type Paths = Vec<(PathAttributes, Vec<Nlri>)>;

/// Returns the withdrawn prefixes, the paths and the End-of-RIB markers of several UPDATEs. Merges
/// adjacent groups of announced prefixes with equal attributes.
fn merged(messages: Vec<Message>) -> (Vec<Nlri>, Paths, Vec<Family>) {
    let mut withdrawn = Vec::new();
    let mut paths: Paths = Vec::new();
    let mut ends = Vec::new();
    for message in messages {
        let Message::Update(update) = message else {
            panic!("not an UPDATE: {message:?}");
        };
        assert_eq!(update.errors, []);
        withdrawn.extend(update.withdrawn);
        for Announced { attributes, nlri } in update.announced {
            match paths.last_mut() {
                Some((last, prefixes)) if *last == *attributes => prefixes.extend(nlri),
                _ => paths.push(((*attributes).clone(), nlri)),
            }
        }
        ends.extend(update.end_of_rib);
    }
    (withdrawn, paths, ends)
}

/// Returns the expected result of [`merged`] for the encoded `update`. Removes the path ids and
/// attributes that the encoder omits with `options`.
fn expected_content(update: Update, options: &CodecOptions) -> (Vec<Nlri>, Paths, Vec<Family>) {
    let encoded_nlri = |nlri: &Nlri| Nlri {
        path_id: nlri
            .path_id
            .filter(|_| options.has_add_path(Family::of(nlri.prefix))),
        ..*nlri
    };
    let messages = update
        .announced
        .iter()
        .map(|announced| {
            let mut attributes = (*announced.attributes).clone();
            if !options.internal {
                attributes.local_pref = None;
                attributes.originator_id = None;
                attributes.cluster_list.clear();
            }
            Message::Update(Update {
                announced: vec![Announced {
                    attributes: attributes.into(),
                    nlri: announced.nlri.iter().map(encoded_nlri).collect(),
                }],
                ..Update::default()
            })
        })
        .collect();
    let (_, paths, _) = merged(messages);
    (
        update.withdrawn.iter().map(encoded_nlri).collect(),
        paths,
        update.end_of_rib.into_iter().collect(),
    )
}
