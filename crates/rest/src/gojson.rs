//! What is wrong with a text that is no JSON, in the words that clients of the dialect know.

/// The first fault, or `None` where this scanner finds none.
pub(crate) fn sentence(bytes: &[u8]) -> Option<String> {
    Scanner { bytes, at: 0 }.document().err()
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What the scanner is inside of.
enum Inside {
    Object,
    Array,
}

impl Scanner<'_> {
    fn document(&mut self) -> Result<(), String> {
        let mut stack = Vec::new();
        loop {
            // Here a value begins.
            self.space();
            match self.need()? {
                b'{' => {
                    self.at += 1;
                    self.space();
                    if self.need()? == b'}' {
                        self.at += 1;
                    } else {
                        self.key()?;
                        stack.push(Inside::Object);
                        continue;
                    }
                }
                b'[' => {
                    self.at += 1;
                    self.space();
                    if self.need()? == b']' {
                        self.at += 1;
                    } else {
                        stack.push(Inside::Array);
                        continue;
                    }
                }
                b'"' => self.string()?,
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.literal("true")?,
                b'f' => self.literal("false")?,
                b'n' => self.literal("null")?,
                other => return Err(invalid(other, "looking for beginning of value")),
            }
            // Here a value has ended.
            loop {
                self.space();
                let Some(inside) = stack.last() else {
                    return match self.peek() {
                        None => Ok(()),
                        Some(other) => Err(invalid(other, "after top-level value")),
                    };
                };
                let found = self.need()?;
                match (inside, found) {
                    (Inside::Object, b',') => {
                        self.at += 1;
                        self.space();
                        self.key()?;
                        break;
                    }
                    (Inside::Array, b',') => {
                        self.at += 1;
                        break;
                    }
                    (Inside::Object, b'}') | (Inside::Array, b']') => {
                        self.at += 1;
                        stack.pop();
                    }
                    (Inside::Object, other) => {
                        return Err(invalid(other, "after object key:value pair"));
                    }
                    (Inside::Array, other) => return Err(invalid(other, "after array element")),
                }
            }
        }
    }

    fn key(&mut self) -> Result<(), String> {
        match self.need()? {
            b'"' => self.string()?,
            other => return Err(invalid(other, "looking for beginning of object key string")),
        }
        self.space();
        match self.need()? {
            b':' => {
                self.at += 1;
                Ok(())
            }
            other => Err(invalid(other, "after object key")),
        }
    }

    fn string(&mut self) -> Result<(), String> {
        self.at += 1;
        loop {
            match self.take()? {
                b'"' => return Ok(()),
                b'\\' => match self.take()? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                    b'u' => {
                        for _ in 0..4 {
                            let digit = self.take()?;
                            if !digit.is_ascii_hexdigit() {
                                return Err(invalid(digit, "in \\u hexadecimal character escape"));
                            }
                        }
                    }
                    other => return Err(invalid(other, "in string escape code")),
                },
                control @ 0..=0x1f => return Err(invalid(control, "in string literal")),
                _ => {}
            }
        }
    }

    fn number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.take()? {
            b'0' => {}
            b'1'..=b'9' => self.digits(),
            other => return Err(invalid(other, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            match self.take()? {
                b'0'..=b'9' => self.digits(),
                other => return Err(invalid(other, "after decimal point in numeric literal")),
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            match self.take()? {
                b'0'..=b'9' => self.digits(),
                other => return Err(invalid(other, "in exponent of numeric literal")),
            }
        }
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), String> {
        for want in word.bytes() {
            let found = self.take()?;
            if found != want {
                let context = format!("in literal {word} (expecting {})", quoted(want));
                return Err(invalid(found, &context));
            }
        }
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn need(&self) -> Result<u8, String> {
        self.peek()
            .ok_or_else(|| "unexpected end of JSON input".to_owned())
    }

    fn take(&mut self) -> Result<u8, String> {
        let byte = self.need()?;
        self.at += 1;
        Ok(byte)
    }
}

fn invalid(byte: u8, context: &str) -> String {
    format!("invalid character {} {context}", quoted(byte))
}

fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "'\\''".to_owned(),
        b'\n' => "'\\n'".to_owned(),
        b'\r' => "'\\r'".to_owned(),
        b'\t' => "'\\t'".to_owned(),
        b'\\' => "'\\\\'".to_owned(),
        0x20..=0x7e => format!("'{}'", char::from(byte)),
        0..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
        other => format!("'{}'", char::from(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<&str>) {
        assert_eq!(sentence(text.as_bytes()).as_deref(), want, "{text:?}");
    }

    #[test]
    fn faults_have_their_sentences() {
        check(r#"{"a": [1, -2.5e3, {"b": null}], "c": "\u00e4"}"#, None);
        check(
            "{,}",
            Some("invalid character ',' looking for beginning of object key string"),
        );
        check(
            r#"{"a":1,}"#,
            Some("invalid character '}' looking for beginning of object key string"),
        );
        check("", Some("unexpected end of JSON input"));
        check(r#"{"a""#, Some("unexpected end of JSON input"));
        check(r#"{"a" 1}"#, Some("invalid character '1' after object key"));
        check(
            r#"{"a":1 "b"}"#,
            Some("invalid character '\"' after object key:value pair"),
        );
        check("[1 2]", Some("invalid character '2' after array element"));
        check("{} x", Some("invalid character 'x' after top-level value"));
        check(
            "type: Mesh",
            Some("invalid character 'y' in literal true (expecting 'r')"),
        );
        check(
            "'a'",
            Some("invalid character '\\'' looking for beginning of value"),
        );
    }
}
