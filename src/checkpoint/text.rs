//! Small files of text, and JSON that says nothing twice.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::index::shown;
use crate::{Error, Result};

/// A longer file is no config and no list of shards.
const MOST: u64 = 16 << 20;

/// The text of a config, a list of shards or a model card, which are at most 16 MiB long.
///
/// # Errors
/// [`Error::Io`] when the file cannot be read, [`Error::Model`] when it is longer.
pub fn read_text(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(Error::io(path))?;
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text).map_err(Error::io(path))?;
    if text.len() as u64 > MOST {
        return Err(Error::model(path, format!("longer than {} MiB", MOST >> 20)));
    }
    Ok(text)
}

/// The value of a JSON text in which no object has a key twice; an error says what is wrong with it.
pub fn parse_json(text: &str) -> Result<Value, String> {
    serde_json::from_str::<Strict>(text).map(|Strict(value)| value).map_err(|e| e.to_string())
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Value;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Value, E> {
                Ok(Value::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_str<E>(self, value: &str) -> Result<Value, E> {
                Ok(value.into())
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
                let mut list = Vec::new();
                while let Some(Strict(value)) = items.next_element()? {
                    list.push(value);
                }
                Ok(list.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
                let mut map = Map::new();
                while let Some((key, Strict(value))) = entries.next_entry::<String, _>()? {
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format!("'{}' appears twice", shown(&key))));
                    }
                    map.insert(key, value);
                }
                Ok(map.into())
            }
        }
        deserializer.deserialize_any(Any).map(Strict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_written_and_says_nothing_twice() {
        let text = r#"{"a": [1, -2, 0.5, "x", true, null], "b": {"a": {}}}"#;
        assert_eq!(parse_json(text).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        assert!(parse_json(r#"{"a": {"b": 1, "b": 1}}"#).unwrap_err().contains("'b' appears twice"));
        assert!(parse_json("{").is_err());
    }

    #[test]
    fn a_long_file_is_no_config() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MOST).unwrap();
        assert_eq!(read_text(file.path()).unwrap().len() as u64, MOST);
        file.as_file().set_len(1 << 40).unwrap();
        assert!(read_text(file.path()).unwrap_err().to_string().contains("longer than 16 MiB"));
    }
}
