//! Texts that are told to people: cut to what fits.

use std::borrow::Cow;

/// The text, or so many bytes of its beginning and an ellipsis.
pub(crate) fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    format!("{}{ELLIPSIS}", text.get(..text.floor_char_boundary(most)).unwrap_or_default()).into()
}

/// What stands for the rest of a text.
const ELLIPSIS: &str = "...";

/// What an app calls something, in a text about it: so much of a name tells which it is.
pub(crate) fn name(text: &str) -> Cow<'_, str> {
    shortened(text, 200)
}

/// Of so many things one text names the first.
pub(crate) const FEW: usize = 3;

/// The first few things, of so many, and how many more there are.
pub(crate) fn list<T: AsRef<str>>(things: &[T], of: usize, between: &str) -> String {
    let mut told: Vec<&str> = things.iter().take(FEW).map(AsRef::as_ref).collect();
    let more = of.saturating_sub(told.len());
    let more = if more > 0 { format!("and {more} more") } else { String::new() };
    told.extend((!more.is_empty()).then_some(more.as_str()));
    told.join(between)
}

/// The first few names, and how many more there are.
pub(crate) fn names(texts: &[String], between: &str) -> String {
    let few: Vec<Cow<'_, str>> = texts.iter().take(FEW).map(|text| name(text)).collect();
    list(&few, texts.len(), between)
}

/// The text as far as it fits into so many bytes of a `grpc-message`, in which all but printable ASCII, and the sign
/// of per cent, take three bytes each.
pub(crate) fn within_header(text: &str, most: usize) -> Cow<'_, str> {
    let (mut length, mut fitting) = (0, 0);
    for (at, character) in text.char_indices() {
        if length + ELLIPSIS.len() <= most {
            fitting = at;
        }
        let plain = matches!(character, ' '..='~') && character != '%';
        length += if plain { 1 } else { 3 * character.len_utf8() };
        if length > most {
            return shortened(text, fitting);
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_that_fits_is_left_alone() {
        assert_eq!(shortened("abc", 3), "abc");
        assert_eq!(shortened("abcd", 3), "abc...");
        assert_eq!(shortened("aüb", 2), "a...", "a character is left whole");
        assert_eq!(within_header("a%b", 5), "a%b");
        assert_eq!(within_header("a%b", 4), "a...");
        assert_eq!(within_header("abcdef", 5), "ab...");
    }

    #[test]
    fn few_of_many() {
        assert_eq!(list(&["a", "b", "c"], 3, "; "), "a; b; c");
        assert_eq!(list(&["a", "b", "c", "d", "e"], 5, "; "), "a; b; c; and 2 more");
        assert_eq!(list(&["a", "b", "c"], 9, "; "), "a; b; c; and 6 more");
        assert_eq!(names(&[], " "), "");
        assert_eq!(names(&["a".repeat(300), "b".to_owned()], " "), format!("{}... b", "a".repeat(200)));
    }

    fn encoded(text: &str) -> String {
        const ENCODED: AsciiSet = CONTROLS.add(b'%');
        utf8_percent_encode(text, &ENCODED).to_string()
    }

    proptest! {
        #[test]
        fn no_text_takes_more_than_its_room(text: String, most in 3..200_usize) {
            let told = within_header(&text, most);
            let encoded = encoded(&told);
            prop_assert!(encoded.len() <= most, "{encoded}");
            if super::tests::encoded(&text).len() <= most {
                prop_assert_eq!(told.as_ref(), text.as_str());
            }
        }
    }
}
