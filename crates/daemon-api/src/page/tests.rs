use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LIST: &str = "ListNumbers even";

/// A list whose items are texts: prost encodes a `String` as a message, so a test can choose the
/// size of each item.
type List = BTreeMap<u32, String>;

fn list(keys: impl IntoIterator<Item = u32>) -> List {
    keys.into_iter().map(|key| (key, key.to_string())).collect()
}

fn page(list: &List, size: i32, token: &str) -> Page<String> {
    let request = PageRequest::new(LIST.to_owned(), size, token).unwrap();
    request.page(list.clone())
}

fn refused(size: i32, token: &str) -> String {
    let request = PageRequest::<u32>::new(LIST.to_owned(), size, token);
    request.unwrap_err().to_string()
}

#[test]
fn a_page_has_1000_items_by_default_and_at_most_10000() {
    let bound = u32::try_from(MOST_PAGE_SIZE).unwrap();
    let list = list(0..=bound);
    assert_eq!(page(&list, 0, "").items.len(), DEFAULT_PAGE_SIZE);
    assert_eq!(page(&list, i32::MAX, "").items.len(), MOST_PAGE_SIZE);
    assert_eq!(page(&list, 7, "").items.len(), 7);
}

#[test]
fn the_last_page_has_no_token_even_if_it_is_full() {
    let list = list([1, 2, 3, 4]);
    let first = page(&list, 2, "");
    assert_eq!(first.items, ["1", "2"]);
    let last = page(&list, 2, &first.next_page_token);
    assert_eq!(last.items, ["3", "4"]);
    assert_eq!(last.next_page_token, "");
    assert_eq!(page(&List::new(), 2, "").next_page_token, "");
}

#[test]
fn a_page_token_stays_valid_when_its_item_is_removed_and_other_items_are_added() {
    let first = page(&list([10, 20, 30, 40]), 2, "");
    let changed = list([5, 10, 25, 30, 50]);
    let rest = page(&changed, 9, &first.next_page_token);
    assert_eq!(rest.items, ["25", "30", "50"]);
}

#[test]
fn a_page_ends_before_the_item_that_would_make_the_page_too_large_for_a_message() {
    let half = "x".repeat(PAGE_OCTETS / 2 - 100);
    let larger = "x".repeat(PAGE_OCTETS + 1);
    let list: List = [(1, half.clone()), (2, half.clone()), (3, half), (4, larger)].into();
    let first = page(&list, 0, "");
    assert_eq!(first.items.len(), 2);
    let second = page(&list, 0, &first.next_page_token);
    assert_eq!(
        second.items.len(),
        1,
        "the item above the limit is alone on its page"
    );
    let third = page(&list, 0, &second.next_page_token);
    assert_eq!((third.items.len(), third.next_page_token.as_str()), (1, ""));
}

#[test]
fn a_negative_page_size_is_refused_with_the_name_of_the_field() {
    let message = refused(-1, "");
    assert!(message.contains("`page_size`: -1"), "{message}");
}

#[test]
fn a_token_of_another_list_or_an_invalid_token_is_refused_with_the_name_of_the_field() {
    let other_list = token("ListNumbers odd", &7);
    let not_a_key = token(LIST, &"seven");
    for bad in ["x", "7", "ff", &other_list, &not_a_key, "é"] {
        let message = refused(0, bad);
        assert!(message.contains("`page_token`: not a token"), "{message}");
    }
}

#[test]
fn a_page_token_does_not_show_the_key_as_text() {
    assert!(!token(LIST, &"10.1.1.0/24").contains("10.1.1.0/24"));
}

proptest! {
    #[test]
    fn all_pages_together_have_each_item_of_the_list_once(keys in prop::collection::btree_set(0_u32..500, 0..60), size in 1_i32..20) {
        let list = list(keys);
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let page = page(&list, size, &next);
            prop_assert!(page.items.len() <= size as usize);
            items.extend(page.items);
            next = page.next_page_token;
            if next.is_empty() {
                break;
            }
        }
        prop_assert_eq!(items, list.into_values().collect::<Vec<_>>());
    }

    #[test]
    fn an_arbitrary_text_as_page_token_never_panics(text in ".*") {
        let _ = PageRequest::<u32>::new(LIST.to_owned(), 0, &text);
    }
}
