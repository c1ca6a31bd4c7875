//! Text as editors save it: some put a byte order mark in front, and some write UTF-16.

/// The mark as a character.
const MARK: char = '\u{feff}';

/// The text without its byte order mark.
///
/// # Errors
/// In words that go after a file's name, for what is not UTF-8.
pub fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("is UTF-16; save it as UTF-8".to_owned());
    }
    let mut text = String::from_utf8(bytes)
        .map_err(|error| format!("is not UTF-8 from byte {} on", error.utf8_error().valid_up_to()))?;
    if text.starts_with(MARK) {
        text.drain(..MARK.len_utf8());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn marks_are_dropped_and_other_encodings_named() {
        for (bytes, wanted) in [
            (&b"\xef\xbb\xbf{}"[..], Ok("{}")),
            (b"{}", Ok("{}")),
            (b"", Ok("")),
            (b"\xff\xfe{\0}\0", Err("UTF-16")),
            (b"\xfe\xff\0{\0}", Err("UTF-16")),
            (b"{\"a\":\"\xe4\"}", Err("from byte 6 on")),
        ] {
            match (decode(bytes.to_vec()), wanted) {
                (Ok(text), Ok(wanted)) => assert_eq!(text, wanted),
                (Err(text), Err(part)) => assert!(text.contains(part), "{text}"),
                (found, _) => panic!("{bytes:?}: {found:?}"),
            }
        }
    }
}
