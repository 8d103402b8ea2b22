//! Server-sent events: where one ends in a byte stream, and what its data is (WHATWG HTML, section 9.2).

use memchr::memchr2;

/// Finds the ends of events across chunk borders. Lines end in LF, CR or CRLF; an event ends with an empty line.
pub(crate) struct Boundary {
    /// Nothing stands on the current line yet.
    is_line_empty: bool,
    /// The last byte seen was a CR, so an LF that follows belongs to it.
    after_cr: bool,
}

impl Boundary {
    pub(crate) fn new() -> Self {
        Self { is_line_empty: true, after_cr: false }
    }

    /// Whether an LF at the start of what comes next still belongs to the event that ended last.
    pub(crate) fn is_after_cr(&self) -> bool {
        self.after_cr
    }

    /// The length up to and with the end of the first event that ends in these bytes. Bytes are handed in once and in order: what lies
    /// behind a found end is handed in again, what had no end is not.
    pub(crate) fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = usize::from(self.after_cr && bytes.first() == Some(&b'\n'));
        self.after_cr &= bytes.is_empty();
        loop {
            let rest = &bytes[at..];
            let Some(length) = memchr2(b'\n', b'\r', rest) else {
                self.is_line_empty &= rest.is_empty();
                return None;
            };
            let ends_event = self.is_line_empty && length == 0;
            at += length + 1;
            if bytes[at - 1] == b'\r' {
                match bytes.get(at) {
                    Some(b'\n') => at += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            self.is_line_empty = true;
            if ends_event {
                return Some(at);
            }
        }
    }
}

/// The data of one event: its `data` lines, joined by LF; none if it has none (a comment, an empty event). Borrowed from the event
/// unless it has several.
pub(crate) fn data<'a>(event: &'a [u8], joined: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let mut rest = event.strip_prefix(b"\xef\xbb\xbf").unwrap_or(event);
    let mut first: Option<&[u8]> = None;
    joined.clear();
    while !rest.is_empty() {
        let length = memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
        let (line, after) = rest.split_at(length);
        rest = after.get(1..).unwrap_or_default();
        let Some(value) = line.strip_prefix(b"data") else { continue };
        let value = match value.split_first() {
            None => value,
            Some((b':', value)) => value.strip_prefix(b" ").unwrap_or(value),
            // A longer field name.
            Some(_) => continue,
        };
        match first {
            None => first = Some(value),
            Some(first) => {
                if joined.is_empty() {
                    joined.extend_from_slice(first);
                }
                joined.push(b'\n');
                joined.extend_from_slice(value);
            }
        }
    }
    if joined.is_empty() { first } else { Some(joined) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str, cut: usize) -> Vec<String> {
        let (mut boundary, mut events, mut held) = (Boundary::new(), Vec::new(), Vec::new());
        for mut chunk in [&text.as_bytes()[..cut], &text.as_bytes()[cut..]] {
            while let Some(length) = boundary.find(chunk) {
                held.extend_from_slice(&chunk[..length]);
                events.push(String::from_utf8_lossy(&std::mem::take(&mut held)).into_owned());
                chunk = &chunk[length..];
            }
            held.extend_from_slice(chunk);
        }
        events.push(String::from_utf8_lossy(&held).into_owned());
        events
    }

    fn all_data(text: &str, cut: usize) -> Vec<String> {
        let data = |event: &String| data(event.as_bytes(), &mut Vec::new()).map(|data| String::from_utf8_lossy(data).into_owned());
        events(text, cut).iter().filter_map(data).collect()
    }

    #[test]
    fn events_are_found_whatever_ends_their_lines_and_wherever_they_are_cut() {
        for text in [
            "data: é1\n\ndata: 2\n\ndata: 3",
            "data: é1\r\n\r\ndata: 2\r\n\r\ndata: 3",
            "data: é1\r\rdata: 2\r\rdata: 3\r",
            "data: é1\r\n\ndata: 2\n\r\ndata:3\n",
            ": hello\n\n\u{feff}data: x\n\n"
                .replace(": hello\n\n\u{feff}data: x", "event: a\n: c\ndata: é1\nid: 4\n\ndata: 2\n\ndata: 3")
                .as_str(),
        ] {
            for cut in 0..=text.len() {
                assert_eq!(events(text, cut).concat().replace('\u{fffd}', ""), text.replace('\u{fffd}', ""), "{text:?} at {cut}");
                assert_eq!(all_data(text, cut), ["é1", "2", "3"], "{text:?} at {cut}");
            }
        }
    }

    #[test]
    fn data_lines_are_joined_and_other_lines_are_not_data() {
        let mut joined = Vec::new();
        assert_eq!(data(b"data: a\ndata\ndata:  b\n\n", &mut joined), Some(&b"a\n\n b"[..]));
        assert_eq!(data(b": comment\nevent: ping\ndatabase: x\n\n", &mut joined), None);
        assert_eq!(data(b"\xef\xbb\xbfdata: a\n\n", &mut joined), Some(&b"a"[..]));
        assert_eq!(data(b"\n", &mut joined), None);
    }
}
