//! How fields are written: what is left out when it says nothing, and blank text for "not set".

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer};

/// For `skip_serializing_if`: the field has the value it would have if it were not written.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Reads `""` as absent: in Calico's form every unset string may be written as an empty one.
pub(super) fn blank_is_absent<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct MaybeBlank<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for MaybeBlank<T> {
        type Value = Option<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Option<T>, E> {
            Ok(None)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Option<T>, E> {
            if text.is_empty() { Ok(None) } else { T::deserialize(text.into_deserializer()).map(Some) }
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<Option<T>, E> {
            T::deserialize(number.into_deserializer()).map(Some)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Option<T>, E> {
            T::deserialize(number.into_deserializer()).map(Some)
        }
    }
    deserializer.deserialize_any(MaybeBlank(PhantomData))
}

/// Reads `""` as the default.
pub(super) fn blank_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    blank_is_absent(deserializer).map(Option::unwrap_or_default)
}
