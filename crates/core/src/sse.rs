//! Server-sent events, as the HTML standard says, out of the pieces of a byte stream.

/// One event of a stream; `data` is empty when it was over the bound. What has a name only is no event.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamEvent {
    /// Empty when the stream did not name it.
    pub name: String,
    pub data: String,
    pub id: Option<String>,
    pub over: bool,
}

/// Splits a byte stream into events; a piece may end anywhere, within a character too. The state between two pieces is the line
/// so far and the event so far.
#[derive(Debug, Default)]
pub struct Parser {
    bytes_max: usize,
    line: Vec<u8>,
    /// The line, or the event's data, went over the bound: the rest of it is passed over.
    line_over: bool,
    data_over: bool,
    after_return: bool,
    /// The first line has been read, before which a byte order mark may stand.
    begun: bool,
    name: String,
    data: String,
    has_data: bool,
    id: Option<String>,
}

impl Parser {
    /// `bytes_max`: of a line, and of the data of an event.
    #[must_use]
    pub fn new(bytes_max: usize) -> Parser {
        Parser { bytes_max, ..Parser::default() }
    }

    /// Whether what was read of the coming event is over the bound already.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.line_over || self.data_over
    }

    /// Takes bytes up to the end of the next event; says how many, and the event if it is complete.
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Option<StreamEvent>) {
        for (at, byte) in bytes.iter().enumerate() {
            let after_return = std::mem::replace(&mut self.after_return, *byte == b'\r');
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    if let Some(event) = self.end_line() {
                        return (at + 1, Some(event));
                    }
                }
                _ if self.line.len() < self.bytes_max => self.line.push(*byte),
                _ => self.line_over = true,
            }
        }
        (bytes.len(), None)
    }

    fn end_line(&mut self) -> Option<StreamEvent> {
        let line = std::mem::take(&mut self.line);
        let over = std::mem::take(&mut self.line_over);
        if line.is_empty() {
            return self.end_event();
        }
        let text = String::from_utf8_lossy(&line);
        let first = !std::mem::replace(&mut self.begun, true);
        let text = text.strip_prefix('\u{feff}').filter(|_| first).unwrap_or(&text);
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "id" => self.id = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data_over |= over || self.data.len() + value.len() > self.bytes_max;
                if !self.data_over {
                    self.data.push_str(value);
                }
            }
            _ => {}
        }
        None
    }

    /// What the end of the stream leaves open.
    pub fn finish(&mut self) -> Option<StreamEvent> {
        let line_ended = if self.line.is_empty() { None } else { self.end_line() };
        line_ended.or_else(|| self.end_event())
    }

    fn end_event(&mut self) -> Option<StreamEvent> {
        let over = std::mem::take(&mut self.data_over);
        let has_data = std::mem::take(&mut self.has_data);
        let event = StreamEvent {
            name: std::mem::take(&mut self.name),
            data: std::mem::take(&mut self.data),
            id: self.id.take(),
            over,
        };
        let data = if over { String::new() } else { event.data };
        has_data.then_some(StreamEvent { data, ..event })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES_MAX: usize = 64 << 10;

    fn read(pieces: &[&[u8]]) -> Vec<StreamEvent> {
        let mut parser = Parser::new(BYTES_MAX);
        let mut events = Vec::new();
        for piece in pieces {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let (used, event) = parser.feed(rest);
                rest = &rest[used..];
                events.extend(event);
            }
        }
        events.extend(parser.finish());
        events
    }

    fn event(name: &str, data: &str, id: Option<&str>) -> StreamEvent {
        let (name, data) = (name.to_owned(), data.to_owned());
        StreamEvent { name, data, id: id.map(str::to_owned), over: false }
    }

    #[test]
    fn events_come_whole_however_they_are_cut() {
        let text = b"\xef\xbb\xbf: beat\n\nevent: custom\ndata: {\"a\":\ndata: 1}\nid: 7\n\r\ndata:x\r\n\r\nevent: end\n\ndata: cut";
        let expected =
            [event("custom", "{\"a\":\n1}", Some("7")), event("", "x", None), event("", "cut", None)];
        assert_eq!(read(&[text]), expected);
        let single: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(read(&single), expected);
    }

    #[test]
    fn an_event_over_the_bound_is_kept_as_a_bare_sign_of_life() {
        let long = "y".repeat(BYTES_MAX);
        let text = format!(
            "event: values\ndata: {long}\n\ndata: small\n\ndata: {long}\ndata: {long}\n\ndata: z\n\n"
        );
        let events = read(&[text.as_bytes()]);
        let over = |name| StreamEvent { over: true, ..event(name, "", None) };
        let expected = [over("values"), event("", "small", None), over(""), event("", "z", None)];
        assert_eq!(events, expected);
    }
}
