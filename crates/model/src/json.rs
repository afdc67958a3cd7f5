//! JSON kept as canonical text: the one in-memory form of every spec and status.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A JSON value as compact text with sorted members, shared by all who hold it.
///
/// Two equal values have equal text, so comparing and hashing the text compares the values. Numbers keep the form
/// they were given in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Json(Arc<str>);

impl Json {
    /// Makes the canonical text of a value.
    #[must_use]
    pub fn from_value(value: &Value) -> Self {
        // `Value` objects are ordered maps, so printing one sorts its members.
        Self(value.to_string().into())
    }

    /// Reads any JSON text.
    ///
    /// # Errors
    /// The text is not JSON.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str::<Value>(text).map(|value| Self::from_value(&value))
    }

    /// Takes text that is canonical already: what [`Json::as_str`] gave earlier, e.g. read back from a store.
    #[must_use]
    pub fn from_canonical(text: &str) -> Self {
        Self(text.into())
    }

    /// Serialises a typed spec or status.
    ///
    /// # Errors
    /// The type's serialiser fails, e.g. a map key that is no string.
    pub fn from_typed<T: Serialize>(typed: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_value(typed).map(|value| Self::from_value(&value))
    }

    /// `{}`.
    #[must_use]
    pub fn empty_object() -> Self {
        Self("{}".into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value as a tree; the text is always valid, so the result is `null` only for `null`.
    #[must_use]
    pub fn to_value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or(Value::Null)
    }

    /// Reads a typed form of it.
    ///
    /// # Errors
    /// A member has another type than `T` wants; the error's path names it.
    pub fn typed<T: DeserializeOwned>(
        &self,
    ) -> Result<T, serde_path_to_error::Error<serde_json::Error>> {
        let mut reader = serde_json::Deserializer::from_str(&self.0);
        serde_path_to_error::deserialize(&mut reader)
    }
}

impl Default for Json {
    fn default() -> Self {
        Self::empty_object()
    }
}

impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_have_equal_text() {
        let a = Json::parse(r#"{"b": 1, "a": [true, null]}"#).unwrap();
        let b = Json::parse(r#"{"a":[true,null],"b":1}"#).unwrap();
        assert_eq!(a, b);
        assert_eq!(a.as_str(), r#"{"a":[true,null],"b":1}"#);
    }

    #[test]
    fn a_type_error_names_its_path() {
        #[derive(Debug, serde::Deserialize)]
        struct Spec {
            #[expect(dead_code, reason = "only its type matters here")]
            ports: Vec<u16>,
        }
        let error = Json::parse(r#"{"ports":[80,"x"]}"#)
            .unwrap()
            .typed::<Spec>()
            .unwrap_err();
        assert_eq!(error.path().to_string(), "ports[1]");
    }
}
