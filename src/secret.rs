//! A secret text: a password or a token. It cannot be printed, is wiped when dropped, and leaves only by `expose`.
//! Not here: where secrets come from (`registry/credentials.rs`) and where they may go (`registry/url.rs`).

use std::fmt;

use zeroize::Zeroizing;

/// A password or a token. `Debug` prints `***`; there is no `Display` and no serialisation on purpose.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes over the text.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing to keep secret.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_text() {
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "***");
    }
}
