//! The phase of a client's connection: what it was doing when it timed out, was left, or panicked.
//! The model is the second letter of HAProxy's termination state.

macro_rules! phases {
    ($($name:ident $slug:literal $letter:literal, $sentence:literal;)*) => {
        /// Phase of a client's connection.
        #[derive(Copy, Clone, PartialEq, Eq, Debug)]
        pub(super) enum Phase {
            $(#[doc = $sentence] $name,)*
        }

        impl Phase {
            /// Value of `phase` in the access log.
            pub(super) fn slug(self) -> &'static str {
                match self {
                    $(Phase::$name => $slug,)*
                }
            }

            /// Slug, HAProxy's letter and meaning of each phase.
            #[cfg(test)]
            const ROWS: &[[&str; 3]] = &[$([$slug, $letter, $sentence],)*];
        }
    };
}

phases! {
    ReadingHead "reading_head" "R",
        "The head of a request was read, or answered without a backend.";
    Held "held" "T",
        "The request was held.";
    Queueing "queueing" "Q",
        "The request waited for a permit of its rule or of a backend.";
    Connecting "connecting" "C",
        "A backend was chosen, and a connection to it opened.";
    SendingRequest "sending_request" "D",
        "The body of the request went to the backend.";
    AwaitingResponse "awaiting_response" "H",
        "The backend had the whole request, and the head of its response was awaited.";
    Relaying "relaying" "D",
        "The response went to the client.";
    Tunnel "tunnel" "D",
        "Bytes went both ways, in a tunnel or on a raw connection.";
    Lingering "lingering" "L",
        "The connection was closed: its last bytes went to the client.";
    KeepAlive "keep_alive" "",
        "The next request was awaited.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_has_the_table_of_phases() {
        let text = include_str!("../../docs/operations.md");
        let rows = text.lines().skip_while(|line| !line.starts_with("| `phase` | meaning"));
        let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
        let expected = Phase::ROWS.iter().map(|[slug, letter, sentence]| {
            let letter = if letter.is_empty() { "" } else { &format!("`{letter}` ") };
            format!("| `{slug}` | {sentence} | {letter}|")
        });
        assert_eq!(rows.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "docs/operations.md");
    }
}
