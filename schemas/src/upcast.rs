//! The only place that knows old shapes of events.
//!
//! Each arm names an event type and an older schema version, decodes that version's frozen struct and gives the current shape.
//! The tests below walk the whole way with an event that exists in tests only.

use crate::event::Event;

/// Reads an event of an older schema version; none if the bytes have not its shape. No event has an older version yet.
pub(crate) fn decode(_event_type: u16, _schema_version: u8, _bytes: &[u8]) -> Option<Event> {
    None
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use crate::event::exactly;

    /// Version 1 of an event that exists only here.
    #[derive(Serialize, Deserialize)]
    struct LampLitV1 {
        room: String,
    }

    /// Version 2 counts the lamps.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct LampLit {
        room: String,
        lamps: u32,
    }

    /// The arm that a real event would have in [`super::decode`]: version 1 meant one lamp.
    fn decode_lamp_lit(schema_version: u8, bytes: &[u8]) -> Option<LampLit> {
        match schema_version {
            1 => exactly::<LampLitV1>(bytes).map(|old| LampLit { room: old.room, lamps: 1 }),
            2 => exactly(bytes),
            _ => None,
        }
    }

    #[test]
    fn an_old_version_is_read_as_the_current_shape() {
        let golden_v1 = [4, b'h', b'a', b'l', b'l'];
        let v1 = postcard::to_allocvec(&LampLitV1 { room: "hall".into() }).unwrap();
        assert_eq!(v1, golden_v1);
        assert_eq!(decode_lamp_lit(1, &golden_v1), Some(LampLit { room: "hall".into(), lamps: 1 }));
        let v2 = postcard::to_allocvec(&LampLit { room: "hall".into(), lamps: 3 }).unwrap();
        assert_eq!(decode_lamp_lit(2, &v2), Some(LampLit { room: "hall".into(), lamps: 3 }));
        // Bytes left over are another shape, and so is an old body under a new number.
        assert_eq!(decode_lamp_lit(1, &v2), None);
        assert_eq!(decode_lamp_lit(2, &golden_v1), None);
    }
}
