//! Prefixes as text, such as `10.1.1.0/24`.

use ipnet::IpNet;

/// Parses a prefix in CIDR notation, such as `10.1.1.0/24`. Ignores white space before and after
/// the prefix.
///
/// # Errors
/// The text is not a prefix, or the prefix has bits set to the right of its length. The error
/// quotes the text and suggests a valid prefix.
pub fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let prefix: IpNet = text.trim().parse().map_err(|_| {
        format!("{text:?} is not a prefix; write a prefix such as 10.1.1.0/24 or fd00:1::/64")
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
    fn a_prefix_is_parsed_and_any_other_text_is_refused_with_a_suggestion() {
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
            let expected = format!(
                "{text:?} is not a prefix; write a prefix such as 10.1.1.0/24 or fd00:1::/64"
            );
            assert_eq!(refused(text), expected);
        }
    }
}
