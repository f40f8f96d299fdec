//! Prefixes as users write them.

use ipnet::IpNet;

/// Reads a prefix such as `10.1.1.0/24` that has no bits behind its length. For flags and files.
///
/// # Errors
/// Quotes the text and says what to write instead.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let prefix: IpNet = text.trim().parse().map_err(|_| {
        format!("{text:?} is not a prefix; write one such as 10.1.1.0/24 or fd00:1::/64")
    })?;
    let truncated = prefix.trunc();
    if truncated != prefix {
        return Err(format!(
            "{prefix} has bits set to the right of its length; write {truncated}"
        ));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_read_and_each_other_text_is_refused_with_what_to_write() {
        assert_eq!(
            parse_prefix("10.1.1.0/24"),
            Ok("10.1.1.0/24".parse().unwrap())
        );
        assert_eq!(
            parse_prefix(" fd00:1::/64"),
            Ok("fd00:1::/64".parse().unwrap())
        );
        let refused = |text: &str| parse_prefix(text).unwrap_err();
        assert_eq!(
            refused("10.1.1.1/24"),
            "10.1.1.1/24 has bits set to the right of its length; write 10.1.1.0/24"
        );
        for text in ["", "10.1.1.0", "10.1.1.0/33", "web"] {
            let expected =
                format!("{text:?} is not a prefix; write one such as 10.1.1.0/24 or fd00:1::/64");
            assert_eq!(refused(text), expected);
        }
    }
}
