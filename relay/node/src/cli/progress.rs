//! Progress of long work, on a terminal only: elsewhere a bar draws nothing.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over bytes.
pub(super) fn bytes(total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), "{wide_bar} {bytes}/{total_bytes} {eta}")
}

/// A bar over records.
pub(super) fn records(total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), "{msg} {wide_bar} {pos}/{len} records {eta}")
}

/// A bar over keys.
pub(super) fn keys(total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), "{wide_bar} {pos}/{len} keys {per_sec} {eta}")
}

/// A bar over data keys.
pub(super) fn data_keys(total: u64) -> ProgressBar {
    styled(ProgressBar::new(total), "{msg} {wide_bar} {pos}/{len} data keys {per_sec} {eta}")
}

/// A count of bytes whose end is not known.
pub(super) fn unbounded() -> ProgressBar {
    styled(ProgressBar::no_length(), "{spinner} {bytes} {bytes_per_sec}")
}

fn styled(bar: ProgressBar, template: &str) -> ProgressBar {
    bar.with_style(ProgressStyle::with_template(template).expect("the template is a constant that a test builds"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_templates_are_valid() {
        super::bytes(1).finish_and_clear();
        super::records(1).finish_and_clear();
        super::keys(1).finish_and_clear();
        super::data_keys(1).finish_and_clear();
        super::unbounded().finish_and_clear();
    }
}
