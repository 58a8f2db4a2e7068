//! Names on disk: how they follow from Rust names, and which are refused.

use syn::{Ident, ext::IdentExt};

/// `HTTPMoved2Done` is `http_moved2_done`. This must never change: names on disk depend on it.
pub(crate) fn snake_case(ident: &Ident) -> String {
    let text = ident.unraw().to_string();
    let mut snake = String::new();
    let mut before: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        if !char.is_uppercase() {
            snake.push(char);
        } else {
            let word_ends = before.is_some_and(|c| c.is_lowercase() || c.is_numeric());
            let acronym_ends = before.is_some_and(char::is_uppercase)
                && chars.peek().is_some_and(|c| c.is_lowercase());
            if word_ends || acronym_ends {
                snake.push('_');
            }
            snake.extend(char.to_lowercase());
        }
        before = Some(char);
    }
    snake
}

/// Why a name on disk is refused, if it is.
pub(crate) fn refuse_name(name: &str) -> Option<&'static str> {
    if name.is_empty() {
        Some("it is empty")
    } else if name.len() > 255 {
        Some("it is longer than 255 bytes")
    } else if name.contains('*') {
        Some("`*` is the wildcard of subscriptions")
    } else if name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        Some("it holds white space or a control character")
    } else if name.starts_with("backstory.") {
        Some("`backstory.` is reserved for the framework")
    } else {
        None
    }
}

/// Why the first part of names on disk is refused, if it is.
pub(crate) fn refuse_prefix(prefix: &str) -> Option<&'static str> {
    if prefix == "backstory" {
        Some("`backstory.` is reserved for the framework")
    } else if prefix.ends_with('.') {
        Some("leave the last dot out, it is put between the prefix and the rest")
    } else {
        refuse_name(prefix)
    }
}

/// What serde's `rename_all` makes of a field's name.
pub(crate) fn rename_field(rule: Option<&str>, field: &str) -> String {
    let pascal = || {
        field.split('_').fold(String::new(), |mut text, word| {
            let mut chars = word.chars();
            text.extend(chars.next().map(|c| c.to_ascii_uppercase()));
            text + chars.as_str()
        })
    };
    match rule {
        Some("UPPERCASE" | "SCREAMING_SNAKE_CASE") => field.to_ascii_uppercase(),
        Some("PascalCase") => pascal(),
        Some("camelCase") => {
            let pascal = pascal();
            let mut chars = pascal.chars();
            let first = chars.next().map(|c| c.to_ascii_lowercase());
            first.into_iter().chain(chars).collect()
        }
        Some("kebab-case") => field.replace('_', "-"),
        Some("SCREAMING-KEBAB-CASE") => field.to_ascii_uppercase().replace('_', "-"),
        _ => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snake_case_is_what_it_was() {
        for (rust, disk) in [
            ("Added", "added"),
            ("AlreadyAdded", "already_added"),
            ("HTTPMoved2Done", "http_moved2_done"),
            ("A", "a"),
            ("AB", "ab"),
            ("ABTest", "ab_test"),
            ("V2", "v2"),
            ("Snake_Case", "snake_case"),
            ("r#Type", "type"),
            ("Ärger", "ärger"),
        ] {
            let ident: Ident = syn::parse_str(rust).unwrap();
            assert_eq!(snake_case(&ident), disk);
        }
    }

    #[test]
    fn fields_are_renamed_as_serde_does() {
        for (rule, key) in [
            (None, "due_on"),
            (Some("snake_case"), "due_on"),
            (Some("camelCase"), "dueOn"),
            (Some("PascalCase"), "DueOn"),
            (Some("UPPERCASE"), "DUE_ON"),
            (Some("SCREAMING_SNAKE_CASE"), "DUE_ON"),
            (Some("kebab-case"), "due-on"),
            (Some("SCREAMING-KEBAB-CASE"), "DUE-ON"),
        ] {
            assert_eq!(rename_field(rule, "due_on"), key);
        }
    }
}
