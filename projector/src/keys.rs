//! Keys in order: by id, name, creation, expiry and last use, by tag and by owner, for lists over a million of them.
//!
//! Each order is a run of small rows that are written with the key's own. A row carries what filters ask for, so that a list loads only the
//! keys it answers with. A page looks at a bounded number of rows and then gives a cursor, however little it has found; the cursor
//! is a place in the order, so that a key that nobody touches is met exactly once whatever is written meanwhile.

mod filter;
mod listing;
mod rows;

pub use filter::{KeyFilter, KeySearch};
#[cfg(test)]
pub(crate) use listing::find;
pub use listing::{KeyPage, KeyQuery, KeySort, ListedKey, ROWS_MAX, Total};
pub(crate) use rows::{KEY_ORDERS, KeyRows, write};
