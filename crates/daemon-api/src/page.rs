//! Pages of lists, in the manner of [AIP-158](https://google.aip.dev/158).
//!
//! A page token names the last item of its page, so it stays valid while the list changes: the next
//! page begins with the first item after that place.

use std::{fmt::Display, str::FromStr};

use prost::Message;

use crate::{ConversionError, message_size};

/// Items of a page if the request has no `page_size`.
const DEFAULT_PAGE_SIZE: usize = 1_000;

/// Most items of a page; a larger `page_size` counts as this one.
const MOST_PAGE_SIZE: usize = 10_000;

/// Most octets of the items of a page that has several: a client with the limit of gRPC, 4 MiB for a
/// message, can read it.
const PAGE_OCTETS: usize = 3 * 1024 * 1024;

/// What a request says of the page that it wants. `K` is the key by which the list is ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest<K> {
    /// Key of the last item of the page before; `None`: the first page.
    pub after: Option<K>,
    size: usize,
    list: String,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order of their keys.
    pub items: Vec<T>,
    /// Empty: the last page.
    pub next_page_token: String,
}

impl<K: FromStr> PageRequest<K> {
    /// Reads the fields of a request. `list` names the list and each argument that selects its items: a
    /// token of another list is refused.
    ///
    /// # Errors
    /// A negative size, or a token that is not one of this list.
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
                let problem = "not a token of this list; repeat the arguments of the page before with \
                               its next_page_token, or leave it out to begin with the first page";
                ConversionError::new("page_token", problem)
            })?),
        };
        Ok(Self { after, size, list })
    }
}

impl<K> PageRequest<K> {
    /// Items to read after `after`: the ones of the page, and one that shows whether another page follows.
    pub fn limit(&self) -> usize {
        self.size + 1
    }
}

impl<K: Ord + Display> PageRequest<K> {
    /// Takes one page out of items in the order of their keys. Items up to `after` are passed over.
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

/// Takes items until a page is full.
#[derive(Debug)]
pub struct PageBuilder<K, T> {
    request: PageRequest<K>,
    octets: usize,
    page: Page<T>,
}

impl<K: Ord + Display, T: Message> PageBuilder<K, T> {
    /// Starts an empty page.
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

    /// Adds the next item in the order of the keys. `false`: the page is full, and the item is the first
    /// one of the next page.
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

    /// Returns the page with its token.
    pub fn finish(self) -> Page<T> {
        self.page
    }
}

/// Returns a number of items as the field `total_size` has it.
pub fn total_size(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

/// In hexadecimal digits, so that no client takes a token for a key.
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
