//! Names of leases, counters and soft state. They become parts of subjects, so nothing else than these letters may pass.

use crate::CoordinationError;

const LENGTH_MAX: usize = 64;

pub(crate) fn check(name: &str) -> Result<(), CoordinationError> {
    let is_fit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if (1..=LENGTH_MAX).contains(&name.len()) && name.bytes().all(is_fit) {
        Ok(())
    } else {
        Err(CoordinationError::Name { name: name.to_owned() })
    }
}
