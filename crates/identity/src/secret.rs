//! A value that does not show itself.

use std::fmt;

/// Holds a key or a token. Its `Debug` is `<hidden>`, and reading it is visible in the code as [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself, for writing it where it belongs.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Gives up the protection.
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<hidden>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_does_not_show() {
        assert_eq!(format!("{:?}", Some(Secret::new("key"))), "Some(<hidden>)");
    }
}
