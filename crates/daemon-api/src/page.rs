//! Pages of lists as in [AIP-158](https://google.aip.dev/158).
//!
//! A page token names the last item of its page. The next page begins with the first item after the
//! key of the last item, so a token stays valid while the list changes.

use std::{fmt::Display, str::FromStr};

use prost::Message;

use crate::{ConversionError, message_size};

/// Number of items of a page if the request does not set `page_size`.
const DEFAULT_PAGE_SIZE: usize = 1_000;

/// Largest number of items of a page. A larger `page_size` counts as this number.
const MOST_PAGE_SIZE: usize = 10_000;

/// Largest size in octets of all items of a page, unless the page has a single item. A page then
/// fits into 4 MiB, the default limit of gRPC clients for one message.
const PAGE_OCTETS: usize = 3 * 1024 * 1024;

/// A request for one page of a list. The list is sorted by keys of the type `K`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest<K> {
    /// Key of the last item of the previous page. `None`: the first page.
    pub after: Option<K>,
    size: usize,
    list: String,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// Items sorted by key.
    pub items: Vec<T>,
    /// Token for the request of the next page. Empty: this is the last page.
    pub next_page_token: String,
}

impl<K: FromStr> PageRequest<K> {
    /// Parses the fields of a request. `list` is a text of the method's name and of every argument
    /// that selects items, so that a token of another list is refused.
    ///
    /// # Errors
    /// `page_size` is negative, or `page_token` is not a token of this list.
    pub fn new(list: String, page_size: i32, page_token: &str) -> Result<Self, ConversionError> {
        let size = usize::try_from(page_size).map_err(|_| {
            let problem = format!("{page_size} is negative; leave it out for the default");
            ConversionError::new("page_size", problem)
        })?;
        let size = match size {
            0 => DEFAULT_PAGE_SIZE,
            size => size.min(MOST_PAGE_SIZE),
        };
        let after = match page_token {
            "" => None,
            token => Some(key(&list, token).ok_or_else(|| {
                let problem = "not a token of this list; send the next_page_token of the previous \
                               page and repeat the other arguments of its request, or leave \
                               page_token out for the first page";
                ConversionError::new("page_token", problem)
            })?),
        };
        Ok(Self { after, size, list })
    }
}

impl<K> PageRequest<K> {
    /// Returns the number of items to read after the key `after`: the items of the page, and one
    /// more item, which shows whether another page follows.
    pub fn limit(&self) -> usize {
        self.size + 1
    }
}

impl<K: Ord + Display> PageRequest<K> {
    /// Returns the page from `items`, which must be sorted by key. Skips the items up to the key
    /// `after`.
    pub fn page<T: Message>(self, items: impl IntoIterator<Item = (K, T)>) -> Page<T> {
        let mut page = PageBuilder::new(self);
        for (key, item) in items {
            if !page.push(key, item) {
                break;
            }
        }
        page.finish()
    }
}

/// A page under construction: items are added until the page is full.
#[derive(Debug)]
pub struct PageBuilder<K, T> {
    request: PageRequest<K>,
    octets: usize,
    page: Page<T>,
}

impl<K: Ord + Display, T: Message> PageBuilder<K, T> {
    /// Returns a builder for the requested page, without items.
    pub fn new(request: PageRequest<K>) -> Self {
        Self {
            request,
            octets: 0,
            page: Page {
                items: Vec::new(),
                next_page_token: String::new(),
            },
        }
    }

    /// Adds an item, unless the item belongs to an earlier page. The caller adds the items sorted
    /// by key. If the page is full, does not add the item and returns `false`: the next page begins
    /// with this item.
    pub fn push(&mut self, key: K, item: T) -> bool {
        let PageRequest { after, size, list } = &mut self.request;
        if after.as_ref().is_some_and(|after| key <= *after) {
            return true;
        }
        let octets = self.octets + message_size(&item);
        let items = self.page.items.len();
        if items >= *size || items > 0 && octets > PAGE_OCTETS {
            let last = after.as_ref().map(|last| token(list, last));
            self.page.next_page_token = last.unwrap_or_default();
            return false;
        }
        self.octets = octets;
        self.page.items.push(item);
        *after = Some(key);
        true
    }

    /// Returns the page with the token of the next page.
    pub fn finish(self) -> Page<T> {
        self.page
    }
}

/// Converts a number of items to the type of the field `total_size`.
pub fn total_size(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

/// Encodes a page token in hexadecimal digits, so that no client mistakes a token for a key.
fn token(list: &str, key: &impl Display) -> String {
    let text = format!("{list}\n{key}");
    text.bytes().map(|octet| format!("{octet:02x}")).collect()
}

fn key<K: FromStr>(list: &str, token: &str) -> Option<K> {
    let digits: Option<Vec<u32>> = token.chars().map(|digit| digit.to_digit(16)).collect();
    let octets = digits?
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => u8::try_from(high << 4 | low).ok(),
            _ => None,
        })
        .collect::<Option<Vec<u8>>>()?;
    let text = String::from_utf8(octets).ok()?;
    let key = text.strip_prefix(list)?.strip_prefix('\n')?;
    key.parse().ok()
}

#[cfg(test)]
mod tests;
