//! Takes secrets out of texts.

use super::percent_encode;
use zeroize::Zeroizing;

const PUT_INSTEAD: &str = "[redacted]";
/// A shorter value is no secret, and taking it out would only spoil the text.
const SECRET_BYTES_MIN: usize = 4;

/// Knows the secrets of one engine in every form in which an answer may repeat them.
pub(super) struct Scrubber(Vec<Zeroizing<String>>);

impl Scrubber {
    pub(super) fn new<'a>(secrets: impl Iterator<Item = &'a str>) -> Scrubber {
        let mut forms = Vec::new();
        for secret in secrets.map(str::trim).filter(|secret| secret.len() >= SECRET_BYTES_MIN) {
            let mut encoded = String::new();
            percent_encode(secret, &mut encoded);
            let quoted = serde_json::Value::from(secret).to_string();
            let escaped = quoted[1..quoted.len() - 1].to_owned();
            // A scheme such as "Bearer" in front is no secret, but what follows it is one on its own.
            let bare = secret.rsplit(' ').next().unwrap_or(secret).to_owned();
            for form in [secret.to_owned(), encoded, escaped, bare] {
                if form.len() >= SECRET_BYTES_MIN {
                    forms.push(Zeroizing::new(form));
                }
            }
        }
        // The longest first, so that a secret that contains another one goes as a whole.
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Scrubber(forms)
    }

    pub(super) fn scrub(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), PUT_INSTEAD);
            }
        }
        self.scrub_end(text)
    }

    /// Takes out the beginning of a secret at the end of a text that was cut in the middle of it.
    fn scrub_end(&self, mut text: String) -> String {
        for secret in &self.0 {
            let cut = secret
                .char_indices()
                .map(|(at, _)| at)
                .rev()
                .find(|at| *at >= SECRET_BYTES_MIN && text.ends_with(&secret[..*at]));
            if let Some(cut) = cut {
                text.truncate(text.len() - cut);
                text.push_str(PUT_INSTEAD);
                break;
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_in_every_form() {
        let scrubber = Scrubber::new(["k/e\"y==", "Bearer tok-123", "k/e\"y==more", "abc"].into_iter());
        for text in
            ["k/e\"y==", "a k/e\\\"y== b", "?k=k%2Fe%22y%3D%3D", "tok-123", "Bearer tok-123", "k/e\"y==more"]
        {
            let scrubbed = scrubber.scrub(text);
            assert!(scrubbed.contains(PUT_INSTEAD), "{text}: {scrubbed}");
            for rest in ["y==", "tok", "more", "%22y"] {
                assert!(!scrubbed.contains(rest), "{text}: {scrubbed}");
            }
        }
        assert_eq!(scrubber.scrub("abc stays"), "abc stays");
        assert_eq!(scrubber.scrub("cut: Bearer tok-1"), "cut: [redacted]");
        assert_eq!(scrubber.scrub("cut: tok-12"), "cut: [redacted]");
    }
}
